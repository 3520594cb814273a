//! Loopback ports for a local cluster.

use super::ClusterError;
use std::{fs::File, net::TcpListener, path::PathBuf};

/// A block of consecutive loopback ports that no other local cluster uses while this value lives.
///
/// The ports lie below the range from which the system draws ports for outgoing connections: a node that is
/// stopped for a while finds its port free when it comes back. A lock file per block keeps clusters of
/// different processes apart, also while none of them listens.
#[derive(Debug)]
pub struct PortBlock {
    first: u16,
    /// Held for the life of the block; never deleted, so that all lock the same file.
    _lock: File,
}

impl PortBlock {
    /// How many ports a block has.
    pub const LENGTH: u16 = 32;
    const FIRST: u16 = 17_000;
    const BLOCKS: u32 = 400;

    /// Takes a block whose ports are all free.
    ///
    /// # Errors
    /// [`ClusterError::NoPorts`] when there is none, or the folder for lock files cannot be made.
    pub fn take() -> Result<Self, ClusterError> {
        let folder = lock_folder();
        std::fs::create_dir_all(&folder).map_err(|source| ClusterError::File {
            action: "create",
            path: folder.clone(),
            source,
        })?;
        let start = std::process::id() % Self::BLOCKS;
        for step in 0..Self::BLOCKS {
            let block = (start + step) % Self::BLOCKS;
            let offset = u16::try_from(block).unwrap_or(0) * Self::LENGTH;
            let first = Self::FIRST + offset;
            let Ok(lock) = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(folder.join(first.to_string()))
            else {
                continue;
            };
            if lock.try_lock().is_ok() && (0..Self::LENGTH).all(|port| is_free(first + port)) {
                return Ok(PortBlock { first, _lock: lock });
            }
        }
        Err(ClusterError::NoPorts { tried: Self::BLOCKS })
    }

    /// Returns the port at `index`, which is below [`PortBlock::LENGTH`].
    pub fn port(&self, index: u16) -> u16 {
        self.first + index % Self::LENGTH
    }
}

fn lock_folder() -> PathBuf {
    let user = rustix::process::getuid().as_raw();
    std::env::temp_dir().join(format!("tidemark-ports-{user}"))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_blocks_never_overlap() {
        let (one, two) = (PortBlock::take().unwrap(), PortBlock::take().unwrap());
        assert!(one.port(0).abs_diff(two.port(0)) >= PortBlock::LENGTH);
    }

    #[test]
    fn blocks_stay_below_the_ports_of_outgoing_connections() {
        let last = u32::from(PortBlock::FIRST) + PortBlock::BLOCKS * u32::from(PortBlock::LENGTH);
        assert!(last < 32_768);
    }
}
