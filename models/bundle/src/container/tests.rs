//! Golden bytes of the single file, and headers and tables that lie.

use super::*;
use crate::tests::small;

fn refused(bytes: Vec<u8>) -> String {
    Container::open(&Blob::of_bytes(bytes.into())).unwrap_err().to_string()
}

fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = small();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

fn table_at(file: &[u8]) -> usize {
    (64 + number64(file, 24)).next_multiple_of(64) as usize
}

#[test]
fn the_bytes_are_those_of_the_documented_format() {
    let file = small();
    assert_eq!(file[..16], *b"\x89HEDGE\r\n\x01\0\0\0\x04\0\0\0");
    assert_eq!(number64(&file, 16), file.len() as u64);
    let manifest_bytes = number64(&file, 24) as usize;
    let manifest = &file[64..64 + manifest_bytes];
    assert_eq!(file[32..64], Digest::of(manifest).0);
    assert!(manifest.starts_with(b"{\n  \"format\": 1,\n  \"name\": \"line\","));
    let table = table_at(&file);
    let names = (0..4).map(|row| &file[table + 256 * row + 48..][..20]);
    let expected: [&[u8; 20]; 4] = [
        b"golden/0/input-0.npy",
        b"golden/0/output-0.np",
        b"model.onnx\0\0\0\0\0\0\0\0\0\0",
        b"weights.bin\0\0\0\0\0\0\0\0\0",
    ];
    assert!(names.eq(expected.iter().map(|name| &name[..])));
    let weights = table + 3 * 256;
    let (offset, bytes) = (number64(&file, weights) as usize, number64(&file, weights + 8) as usize);
    assert_eq!((offset % 64, bytes, offset + bytes), (0, 1200, file.len()));
    assert_eq!(file[weights + 16..weights + 48], Digest::of(&file[offset..]).0);
    assert_eq!(file[offset + 4..offset + 8], 0.1f32.to_le_bytes());
}

#[test]
fn the_golden_bundle_never_changes() {
    // The digest of the whole file: any change of the format, the manifest's form or ONNX writing is seen here, and needs a
    // reason, because it changes the digest of every bundle that is packed again.
    assert_eq!(Digest::of(&small()).to_string(), include_str!("golden.txt").trim());
}

#[test]
fn another_file_and_a_newer_one_are_told_apart() {
    assert!(refused(b"PK\x03\x04 a zip".to_vec()).contains("no bundle"));
    assert!(refused(Vec::new()).contains("no bundle"));
    assert!(refused(with(8, &2u32.to_le_bytes())).contains("version 2"));
}

#[test]
fn counts_and_sizes_beyond_their_bounds_are_refused_before_anything_is_read() {
    let huge = u64::MAX.to_le_bytes();
    assert!(refused(with(12, &u32::MAX.to_le_bytes())).contains("4294967295 files"));
    assert!(refused(with(16, &huge)).contains("18446744073709551615 bytes;"));
    assert!(refused(with(24, &huge)).contains("bytes of manifest"));
    assert!(refused(with(24, &(4u64 << 20).to_le_bytes())).contains("cut off"));
}

#[test]
fn entries_that_overlap_leave_the_file_or_are_not_aligned_are_refused() {
    let file = small();
    let table = table_at(&file);
    let first = number64(&file, table);
    for offset in [first + 1, first - 64, 0, u64::MAX, file.len() as u64, number64(&file, table + 256)] {
        assert!(refused(with(table, &offset.to_le_bytes())).contains("should begin at"), "{offset}");
    }
    for bytes in [0, u64::MAX, 1 << 40] {
        assert!(refused(with(table + 8, &bytes.to_le_bytes())).contains("should have"), "{bytes}");
    }
}

#[test]
fn another_name_in_the_table_is_refused() {
    let table = table_at(&small());
    for name in [&b"../../etc/passwd\0\0\0\0"[..], b"/model.onnx", b"\0", b"golden/0/output-0.npy"] {
        assert!(refused(with(table + 48, name)).contains("another name"));
    }
}

#[test]
fn what_hides_between_entries_is_found() {
    let file = small();
    let manifest_end = 64 + number64(&file, 24) as usize;
    assert!(!manifest_end.is_multiple_of(64), "the manifest happens to leave no gap");
    assert!(refused(with(manifest_end, &[1])).contains("the gap"));
}
