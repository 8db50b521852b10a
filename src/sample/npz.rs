//! NumPy's `.npz`: a zip of `.npy` arrays.
//!
//! Arrays that were saved without compression (`np.savez`) are read from the file sample by sample. Compressed ones
//! (`np.savez_compressed`) cannot be: those that the model takes are decompressed into memory, once.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use zip::ZipArchive;
use zip::result::ZipError;

use super::array::{ArraySpec, Arrays, ReadFrom, SharedFile, Store};
use super::{named, npy};
use crate::error::{Error, ErrorKind, Place, Result};

/// An open `.npz` file.
pub(super) struct Npz {
    zip: ZipArchive<BufReader<File>>,
    file: Arc<SharedFile>,
    specs: Vec<ArraySpec>,
    entries: Vec<Entry>,
}

/// Where an array lies in the zip.
struct Entry {
    /// Its place in the zip's directory.
    index: usize,
    /// Its bytes before the elements.
    header: u64,
    /// Where its elements begin in the file, if they are not compressed.
    stored: Option<u64>,
}

impl Npz {
    /// Opens a file and reads the header of each array.
    ///
    /// Errors when it is no zip or a zip without arrays, and when an array in it is cut short.
    pub fn open(path: &Path) -> Result<Npz> {
        let place = || named(path);
        let file = Arc::new(SharedFile::open(path).at(place)?);
        let reader = BufReader::new(File::open(path).map_err(Error::io).at(place)?);
        let mut zip = ZipArchive::new(reader).map_err(|e| from_zip(e, "not an npz file, or cut short")).at(place)?;
        let (mut specs, mut entries) = (Vec::new(), Vec::new());
        for index in 0..zip.len() {
            let name = zip.name_for_index(index).and_then(|name| name.ok()).unwrap_or_default().into_owned();
            let Some(name) = name.strip_suffix(".npy") else { continue };
            let (spec, entry) = entry(&mut zip, &file, index, name).at(|| format!("array `{name}`")).at(place)?;
            specs.push(spec);
            entries.push(entry);
        }
        if specs.is_empty() {
            let found: Vec<String> = zip.file_names().flatten().take(3).map(|n| format!("`{n}`")).collect();
            let found = if found.is_empty() { "nothing".to_owned() } else { format!("{}, ...", found.join(", ")) };
            let e = Error::new(ErrorKind::Data, format!("a zip without npy arrays: it holds {found}"));
            return Err(e.at(place()).hint("write samples with `np.savez(path, name=array)`"));
        }
        Ok(Npz { zip, file, specs, entries })
    }
}

/// Reads the header of an array.
fn entry(
    zip: &mut ZipArchive<BufReader<File>>,
    file: &SharedFile,
    index: usize,
    name: &str,
) -> Result<(ArraySpec, Entry)> {
    let mut array = zip.by_index(index).map_err(|e| from_zip(e, "it cannot be unpacked"))?;
    let size = array.size();
    let stored = match array.compression() {
        zip::CompressionMethod::Stored => array.data_start(),
        _ => None,
    };
    let header = match stored {
        Some(offset) => npy::header(&mut ReadFrom { file, offset })?,
        None => npy::header(&mut array)?,
    };
    let end = stored.and_then(|start| start.checked_add(size));
    if stored.is_some() && end.is_none_or(|end| end > file.len()) {
        return Err(Error::new(ErrorKind::Malformed, "cut short: it reaches past the end of the file"));
    }
    let start = header.start;
    let stored = stored.map(|offset| offset + start);
    Ok((header.named(name, size)?, Entry { index, header: start, stored }))
}

impl Arrays for Npz {
    fn specs(&self) -> &[ArraySpec] {
        &self.specs
    }

    fn load(&mut self, i: usize) -> Result<Store> {
        let entry = &self.entries[i];
        if let Some(start) = entry.stored {
            return Ok(Store::File { file: self.file.clone(), start });
        }
        let needed = self.specs[i].bytes().map_or(0, |n| n as u64);
        let array = self.zip.by_index(entry.index).map_err(|e| from_zip(e, "it cannot be unpacked"))?;
        let mut bytes = Vec::new();
        // A byte more than there should be: the end of the data is where the checksum is compared.
        let claimed = array.size().saturating_add(1);
        array.take(claimed).read_to_end(&mut bytes).map_err(|e| from_zip(e.into(), "it cannot be unpacked"))?;
        if (bytes.len() as u64).saturating_sub(entry.header) < needed {
            let what = format!("cut short: {needed} bytes are needed, and {} are there", bytes.len());
            return Err(Error::new(ErrorKind::Malformed, what));
        }
        Ok(Store::Memory(bytes::Bytes::from(bytes).slice(entry.header as usize..)))
    }
}

