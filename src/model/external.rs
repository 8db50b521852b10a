//! Tensors in files beside the model: found, checked and mapped, never copied.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use super::{AttributeExt, GraphProto, NodeExt, NodeProto, SparseTensorProto, TensorProto, folder_of, map};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::proto::tensor_proto::DataLocation;

/// The files beside a model that hold tensors, mapped once each.
pub(crate) struct External {
    /// The model's folder; `None` for a model that came from no file.
    folder: Option<PathBuf>,
    files: HashMap<PathBuf, File>,
}

/// A mapped file, and which tensor uses which part of it.
struct File {
    bytes: Bytes,
    /// From, to, tensor.
    parts: Vec<(usize, usize, String)>,
}

fn malformed(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

impl External {
    /// The files beside the model at that path.
    pub fn beside(model: &Path) -> External {
        External { folder: Some(folder_of(model).to_owned()), files: HashMap::new() }
    }

    /// No files: a model in memory has nothing beside it.
    pub fn none() -> External {
        External { folder: None, files: HashMap::new() }
    }

    /// Whether there may be files. A model in memory keeps its references: whoever reads the tensor is told.
    pub fn is_some(&self) -> bool {
        self.folder.is_some()
    }

    /// Whether the tensor's data are in another file.
    pub fn holds(tensor: &TensorProto) -> bool {
        tensor.data_location() == DataLocation::External
    }

    /// Whether values or indices of the sparse tensor are in another file.
    pub fn holds_part(tensor: &SparseTensorProto) -> bool {
        tensor.values.iter().chain(&tensor.indices).any(External::holds)
    }

    /// Whether a tensor in an attribute of the node, or in its subgraphs, is in another file.
    pub fn is_used_by(node: &NodeProto) -> bool {
        node.attribute.iter().any(|a| {
            a.t.iter().chain(&a.tensors).any(External::holds)
                || a.sparse_tensor.iter().chain(&a.sparse_tensors).any(External::holds_part)
        }) || node.subgraphs().any(|g| {
            g.initializer.iter().any(External::holds)
                || g.sparse_initializer.iter().any(External::holds_part)
                || g.node.iter().any(Self::is_used_by)
        })
    }

    /// Lets every tensor in the node's attributes and subgraphs share the mapped bytes.
    pub fn resolve_node(&mut self, node: &mut NodeProto) -> Result<()> {
        for attribute in &mut node.attribute {
            attribute.t.iter_mut().chain(&mut attribute.tensors).try_for_each(|t| self.resolve(t))?;
            let mut sparse = attribute.sparse_tensor.iter_mut().chain(&mut attribute.sparse_tensors);
            sparse.try_for_each(|t| self.resolve_sparse(t))?;
            attribute.subgraphs_mut().try_for_each(|g| self.resolve_graph(g))?;
        }
        Ok(())
    }

    fn resolve_graph(&mut self, graph: &mut GraphProto) -> Result<()> {
        graph.initializer.iter_mut().try_for_each(|t| self.resolve(t))?;
        graph.sparse_initializer.iter_mut().try_for_each(|t| self.resolve_sparse(t))?;
        graph.node.iter_mut().try_for_each(|n| self.resolve_node(n))
    }

    /// Lets values and indices share the mapped bytes, as [`External::resolve`] does.
    pub fn resolve_sparse(&mut self, tensor: &mut SparseTensorProto) -> Result<()> {
        tensor.values.iter_mut().chain(&mut tensor.indices).try_for_each(|t| self.resolve(t))
    }

    /// Lets the tensor share the mapped bytes, if its data are in another file.
    ///
    /// Errors when the file is missing, outside the model's folder or too short.
    pub fn resolve(&mut self, tensor: &mut TensorProto) -> Result<()> {
        if !External::holds(tensor) || !self.is_some() {
            return Ok(());
        }
        let bytes = self.bytes_of(tensor).at(|| format!("external data of tensor `{}`", tensor.name()))?;
        tensor.raw_data = Some(bytes);
        tensor.external_data.clear();
        tensor.data_location = None;
        Ok(())
    }

    /// The bytes that the tensor's data are, mapped. Errors as [`External::resolve`].
    pub fn bytes_of(&mut self, tensor: &TensorProto) -> Result<Bytes> {
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
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let file = self.file(location)?;
        let length = length.unwrap_or(file.bytes.len().saturating_sub(offset));
        match offset.checked_add(length) {
            Some(end) if end <= file.bytes.len() => {
                file.parts.push((offset, end, tensor.name().to_owned()));
                Ok(file.bytes.slice(offset..end))
            }
            _ => Err(malformed(format!(
                "`{}` has {} bytes, and {length} from offset {offset} were asked for",
                location.display(),
                file.bytes.len()
            ))),
        }
    }

    fn file(&mut self, location: &Path) -> Result<&mut File> {
        let folder = self.folder.as_deref().unwrap_or(Path::new("."));
        let path = folder.join(location);
        if !self.files.contains_key(&path) {
            stays_inside(folder, &path)?;
            // Tensors of no elements may lie in an empty file, which cannot be mapped.
            let empty = std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() == 0);
            let bytes = if empty { Bytes::new() } else { map(&path)? };
            self.files.insert(path.clone(), File { bytes, parts: Vec::new() });
        }
        self.files.get_mut(&path).ok_or_else(|| malformed("it is not there"))
    }

    /// Refuses tensors that share some of their bytes, but not all of them: one of the two is wrong. (Tied weights
    /// may be one and the same part.)
    pub fn check_overlaps(&mut self) -> Result<()> {
        let mut files: Vec<_> = self.files.iter_mut().collect();
        files.sort_by(|a, b| a.0.cmp(b.0));
        for (path, file) in files {
            file.parts.retain(|(from, to, _)| from < to);
            file.parts.sort();
            // Sorted by where they begin, so a part that overlaps any other overlaps the one that reaches furthest.
            let mut furthest: Option<&(usize, usize, String)> = None;
            for part in &file.parts {
                if let Some(last) = furthest
                    && part.0 < last.1
                    && (part.0, part.1) != (last.0, last.1)
                {
                    return Err(malformed(format!(
                        "tensors `{}` and `{}` overlap in `{}`: bytes {} to {} and {} to {}",
                        last.2,
                        part.2,
                        path.display(),
                        last.0,
                        last.1,
                        part.0,
                        part.1
                    )));
                }
                if furthest.is_none_or(|last| part.1 > last.1) {
                    furthest = Some(part);
                }
            }
        }
        Ok(())
    }
}

