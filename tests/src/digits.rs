//! Inputs for the bundled digits models, made of the bundled base images: like the field stream in kind, but without the
//! crates that make it, which link the engine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};

/// Height and width of an image.
pub const SIDE: usize = 16;

/// Bytes of an image.
pub const PIXELS: usize = SIDE * SIDE;

/// Where the images begin in `digits.bin`: after the magic, the count and four single bytes.
const HEADER: usize = 16;
/// Grey values per grey value of a base image (0..16), and of noise: hard enough that the edge model is seldom quite sure.
const CONTRAST: u8 = 6;
const NOISE: u32 = 120;

const BASE_SIDE: usize = 8;
const BASE_PIXELS: usize = BASE_SIDE * BASE_SIDE;

/// The bundled edge model.
#[must_use]
pub fn edge_model() -> std::path::PathBuf {
    crate::root().join("models/zoo/digits/edge.onnx")
}

/// The bundled cloud model.
#[must_use]
pub fn cloud_model() -> std::path::PathBuf {
    crate::root().join("models/zoo/digits/cloud.onnx")
}

/// `count` different images, the same for the same seed: base images, doubled in size, with noise.
///
/// # Panics
///
/// If the bundled data is not there.
#[must_use]
pub fn images(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let path = crate::root().join("models/zoo/data/digits.bin");
    let data = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let bases = u32::from_le_bytes(data[8..12].try_into().expect("four bytes")) as usize;
    let pixels = &data[HEADER + 2 * bases..];
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut image = || {
        let at = rng.next_u32() as usize % bases * BASE_PIXELS;
        let base = &pixels[at..at + BASE_PIXELS];
        let pixel = |index: usize| base[index / SIDE / 2 * BASE_SIDE + index % SIDE / 2] * CONTRAST;
        (0..PIXELS).map(|index| pixel(index).saturating_add((rng.next_u32() % NOISE) as u8)).collect()
    };
    (0..count).map(|_| image()).collect()
}

/// An inference request of JSON numbers for these images; `id` comes back with the answer.
#[must_use]
pub fn request(id: &str, images: &[Vec<u8>]) -> Value {
    let data: Vec<u8> = images.concat();
    json!({
        "id": id,
        "inputs": [{ "name": "image", "datatype": "UINT8", "shape": [images.len(), 1, SIDE, SIDE], "data": data }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_differ_from_each_other_and_repeat_with_the_seed() {
        let some = images(1, 50);
        assert_eq!(some, images(1, 50));
        assert_ne!(some, images(2, 50));
        assert!(some.iter().all(|image| image.len() == PIXELS));
        let distinct: std::collections::BTreeSet<_> = some.iter().collect();
        assert_eq!(distinct.len(), some.len());
    }
}
