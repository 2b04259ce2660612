//! A bundle's files in a folder. Links are refused: what a name stands for must lie in the folder itself.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::blob::Blob;
use crate::limits::{MAX_FILES, MAX_FOLDERS};
use crate::{BundleError, FileName, NameError};

/// Opens the file `name` of `folder`.
pub(crate) fn open(folder: &Path, name: &str) -> Result<Blob, BundleError> {
    let mut path = folder.to_owned();
    for part in name.split('/') {
        path.push(part);
        let kind = fs::symlink_metadata(&path).map_err(|error| BundleError::io(&path, error))?.file_type();
        if kind.is_symlink() {
            return Err(BundleError::Link { path });
        }
    }
    open_file(&path)
}

/// Opens a plain file; a folder, pipe or device is none, and opening a pipe would wait for its writer.
pub(crate) fn open_file(path: &Path) -> Result<Blob, BundleError> {
    let fail = |error| BundleError::io(path, error);
    if !fs::metadata(path).map_err(fail)?.is_file() {
        return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file")));
    }
    File::open(path).and_then(Blob::of_file).map_err(fail)
}

/// The names of all files in `folder` and below, in order.
pub(crate) fn list(folder: &Path) -> Result<Vec<FileName>, BundleError> {
    let mut files = Vec::new();
    walk(folder, "", MAX_FOLDERS, &mut files)?;
    files.sort();
    Ok(files)
}

fn walk(folder: &Path, prefix: &str, levels: usize, files: &mut Vec<FileName>) -> Result<(), BundleError> {
    for entry in fs::read_dir(folder).map_err(|error| BundleError::io(folder, error))? {
        let entry = entry.map_err(|error| BundleError::io(folder, error))?;
        let path = entry.path();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let name = FileName::parse(&name).map_err(|why| BundleError::Name { path: path.clone(), why })?;
        let kind = entry.file_type().map_err(|error| BundleError::io(&path, error))?;
        if kind.is_symlink() {
            return Err(BundleError::Link { path });
        }
        if !kind.is_dir() {
            files.push(name);
        } else if let Some(left) = levels.checked_sub(1) {
            walk(&path, &format!("{name}/"), left, files)?;
        } else {
            let why = NameError::File { text: name.to_string(), why: "it lies in more than 4 folders" };
            return Err(BundleError::Name { path, why });
        }
        // The manifest is not counted, nor are the model's files, which are written anew.
        if files.len() > MAX_FILES + 1 {
            return Err(BundleError::io(
                &path,
                io::Error::other(format!("more than {MAX_FILES} files are in the folder")),
            ));
        }
    }
    Ok(())
}

/// Where the file `name` of a bundle is written below `folder`.
pub(crate) fn path_of(folder: &Path, name: &FileName) -> PathBuf {
    name.as_str().split('/').fold(folder.to_owned(), |path, part| path.join(part))
}