/// Refuses a file that a symbolic link takes out of the model's folder.
fn stays_inside(folder: &Path, path: &Path) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DataType, Model, ModelProto, Tensor};
    use crate::proto::{OperatorSetIdProto, StringStringEntryProto};
    use prost::Message;

    fn tensor(name: &str, entries: &[(&str, &str)]) -> TensorProto {
        TensorProto {
            name: Some(name.into()),
            dims: vec![2],
            data_type: Some(DataType::Float as i32),
            data_location: Some(DataLocation::External as i32),
            external_data: entries
                .iter()
                .map(|(k, v)| StringStringEntryProto { key: Some(k.to_string()), value: Some(v.to_string()) })
                .collect(),
            ..Default::default()
        }
    }

    /// Reads a model with these initializers beside a file `w` of 32 bytes.
    fn read(tensors: Vec<TensorProto>) -> Result<Model> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("w"), (0..32).collect::<Vec<u8>>()).unwrap();
        std::fs::write(folder.path().join("none"), []).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("link")).unwrap();
        let proto = ModelProto {
            opset_import: vec![OperatorSetIdProto { version: Some(17), ..Default::default() }],
            graph: Some(GraphProto { initializer: tensors, ..Default::default() }),
            ..Default::default()
        };
        let path = folder.path().join("m.onnx");
        std::fs::write(&path, proto.encode_to_vec()).unwrap();
        Model::read(&path)
    }

    #[test]
    fn sparse_tensors_may_lie_in_other_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("w"), [2.5f32.to_le_bytes().as_slice(), &1i64.to_le_bytes()].concat())
            .unwrap();
        let part = |dtype: DataType, offset, length| TensorProto {
            data_type: Some(dtype as i32),
            dims: vec![1],
            ..tensor("s", &[("location", "w"), ("offset", offset), ("length", length)])
        };
        let values = Some(part(DataType::Float, "0", "4"));
        let indices = Some(part(DataType::Int64, "4", "8"));
        let sparse = SparseTensorProto { values, indices, dims: vec![2] };
        let mut constant =
            NodeProto { op_type: Some("Constant".into()), output: vec!["c".into()], ..Default::default() };
        constant.set(crate::proto::AttributeProto {
            name: Some("sparse_value".into()),
            sparse_tensor: Some(sparse.clone()),
            ..Default::default()
        });
        let graph = GraphProto { node: vec![constant], sparse_initializer: vec![sparse], ..Default::default() };
        let opset_import = vec![OperatorSetIdProto { version: Some(17), ..Default::default() }];
        let proto = ModelProto { opset_import, graph: Some(graph), ..Default::default() };
        let path = folder.path().join("m.onnx");
        std::fs::write(&path, proto.encode_to_vec()).unwrap();
        let model = Model::read(&path).unwrap();
        let s = model.graph.constant("s").unwrap().unwrap();
        assert_eq!(s.f32s().unwrap()[..], [0.0, 2.5]);
        let (_, node) = model.graph.nodes().next().unwrap();
        assert_eq!(Tensor::from_sparse(node.attribute[0].sparse_tensor.as_ref().unwrap()).unwrap(), s);
    }

    #[test]
    fn parts_of_one_file_are_shared_not_copied() {
        let part = |name, offset| tensor(name, &[("location", "w"), ("offset", offset), ("length", "8")]);
        let tied = part("c", "8");
        let model =
            read(vec![part("a", "0"), part("b", "8"), tied, tensor("d", &[("location", "./w"), ("offset", "24")])]);
        let model = model.unwrap();
        let bytes = |name: &str| model.graph.constant(name).unwrap().unwrap().bytes().clone();
        assert_eq!(bytes("b").as_ptr() as usize - bytes("a").as_ptr() as usize, 8);
        assert_eq!((bytes("c"), bytes("d")[0]), (bytes("b"), 24));
        let mut empty = tensor("e", &[("location", "none")]);
        empty.dims = vec![0];
        assert!(read(vec![empty]).is_ok());
    }

    #[test]
    fn what_is_not_there_or_not_ours_is_refused() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[], "names no location"),
            (&[("location", "../w")], "leaves the model's folder"),
            (&[("location", "/etc/hostname")], "leaves the model's folder"),
            (&[("location", "link")], "links out"),
            (&[("location", ".")], "directory"),
            (&[("location", "gone")], "no such file"),
            (&[("location", "w"), ("offset", "-8")], "not a whole number"),
            (&[("location", "w"), ("length", "1e3")], "not a whole number"),
            (&[("location", "w"), ("offset", "28"), ("length", "8")], "28 were asked for"),
            (&[("location", "w"), ("offset", "18446744073709551615"), ("length", "8")], "were asked for"),
        ];
        for (entries, why) in cases {
            let e = read(vec![tensor("t", entries)]).map(|_| ()).unwrap_err().to_string();
            assert!(e.contains("tensor `t`") && (e.contains(why) || e.contains("from offset")), "{entries:?}: {e}");
        }
        let part = |name, offset| tensor(name, &[("location", "w"), ("offset", offset), ("length", "8")]);
        let e = read(vec![part("a", "0"), part("z", "20"), part("b", "4")]).unwrap_err().to_string();
        assert!(e.contains("tensors `a` and `b` overlap"), "{e}");
    }
}
