//! Writing models: whole or not at all, streaming, with large tensors in a file beside the model where that is wanted.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

#[cfg(feature = "tract")]
use bytes::Buf;

use super::Model;
use super::data_file::{DataFile, data_named_at, name_location, obsolete_data};
use super::map::release;
use super::unfinished::{Along, folder_of, name, temporary};
use super::wire::Pieces;
use crate::error::{Error, ErrorKind, Result};

/// Protobuf's own limit for one message, in bytes.
const PROTOBUF_LIMIT: usize = i32::MAX as usize;

/// Where the data of large tensors go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum ExternalData {
    /// Into the model file, and beside it where that would pass protobuf's 2 GiB.
    #[default]
    Auto,
    /// Into a file beside the model.
    Always,
    /// Into the model file; a model that would pass 2 GiB is refused.
    Never,
}

/// How a model is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteOptions {
    /// Where the data of large tensors go.
    pub external: ExternalData,
    /// In bytes: smaller tensors stay in the model file.
    pub threshold: usize,
}

impl Default for WriteOptions {
    fn default() -> Self {
        WriteOptions { external: ExternalData::Auto, threshold: 1024 }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the model file.
    pub model: u64,
    /// The file with the tensors, and its bytes.
    pub data: Option<(PathBuf, u64)>,
}

fn too_large(size: usize) -> Error {
    let message = format!("the model takes {size} bytes, and a protobuf file holds at most {PROTOBUF_LIMIT}");
    Error::new(ErrorKind::Unsupported, message).hint("let its tensors go into a file beside it: `--external-data auto`")
}

impl Model {
    /// The model as the bytes of a file that holds all of it.
    ///
    /// Errors when they would pass protobuf's limit of 2 GiB.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(self.in_one_file()?.into_list().concat())
    }

    /// The same bytes, for whoever reads them once: tensors are not copied, and those that only this model has are freed as
    /// soon as they were read.
    #[cfg(feature = "tract")]
    pub(crate) fn into_buf(self) -> Result<impl Buf> {
        Ok(self.in_one_file()?.into_buf())
    }

    fn in_one_file(&self) -> Result<Pieces> {
        let pieces = self.pieces();
        if pieces.len() > PROTOBUF_LIMIT {
            return Err(too_large(pieces.len()));
        }
        Ok(pieces)
    }

    /// Writes the model to a file, whole or not at all, without a copy of it in memory.
    ///
    /// External data go into a file beside the model, named after it and after the data: `model.onnx.1a2b3c4d.data`.
    /// So a model that is replaced keeps its data until the new one is there, and the same model always gives the same
    /// files. The data of the model that stood there before are removed in the end, unless another `.onnx` file of the
    /// folder names them.
    ///
    /// Errors when a file cannot be written, and when the model would pass protobuf's 2 GiB; then nothing has changed.
    pub fn write(&self, path: &Path, options: &WriteOptions) -> Result<Written> {
        let path = &followed(path)?;
        let before = data_named_at(path);
        let pieces = self.pieces();
        let apart = match options.external {
            ExternalData::Always => true,
            ExternalData::Auto => pieces.len() > PROTOBUF_LIMIT,
            ExternalData::Never => false,
        };
        if !apart {
            if pieces.len() > PROTOBUF_LIMIT {
                return Err(too_large(pieces.len()));
            }
            let obsolete = obsolete_data(path, before, None);
            let model = replace_by(path, pieces, Along { needed: None, obsolete: &obsolete })?;
            return Ok(Written { model, data: None });
        }
        let fail = |e| cannot_write(path, e);
        if is_device(path) {
            return Err(fail(std::io::Error::other("external data needs a file to lie beside")));
        }
        if path.file_name().and_then(OsStr::to_str).is_none() {
            return Err(fail(std::io::Error::other("external data are named in the model, and the name is no text")));
        }
        drop(pieces);
        let mut data = DataFile::beside(path).map_err(fail)?;
        let mut slim = self.clone();
        data.take_from(&mut slim, options.threshold).map_err(fail)?;
        let (name, kept) = data.keep(path).map_err(fail)?;
        let obsolete = obsolete_data(path, before, Some(&name));
        let location = name.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        name_location(&mut slim, &location);
        let pieces = slim.pieces();
        let outcome = match pieces.len() {
            size if size > PROTOBUF_LIMIT => Err(too_large(size)),
            _ => replace_by(path, pieces, Along { needed: Some(&name), obsolete: &obsolete }),
        };
        match outcome {
            Ok(model) => Ok(Written { model, data: Some((name, kept.bytes)) }),
            Err(e) => {
                if kept.new {
                    let _ = std::fs::remove_file(&name);
                }
                Err(e)
            }
        }
    }
}

/// Writes a file whole or not at all: into a temporary file in the same folder, renamed when it is complete.
///
/// A symbolic link stays one: what it points at is replaced. A device, such as `/dev/stdout`, is written to.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, Along::default(), |file| file.write_all(bytes))
}

