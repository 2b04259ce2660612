//! The cache as its callers see it, with clocks turned by hand and databases damaged on purpose.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hedge_tensor::{NamedTensor, Tensor};
use tempfile::TempDir;

use super::*;
use crate::clock::manual::ManualTime;
use crate::index::ENTRY_OVERHEAD;
use crate::key::RowDigest;

const YEAR_2026: u64 = 1_780_000_000;

fn key(n: u32) -> Key {
    let tensor = Tensor::from_slice(&[1], &[n]).unwrap();
    Key::cloud(&[1; 32], &RowDigest::of(&[NamedTensor::new("x", tensor)]))
}

fn entry(n: u32) -> Entry {
    let logits = Tensor::from_slice(&[1, 10], &[n as f32; 10]).unwrap();
    Entry { outputs: vec![NamedTensor::new("logits", logits)], score: Some(0.5) }
}

fn config(folder: &TempDir) -> CacheConfig {
    CacheConfig { path: folder.path().join("cache"), max_bytes: 1 << 20, max_age: Duration::from_secs(3600) }
}

fn open(folder: &TempDir) -> Cache {
    Cache::open(config(folder)).expect("an empty folder takes a cache")
}

fn open_at(config: CacheConfig, time: &ManualTime) -> Cache {
    Cache::open_at(config, Box::new(time.clone())).expect("an empty folder takes a cache")
}

fn filled(folder: &TempDir, count: u32) {
    let cache = open(folder);
    for n in 0..count {
        cache.store(key(n), &entry(n));
    }
    cache.close();
}

/// Waits for the writer thread; the condition is about files, which nothing else announces.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_result_is_found_from_the_moment_it_is_stored() {
    let folder = TempDir::new().unwrap();
    let cache = open(&folder);
    assert_eq!(cache.fetch(&key(1)), None);
    cache.store(key(1), &entry(1));
    assert_eq!(cache.fetch(&key(1)), Some(entry(1)));
    assert_eq!(cache.fetch(&key(2)), None);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.entries), (1, 2, 1));
}

#[test]
fn results_and_notes_survive_a_restart() {
    let folder = TempDir::new().unwrap();
    let cache = open(&folder);
    cache.store(key(1), &entry(1));
    cache.set_note("cloud/digits", &[7; 32]);
    cache.close();
    let cache = open(&folder);
    assert_eq!(cache.fetch(&key(1)), Some(entry(1)));
    assert_eq!(cache.note("cloud/digits"), Some(vec![7; 32]));
    assert_eq!(cache.stats().rebuilt, 0);
}

#[test]
fn results_survive_a_process_that_ends_without_closing() {
    let folder = TempDir::new().unwrap();
    let cache = open(&folder);
    cache.store(key(1), &entry(1));
    eventually("the value is on disk", || cache.shared.state().index.unwritten(&key(1)).is_none());
    if let Some(store) = &*cache.shared.store.read().unwrap() {
        store.flush().unwrap();
    }
    // A copy of the files is what a killed process leaves: the original is still open.
    let copy = TempDir::new().unwrap();
    copy_folder(&config(&folder).path, &config(&copy).path);
    assert_eq!(open(&copy).fetch(&key(1)), Some(entry(1)));
}

#[test]
fn a_closed_cache_misses_and_does_not_panic() {
    let folder = TempDir::new().unwrap();
    let cache = open(&folder);
    cache.store(key(1), &entry(1));
    cache.close();
    cache.close();
    assert_eq!(cache.fetch(&key(1)), None);
    cache.store(key(2), &entry(2));
    assert_eq!(cache.fetch(&key(2)), None);
    assert_eq!(cache.stats().dropped, 1);
}

#[test]
fn the_cache_never_holds_more_bytes_than_it_may() {
    let folder = TempDir::new().unwrap();
    let max_bytes = 10 * (ENTRY_OVERHEAD + 200);
    let cache = Cache::open(CacheConfig { max_bytes, ..config(&folder) }).unwrap();
    for n in 0..100 {
        cache.store(key(n), &entry(n));
        assert!(cache.stats().bytes <= max_bytes);
    }
    assert_eq!(cache.fetch(&key(0)), None, "the oldest left first");
    assert_eq!(cache.fetch(&key(99)), Some(entry(99)));
    assert!(cache.stats().evicted >= 85);
    cache.close();
    let cache = Cache::open(CacheConfig { max_bytes: max_bytes / 2, ..config(&folder) }).unwrap();
    assert!(cache.stats().bytes <= max_bytes / 2, "a smaller bound holds from the start");
    assert_eq!(cache.fetch(&key(99)), Some(entry(99)));
}

