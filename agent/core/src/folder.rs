//! Which models of a folder are loaded and unloaded, and when: decisions about what scans of the folder found.
//!
//! A file is taken once two scans in a row saw the same stamp of it, so that a half-written one is left alone; a file that is
//! moved into place whole (`rename`) costs no more than that second scan. Somebody who says that the folder is in order (at
//! the start, on a signal) is believed at once. What was taken is not taken again until its stamp changes: a file that
//! does not load is not tried over and over, only when somebody vouches for the folder.
//!
//! A model that somebody unloaded by name stays away until somebody loads it by name.

use std::collections::{BTreeMap, BTreeSet};

/// What is cheap to know of a file and changes with its content: length, time of modification and place on the disk.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Stamp(Vec<FileStamp>);

/// One file of a stamp.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FileStamp {
    /// Its name in the folder of a bundle; empty for a single file.
    pub name: String,
    /// Bytes.
    pub length: u64,
    /// When its content changed last: nanoseconds since 1970.
    pub modified: i128,
    /// The inode's number: another file moved into the same place has another one.
    pub inode: u64,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FolderEvent {
    /// A scan found these models.
    Scanned {
        /// By name.
        found: BTreeMap<String, Stamp>,
        /// Whether somebody says that all files are complete.
        vouched: bool,
    },
    /// Somebody asked for a model by name; the stamp is its file's now.
    Asked {
        /// The model.
        name: String,
        /// Its file's.
        stamp: Stamp,
    },
    /// Somebody wants a model gone.
    Dismissed {
        /// The model.
        name: String,
    },
    /// A model could not be loaded.
    Failed {
        /// The model.
        name: String,
    },
}

/// What to do, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FolderAction {
    /// Load the model, in place of the one of that name if there is one.
    Load(String),
    /// Unload it.
    Unload(String),
}

/// What is known of a folder.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    known: BTreeMap<String, Known>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    /// At the last scan.
    seen: Option<Stamp>,
    /// What was loaded, or tried.
    taken: Option<Stamp>,
    dismissed: bool,
    failed: bool,
}

impl Stamp {
    /// The stamp of these files, in any order.
    #[must_use]
    pub fn of(files: impl IntoIterator<Item = FileStamp>) -> Self {
        Self(files.into_iter().collect::<BTreeSet<_>>().into_iter().collect())
    }
}

impl Folder {
    /// Takes in an event and says what to do.
    pub fn on(&mut self, event: FolderEvent) -> Vec<FolderAction> {
        match event {
            FolderEvent::Scanned { found, vouched } => self.scanned(found, vouched),
            FolderEvent::Asked { name, stamp } => {
                let known = self.known.entry(name.clone()).or_default();
                *known = Known { seen: Some(stamp.clone()), taken: Some(stamp), ..Known::default() };
                vec![FolderAction::Load(name)]
            }
            FolderEvent::Dismissed { name } => {
                self.known.entry(name.clone()).or_default().dismissed = true;
                vec![FolderAction::Unload(name)]
            }
            FolderEvent::Failed { name } => {
                if let Some(known) = self.known.get_mut(&name) {
                    known.failed = true;
                }
                Vec::new()
            }
        }
    }

