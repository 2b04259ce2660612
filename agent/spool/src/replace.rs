//! Files that are replaced whole: whenever the power goes, the old content is there or the new.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Puts `content` in the place of what lies at `path`: written beside it, synced, renamed, the folder synced.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let part = path.with_extension("part");
    let written = File::create(&part).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| fs::rename(&part, path));
    if let Err(error) = renamed {
        // What is left of it takes space that may be wanted.
        let _ = fs::remove_file(&part);
        return Err(error);
    }
    sync_folder(path.parent().unwrap_or(path))
}

/// Makes the names in a folder survive the end of the power.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