#[test]
fn an_entry_that_is_too_old_is_a_miss_in_the_same_process_and_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let time = ManualTime::at(YEAR_2026);
    let cache = open_at(config(&folder), &time);
    cache.store(key(1), &entry(1));
    time.pass(3600);
    assert_eq!(cache.fetch(&key(1)), Some(entry(1)));
    time.pass(1);
    assert_eq!(cache.fetch(&key(1)), None);
    cache.close();
    let cache = open_at(config(&folder), &time);
    assert_eq!(cache.fetch(&key(1)), None);
    assert_eq!(cache.stats().expired, 1);
}

#[test]
fn entries_age_on_a_device_whose_clock_restarts_in_1970() {
    let folder = TempDir::new().unwrap();
    let cache = open_at(config(&folder), &ManualTime::at(YEAR_2026));
    cache.store(key(1), &entry(1));
    cache.close();
    let epoch = ManualTime::at(5);
    let cache = open_at(config(&folder), &epoch);
    assert_eq!(cache.fetch(&key(1)), Some(entry(1)), "time does not run backwards");
    epoch.pass(3601);
    assert_eq!(cache.fetch(&key(1)), None, "and it does run");
    cache.close();
}

#[test]
fn a_clock_that_jumps_years_ahead_empties_the_cache_and_leaves_it_working() {
    let folder = TempDir::new().unwrap();
    let time = ManualTime::at(YEAR_2026);
    let cache = open_at(config(&folder), &time);
    cache.store(key(1), &entry(1));
    time.wall.store(2 * YEAR_2026, Ordering::SeqCst);
    assert_eq!(cache.fetch(&key(1)), None);
    time.wall.store(YEAR_2026, Ordering::SeqCst);
    cache.store(key(2), &entry(2));
    assert_eq!(cache.fetch(&key(2)), Some(entry(2)));
    time.running.fetch_add(3601, Ordering::SeqCst);
    time.running.fetch_add(2 * YEAR_2026, Ordering::SeqCst);
    assert_eq!(cache.fetch(&key(2)), None);
}

#[test]
fn a_corrupt_value_is_a_miss_and_is_removed() {
    let folder = TempDir::new().unwrap();
    let cache = open(&folder);
    cache.store(key(1), &entry(1));
    eventually("the value is on disk", || cache.shared.state().index.unwritten(&key(1)).is_none());
    if let Some(store) = &*cache.shared.store.read().unwrap() {
        let mut value = store.read(&key(1).0).unwrap().unwrap();
        value[40] ^= 1;
        store.write(&key(1).0, &value).unwrap();
    }
    assert_eq!(cache.fetch(&key(1)), None);
    assert_eq!((cache.stats().corrupt, cache.stats().entries), (1, 0));
    cache.store(key(1), &entry(1));
    assert_eq!(cache.fetch(&key(1)), Some(entry(1)), "the place is usable again");
    cache.close();
    assert_eq!(open(&folder).stats().corrupt, 0, "and nothing corrupt was left behind");
}

#[test]
fn a_value_that_went_bad_on_disk_is_dropped_when_the_cache_opens() {
    let folder = TempDir::new().unwrap();
    filled(&folder, 3);
    let path = config(&folder).path;
    let store = Store::open(&path, u64::MAX).unwrap();
    store.write(&key(1).0, b"not a value").unwrap();
    store.write(&key(7).0, &[]).unwrap();
    store.flush().unwrap();
    store.close().unwrap();
    let cache = open(&folder);
    assert_eq!((cache.stats().corrupt, cache.stats().entries), (2, 2));
    assert_eq!(cache.fetch(&key(2)), Some(entry(2)));
}

#[test]
fn whatever_damage_is_done_to_the_files_the_cache_opens_and_never_lies() {
    let seed = 0x5eed_cafe_u64;
    let mut random = seed;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let pristine = TempDir::new().unwrap();
    filled(&pristine, 200);
    for round in 0..24 {
        let folder = TempDir::new().unwrap();
        copy_folder(&config(&pristine).path, &config(&folder).path);
        for file in files(&config(&folder).path) {
            let mut bytes = fs::read(&file).unwrap();
            // Most of a fresh database is zeros; damage must hit what is used.
            let used = bytes.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
            match round % 3 {
                _ if used == 0 => {}
                0 => bytes[next() as usize % used] ^= 1 << (next() % 8),
                1 => bytes.truncate(next() as usize % used),
                _ => (0..64).for_each(|_| bytes[next() as usize % used] = next() as u8),
            }
            fs::write(&file, bytes).unwrap();
        }
        let cache = open(&folder);
        for n in 0..200 {
            let found = cache.fetch(&key(n));
            assert!(
                found.is_none() || found == Some(entry(n)),
                "seed {seed:#x}, round {round}: a wrong answer for {n}"
            );
        }
        // A failed read makes the writer start over; an answer stored meanwhile may be lost with it, later ones not.
        eventually("a new answer is kept", || {
            cache.store(key(1000), &entry(1000));
            cache.fetch(&key(1000)) == Some(entry(1000))
        });
        cache.close();
    }
}

