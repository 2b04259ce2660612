//! Exact cache keys. Two rows share a key only if every input has the same name, type, shape and bytes, and the same
//! model produced the result (for a local result: on the same kind of device).
//!
//! ```text
//! row digest  SHA-256 of: "hedge row 1" | u32 number of inputs | for each input, in the order of the model's signature:
//!             u32 length of name | name | u8 wire code of dtype | u32 rank | rank x u64 dimension | u64 length | bytes
//! key         SHA-256 of: "hedge key 1" | u8 kind (1 local, 2 cloud) | u8 device (0 none, 1 cpu, 2 gpu)
//!             | 32 bytes model digest | 32 bytes row digest
//! ```
//!
//! Integers are little-endian. Every variable part is preceded by its length, so no two rows feed the hash the same bytes.

use hedge_tensor::NamedTensor;
use sha2::{Digest as _, Sha256};

/// The digest of one row of inputs, whatever model will see it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RowDigest([u8; 32]);

impl RowDigest {
    /// Digests one row; `inputs` must be in the order of the model's signature.
    #[must_use]
    pub fn of(inputs: &[NamedTensor]) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"hedge row 1");
        hash.update((inputs.len() as u32).to_le_bytes());
        for input in inputs {
            hash.update((input.name.len() as u32).to_le_bytes());
            hash.update(input.name.as_bytes());
            hash.update([input.tensor.dtype().wire_code()]);
            hash.update((input.tensor.shape().len() as u32).to_le_bytes());
            for &dim in input.tensor.shape() {
                hash.update((dim as u64).to_le_bytes());
            }
            hash.update((input.tensor.bytes().len() as u64).to_le_bytes());
            hash.update(input.tensor.bytes());
        }
        Self(hash.finalize().into())
    }
}

/// The kind of device that computed a local result: results of a GPU and a CPU differ in their last bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DeviceKey {
    /// A central processor.
    Cpu,
    /// A graphics processor.
    Gpu,
}

/// The address of one cached result.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Key(pub(crate) [u8; 32]);

impl Key {
    /// The address of what the edge model of digest `edge` answered on a device of this kind.
    #[must_use]
    pub fn local(edge: &[u8; 32], device: DeviceKey, row: &RowDigest) -> Self {
        let device = match device {
            DeviceKey::Cpu => 1,
            DeviceKey::Gpu => 2,
        };
        Self::digest(1, device, edge, row)
    }

    /// The address of what the cloud model of digest `cloud` answered.
    #[must_use]
    pub fn cloud(cloud: &[u8; 32], row: &RowDigest) -> Self {
        Self::digest(2, 0, cloud, row)
    }

    fn digest(kind: u8, device: u8, model: &[u8; 32], row: &RowDigest) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"hedge key 1");
        hash.update([kind, device]);
        hash.update(model);
        hash.update(row.0);
        Self(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hedge_tensor::{DType, Tensor};

    fn input(name: &str, shape: &[usize], values: &[u8]) -> NamedTensor {
        NamedTensor::new(name, Tensor::from_slice(shape, values).unwrap())
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn a_key_depends_on_every_part_of_the_row() {
        let base = RowDigest::of(&[input("x", &[1, 4], &[1, 2, 3, 4])]);
        assert_eq!(base, RowDigest::of(&[input("x", &[1, 4], &[1, 2, 3, 4])]));
        let bytes = bytes::Bytes::from_static(&[1, 2, 3, 4]);
        let signed = NamedTensor::new("x", Tensor::new(DType::I8, vec![1, 4], bytes).unwrap());
        for other in [
            vec![input("y", &[1, 4], &[1, 2, 3, 4])],
            vec![input("x", &[1, 2, 2], &[1, 2, 3, 4])],
            vec![input("x", &[1, 4], &[1, 2, 3, 5])],
            vec![signed],
            vec![input("x", &[1, 4], &[1, 2, 3, 4]), input("z", &[1], &[0])],
            vec![],
        ] {
            assert_ne!(base, RowDigest::of(&other), "{other:?}");
        }
    }

    #[test]
    fn local_and_cloud_results_of_the_same_row_have_different_keys() {
        let row = RowDigest::of(&[input("x", &[1], &[7])]);
        let keys = [
            Key::local(&[1; 32], DeviceKey::Cpu, &row),
            Key::local(&[1; 32], DeviceKey::Gpu, &row),
            Key::local(&[2; 32], DeviceKey::Cpu, &row),
            Key::cloud(&[1; 32], &row),
            Key::cloud(&[2; 32], &row),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn a_key_on_disk_stays_the_same_across_versions() {
        let row = RowDigest::of(&[input("x", &[1, 2], &[7, 8])]);
        assert_eq!(hex(&Key::local(&[1; 32], DeviceKey::Cpu, &row).0), GOLDEN);
    }

    // Computed with Python's hashlib from the layout in the module's documentation.
    const GOLDEN: &str = "ee2153cdd45b26311e30fb3d54fa742d9392110cf845555d8010f8462042e993";
}
