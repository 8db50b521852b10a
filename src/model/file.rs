//! Reading and writing model files.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use super::{AttributeExt, BodyId, Graph, GraphProto, ModelProto, TensorProto, map};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::proto::tensor_proto::DataLocation;
use crate::proto::{FunctionProto, OperatorSetIdProto, StringStringEntryProto};

/// Protobuf's own limit for one message, in bytes.
const PROTOBUF_LIMIT: usize = i32::MAX as usize;

/// A model: its metadata and its graph.
#[derive(Debug, Clone)]
pub struct Model {
    /// Everything but the graph.
    rest: ModelProto,
    /// The graph.
    pub graph: Graph,
}

fn malformed(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

impl Model {
    /// Reads a model file. Weights stay in the mapped file; external data is mapped too.
    ///
    /// Errors when the file is missing, a directory, empty, truncated or not an ONNX model, when it has no opset
    /// import, when its graph breaks the rules of [`Graph::check`], and when external data is missing, too short
    /// or outside the model's folder.
    pub fn read(path: &Path) -> Result<Model> {
        let place = || format!("`{}`", path.display());
        let mut proto = decode(map(path)?).at(place)?;
        let folder = path.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
        let mut external = External { folder, files: HashMap::new() };
        if let Some(graph) = &mut proto.graph {
            external.resolve(graph).at(place)?;
        }
        Model::from_proto(proto).at(place)
    }

    /// A model from the bytes of a file without external data. Errors as [`Model::read`].
    pub fn from_bytes(bytes: Bytes) -> Result<Model> {
        Model::from_proto(decode(bytes)?)
    }

    /// A model from its message. Errors when it has no graph or no opset import, or breaks the rules of the graph.
    pub fn from_proto(mut proto: ModelProto) -> Result<Model> {
        let graph = proto.graph.take().ok_or_else(|| {
            malformed("not an ONNX model: it has no graph").hint("give the path of an .onnx file that holds a model")
        })?;
        if proto.opset_import.is_empty() {
            return Err(malformed("the model imports no operator set").hint(
                "every ONNX model since IR version 3 names its opset; export the model again with a current exporter",
            ));
        }
        let mut graph = Graph::from_proto(graph)?;
        if graph.check().is_err() {
            graph.sort()?;
            graph.check()?;
        }
        Ok(Model { rest: proto, graph })
    }

    /// The message of the whole model.
    pub fn to_proto(&self) -> ModelProto {
        ModelProto { graph: Some(self.graph.to_proto()), ..self.rest.clone() }
    }

    /// How many bytes the model takes in a file.
    pub fn encoded_len(&self) -> usize {
        self.to_proto().encoded_len()
    }

    /// The model as the bytes of a file.
    ///
    /// Errors when they would pass protobuf's limit of 2 GiB.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let proto = self.to_proto();
        let size = proto.encoded_len();
        if size > PROTOBUF_LIMIT {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the model takes {size} bytes, and a protobuf file holds at most {PROTOBUF_LIMIT}"),
            )
            .hint("writing external data is not supported yet"));
        }
        Ok(proto.encode_to_vec())
    }

    /// Writes the model to a file, whole or not at all: into a temporary file beside it, which then takes its name.
    pub fn write(&self, path: &Path) -> Result<()> {
        replace_file(path, &self.to_bytes()?)
    }

    /// The metadata: everything but the graph, which is `None` here.
    pub fn metadata(&self) -> &ModelProto {
        &self.rest
    }

    /// The version of ONNX's own operator set.
    ///
    /// A model that imports other domains only counts as version 1.
    pub fn opset(&self) -> i64 {
        self.rest.opset_import.iter().find(|o| matches!(o.domain(), "" | "ai.onnx")).map_or(1, |o| o.version())
    }

    /// States another version of ONNX's own operator set, and the IR version that goes with it where the model's is lower.
    ///
    /// The nodes are not changed: that is the work of the pass that raises the opset.
    pub fn state_opset(&mut self, version: i64) {
        let imports = &mut self.rest.opset_import;
        match imports.iter_mut().find(|o| matches!(o.domain(), "" | "ai.onnx")) {
            Some(import) => import.version = Some(version),
            None => imports.push(OperatorSetIdProto { domain: Some(String::new()), version: Some(version) }),
        }
        self.rest.ir_version = Some(self.rest.ir_version().max(ir_version_of(version)));
    }

    /// Raises the IR version to 4 where it is lower: since then an initializer need not be a graph input, and one
    /// that is not is a constant (docs/IR.md of ONNX, "Graphs").
    pub fn allow_constants(&mut self) {
        self.rest.ir_version = Some(self.rest.ir_version().max(4));
    }

    /// Writes an entry of metadata_props, replacing the one of its key.
    pub fn set_metadata(&mut self, key: &str, value: &str) {
        let props = &mut self.rest.metadata_props;
        match props.iter_mut().find(|p| p.key() == key) {
            Some(p) => p.value = Some(value.to_owned()),
            None => props.push(StringStringEntryProto { key: Some(key.to_owned()), value: Some(value.to_owned()) }),
        }
    }

    /// Changes the body of a node as if it were the graph of the model. See [`Graph::edit_body`].
    pub fn edit_body<T>(&mut self, id: BodyId, change: impl FnOnce(&mut Model) -> Result<T>) -> Result<T> {
        let rest = &mut self.rest;
        self.graph.edit_body(id, |graph| {
            let mut inner = Model { rest: std::mem::take(rest), graph: std::mem::take(graph) };
            let outcome = change(&mut inner);
            (*rest, *graph) = (inner.rest, inner.graph);
            outcome
        })
    }

    /// Changes the model-local functions, one after the other. Errors as `change` does, and name the function.
    pub fn edit_functions(&mut self, mut change: impl FnMut(&mut FunctionProto) -> Result<()>) -> Result<()> {
        self.rest.functions.iter_mut().try_for_each(|f| {
            let place = format!("function `{}.{}`", f.domain(), f.name());
            change(f).at(|| place)
        })
    }

    /// The model-local functions' names, as `domain.name`.
    pub fn functions(&self) -> impl Iterator<Item = String> + '_ {
        self.rest.functions.iter().map(|f| format!("{}.{}", f.domain(), f.name()))
    }
}

