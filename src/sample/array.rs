//! Arrays in files, read a piece at a time.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result, listed};
use crate::model::{DataType, Tensor, dtype_name, width};

/// What an array says its elements are.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Element {
    /// One of ONNX's types, row major, little endian.
    Known(DataType),
    /// Something that is not read, and how to save it so that it is.
    Strange { what: String, way_out: String },
}

/// Name, type and shape of an array in a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ArraySpec {
    pub name: String,
    pub element: Element,
    pub shape: Vec<usize>,
}

impl fmt::Display for ArraySpec {
    /// `x: float32 [100, 3, 32, 32]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.element {
            Element::Known(dtype) => dtype_name(*dtype),
            Element::Strange { what, .. } => what,
        };
        write!(f, "{}: {what} {}", self.name, listed(&self.shape))
    }
}

impl ArraySpec {
    /// How many bytes the elements take; `None` where that is not known or past every memory.
    pub fn bytes(&self) -> Option<usize> {
        let Element::Known(dtype) = self.element else { return None };
        self.shape.iter().try_fold(width(dtype)?, |n, &d| n.checked_mul(d))
    }
}

/// A file of arrays.
pub(super) trait Arrays {
    /// What is in it, in the file's order.
    fn specs(&self) -> &[ArraySpec];

    /// Makes array `i` of the list, whose element type must be known, ready to be read.
    ///
    /// Errors, without the names of file and array, when there is less than the header promises.
    fn load(&mut self, i: usize) -> Result<Store>;
}

/// Where the elements of an array lie.
pub(super) enum Store {
    /// In a file, from byte `start` on.
    File { file: Arc<SharedFile>, start: u64 },
    /// In memory.
    Memory(Bytes),
}

impl Store {
    /// Reads a tensor that begins `offset` bytes into the array.
    ///
    /// Errors, without the names of file and array, when the array ends before the tensor.
    pub fn read(&self, dtype: DataType, shape: &[usize], offset: usize) -> Result<Tensor> {
        let size = shape.iter().try_fold(width(dtype).unwrap_or(0), |n, &d| n.checked_mul(d));
        let (Some(size), Some(end)) = (size, size.and_then(|s| s.checked_add(offset))) else {
            return Err(Error::new(ErrorKind::Malformed, format!("the shape {} is past every memory", listed(shape))));
        };
        let bytes = match self {
            Store::File { file, start } => file.read(*start + offset as u64, size)?,
            Store::Memory(bytes) if end <= bytes.len() => bytes.slice(offset..end),
            Store::Memory(bytes) => {
                let what = format!("cut short: {} bytes, and {end} are needed", bytes.len());
                return Err(Error::new(ErrorKind::Malformed, what));
            }
        };
        Tensor::new(dtype, shape.to_vec(), bytes)
    }
}

/// A file that several threads read at once, each where it likes.
pub(super) struct SharedFile {
    len: u64,
    #[cfg(unix)]
    file: File,
    #[cfg(not(unix))]
    file: std::sync::Mutex<File>,
}

impl SharedFile {
    /// Opens a file. Errors, without its name, when it is missing or a directory.
    pub fn open(path: &Path) -> Result<SharedFile> {
        let file = File::open(path).map_err(Error::io)?;
        let meta = file.metadata().map_err(Error::io)?;
        if meta.is_dir() {
            return Err(Error::new(ErrorKind::Io, "is a directory, not a file"));
        }
        #[cfg(not(unix))]
        let file = std::sync::Mutex::new(file);
        Ok(SharedFile { len: meta.len(), file })
    }

    /// How many bytes it had when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Reads `size` bytes from `offset` on. Errors, without its name, when they are not there.
    pub fn read(&self, offset: u64, size: usize) -> Result<Bytes> {
        if offset.checked_add(size as u64).is_none_or(|end| end > self.len) {
            let what = format!("cut short: {} bytes, and {size} from {offset} on are needed", self.len);
            return Err(Error::new(ErrorKind::Malformed, what));
        }
        let mut bytes = vec![0; size];
        self.fill(&mut bytes, offset).map_err(Error::io)?;
        Ok(bytes.into())
    }

    #[cfg(unix)]
    fn fill(&self, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, bytes, offset)
    }

    #[cfg(not(unix))]
    fn fill(&self, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        // A thread that panicked while it held the lock left no state behind: every read seeks first.
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(bytes)
    }
}

/// Reads a shared file from a place on, for parsers.
pub(super) struct ReadFrom<'a> {
    pub file: &'a SharedFile,
    pub offset: u64,
}

impl std::io::Read for ReadFrom<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let left = self.file.len.saturating_sub(self.offset);
        let size = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.file.fill(&mut bytes[..size], self.offset)?;
        self.offset += size as u64;
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_where_they_lie() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, [9, 9, 1, 0, 2, 0, 3, 0]).unwrap();
        let file = Arc::new(SharedFile::open(&path).unwrap());
        let store = Store::File { file: file.clone(), start: 2 };
        let memory = Store::Memory(Bytes::from_static(&[1, 0, 2, 0, 3, 0]));
        for store in [store, memory] {
            let t = store.read(DataType::Int16, &[1, 2], 2).unwrap();
            assert_eq!((t.shape(), t.i64s().unwrap()), (&[1, 2][..], vec![2, 3]));
            assert!(store.read(DataType::Int16, &[2], 4).unwrap_err().to_string().contains("cut short"));
            assert!(store.read(DataType::Int16, &[usize::MAX, 2], 4).is_err());
        }
        assert!(SharedFile::open(folder.path()).is_err());
        assert!(SharedFile::open(&folder.path().join("none")).is_err());
    }
}
