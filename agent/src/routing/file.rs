//! The certificate that the configuration names.

use std::path::{Path, PathBuf};

use hedge_certify::{Certificate, CertificateError, MAX_CERTIFICATE_BYTES};

/// Why a certificate's file is of no use; the model is served without it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{path} cannot be read: {why}; make it with `hedge route certify`")]
    Unreadable { path: PathBuf, why: String },
    #[error("{path} is no certificate: {source}")]
    NoCertificate { path: PathBuf, source: CertificateError },
}

/// Reads a certificate and computes its numbers again; no more of the file than a certificate can have is read.
pub(crate) fn read(path: &Path) -> Result<Certificate, FileError> {
    let unreadable = |why: std::io::Error| FileError::Unreadable { path: path.to_owned(), why: why.to_string() };
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let most = MAX_CERTIFICATE_BYTES as u64 + 1;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, most), &mut content).map_err(unreadable)?;
    Certificate::read(&content).map_err(|source| FileError::NoCertificate { path: path.to_owned(), source })
}
