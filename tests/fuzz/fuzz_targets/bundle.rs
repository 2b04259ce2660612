//! A bundle from a stranger: as it comes, and with its digests made right, so that what they protect is reached, too.

#![no_main]

use bytes::Bytes;
use hedge_bundle::{Bundle, Draft, Manifest, npy};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(manifest) = Manifest::read(data) {
        assert_eq!(Manifest::read(&manifest.write()).as_ref(), Ok(&manifest), "a manifest reads back");
    }
    if let Ok(tensor) = npy::decode(&bytes) {
        assert_eq!(npy::decode(&npy::encode(&tensor).into()).as_ref(), Ok(&tensor), "a tensor reads back");
    }
    // What is as it comes is whole only if nobody touched it; nothing more can be said of it.
    let _ = Bundle::from_bytes(bytes);
    let Ok(bundle) = Bundle::from_bytes(hedge_fuzz::sealed(data).into()) else { return };
    let mut draft = Draft::new(Manifest { golden: Vec::new(), ..bundle.manifest }, bundle.graph);
    for case in &bundle.golden {
        draft.add_golden(case);
    }
    // Files of transforms are not in the draft: then it is refused, which is as good.
    if let Ok(packed) = draft.to_bytes() {
        Bundle::from_bytes(packed.into()).expect("what was packed can be opened");
    }
});
