//! Files as bytes, without copying them: the one file with `unsafe` in it.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use memmap2::Mmap;

use crate::error::{Error, ErrorKind, Result};

/// The bytes of a file, mapped into memory; slices of them stay valid and share the map.
///
/// Errors when the path is missing, a directory, or cannot be read.
pub fn map(path: &Path) -> Result<Bytes> {
    let place = || format!("`{}`", path.display());
    let io = |e: std::io::Error| Error::io(e).at(place());
    let file = File::open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    if meta.is_dir() {
        return Err(Error::new(ErrorKind::Io, "is a directory, not a file").at(place()));
    }
    if meta.len() == 0 {
        return Err(Error::new(ErrorKind::Malformed, "the file is empty").at(place()));
    }
    // SAFETY: the map is read only. Another process that truncates the file while it is mapped can make
    // reads fail (SIGBUS), as for every program that maps its input; files are written by rename, never in place.
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    Ok(Bytes::from_owner(map))
}