fn from_zip(e: ZipError, what: &str) -> Error {
    let (kind, hint) = match &e {
        ZipError::UnsupportedArchive(_) | ZipError::InvalidPassword => {
            (ErrorKind::Unsupported, "write it with `np.savez` or `np.savez_compressed`")
        }
        _ => (ErrorKind::Malformed, "an npz file is a zip that `np.savez` writes"),
    };
    let reason = e.to_string().to_lowercase();
    Error::new(kind, format!("{what} ({})", reason.trim_end_matches('.'))).caused_by(e).hint(hint)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::CompressionMethod::{self, Deflated, Stored};
    use zip::write::SimpleFileOptions;

    use super::super::npy::tests::{npy, npy_f32};
    use super::*;
    use crate::model::DataType;

    fn npz(path: &Path, method: CompressionMethod, entries: &[(&str, Vec<u8>)]) {
        let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
        for (name, bytes) in entries {
            zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
    }

    #[test]
    fn stored_and_compressed_arrays_read_alike() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npz");
        let numbers: Vec<f32> = (0..6).map(|x| x as f32).collect();
        let entries =
            [("a.npy", npy_f32(&[2, 3], &numbers)), ("readme.txt", vec![1]), ("b.npy", npy("'|O'", &[1], &[0; 9]))];
        for method in [Stored, Deflated] {
            npz(&path, method, &entries);
            let mut npz = Npz::open(&path).unwrap();
            assert_eq!(npz.specs()[0].to_string(), "a: float32 [2, 3]");
            assert_eq!(npz.specs()[1].to_string(), "b: Python objects [1]");
            let store = npz.load(0).unwrap();
            assert_eq!(matches!(store, Store::File { .. }), method == Stored);
            let t = store.read(DataType::Float, &[1, 3], 12).unwrap();
            assert_eq!(t.f32s().unwrap()[..], numbers[3..]);
        }
    }

    #[test]
    fn a_damaged_array_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npz");
        for method in [Stored, Deflated] {
            npz(&path, method, &[("a.npy", npy_f32(&[2, 3], &[1.0; 6]))]);
            let whole = std::fs::read(&path).unwrap();
            for end in 0..whole.len() {
                std::fs::write(&path, &whole[..end]).unwrap();
                assert!(Npz::open(&path).is_err(), "{end} of {}", whole.len());
            }
            for at in 0..whole.len() {
                let mut bytes = whole.clone();
                bytes[at] ^= 0xff;
                std::fs::write(&path, &bytes).unwrap();
                // Whatever is damaged: an error, or what the header promises.
                if let Ok(mut npz) = Npz::open(&path)
                    && let Ok(store) = npz.load(0)
                    && let Some(size) = npz.specs()[0].bytes()
                {
                    assert!(store.read(DataType::Uint8, &[size], 0).is_ok());
                }
            }
            // The checksum finds what the headers do not say: local header and name take 35 bytes.
            for at in 35..50 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1;
                std::fs::write(&path, &bytes).unwrap();
                let read = Npz::open(&path).and_then(|mut npz| npz.load(0));
                assert!(method == Stored || read.is_err(), "{at}");
            }
        }
    }

    #[test]
    fn a_zip_without_arrays_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npz");
        npz(&path, Stored, &[("archive/data.pkl", vec![1])]);
        let e = Npz::open(&path).err().unwrap();
        assert!(e.to_string().contains("`archive/data.pkl`") && e.way_out().is_some(), "{e}");
        npz(&path, Stored, &[("a.npy", b"not an array".to_vec())]);
        let e = Npz::open(&path).err().unwrap();
        assert!(e.to_string().contains("array `a`"), "{e}");
        std::fs::write(&path, b"no zip").unwrap();
        assert!(Npz::open(&path).err().unwrap().to_string().contains("not an npz file"));
    }
}
