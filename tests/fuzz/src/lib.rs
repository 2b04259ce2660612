//! What the fuzz targets share: a bundle's digests made right.
//!
//! A fuzzer never guesses a SHA-256. Without this, every change of a bundle would end at its first digest.

use hedge_bundle::Digest;

const HEADER: usize = 64;
const ROW: usize = 256;

/// `file` with the digests of its entries, its manifest's digest and its length made what they should be, as far as its
/// header and table can be followed.
pub fn sealed(file: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    if file.len() < HEADER {
        return file;
    }
    let length = file.len() as u64;
    file[16..24].copy_from_slice(&length.to_le_bytes());
    let manifest_end = number(&file, 24).and_then(|bytes| HEADER.checked_add(bytes)).filter(|end| *end <= file.len());
    let Some(manifest_end) = manifest_end else { return file };
    seal_entries(&mut file, manifest_end);
    let digest = Digest::of(&file[HEADER..manifest_end]);
    file[32..HEADER].copy_from_slice(&digest.0);
    file
}

fn seal_entries(file: &mut [u8], manifest_end: usize) {
    let table = manifest_end.next_multiple_of(64);
    let texts = digest_texts(&file[..manifest_end]);
    for (index, text) in texts.into_iter().enumerate() {
        let row = table + index * ROW;
        let (Some(offset), Some(bytes)) = (number(file, row), number(file, row + 8)) else { return };
        let Some(entry) = offset.checked_add(bytes).and_then(|end| file.get(offset..end)) else { return };
        let digest = Digest::of(entry);
        let Some(place) = file.get_mut(row + 16..row + 48) else { return };
        place.copy_from_slice(&digest.0);
        file[text..text + 64].copy_from_slice(digest.to_string().as_bytes());
    }
}

/// Where the manifest's digests stand, as text.
fn digest_texts(manifest: &[u8]) -> Vec<usize> {
    const KEY: &[u8] = b"\"sha256\": \"";
    let keys = manifest.windows(KEY.len()).enumerate().filter(|(_, window)| *window == KEY);
    keys.map(|(at, _)| at + KEY.len()).filter(|at| at + 64 <= manifest.len()).collect()
}

fn number(file: &[u8], at: usize) -> Option<usize> {
    let bytes = file.get(at..at.checked_add(8)?)?;
    usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()
}
