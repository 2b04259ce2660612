//! The power goes at each write: the state before it or the one after it is found, nothing else, and no damage.
//!
//! Between two changes everything is on disk, so that two images of the folder differ in what one change wrote. Of that, the
//! sectors of the database are put in place one by one, in their order, then the record of the ledger byte by byte.

use super::*;
use std::collections::BTreeMap;
use std::path::PathBuf;

const SECTOR: usize = 512;
const CHANGES: u64 = 14;

type Image = BTreeMap<PathBuf, Vec<u8>>;

fn image(folder: &Path, below: &Path, image: &mut Image) {
    for file in fs::read_dir(folder.join(below)).unwrap() {
        let name = below.join(file.as_ref().unwrap().file_name());
        match file.unwrap().path() {
            path if path.is_dir() => self::image(folder, &name, image),
            path => drop(image.insert(name, fs::read(path).unwrap())),
        }
    }
}

fn image_of(folder: &Path) -> Image {
    let mut found = Image::new();
    image(folder, Path::new(""), &mut found);
    found
}

fn put(folder: &Path, image: &Image) {
    let _ = fs::remove_dir_all(folder);
    for (name, content) in image {
        fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        fs::write(folder.join(name), content).unwrap();
    }
    // sled keeps an empty folder.
    fs::create_dir_all(folder.join("outbox/database/blobs")).unwrap();
}

/// What may be on disk when the power goes between the two.
fn between(before: &Image, after: &Image) -> Vec<Image> {
    let mut images = Vec::new();
    let (db, ledger) = (PathBuf::from("outbox/database/db"), PathBuf::from("outbox/ledger"));
    let mut torn = before.clone();
    // Files of large bodies are there before the row that names them, and removed after it names them no more.
    let bodies = |image: &Image| image.clone().into_iter().filter(|(name, _)| name.starts_with("outbox/bodies"));
    torn.extend(bodies(after));
    let (old, new) = (&before[&db], &after[&db]);
    for at in (0..new.len()).step_by(SECTOR) {
        let end = (at + SECTOR).min(new.len());
        if old.get(at..end) != Some(&new[at..end]) {
            let content = torn.get_mut(&db).unwrap();
            content.resize(content.len().max(end), 0);
            content[at..end].copy_from_slice(&new[at..end]);
            images.push(torn.clone());
        }
    }
    for length in [before[&ledger].len() + 1, after[&ledger].len().saturating_sub(1), after[&ledger].len()] {
        torn.insert(ledger.clone(), after[&ledger][..length.min(after[&ledger].len())].to_vec());
        images.push(torn.clone());
    }
    images
}

/// A change to one of a few requests, as the outbox might ask for it.
fn next(random: &mut u64, known: &BTreeMap<u8, bool>) -> (Change<Bytes>, Option<Bytes>) {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let (roll, number) = ((*random >> 60) as u8, (*random >> 40) as u8 % 6);
    let length = match roll % 4 {
        0 => (*random >> 20) as usize % 9000,
        1 => 70_000,
        // A part and its row, in two sectors at least.
        _ => 600,
    };
    match known.get(&number) {
        None => (Change::Insert(head(number)), Some(vec![number; length].into())),
        Some(false) if roll < 6 => (Change::Update(Head { attempts: roll, ..head(number) }), None),
        Some(false) => (finish(number, &vec![number; length]), None),
        Some(true) if roll < 8 => (Change::Fetched(id(number)), None),
        Some(true) => (Change::Erase(id(number)), None),
    }
}

#[test]
fn whenever_the_power_goes_a_change_is_there_whole_or_not_at_all() {
    let (folder, torn) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut random = 11;
    let mut known = BTreeMap::new();
    let mut bench = Bench::open(folder.path());
    let mut before = (image_of(folder.path()), Vec::new());
    let (mut as_before, mut as_after) = (0, 0);
    for step in 0..CHANGES {
        let (change, payload) = next(&mut random, &known);
        match &change {
            Change::Insert(head) => drop(known.insert(head.id.as_bytes()[0], false)),
            Change::Finish { head, .. } => drop(known.insert(head.id.as_bytes()[0], true)),
            Change::Erase(id) => drop(known.remove(&id.as_bytes()[0])),
            Change::Update(_) | Change::Fetched(_) => {}
        }
        assert!(bench.persist(change.clone(), payload));
        let image = image_of(folder.path());
        put(torn.path(), &image);
        let after = (image, Bench::open(torn.path()).all());
        for (at, image) in between(&before.0, &after.0).iter().enumerate() {
            put(torn.path(), image);
            let found = Bench::open(torn.path());
            assert_eq!(found.found.damage, [], "step {step} ({change:?}), image {at}");
            let all = found.all();
            assert!(all == before.1 || all == after.1, "step {step} ({change:?}), image {at}: {all:?}");
            as_before += u64::from(all == before.1);
            as_after += u64::from(all == after.1);
        }
        before = after;
    }
    assert!(
        as_before >= CHANGES && as_after >= CHANGES,
        "{as_before} and {as_after}: the power went too early or too late"
    );
}
