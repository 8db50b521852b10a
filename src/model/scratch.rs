//! A place on disk for tensors that wait to be written.

use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::map::map_scratch;
use super::{Tensor, unfinished::temporary};
use crate::error::{Error, Result};

/// Tensors smaller than this stay in memory.
const SMALL: usize = 1 << 20;

/// A folder for tensors that wait to be written: what is put there takes no memory, and vanishes when it is dropped or
/// the process ends.
#[derive(Debug, Clone)]
pub struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    /// Scratch space in that folder, which should be on the disk that the model is written to.
    pub fn new(folder: &Path) -> Scratch {
        Scratch { folder: folder.to_owned() }
    }

    /// The tensor, its data on disk if there are many. Errors when they cannot be written.
    pub fn keep(&self, tensor: Tensor) -> Result<Tensor> {
        if tensor.bytes().len() < SMALL {
            return Ok(tensor);
        }
        let bytes = self
            .store(tensor.bytes())
            .map_err(|e| Error::io(e).at("scratch data").at(format!("`{}`", self.folder.display())))?;
        Tensor::new(tensor.dtype(), tensor.shape().to_vec(), bytes)
    }

    fn store(&self, bytes: &[u8]) -> std::io::Result<Bytes> {
        let mut file = temporary(&self.folder)?;
        file.write_all(bytes)?;
        // The name goes at once; the map holds on to what was written.
        map_scratch(&file.into_file())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_reads_alike_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(folder.path());
        let tensor = Tensor::from_f32(vec![SMALL], (0..SMALL).map(|i| i as f32).collect());
        assert_eq!(scratch.keep(tensor.clone()).unwrap(), tensor);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(Scratch::new(&folder.path().join("gone")).keep(tensor).is_err());
    }
}