/// Writes a model's pieces, as [`replace_file`] does, and says how many bytes they were.
fn replace_by(path: &Path, pieces: Pieces, along: Along<'_>) -> Result<u64> {
    let size = pieces.len() as u64;
    replace(path, along, |file| {
        for piece in pieces.into_list() {
            file.write_all(&piece)?;
            release(&piece);
        }
        Ok(())
    })?;
    Ok(size)
}

fn replace(path: &Path, along: Along<'_>, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
    let fail = |e| cannot_write(path, e);
    if is_device(path) {
        return write(&mut File::options().write(true).open(path).map_err(fail)?).map_err(fail);
    }
    let real = followed(path)?;
    let mut file = temporary(folder_of(&real)).map_err(fail)?;
    write(file.as_file_mut()).map_err(fail)?;
    name(file, &real, along).map_err(fail)
}

/// What a symbolic link points at; any other path as it is.
fn followed(path: &Path) -> Result<PathBuf> {
    if !path.is_symlink() || is_device(path) {
        return Ok(path.to_owned());
    }
    path.canonicalize().map_err(|e| cannot_write(path, e))
}

fn cannot_write(path: &Path, e: std::io::Error) -> Error {
    Error::io(e).at("cannot write").at(format!("`{}`", path.display()))
}

/// Whether something stands there that is no file to be replaced: a device, a pipe.
fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GraphProto, ModelProto, NodeProto, Tensor, attribute};
    use crate::proto::{AttributeProto, OperatorSetIdProto};

    fn files(folder: &Path) -> Vec<String> {
        let name = |e: std::io::Result<std::fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = std::fs::read_dir(folder).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn files_appear_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        replace_file(&path, b"old").unwrap();
        replace_file(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(files(folder.path()), ["m.onnx"]);
        assert!(replace_file(&folder.path().join("no/m.onnx"), b"x").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_and_devices_stay_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::write(&real, b"old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        replace_file(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&real).unwrap(), b"new");
        replace_file(Path::new("/dev/null"), b"x").unwrap();
        assert!(is_device(Path::new("/dev/null")));
    }

    /// A model with a weight, a scalar, a Constant node, and a branch with both.
    fn model(first: f32) -> Model {
        let weight = |name: &str| Tensor::from_f32(vec![512], vec![first; 512]).to_proto(name);
        let constant = |name: &str| {
            let value = attribute::tensor("value", weight(""));
            let (op_type, output) = (Some("Constant".into()), vec![name.into()]);
            NodeProto { op_type, output, attribute: vec![value], ..Default::default() }
        };
        let body = GraphProto { node: vec![constant("c2")], initializer: vec![weight("w2")], ..Default::default() };
        let mut choose = NodeProto { op_type: Some("If".into()), ..Default::default() };
        choose.attribute.push(AttributeProto { g: Some(body), ..Default::default() });
        let scalar = Tensor::from_f32(vec![], vec![first]).to_proto("s");
        let node = vec![constant("c"), choose];
        let initializer = vec![weight("w"), scalar];
        Model::from_proto(ModelProto {
            opset_import: vec![OperatorSetIdProto { version: Some(17), ..Default::default() }],
            graph: Some(GraphProto { node, initializer, ..Default::default() }),
            ..Default::default()
        })
        .unwrap()
    }

    #[test]
    fn large_tensors_lie_beside_the_model_and_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        let options = WriteOptions { external: ExternalData::Always, threshold: 1024 };
        let written = model(1.0).write(&path, &options).unwrap();
        let (data, size) = written.data.unwrap();
        // Four tensors of 2 KiB, each at a page of its own.
        assert_eq!((size, std::fs::metadata(&data).unwrap().len()), (3 * 4096 + 2048, size));
        assert!(written.model < 1024);
        assert_eq!(Model::read(&path).unwrap().to_bytes().unwrap(), model(1.0).to_bytes().unwrap());
        // Another model takes its place: its data come, and those of the first go.
        model(2.0).write(&path, &options).unwrap();
        assert!(!data.exists() && files(folder.path()).len() == 2);
        // The same model once more changes nothing.
        let before = (files(folder.path()), std::fs::read(&path).unwrap());
        model(2.0).write(&path, &options).unwrap();
        assert_eq!((files(folder.path()), std::fs::read(&path).unwrap()), before);
        model(3.0).write(&path, &WriteOptions::default()).unwrap();
        assert_eq!(files(folder.path()), ["m.onnx"]);
        let high = WriteOptions { threshold: 4096, ..options };
        assert_eq!(model(1.0).write(&path, &high).unwrap().data.unwrap().1, 0);
    }

    #[test]
    fn a_write_that_fails_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        std::fs::create_dir(&path).unwrap();
        let options = WriteOptions { external: ExternalData::Always, threshold: 0 };
        assert!(model(1.0).write(&path, &options).is_err());
        assert_eq!(files(folder.path()), ["m.onnx"]);
        assert!(model(1.0).write(Path::new("/dev/null"), &options).is_err());
    }
}
