//! ONNX test data: folders `test_data_set_0`, `test_data_set_1`, ... with an `input_0.pb`, `input_1.pb`, ... each.
//!
//! A folder is one sample, taken in the shapes it has. Where every tensor of a folder carries the name of an input,
//! names decide; else `input_k.pb` is the model's input `k`. The outputs beside them are not read.
//!
//! Source: `onnx/backend/test/README.md` of ONNX, "Test data".

use std::path::{Path, PathBuf};

use prost::Message;

use super::array::{ArraySpec, Element};
use super::fit::{agree, convert, converts, misfit};
use super::{Sample, Samples, entries, named, no_such_sample};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::model::{InputSpec, Tensor, TensorProto};

/// The samples of a folder of test data.
struct TestData {
    source: String,
    inputs: Vec<InputSpec>,
    /// For each sample its input files, in their order.
    sets: Vec<Vec<PathBuf>>,
}

/// The number in `stem` after `prefix`: 12 of `input_12`.
fn number(stem: &str, prefix: &str) -> Option<u64> {
    stem.strip_prefix(prefix)?.parse().ok()
}

/// The paths in a folder, in the order of what `key` says of their names; those of which it says nothing are left out.
fn listed<K: Ord>(folder: &Path, key: impl Fn(&str) -> Option<K>) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in entries(folder)? {
        let name = path.file_name().and_then(|n| n.to_str());
        if let Some(key) = name.and_then(&key) {
            found.push((key, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn input_files(folder: &Path) -> Result<Vec<PathBuf>> {
    listed(folder, |name| number(name.strip_suffix(".pb")?, "input_"))
}

/// Opens a folder of test data; `None` if it holds none.
///
/// Errors when a set has another number of inputs than the model, and when the first set does not fit it.
pub(super) fn open(folder: &Path, source: &str, inputs: &[InputSpec]) -> Result<Option<Box<dyn Samples>>> {
    // Numbered sets first, by their numbers, then the others by their names.
    let folders = listed(folder, |name| {
        let set = name.strip_prefix("test_data_set_")?;
        Some((set.parse::<u64>().unwrap_or(u64::MAX), set.to_owned()))
    })?;
    let mut sets = Vec::new();
    for folder in folders.iter().filter(|f| f.is_dir()) {
        sets.push((folder.as_path(), input_files(folder)?));
    }
    if sets.is_empty() {
        sets.extend(Some((folder, input_files(folder)?)).filter(|(_, files)| !files.is_empty()));
    }
    if sets.is_empty() {
        return Ok(None);
    }
    for (folder, files) in &sets {
        if files.len() != inputs.len() {
            let expected: Vec<String> = inputs.iter().map(|i| format!("`{i}`")).collect();
            let what = format!("expected {}, found {} files `input_*.pb`", expected.join(", "), files.len());
            return Err(Error::new(ErrorKind::Data, what)
                .at(named(folder))
                .hint("every test data set holds a file for each input of the model, in their order"));
        }
    }
    let sets = sets.into_iter().map(|(_, files)| files).collect();
    let data = TestData { source: source.to_owned(), inputs: inputs.to_vec(), sets };
    data.get(0)?;
    Ok(Some(Box::new(data)))
}

/// Reads a tensor file and its name.
fn read(path: &Path) -> Result<(String, Tensor)> {
    let bytes: bytes::Bytes = std::fs::read(path).map_err(Error::io)?.into();
    let size = bytes.len();
    let broken = || Error::new(ErrorKind::Malformed, format!("not a tensor file, or cut short ({size} bytes)"));
    let proto = TensorProto::decode(bytes)
        .map_err(|e| broken().caused_by(e))
        .and_then(|proto| if proto.data_type.is_some() { Ok(proto) } else { Err(broken()) })
        .map_err(|e| e.hint("input files hold a TensorProto, as `onnx.save_tensor` writes it"))?;
    Ok((proto.name().to_owned(), Tensor::from_proto(&proto)?))
}

impl TestData {
    /// The tensor as the input takes it.
    fn fitted(&self, spec: &InputSpec, path: &Path, name: &str, tensor: &Tensor) -> Result<Tensor> {
        let shape_fits = spec.shape.as_ref().is_none_or(|dims| agree(dims, tensor.shape()));
        if tensor.is_empty() || !shape_fits || !converts(tensor.dtype(), spec.dtype) {
            let element = Element::Known(tensor.dtype());
            let found = ArraySpec { name: name.to_owned(), element, shape: tensor.shape().to_vec() };
            return Err(misfit(spec, &found, &path.display().to_string()));
        }
        convert(tensor.clone(), spec.dtype).at(|| named(path))
    }
}

impl Samples for TestData {
    fn len(&self) -> usize {
        self.sets.len()
    }

    fn get(&self, i: usize) -> Result<Sample> {
        let files = self.sets.get(i).ok_or_else(|| no_such_sample(i, self.sets.len()))?;
        let tensors =
            files.iter().map(|path| read(path).at(|| named(path))).collect::<Result<Vec<(String, Tensor)>>>()?;
        let place = |spec: &InputSpec| tensors.iter().position(|(name, _)| *name == spec.name);
        let by_name = self.inputs.iter().all(|spec| place(spec).is_some());
        let inputs = self.inputs.iter().enumerate().map(|(k, spec)| {
            let k = place(spec).filter(|_| by_name).unwrap_or(k);
            self.fitted(spec, &files[k], &tensors[k].0, &tensors[k].1)
        });
        Ok(Sample { inputs: inputs.collect::<Result<_>>()? })
    }

    fn describe(&self) -> String {
        format!("`{}`: {} sets of ONNX test data", self.source, self.sets.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DataType, Dim};

    fn spec(name: &str, dims: &[usize]) -> InputSpec {
        let dim = |&d| if d == 0 { Dim::Symbol(String::new()) } else { Dim::Fixed(d) };
        InputSpec { name: name.into(), dtype: DataType::Float, shape: Some(dims.iter().map(dim).collect()) }
    }

    fn save(folder: &Path, set: &str, files: &[(&str, &str, Tensor)]) {
        std::fs::create_dir_all(folder.join(set)).unwrap();
        for (file, name, tensor) in files {
            std::fs::write(folder.join(set).join(file), tensor.to_proto(name).encode_to_vec()).unwrap();
        }
    }

    fn numbers(n: usize, x: f32) -> Tensor {
        Tensor::from_f32(vec![1, n], vec![x; n])
    }

    #[test]
    fn sets_come_in_the_order_of_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        for i in 0..11 {
            save(folder.path(), &format!("test_data_set_{i}"), &[("input_0.pb", "", numbers(i + 1, i as f32))]);
        }
        let samples = open(folder.path(), "d", &[spec("x", &[0, 0])]).unwrap().unwrap();
        assert_eq!(samples.len(), 11);
        for i in 0..11 {
            assert_eq!(samples.get(i).unwrap().inputs, [numbers(i + 1, i as f32)]);
        }
        assert!(samples.get(11).is_err());
    }

    #[test]
    fn names_go_before_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (numbers(2, 1.0), numbers(2, 2.0));
        let inputs = [spec("a", &[0, 2]), spec("b", &[0, 2])];
        save(folder.path(), "", &[("input_0.pb", "b", b.clone()), ("input_1.pb", "a", a.clone())]);
        let samples = open(folder.path(), "d", &inputs).unwrap().unwrap();
        assert_eq!(samples.get(0).unwrap().inputs, [a.clone(), b.clone()]);
        save(folder.path(), "", &[("input_0.pb", "b", b.clone()), ("input_1.pb", "c", a.clone())]);
        assert_eq!(samples.get(0).unwrap().inputs, [b, a]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(open(folder.path(), "d", &[spec("x", &[0, 2])]).unwrap().is_none());
        save(folder.path(), "test_data_set_0", &[("input_0.pb", "x", numbers(3, 0.0))]);
        let e = open(folder.path(), "d", &[spec("x", &[0, 2])]).err().unwrap();
        assert!(e.to_string().starts_with("expected `x: float32 [?, 2]`, found `x: float32 [1, 3]` in "), "{e}");
        let e = open(folder.path(), "d", &[spec("x", &[0, 3]), spec("y", &[1])]).err().unwrap();
        assert!(e.to_string().ends_with("expected `x: float32 [?, 3]`, `y: float32 [1]`, found 1 files `input_*.pb`"));
    }

    #[test]
    fn damaged_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), "", &[("input_0.pb", "x", numbers(2, 1.5))]);
        let path = folder.path().join("input_0.pb");
        let whole = std::fs::read(&path).unwrap();
        let open = || open(folder.path(), "d", &[spec("x", &[0, 2])]);
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            let e = open().err().unwrap_or_else(|| panic!("{end} of {}", whole.len()));
            assert!(e.to_string().contains("input_0.pb"), "{e}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(Some(samples)) = open() {
                assert_eq!(samples.get(0).unwrap().inputs[0].shape(), [1, 2]);
            }
        }
    }
}
