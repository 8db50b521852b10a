//! Files of tensors beside a model: what is in them, what they are called, and when they may go.

use std::ffi::{OsStr, OsString};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::NamedTempFile;

use super::map::{map, release};
use super::unfinished::{folder_of, name_needed, temporary};
use super::{DataType, Model, Tensor, TensorProto};
use crate::proto::StringStringEntryProto;
use crate::proto::tensor_proto::DataLocation;

/// Tensors begin at multiples of this in a data file, so that runtimes can map them (onnx.proto, `external_data`).
const ALIGNMENT: u64 = 4096;

/// Integers that take fewer bytes stay in the model: runtimes read shapes and indices while they load a model, and not
/// all of them from files beside it.
const SHAPES: usize = 1024;

/// Lets every tensor that lies in a file beside the model name that file.
pub(super) fn name_location(model: &mut Model, location: &str) {
    let external = |t: &TensorProto| t.data_location() == DataLocation::External;
    model.graph.edit_tensors(&external, &mut |t| {
        for entry in t.external_data.iter_mut().filter(|e| e.key() == "location") {
            entry.value = Some(location.to_owned());
        }
    });
}

/// A data file in the making.
pub(super) struct DataFile {
    file: BufWriter<NamedTempFile>,
    bytes: u64,
    hash: crc32fast::Hasher,
}

/// A data file that has its name.
pub(super) struct KeptData {
    pub bytes: u64,
    /// Whether no file of that name, and so of these bytes, was there before.
    pub new: bool,
}

impl DataFile {
    pub fn beside(model: &Path) -> std::io::Result<DataFile> {
        let file = BufWriter::with_capacity(1 << 20, temporary(folder_of(model))?);
        Ok(DataFile { file, bytes: 0, hash: crc32fast::Hasher::new() })
    }

    /// Writes the data of large tensors, and leaves in the model where they are.
    pub fn take_from(&mut self, model: &mut Model, threshold: usize) -> std::io::Result<()> {
        let mut outcome = Ok(());
        // Strings have no raw data, and cannot be outside; numbers in typed fields can.
        let least = |t: &TensorProto| match t.data_type() == DataType::Int64 as i32
            || t.data_type() == DataType::Int32 as i32
        {
            true => threshold.max(SHAPES),
            false => threshold.max(1),
        };
        let large = |t: &TensorProto| t.data_location() == DataLocation::Default && data_len(t) >= least(t);
        model.graph.edit_tensors(&large, &mut |t| {
            if outcome.is_ok() {
                outcome = self.take(t);
            }
        });
        outcome
    }

