//! `.npy` files, as far as the tests write inputs and read outputs.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;

use npyz::{AutoSerialize, Deserialize, NpyFile, WriterBuilder};

/// An array.
#[derive(Debug, Clone, PartialEq)]
pub struct Array<T> {
    /// Its dimensions.
    pub shape: Vec<u64>,
    /// Its elements, row by row.
    pub data: Vec<T>,
}

impl<T: AutoSerialize + Deserialize + Copy> Array<T> {
    /// Reads a file.
    ///
    /// # Panics
    ///
    /// If it is not there or holds something else.
    pub fn read(path: &Path) -> Self {
        let open = || -> std::io::Result<Self> {
            let file = NpyFile::new(BufReader::new(File::open(path)?))?;
            Ok(Self { shape: file.shape().to_vec(), data: file.into_vec()? })
        };
        open().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Writes a file.
    ///
    /// # Panics
    ///
    /// If it cannot.
    pub fn write(&self, path: &Path) {
        let save = || -> std::io::Result<()> {
            let file = BufWriter::new(File::create(path)?);
            let options = npyz::WriteOptions::new().default_dtype().shape(&self.shape);
            let mut writer = options.writer(file).begin_nd()?;
            writer.extend(self.data.iter().copied())?;
            writer.finish()
        };
        save().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
