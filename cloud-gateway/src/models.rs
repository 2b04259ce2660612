//! From a file to a model that answers: read, name by digest, prepare on a device, give a thread of its own.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use hedge_engine::{
    DeviceChoice, LoadError, Model,
    worker::{BatchPolicy, Worker},
};
use hedge_graph::{Graph, ReadError};
use hedge_wire::{Digest, ModelId};
use sha2::Digest as _;

/// The largest model file, in bytes: what a protobuf message may have.
const MAX_MODEL_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// A model that is being served.
#[derive(Clone)]
pub(crate) struct Served {
    /// SHA-256 of the file.
    pub(crate) digest: Digest,
    /// The thread that runs it.
    pub(crate) worker: Worker,
}

/// A model that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file cannot be read.
    #[error("cannot read the model {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is over the limit.
    #[error("the model {} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// The file is no ONNX that is understood.
    #[error("the model {}: {source}", path.display())]
    NotUnderstood {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ReadError,
    },
    /// No device runs the model.
    #[error("the model {}: {source}", path.display())]
    NotLoaded {
        /// The file.
        path: PathBuf,
        /// Why.
        source: LoadError,
    },
    /// The system gives no thread for the model.
    #[error("cannot start a thread for the model {}: {source}", path.display())]
    NoThread {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Loads the model at `path` and starts its thread; takes seconds and blocks.
pub(crate) fn load(id: &ModelId, path: &Path, device: DeviceChoice, batch: BatchPolicy) -> Result<Served, ModelError> {
    let file = read(path)?;
    let digest = Digest(sha2::Sha256::digest(&file).into());
    let graph = Graph::read(file).map_err(|source| ModelError::NotUnderstood { path: path.into(), source })?;
    let model =
        Model::load(graph, device, None).map_err(|source| ModelError::NotLoaded { path: path.into(), source })?;
    let worker = Worker::spawn(&format!("model-{id}"), model, batch)
        .map_err(|source| ModelError::NoThread { path: path.into(), source })?;
    Ok(Served { digest, worker })
}

fn read(path: &Path) -> Result<Bytes, ModelError> {
    let unreadable = |source| ModelError::Unreadable { path: path.into(), source };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_MODEL_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_MODEL_BYTES {
        return Err(ModelError::TooLarge { path: path.into(), limit: MAX_MODEL_BYTES });
    }
    Ok(bytes.into())
}
