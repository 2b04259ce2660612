//! Looking into the folder of models: which there are, and what is cheap to know of their files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use hedge_agent_core::{FileStamp, Stamp};

/// What a folder of a bundle has in it.
const MANIFEST: &str = "manifest.json";

/// The most files of a folder bundle that are looked at; more make no bundle.
const MAX_FILES: usize = 1024;

/// A model's file or folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) stamp: Stamp,
    rank: Rank,
}

/// Of several files for one name the best is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Onnx,
    Folder,
    File,
}

/// The models of a folder by name. Files that begin with a dot, and those of other kinds, are not looked at.
pub(crate) fn scan(folder: &Path) -> std::io::Result<BTreeMap<String, Found>> {
    let mut models: BTreeMap<String, Found> = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        // What vanishes between listing and looking was not there.
        let Some((name, found)) = entry.ok().and_then(|entry| look(&entry.path())) else { continue };
        match models.get(&name) {
            Some(other) if other.rank >= found.rank => {}
            _ => {
                models.insert(name, found);
            }
        }
    }
    Ok(models)
}

fn look(path: &Path) -> Option<(String, Found)> {
    let meta = std::fs::metadata(path).ok()?;
    let file_name = path.file_name()?.to_str()?;
    if file_name.starts_with('.') {
        return None;
    }
    if meta.is_dir() {
        let stamp = Stamp::of(files(path)?);
        return Some((file_name.to_owned(), Found { path: path.to_owned(), stamp, rank: Rank::Folder }));
    }
    let rank = match path.extension().and_then(OsStr::to_str)? {
        "hedge" => Rank::File,
        "onnx" => Rank::Onnx,
        _ => return None,
    };
    let stamp = Stamp::of([stamp(String::new(), &meta)]);
    Some((path.file_stem()?.to_str()?.to_owned(), Found { path: path.to_owned(), stamp, rank }))
}

/// The files of a folder bundle, one level deep in each of its folders.
fn files(folder: &Path) -> Option<Vec<FileStamp>> {
    std::fs::metadata(folder.join(MANIFEST)).ok()?;
    let mut files = Vec::new();
    let mut folders = vec![(folder.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in std::fs::read_dir(folder).ok()?.flatten() {
            let (meta, name) = (entry.metadata().ok()?, format!("{prefix}{}", entry.file_name().to_str()?));
            if files.len() + folders.len() >= MAX_FILES {
                return None;
            }
            if meta.is_dir() {
                folders.push((entry.path(), format!("{name}/")));
            } else {
                files.push(stamp(name, &meta));
            }
        }
    }
    Some(files)
}

fn stamp(name: String, meta: &Metadata) -> FileStamp {
    let since = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let modified = i128::try_from(since.as_nanos()).unwrap_or_default();
    FileStamp { name, length: meta.len(), modified, inode: inode(meta) }
}

#[cfg(unix)]
fn inode(meta: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(meta)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_found_by_the_names_of_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| std::fs::write(folder.path().join(name), name).unwrap();
        ["a.onnx", "b.onnx", "b.hedge", ".c.onnx", "d.onnx.part", "notes.txt"].into_iter().for_each(file);
        std::fs::create_dir_all(folder.path().join("e/golden/0")).unwrap();
        std::fs::create_dir(folder.path().join("f")).unwrap();
        file("e/manifest.json");
        file("e/golden/0/input-0.npy");
        let found = scan(folder.path()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b", "e"]);
        assert_eq!(found["b"].path, folder.path().join("b.hedge"));
        assert_eq!(scan(folder.path()).unwrap(), found);
        file("e/golden/0/input-1.npy");
        assert_ne!(scan(folder.path()).unwrap()["e"], found["e"]);
    }

    #[test]
    fn a_file_moved_into_place_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a.onnx"), folder.path().join("a.new"));
        std::fs::write(&path, "same length").unwrap();
        let before = scan(folder.path()).unwrap();
        std::fs::write(&other, "SAME LENGTH").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_ne!(scan(folder.path()).unwrap(), before);
    }
}
