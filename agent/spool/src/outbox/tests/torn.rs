//! The power goes at each write: the state before it or the one after it is found, nothing else, and no damage.
//!
//! Between two changes everything is on disk, so that two images of the folder differ in what one change wrote. Of that, the
//! sectors are put in place one by one, in their order, and all but one of them, then the record of the ledger byte by byte.
//! Likewise with what it writes when the journal is carried over into the database.

use super::*;
use std::collections::BTreeMap;
use std::path::PathBuf;

const SECTOR: usize = 512;
const CHANGES: u64 = 14;
/// Of so many sectors of a write each one is left out once.
const MOST_LEFT_OUT: usize = 8;

pub(super) type Image = BTreeMap<PathBuf, Vec<u8>>;

fn image(folder: &Path, below: &Path, image: &mut Image) {
    for file in fs::read_dir(folder.join(below)).unwrap() {
        let name = below.join(file.as_ref().unwrap().file_name());
        match file.unwrap().path() {
            path if path.is_dir() => self::image(folder, &name, image),
            path => drop(image.insert(name, fs::read(path).unwrap())),
        }
    }
}

pub(super) fn image_of(folder: &Path) -> Image {
    let mut found = Image::new();
    image(folder, Path::new(""), &mut found);
    found
}

pub(super) fn put(folder: &Path, image: &Image) {
    let _ = fs::remove_dir_all(folder);
    for (name, content) in image {
        fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        fs::write(folder.join(name), content).unwrap();
    }
    // sled keeps an empty folder.
    fs::create_dir_all(folder.join("outbox/database/blobs")).unwrap();
}

/// The names of files that are written to in place, in the order in which they are.
const IN_PLACE: [&str; 3] = ["outbox/database/db", "outbox/journal-0", "outbox/journal-1"];

/// What may be on disk when the power goes between the two.
fn between(before: &Image, after: &Image) -> Vec<Image> {
    let mut images = Vec::new();
    let ledger = PathBuf::from("outbox/ledger");
    let mut torn = before.clone();
    // Files of large bodies are there before the row that names them, and removed after it names them no more.
    let bodies = |image: &Image| image.clone().into_iter().filter(|(name, _)| name.starts_with("outbox/bodies"));
    torn.extend(bodies(after));
    for name in IN_PLACE.map(PathBuf::from) {
        let new = &after[&name];
        let changed: Vec<usize> =
            (0..new.len()).step_by(SECTOR).filter(|&at| sector(&torn[&name], at) != sector(new, at)).collect();
        let write = |image: &mut Image, at: usize| {
            let (content, end) = (image.get_mut(&name).unwrap(), (at + SECTOR).min(new.len()));
            content.resize(content.len().max(end), 0);
            content[at..end].copy_from_slice(&new[at..end]);
        };
        // The disk may have taken them in another order.
        for &but in changed.iter().take(if changed.len() > 1 { MOST_LEFT_OUT } else { 0 }) {
            let mut image = torn.clone();
            changed.iter().filter(|&&at| at != but).for_each(|&at| write(&mut image, at));
            images.push(image);
        }
        for at in changed {
            write(&mut torn, at);
            images.push(torn.clone());
        }
    }
    for length in [before[&ledger].len() + 1, after[&ledger].len().saturating_sub(1), after[&ledger].len()] {
        torn.insert(ledger.clone(), after[&ledger][..length.min(after[&ledger].len())].to_vec());
        images.push(torn.clone());
    }
    images
}

fn sector(content: &[u8], at: usize) -> Option<&[u8]> {
    content.get(at..(at + SECTOR).min(content.len())).filter(|bytes| !bytes.is_empty())
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

/// Whether what is found in the images is what was there before or after, without damage; and how often which of the two.
fn judge(
    torn: &Path,
    what: &str,
    images: &[Image],
    before: &[(Saved, String)],
    after: &[(Saved, String)],
) -> (u64, u64) {
    let mut found = (0, 0);
    for (at, image) in images.iter().enumerate() {
        put(torn, image);
        let bench = Bench::open(torn);
        assert_eq!(bench.found.damage, [], "{what}, image {at}");
        let all = bench.all();
        assert!(all == before || all == after, "{what}, image {at}: {all:?}");
        found.0 += u64::from(all == before);
        found.1 += u64::from(all == after);
    }
    found
}

#[test]
fn whenever_the_power_goes_a_change_is_there_whole_or_not_at_all() {
    let (folder, torn) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut random = 11;
    let mut known = BTreeMap::new();
    let mut bench = Bench::with(OutboxConfig { journal_for: Duration::MAX, ..config(folder.path()) });
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
        let images = between(&before.0, &after.0);
        let found = judge(torn.path(), &format!("step {step} ({change:?})"), &images, &before.1, &after.1);
        as_before += found.0;
        as_after += found.1;
        before = after;
    }
    assert!(
        as_before >= CHANGES && as_after >= CHANGES,
        "{as_before} and {as_after}: the power went too early or too late"
    );
    bench.store.close();
    let images = between(&before.0, &image_of(folder.path()));
    assert!(images.len() > 10, "the database was written to");
    judge(torn.path(), "when all is carried over", &images, &before.1, &before.1);
}
