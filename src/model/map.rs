//! Files as bytes, without copying them: the one file with `unsafe` in it.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use memmap2::Mmap;

use crate::error::{Error, ErrorKind, Result};

/// Maps larger than this give pages back that were read through; smaller ones keep them for the next reader.
const LARGE: usize = 512 << 20;

/// The maps that give pages back.
static LISTED: Mutex<Vec<Weak<Mmap>>> = Mutex::new(Vec::new());

/// Shares a map, and keeps it while any slice of it lives.
struct Shared(Arc<Mmap>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The bytes of a file, mapped into memory; slices of them stay valid and share the map.
///
/// Errors when the path is missing, no regular file, empty, or cannot be read.
pub fn map(path: &Path) -> Result<Bytes> {
    let place = || format!("`{}`", path.display());
    let io = |e: std::io::Error| Error::io(e).at(place());
    // Asked before it is opened: opening a pipe waits for somebody to write.
    let meta = std::fs::metadata(path).map_err(io)?;
    if meta.is_dir() {
        return Err(Error::new(ErrorKind::Io, "is a directory, not a file").at(place()));
    }
    if !meta.is_file() {
        return Err(Error::new(ErrorKind::Io, "is no regular file").at(place()).hint("save it to a file first"));
    }
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() == 0 {
        return Err(Error::new(ErrorKind::Malformed, "the file is empty").at(place()));
    }
    map_open(&file, LARGE).map_err(io)
}

/// The bytes of an open file that is not empty, and whose pages are given back whatever its size.
pub(super) fn map_scratch(file: &File) -> std::io::Result<Bytes> {
    map_open(file, 0)
}

/// The bytes of an open file that is not empty; they are listed if they are as many as `listed` or more.
fn map_open(file: &File, listed: usize) -> std::io::Result<Bytes> {
    // SAFETY: the map is read only. Another process that truncates the file while it is mapped can make
    // reads fail (SIGBUS), as for every program that maps its input; files are written by rename, never in place.
    let map = Arc::new(unsafe { Mmap::map(file) }?);
    if map.len() >= listed {
        let mut maps = LISTED.lock().unwrap_or_else(PoisonError::into_inner);
        maps.retain(|m| m.strong_count() > 0);
        maps.push(Arc::downgrade(&map));
    }
    Ok(Bytes::from_owner(Shared(map)))
}

/// Says that these bytes were read and are not needed soon: where they lie in a large map, their pages go back to the
/// system, so that going through a model larger than memory does not fill it. They can still be read, from the file.
pub fn release(bytes: &[u8]) {
    let maps = LISTED.lock().unwrap_or_else(PoisonError::into_inner);
    for map in maps.iter().filter_map(Weak::upgrade) {
        let lies = map.as_ptr_range();
        let own = bytes.as_ptr_range();
        if lies.start <= own.start && own.end <= lies.end {
            // SAFETY: the map is read only, of a file, and never written through: a page that is dropped comes back
            // with the same bytes when it is read again.
            #[cfg(unix)]
            let _ = unsafe {
                let offset = own.start as usize - lies.start as usize;
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, bytes.len())
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    #[test]
    fn released_bytes_can_be_read_again() {
        let mut file = tempfile::tempfile().unwrap();
        file.seek(SeekFrom::Start(LARGE as u64 + 8192)).unwrap();
        file.write_all(b"end").unwrap();
        let bytes = map_open(&file, LARGE).unwrap();
        let end = bytes.slice(bytes.len() - 3..);
        assert_eq!(end[..], b"end"[..]);
        release(&end);
        release(&bytes);
        release(b"bytes of no map");
        assert_eq!(end[..], b"end"[..]);
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        for (path, why) in [("/dev/null", "no regular file"), ("/", "directory"), ("/no/such", "")] {
            assert!(map(Path::new(path)).unwrap_err().to_string().contains(why), "{path}");
        }
    }
}
