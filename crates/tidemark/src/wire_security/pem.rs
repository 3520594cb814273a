//! Certificates and keys in PEM files. Messages never repeat what a file holds.

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use std::path::Path;

/// The largest file of certificates or keys that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads a file of certificates; it must hold at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<u8>, String> {
    let text = read(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text).collect();
    if certificates.is_empty() || certificates.iter().any(Result::is_err) {
        return Err(format!("{} holds no certificate in PEM format", path.display()));
    }
    Ok(text)
}

/// Reads a file with one private key.
pub(super) fn private_key(path: &Path) -> Result<Vec<u8>, String> {
    let text = read(path)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err(format!("{} holds no private key in PEM format", path.display())),
    }
}

/// Reads a file of moderate size.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!(
            "{} has {length} bytes; such a file is small",
            path.display()
        ));
    }
    std::fs::read(path).map_err(failed)
}