#[test]
fn garbage_in_place_of_the_database_becomes_an_empty_cache_that_works() {
    for garbage in [&b"garbage"[..], &[0xff; 100_000]] {
        let folder = TempDir::new().unwrap();
        filled(&folder, 3);
        for file in files(&config(&folder).path) {
            fs::write(file, garbage).unwrap();
        }
        let cache = open(&folder);
        assert_eq!(cache.stats().entries, 0);
        cache.store(key(1), &entry(1));
        cache.close();
        assert_eq!(open(&folder).fetch(&key(1)), Some(entry(1)));
    }
}

#[test]
fn a_file_where_the_folder_should_be_is_replaced() {
    let folder = TempDir::new().unwrap();
    fs::write(config(&folder).path, "a file").unwrap();
    let cache = open(&folder);
    assert_eq!(cache.stats().rebuilt, 1);
    cache.store(key(1), &entry(1));
    assert_eq!(cache.fetch(&key(1)), Some(entry(1)));
}

#[test]
fn a_database_that_has_grown_too_large_is_replaced() {
    let folder = TempDir::new().unwrap();
    filled(&folder, 3);
    let bulky = fs::File::create(config(&folder).path.join("bulk")).unwrap();
    bulky.set_len(config(&folder).max_disk_bytes() + 1).unwrap();
    let cache = open(&folder);
    assert_eq!((cache.stats().rebuilt, cache.stats().entries), (1, 0));
}

#[test]
fn a_cache_that_another_holds_open_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let cache = open(&folder);
    cache.store(key(1), &entry(1));
    assert!(matches!(Cache::open(config(&folder)), Err(CacheError::InUse { .. })));
    assert_eq!(cache.fetch(&key(1)), Some(entry(1)));
    cache.close();
    assert_eq!(open(&folder).fetch(&key(1)), Some(entry(1)));
}

#[test]
fn a_place_where_no_cache_can_be_is_an_error_that_says_so() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let path = folder.path().join("file").join("cache");
    let error = Cache::open(CacheConfig { path, ..config(&folder) }).err().expect("a file is not a folder");
    assert!(error.to_string().contains("check that the folder is writable"), "{error}");
}

#[test]
fn a_failed_database_is_replaced_while_the_cache_goes_on() {
    let folder = TempDir::new().unwrap();
    let cache = open(&folder);
    cache.store(key(1), &entry(1));
    cache.set_note("cloud/digits", &[7; 32]);
    cache.sender.send(Command::Rebuild { why: "the test says so".into() }).unwrap();
    eventually("it was rebuilt", || cache.stats().rebuilt == 1 && cache.shared.store.try_read().is_ok());
    cache.store(key(2), &entry(2));
    assert_eq!(cache.fetch(&key(2)), Some(entry(2)));
    cache.close();
    let cache = open(&folder);
    assert_eq!(cache.fetch(&key(1)), None);
    assert_eq!(cache.fetch(&key(2)), Some(entry(2)));
    assert_eq!(cache.note("cloud/digits"), Some(vec![7; 32]), "notes were carried over");
}

#[test]
fn the_files_stay_bounded_over_many_insertions_and_evictions() {
    let folder = TempDir::new().unwrap();
    let max_bytes = 256 * 1024;
    let cache = Cache::open(CacheConfig { max_bytes, ..config(&folder) }).unwrap();
    let mut stored = 0;
    while stored < 60_000 {
        cache.store(key(stored), &entry(stored));
        if cache.stats().dropped > 0 && cache.fetch(&key(stored)).is_none() {
            std::thread::yield_now();
            continue;
        }
        stored += 1;
    }
    cache.close();
    let bytes: u64 = files(&config(&folder).path).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(bytes < 32 * 1024 * 1024, "{bytes} bytes on disk for {max_bytes} of entries after {stored} insertions");
    assert_eq!(cache.stats().rebuilt, 0);
}

#[test]
fn a_hit_on_disk_takes_microseconds() {
    let folder = TempDir::new().unwrap();
    filled(&folder, 1000);
    let cache = open(&folder);
    let mut times: Vec<Duration> = (0..1000)
        .map(|n| {
            let started = Instant::now();
            assert!(cache.fetch(&key(n)).is_some());
            started.elapsed()
        })
        .collect();
    times.sort();
    // Generous, since tests share the machine; the measured median is about 1 µs.
    assert!(times[500] < Duration::from_millis(2), "p50 {:?}", times[500]);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in files(from) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
    fs::create_dir_all(to.join("blobs")).unwrap();
}