/// The IR version in which an opset of ONNX's own domain was released
/// (docs/Versioning.md of ONNX, table "Released Versions").
fn ir_version_of(opset: i64) -> i64 {
    match opset {
        ..=8 => 3,
        9 => 4,
        10 => 5,
        11 => 6,
        12..=14 => 7,
        15..=18 => 8,
        19..=20 => 9,
        21..=22 => 10,
        23 => 11,
        24 => 12,
        _ => 13,
    }
}

fn decode(bytes: Bytes) -> Result<ModelProto> {
    let size = bytes.len();
    let proto = ModelProto::decode(bytes).map_err(|e| {
        malformed(format!("not an ONNX model, or cut short ({size} bytes)")).caused_by(e).hint(
            "an .onnx file is a binary protobuf; a Git LFS pointer or a web page saved under that name is not one",
        )
    })?;
    if proto.graph.is_none() && proto.ir_version.is_none() {
        return Err(malformed("not an ONNX model: neither graph nor IR version in it"));
    }
    Ok(proto)
}

/// Writes a file whole or not at all: into a temporary file in the same folder, renamed when it is complete.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |e: std::io::Error| Error::io(e).at("cannot write").at(format!("`{}`", path.display()));
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".qdq-").suffix(".tmp").tempfile_in(folder).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map_or(0o644, |m| m.permissions().mode());
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).map_err(fail)?;
    }
    file.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}

/// The files beside a model that hold tensors, mapped once each.
struct External {
    folder: PathBuf,
    files: HashMap<PathBuf, Bytes>,
}

impl External {
    /// Lets every tensor of the graph, of its subgraphs and of its attributes share the mapped bytes.
    fn resolve(&mut self, graph: &mut GraphProto) -> Result<()> {
        graph.initializer.iter_mut().try_for_each(|t| self.tensor(t))?;
        for attribute in graph.node.iter_mut().flat_map(|n| &mut n.attribute) {
            attribute.t.iter_mut().chain(&mut attribute.tensors).try_for_each(|t| self.tensor(t))?;
            attribute.subgraphs_mut().try_for_each(|g| self.resolve(g))?;
        }
        Ok(())
    }

    fn tensor(&mut self, tensor: &mut TensorProto) -> Result<()> {
        if tensor.data_location() != DataLocation::External {
            return Ok(());
        }
        let bytes = self.bytes_of(tensor).at(|| format!("external data of tensor `{}`", tensor.name()))?;
        tensor.raw_data = Some(bytes);
        tensor.external_data.clear();
        tensor.data_location = None;
        Ok(())
    }

    fn bytes_of(&mut self, tensor: &TensorProto) -> Result<Bytes> {
        let entry = |key: &str| tensor.external_data.iter().find(|e| e.key() == key).map(|e| e.value());
        let number = |key: &str| {
            entry(key)
                .map(|v| v.parse::<usize>().map_err(|_| malformed(format!("{key} `{v}` is not a whole number"))))
                .transpose()
        };
        let location = Path::new(entry("location").ok_or_else(|| malformed("it names no location"))?);
        if !location.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(malformed(format!("`{}` leaves the model's folder", location.display()))
                .hint("external data must lie in the model's folder, named by a relative path without `..`"));
        }
        let path = self.folder.join(location);
        let file = match self.files.get(&path) {
            Some(bytes) => bytes.clone(),
            None => {
                self.stays_inside(&path)?;
                let bytes = map(&path)?;
                self.files.insert(path.clone(), bytes.clone());
                bytes
            }
        };
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or(file.len().saturating_sub(offset));
        match offset.checked_add(length) {
            Some(end) if end <= file.len() => Ok(file.slice(offset..end)),
            _ => Err(malformed(format!(
                "`{}` has {} bytes, and {length} from offset {offset} were asked for",
                path.display(),
                file.len()
            ))),
        }
    }

    /// Refuses a file that a symbolic link takes out of the model's folder.
    fn stays_inside(&self, path: &Path) -> Result<()> {
        let folder = if self.folder.as_os_str().is_empty() { Path::new(".") } else { &self.folder };
        let real = |p: &Path| {
            p.canonicalize().map_err(|e| {
                Error::io(e)
                    .at(format!("`{}`", p.display()))
                    .hint("the model's weights are in a file of their own: keep it beside the model")
            })
        };
        if real(path)?.starts_with(real(folder)?) {
            return Ok(());
        }
        Err(malformed(format!("`{}` links out of the model's folder", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_model_are_refused() {
        for bytes in [&b"<html><body>404</body></html>"[..], b"version https://git-lfs.github.com/spec/v1", b"\x00"] {
            assert_eq!(Model::from_bytes(Bytes::from_static(bytes)).unwrap_err().kind(), ErrorKind::Malformed);
        }
    }

    #[test]
    fn a_model_without_opset_is_refused() {
        let proto = ModelProto { ir_version: Some(8), graph: Some(GraphProto::default()), ..Default::default() };
        let e = Model::from_proto(proto).unwrap_err();
        assert!(e.to_string().contains("imports no operator set") && e.way_out().is_some());
    }

    #[test]
    fn files_appear_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        replace_file(&path, b"old").unwrap();
        replace_file(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(replace_file(&folder.path().join("no/m.onnx"), b"x").is_err());
    }
}