    fn scanned(&mut self, mut found: BTreeMap<String, Stamp>, vouched: bool) -> Vec<FolderAction> {
        let mut actions = Vec::new();
        self.known.retain(|name, known| {
            if found.contains_key(name) {
                return true;
            }
            // A file may be away for a moment while it is replaced by other means than a rename.
            let gone = known.seen.take().is_none() || vouched;
            if gone && known.taken.is_some() && !known.dismissed {
                actions.push(FolderAction::Unload(name.clone()));
            }
            !gone
        });
        while let Some((name, stamp)) = found.pop_first() {
            let known = self.known.entry(name.clone()).or_default();
            let steady = vouched || known.seen.as_ref() == Some(&stamp);
            let news = known.taken.as_ref() != Some(&stamp) || (vouched && known.failed);
            if steady && news && !known.dismissed {
                known.taken = Some(stamp.clone());
                known.failed = false;
                actions.push(FolderAction::Load(name));
            }
            known.seen = Some(stamp);
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(length: u64) -> Stamp {
        Stamp::of([FileStamp { length, ..FileStamp::default() }])
    }

    fn scan(folder: &mut Folder, files: &[(&str, u64)], vouched: bool) -> Vec<FolderAction> {
        let found = files.iter().map(|&(name, length)| (name.to_owned(), stamp(length))).collect();
        folder.on(FolderEvent::Scanned { found, vouched })
    }

    fn load(name: &str) -> FolderAction {
        FolderAction::Load(name.to_owned())
    }

    fn unload(name: &str) -> FolderAction {
        FolderAction::Unload(name.to_owned())
    }

    #[test]
    fn a_file_is_taken_once_it_has_stopped_changing() {
        let mut folder = Folder::default();
        assert_eq!(scan(&mut folder, &[("a", 1)], false), []);
        assert_eq!(scan(&mut folder, &[("a", 2)], false), [], "it still grows");
        assert_eq!(scan(&mut folder, &[("a", 2)], false), [load("a")]);
        assert_eq!(scan(&mut folder, &[("a", 2)], false), [], "once");
        assert_eq!(scan(&mut folder, &[("a", 3)], false), []);
        assert_eq!(scan(&mut folder, &[("a", 3)], false), [load("a")], "replaced");
    }

    #[test]
    fn whoever_vouches_for_the_folder_is_believed_at_once() {
        let mut folder = Folder::default();
        assert_eq!(scan(&mut folder, &[("a", 1), ("b", 1)], true), [load("a"), load("b")]);
        assert_eq!(scan(&mut folder, &[("b", 1)], true), [unload("a")]);
    }

    #[test]
    fn a_file_that_does_not_load_is_tried_again_only_when_asked() {
        let mut folder = Folder::default();
        assert_eq!(scan(&mut folder, &[("a", 1)], true), [load("a")]);
        assert_eq!(folder.on(FolderEvent::Failed { name: "a".into() }), []);
        assert_eq!(scan(&mut folder, &[("a", 1)], false), []);
        assert_eq!(scan(&mut folder, &[("a", 1)], true), [load("a")]);
        assert_eq!(scan(&mut folder, &[("a", 1)], true), [], "it loaded");
    }

    #[test]
    fn a_file_that_is_gone_for_one_scan_may_be_on_its_way() {
        let mut folder = Folder::default();
        scan(&mut folder, &[("a", 1)], true);
        assert_eq!(scan(&mut folder, &[], false), []);
        assert_eq!(scan(&mut folder, &[("a", 2)], false), []);
        assert_eq!(scan(&mut folder, &[("a", 2)], false), [load("a")]);
        assert_eq!(scan(&mut folder, &[], false), []);
        assert_eq!(scan(&mut folder, &[], false), [unload("a")]);
        assert_eq!(scan(&mut folder, &[], false), []);
    }

    #[test]
    fn a_model_sent_away_by_name_stays_away_until_it_is_asked_for_by_name() {
        let mut folder = Folder::default();
        scan(&mut folder, &[("a", 1)], true);
        assert_eq!(folder.on(FolderEvent::Dismissed { name: "a".into() }), [unload("a")]);
        assert_eq!(scan(&mut folder, &[("a", 2)], true), [], "not even for another file");
        assert_eq!(folder.on(FolderEvent::Asked { name: "a".into(), stamp: stamp(2) }), [load("a")]);
        assert_eq!(scan(&mut folder, &[("a", 2)], false), [], "it was loaded as it is");
        assert_eq!(scan(&mut folder, &[("a", 3)], true), [load("a")]);
    }

    #[test]
    fn a_file_moved_into_place_differs_even_with_the_same_length_and_time() {
        let file = |inode| FileStamp { inode, ..FileStamp::default() };
        assert_ne!(Stamp::of([file(1)]), Stamp::of([file(2)]));
        let (a, b) = (FileStamp { name: "a".into(), ..file(1) }, FileStamp { name: "b".into(), ..file(2) });
        assert_eq!(Stamp::of([a.clone(), b.clone()]), Stamp::of([b, a]), "in any order");
    }
}