    fn take(&mut self, tensor: &mut TensorProto) -> std::io::Result<()> {
        // What cannot be read as numbers stays where it is.
        let Ok(data) = Tensor::from_proto(tensor).map(|t| t.bytes().clone()) else { return Ok(()) };
        let offset = self.bytes.next_multiple_of(ALIGNMENT);
        const ZEROS: [u8; ALIGNMENT as usize] = [0; ALIGNMENT as usize];
        self.write(&ZEROS[..(offset - self.bytes) as usize])?;
        self.write(&data)?;
        release(&data);
        let entry = |k: &str, v: String| StringStringEntryProto { key: Some(k.to_owned()), value: Some(v) };
        *tensor = TensorProto {
            name: tensor.name.take(),
            dims: std::mem::take(&mut tensor.dims),
            data_type: tensor.data_type,
            doc_string: tensor.doc_string.take(),
            metadata_props: std::mem::take(&mut tensor.metadata_props),
            data_location: Some(DataLocation::External as i32),
            external_data: vec![
                entry("location", String::new()),
                entry("offset", offset.to_string()),
                entry("length", data.len().to_string()),
            ],
            ..Default::default()
        };
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Gives the file its name, which needs a model that names it. One that is there with other bytes stays, and the next number
    /// names the new one.
    pub fn keep(self, model: &Path) -> std::io::Result<(PathBuf, KeptData)> {
        let mut number = self.hash.finalize();
        let file = self.file.into_inner().map_err(|e| e.into_error())?;
        loop {
            let path = model.with_file_name(data_name(model, number));
            let new = !path.exists();
            if new {
                name_needed(file, &path)?;
            } else if !same_bytes(file.path(), &path) {
                number = number.wrapping_add(1);
                continue;
            }
            return Ok((path, KeptData { bytes: self.bytes, new }));
        }
    }
}

/// The name of a data file.
fn data_name(model: &Path, number: u32) -> OsString {
    let mut name = model.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{number:08x}.data"));
    name
}

/// Whether two files hold the same; empty ones, which cannot be mapped, do.
fn same_bytes(a: &Path, b: &Path) -> bool {
    let empty = |p: &Path| std::fs::metadata(p).is_ok_and(|m| m.len() == 0);
    match (map(a), map(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => empty(a) && empty(b),
    }
}

/// Bytes of a tensor's numbers, wherever they stand in the message; a lower bound for typed fields.
fn data_len(t: &TensorProto) -> usize {
    let typed = 4 * (t.float_data.len() + t.int32_data.len());
    let wide = 8 * (t.double_data.len() + t.int64_data.len() + t.uint64_data.len());
    t.raw_data.as_ref().map_or(typed + wide, Bytes::len)
}

/// The data files that a model which stands at that path names, and that bear its name.
pub(super) fn data_named_at(model: &Path) -> Vec<PathBuf> {
    let Some(own) = model.file_name().and_then(OsStr::to_str) else { return Vec::new() };
    let ours = |name: &str| {
        let hash = name.strip_prefix(own).and_then(|n| n.strip_prefix('.')).and_then(|n| n.strip_suffix(".data"));
        hash.is_some_and(|h| h.len() == 8 && h.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let Ok(entries) = std::fs::read_dir(folder_of(model)) else { return Vec::new() };
    let names = entries.flatten().map(|e| e.path()).filter(|p| p.file_name().and_then(OsStr::to_str).is_some_and(ours));
    names.filter(|data| speaks_of(model, data)).collect()
}

/// Those of the data files, which lie beside the model, that will be of no use once it names `used` and nothing else: no other
/// `.onnx` file of the folder names them.
pub(super) fn obsolete_data(model: &Path, mut data: Vec<PathBuf>, used: Option<&Path>) -> Vec<PathBuf> {
    if data.is_empty() {
        return data;
    }
    let Ok(entries) = std::fs::read_dir(folder_of(model)) else { return Vec::new() };
    let others: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "onnx") && p.file_name() != model.file_name())
        .collect();
    let used = used.and_then(Path::file_name);
    data.retain(|data| data.file_name() != used && !others.iter().any(|other| speaks_of(other, data)));
    data
}

/// Whether the name of a data file stands somewhere in a file.
fn speaks_of(file: &Path, data: &Path) -> bool {
    let Some(name) = data.file_name().and_then(OsStr::to_str) else { return true };
    let found = map(file).map(|bytes| {
        let found = memchr::memmem::find(&bytes, name.as_bytes()).is_some();
        release(&bytes);
        found
    });
    found.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ExternalData, GraphProto, ModelProto, WriteOptions};

    const APART: WriteOptions = WriteOptions { external: ExternalData::Always, threshold: 0 };

    fn model(first: f32) -> Model {
        let weight = Tensor::from_f32(vec![512], vec![first; 512]).to_proto("w");
        let shape = Tensor::from_i64(vec![2], vec![16, 32]).to_proto("shape");
        let graph = GraphProto { initializer: vec![weight, shape], ..Default::default() };
        let opset = crate::proto::OperatorSetIdProto { version: Some(17), ..Default::default() };
        Model::from_proto(ModelProto { opset_import: vec![opset], graph: Some(graph), ..Default::default() }).unwrap()
    }

    fn written(path: &Path, first: f32) -> PathBuf {
        model(first).write(path, &APART).unwrap().data.unwrap().0
    }

    #[test]
    fn data_that_another_model_names_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("m.onnx"), folder.path().join("copy.onnx"));
        let data = written(&path, 1.0);
        std::fs::copy(&path, &other).unwrap();
        let next = written(&path, 2.0);
        assert!(data.exists() && next.exists());
        assert_eq!(Model::read(&other).unwrap().to_bytes().unwrap(), model(1.0).to_bytes().unwrap());
        // Nor does a model take what one that stood there never named.
        std::fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        written(&path, 3.0);
        assert!(next.exists());
    }

    #[test]
    fn a_file_that_has_the_name_already_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        let data = written(&path, 1.0);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&data, b"precious").unwrap();
        let other = written(&path, 1.0);
        assert!(other != data && std::fs::read(&data).unwrap() == b"precious");
        assert_eq!(Model::read(&path).unwrap().to_bytes().unwrap(), model(1.0).to_bytes().unwrap());
        assert_eq!(written(&path, 1.0), other);
    }

    #[test]
    fn shapes_stay_in_the_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        assert_eq!(std::fs::metadata(written(&path, 1.0)).unwrap().len(), 2048);
    }

    #[cfg(unix)]
    #[test]
    fn data_lie_beside_what_a_link_points_at() {
        let folder = tempfile::tempdir().unwrap();
        let (inner, link) = (folder.path().join("inner"), folder.path().join("m.onnx"));
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("real.onnx"), b"old").unwrap();
        std::os::unix::fs::symlink("inner/real.onnx", &link).unwrap();
        written(&link, 1.0);
        assert!(link.is_symlink());
        assert_eq!(Model::read(&inner.join("real.onnx")).unwrap().to_bytes().unwrap(), model(1.0).to_bytes().unwrap());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_name_that_is_no_text_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(OsStr::from_bytes(b"a\xff.onnx"));
        assert!(model(1.0).write(&path, &APART).unwrap_err().to_string().contains("no text"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        model(1.0).write(&path, &WriteOptions::default()).unwrap();
    }
}
