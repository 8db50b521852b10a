//! A model, and reading it from a file.

use std::path::Path;

use bytes::Bytes;
use prost::Message;

use super::external::External;
use super::graph::Part;
use super::wire::{Encode, Field, Kept, Pieces, fields};
use super::{BodyId, Graph, ModelProto, imported, map, state_import};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::proto::{FunctionProto, StringStringEntryProto};

/// The field of a model that holds its graph.
const GRAPH: u32 = 7;

/// A model: its metadata and its graph.
#[derive(Debug, Clone)]
pub struct Model {
    /// Everything but the graph.
    rest: Kept<ModelProto>,
    /// How many of the bytes that `rest` was read from stand before the graph.
    head: usize,
    /// The graph.
    pub graph: Graph,
}

fn malformed(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

/// What is said of bytes that are no model.
pub(super) fn not_onnx(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    malformed("not an ONNX model, or cut short")
        .caused_by(e)
        .hint("an .onnx file is a binary protobuf; a Git LFS pointer or a web page saved under that name is not one")
}

impl Model {
    /// Reads a model file. Weights stay in the mapped file; external data is mapped too.
    ///
    /// Errors when the file is missing, a directory, empty, truncated or not an ONNX model, when it has no opset
    /// import, when its graph breaks the rules of [`Graph::check`], and when external data is missing, too short,
    /// outside the model's folder, or used by two tensors that overlap.
    pub fn read(path: &Path) -> Result<Model> {
        let place = || format!("`{}`", path.display());
        let bytes = map(path)?;
        let mut external = External::beside(path);
        let model = Model::decode(bytes, &mut external).at(place)?;
        external.check_overlaps().at(place)?;
        Ok(model)
    }

    /// Reads the message of a model file as it stands: nothing in it is checked, and data in other files stay there.
    ///
    /// Errors when the file is missing, a directory, empty, truncated or not an ONNX model.
    pub fn read_proto(path: &Path) -> Result<ModelProto> {
        let place = || format!("`{}`", path.display());
        let proto = map(path).and_then(|bytes| ModelProto::decode(bytes).map_err(not_onnx)).at(place)?;
        if proto.graph.is_none() && proto.ir_version.is_none() {
            return Err(no_model()).at(place);
        }
        Ok(proto)
    }

    /// A model from the bytes of a file without external data. Errors as [`Model::read`].
    pub fn from_bytes(bytes: Bytes) -> Result<Model> {
        Model::decode(bytes, &mut External::none())
    }

    fn decode(bytes: Bytes, external: &mut External) -> Result<Model> {
        let size = bytes.len();
        let place = || format!("{size} bytes");
        let list = fields(&bytes).map_err(not_onnx).at(place)?;
        let mut others = Vec::new();
        let mut graphs: Vec<&Field> = Vec::new();
        let mut head = 0;
        for field in &list {
            if field.number == GRAPH && field.payload.is_some() {
                graphs.push(field);
                head = others.len();
            } else {
                others.extend_from_slice(&bytes[field.whole.clone()]);
            }
        }
        let mut rest = Kept::<ModelProto>::read(others.into()).map_err(not_onnx).at(place)?;
        if graphs.is_empty() && rest.ir_version.is_none() {
            return Err(no_model());
        }
        if external.is_some() && rest.functions.iter().any(|f| f.node.iter().any(External::is_used_by)) {
            rest.edit().functions.iter_mut().flat_map(|f| &mut f.node).try_for_each(|n| external.resolve_node(n))?;
        }
        check_opset(&rest)?;
        let graph = match graphs[..] {
            [] => return Err(no_graph()),
            [Field { whole, payload: Some(payload), .. }] => {
                Graph::read(bytes.slice(whole.clone()), &bytes.slice(payload.clone()), &mut |part| match part {
                    _ if !external.is_some() => Ok(()),
                    Part::Node(node) if External::is_used_by(node) => external.resolve_node(node.edit()),
                    Part::Tensor(tensor) if External::holds(tensor) => external.resolve(tensor.edit()),
                    Part::Sparse(tensor) if External::holds_part(tensor) => external.resolve_sparse(tensor.edit()),
                    _ => Ok(()),
                })
                .at(place)?
            }
            // Protobuf merges fields that stand twice; no writer of models writes them.
            _ => return Err(malformed("it holds more than one graph")),
        };
        Model { rest, head, graph }.ordered()
    }

    /// A model from its message. Errors when it has no graph or no opset import, or breaks the rules of the graph.
    pub fn from_proto(mut proto: ModelProto) -> Result<Model> {
        let graph = proto.graph.take().ok_or_else(no_graph)?;
        check_opset(&proto)?;
        Model { rest: Kept::new(proto), head: 0, graph: Graph::from_proto(graph)? }.ordered()
    }

    /// The model, its nodes put in order where they are not, and checked.
    fn ordered(mut self) -> Result<Model> {
        if self.graph.check().is_err() {
            self.graph.sort()?;
            self.graph.check()?;
        }
        Ok(self)
    }

    /// The message of the whole model.
    pub fn to_proto(&self) -> ModelProto {
        ModelProto { graph: Some(self.graph.to_proto()), ..ModelProto::clone(&self.rest) }
    }

    /// The model as the pieces of a file. What was not edited since it was read keeps its bytes and its place.
    pub(super) fn pieces(&self) -> Pieces {
        let mut pieces = Pieces::default();
        match self.rest.as_read() {
            Some(bytes) => {
                pieces.share(&bytes.slice(..self.head));
                self.graph.encode(GRAPH, &mut pieces);
                pieces.share(&bytes.slice(self.head..));
            }
            None => {
                self.rest.encode_into(&mut pieces);
                self.graph.encode(GRAPH, &mut pieces);
            }
        }
        pieces
    }

    /// How many bytes the model takes in a file that holds all of it.
    pub fn encoded_len(&self) -> usize {
        self.pieces().len()
    }

    /// The metadata: everything but the graph, which is `None` here.
    pub fn metadata(&self) -> &ModelProto {
        &self.rest
    }

    /// The version of ONNX's own operator set.
    ///
    /// A model that imports other domains only counts as version 1.
    pub fn opset(&self) -> i64 {
        imported(&self.rest.opset_import, "").unwrap_or(1)
    }

    /// States another version of ONNX's own operator set, and the IR version that goes with it where the model's is lower.
    ///
    /// The nodes are not changed: that is the work of the pass that raises the opset.
    pub fn state_opset(&mut self, version: i64) {
        state_import(&mut self.rest.edit().opset_import, "", version);
        self.raise_ir_version(ir_version_of(version));
    }

    /// Imports an operator set that the model does not import yet.
    pub fn import(&mut self, domain: &str, version: i64) {
        if self.imported(domain).is_none() {
            state_import(&mut self.rest.edit().opset_import, domain, version);
        }
    }

    /// The version of an operator set that the model imports; `None` if it does not.
    pub fn imported(&self, domain: &str) -> Option<i64> {
        imported(&self.rest.opset_import, domain)
    }

    /// Raises the IR version to 4 where it is lower: since then an initializer need not be a graph input, and one
    /// that is not is a constant (docs/IR.md of ONNX, "Graphs").
    pub fn allow_constants(&mut self) {
        self.raise_ir_version(4);
    }

    fn raise_ir_version(&mut self, version: i64) {
        if self.rest.ir_version() < version {
            self.rest.edit().ir_version = Some(version);
        }
    }

    /// Writes an entry of metadata_props, replacing the one of its key.
    pub fn set_metadata(&mut self, key: &str, value: &str) {
        let props = &mut self.rest.edit().metadata_props;
        match props.iter_mut().find(|p| p.key() == key) {
            Some(p) => p.value = Some(value.to_owned()),
            None => props.push(StringStringEntryProto { key: Some(key.to_owned()), value: Some(value.to_owned()) }),
        }
    }

    /// Changes the body of a node as if it were the graph of the model. See [`Graph::edit_body`].
    pub fn edit_body<T>(&mut self, id: BodyId, change: impl FnOnce(&mut Model) -> Result<T>) -> Result<T> {
        let (rest, head) = (&mut self.rest, self.head);
        self.graph.edit_body(id, |graph| {
            let mut inner = Model { rest: std::mem::take(rest), head, graph: std::mem::take(graph) };
            let outcome = change(&mut inner);
            (*rest, *graph) = (inner.rest, inner.graph);
            outcome
        })
    }

    /// Changes the model-local functions, one after the other. Errors as `change` does, and name the function.
    pub fn edit_functions(&mut self, mut change: impl FnMut(&mut FunctionProto) -> Result<()>) -> Result<()> {
        if self.rest.functions.is_empty() {
            return Ok(());
        }
        self.rest.edit().functions.iter_mut().try_for_each(|f| {
            let place = format!("function `{}.{}`", f.domain(), f.name());
            change(f).at(|| place)
        })
    }

    /// Drops the model-local functions that are not to be kept.
    pub fn retain_functions(&mut self, keep: impl FnMut(&FunctionProto) -> bool) {
        if !self.rest.functions.is_empty() {
            self.rest.edit().functions.retain(keep);
        }
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
        25..=27 => 13,
        _ => 14,
    }
}

fn no_model() -> Error {
    malformed("not an ONNX model: neither graph nor IR version in it")
}

fn no_graph() -> Error {
    malformed("not an ONNX model: it has no graph").hint("give the path of an .onnx file that holds a model")
}

fn check_opset(proto: &ModelProto) -> Result<()> {
    if proto.opset_import.is_empty() {
        return Err(malformed("the model imports no operator set").hint(
            "every ONNX model since IR version 3 names its opset; export the model again with a current exporter",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::GraphProto;

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
}
