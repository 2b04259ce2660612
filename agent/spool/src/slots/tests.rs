//! The slots on a real disk.

use super::*;
use crate::clock::manual::ManualTime;
use tempfile::TempDir;

const BUILT: u64 = 1_780_000_000;

fn open(folder: &TempDir) -> (SlotFile, Option<SlotDamage>) {
    open_at(folder, &ManualTime::at(0))
}

fn open_at(folder: &TempDir, time: &ManualTime) -> (SlotFile, Option<SlotDamage>) {
    SlotFile::open_at(folder.path().join("slots"), BUILT, Box::new(time.clone())).unwrap()
}

fn slot(number: u8) -> Slot {
    Slot { digest: Digest([number; 32]), file: format!("v{number}.hedge") }
}

fn copy(folder: &TempDir, copy: usize) -> PathBuf {
    folder.path().join("slots").join(COPIES[copy])
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[20] ^= 4;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_model_keeps_the_bundle_that_served_last_and_the_one_before() {
    let folder = TempDir::new().unwrap();
    let (slots, damage) = open(&folder);
    assert_eq!((slots.models(), damage), (BTreeMap::new(), None));
    for number in [1, 2, 2, 3] {
        slots.serves("m", slot(number)).unwrap();
    }
    slots.serves("other", slot(9)).unwrap();
    slots.forget("other").unwrap();
    let (slots, damage) = open(&folder);
    let expected = ModelSlots { last: slot(3), before: Some(slot(2)) };
    assert_eq!((slots.models(), damage), ([("m".to_owned(), expected)].into(), None));
}

#[test]
fn a_damaged_copy_is_noticed_and_healed_from_the_other() {
    for damaged in 0..2 {
        let folder = TempDir::new().unwrap();
        open(&folder).0.serves("m", slot(1)).unwrap();
        flip(&copy(&folder, damaged));
        let (slots, damage) = open(&folder);
        assert_eq!(slots.models()["m"].last, slot(1));
        let why = "its checksum is wrong".to_owned();
        assert_eq!(damage, Some(SlotDamage::OneCopy { copy: copy(&folder, damaged), why }));
        assert_eq!(fs::read(copy(&folder, 0)).unwrap(), fs::read(copy(&folder, 1)).unwrap());
        assert_eq!(open(&folder).1, None, "and is not met again");
    }
}

#[test]
fn with_both_copies_damaged_it_begins_anew_and_says_so() {
    let folder = TempDir::new().unwrap();
    open(&folder).0.serves("m", slot(1)).unwrap();
    flip(&copy(&folder, 0));
    fs::write(copy(&folder, 1), b"").unwrap();
    let (slots, damage) = open(&folder);
    assert!(slots.models().is_empty());
    assert!(matches!(damage, Some(SlotDamage::BothCopies { .. })), "{damage:?}");
    assert!(copy(&folder, 0).with_extension("damaged").exists());
    assert_eq!(slots.trusted_now(), BUILT);
    slots.serves("m", slot(2)).unwrap();
    let (slots, damage) = open(&folder);
    assert_eq!((slots.models()["m"].last.clone(), damage), (slot(2), None));
}

#[test]
fn whenever_the_power_goes_the_old_slots_or_the_new_ones_are_there() {
    let folder = TempDir::new().unwrap();
    let (slots, _) = open(&folder);
    slots.serves("m", slot(1)).unwrap();
    let old = fs::read(copy(&folder, 0)).unwrap();
    slots.serves("m", slot(2)).unwrap();
    let new = fs::read(copy(&folder, 0)).unwrap();
    drop(slots);
    // Before a rename there is half a file beside the copy; between the two renames the copies differ.
    for (first, second, part, expected) in [
        (&old, &old, Some(&new[..10]), 1),
        (&new, &old, None, 2),
        (&new, &old, Some(&new[..10]), 2),
        (&new, &new, None, 2),
    ] {
        fs::write(copy(&folder, 0), first).unwrap();
        fs::write(copy(&folder, 1), second).unwrap();
        part.into_iter().for_each(|part| fs::write(copy(&folder, 0).with_extension("part"), part).unwrap());
        let (slots, damage) = open(&folder);
        assert_eq!((slots.models()["m"].last.clone(), damage), (slot(expected), None));
    }
}

#[test]
fn trusted_time_is_never_before_the_build_and_only_moves_forward() {
    let (folder, time) = (TempDir::new().unwrap(), ManualTime::at(12));
    let (slots, _) = open_at(&folder, &time);
    assert_eq!(slots.trusted_now(), BUILT, "whatever the wall clock says");
    slots.signed_at(BUILT + 500).unwrap();
    slots.signed_at(BUILT + 100).unwrap();
    time.pass(10);
    assert_eq!(slots.trusted_now(), BUILT + 510);
    let (slots, _) = open_at(&folder, &ManualTime::at(0));
    assert_eq!(slots.trusted_now(), BUILT + 500, "what was signed is on the disk");
}

#[test]
fn time_that_passes_is_kept_once_an_hour() {
    let (folder, time) = (TempDir::new().unwrap(), ManualTime::at(0));
    let (slots, _) = open_at(&folder, &time);
    slots.signed_at(BUILT + 1).unwrap();
    let written = fs::read(copy(&folder, 0)).unwrap();
    time.pass(KEEP_TIME_EVERY - 1);
    slots.keep_time().unwrap();
    assert_eq!(fs::read(copy(&folder, 0)).unwrap(), written);
    time.pass(1);
    slots.keep_time().unwrap();
    let (slots, _) = open_at(&folder, &ManualTime::at(0));
    assert_eq!(slots.trusted_now(), BUILT + 1 + KEEP_TIME_EVERY);
}
