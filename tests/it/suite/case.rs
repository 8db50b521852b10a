//! A model of the suite, and the values that it takes and must give.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use qdq::model::{DataType, Dim, InputSpec, Model, Tensor, TensorProto, ValueInfoProto, dtype_name};
use qdq::proto::type_proto;
use qdq::sample::Sample;

/// A model of the suite.
pub struct Case {
    /// Its kind and its own name: `node/test_abs`.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// The folders of its test data; none for a light model, whose input is made up.
    pub sets: Vec<PathBuf>,
    /// How far an output may be off, as a part of the expected value.
    pub rtol: f64,
    /// How far an output may be off besides.
    pub atol: f64,
}

/// What a model takes in one run, and what it must give.
pub struct Run {
    pub sample: Sample,
    pub expected: Vec<Tensor>,
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    found.sort();
    found
}

fn stem(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or_default().trim_end_matches(".onnx")
}

/// Every model below a folder `onnx/backend/test/data`, sorted by kind and name.
pub fn cases(data: &Path) -> Vec<Case> {
    let mut found = Vec::new();
    for kind in entries(data).into_iter().filter(|p| p.is_dir()) {
        for path in entries(&kind) {
            let name = format!("{}/{}", stem(&kind), stem(&path));
            if path.extension().is_some_and(|e| e == "onnx") {
                let (rtol, atol) = tolerances(data, &name);
                found.push(Case { name, path, sets: Vec::new(), rtol, atol });
            } else if path.join("model.onnx").is_file() {
                let sets = entries(&path).into_iter().filter(|p| stem(p).starts_with("test_data_set_")).collect();
                found.push(Case { name, path: path.join("model.onnx"), sets, rtol: 1e-3, atol: 1e-7 });
            }
        }
    }
    found
}

/// The tolerances of a light model, which stand beside the address of the whole one.
fn tolerances(data: &Path, name: &str) -> (f64, f64) {
    let whole = data.join(name.replace("light/light_", "real/test_")).join("data.json");
    let facts: serde_json::Value = serde_json::from_slice(&std::fs::read(whole).unwrap()).unwrap();
    (facts["rtol"].as_f64().unwrap(), facts["atol"].as_f64().unwrap())
}

fn of_type(dtype: DataType) -> String {
    format!("values of type {}", dtype_name(dtype))
}

/// Why a value cannot be fed to the engine, or read from it.
fn strange(value: &ValueInfoProto) -> Option<String> {
    use DataType::*;
    match value.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(t)) => match DataType::try_from(t.elem_type()).unwrap_or_default() {
            Float | Double | Float16 | Bool | Int8 | Int16 | Int32 | Int64 | Uint8 | Uint16 | Uint32 | Uint64 => None,
            other => Some(of_type(other)),
        },
        Some(type_proto::Value::SequenceType(_)) => Some("sequences".to_owned()),
        Some(type_proto::Value::OptionalType(_)) => Some("optional values".to_owned()),
        _ => Some("maps, or values without a type".to_owned()),
    }
}

fn tensor(path: &Path) -> Tensor {
    let proto = TensorProto::decode(Bytes::from(std::fs::read(path).unwrap())).unwrap();
    Tensor::from_proto(&proto).unwrap_or_else(|e| panic!("{path:?}: {e}"))
}

fn tensors(folder: &Path, kind: &str, count: usize) -> Vec<Tensor> {
    (0..count).map(|i| tensor(&folder.join(format!("{kind}_{i}.pb")))).collect()
}

/// What the suite's own runner feeds to a light model: element `i` of `n` is `i / n`.
fn ramp(spec: &InputSpec) -> Tensor {
    let size = |d: &Dim| match d {
        Dim::Fixed(n) => *n,
        Dim::Symbol(_) => 1,
    };
    let shape: Vec<usize> = spec.shape.iter().flatten().map(size).collect();
    let n = shape.iter().product::<usize>();
    Tensor::from_f32(shape, (0..n).map(|i| (i as f64 / n as f64) as f32).collect())
}

impl Case {
    /// What the model takes and must give, run by run; the reason where that is more than dense tensors of types that
    /// the engine knows.
    pub fn runs(&self, model: &Model) -> Result<Vec<Run>, String> {
        let graph = &model.graph;
        let fed = graph.inputs().iter().filter(|v| graph.initializer(v.name()).is_none());
        if let Some(why) = fed.chain(graph.outputs()).find_map(strange) {
            return Err(why);
        }
        let specs = InputSpec::all(graph).unwrap();
        let outputs = graph.outputs().len();
        if self.sets.is_empty() {
            let name = |i| format!("{}_output_{i}.pb", stem(&self.path));
            let expected = (0..outputs).map(|i| tensor(&self.path.with_file_name(name(i)))).collect();
            return Ok(vec![Run { sample: Sample { inputs: specs.iter().map(ramp).collect() }, expected }]);
        }
        let run = |set: &PathBuf| Run {
            sample: Sample { inputs: tensors(set, "input", specs.len()) },
            expected: tensors(set, "output", outputs),
        };
        Ok(self.sets.iter().map(run).collect())
    }

    /// Where outputs differ from the expected ones by more than the suite allows.
    pub fn difference(&self, expected: &[Tensor], got: &[Tensor]) -> Option<String> {
        if expected.len() != got.len() {
            return Some(format!("{} outputs instead of {}", got.len(), expected.len()));
        }
        expected.iter().zip(got).enumerate().find_map(|(i, (want, got))| {
            if (want.dtype(), want.shape()) != (got.dtype(), got.shape()) {
                let form = |t: &Tensor| format!("{} {:?}", dtype_name(t.dtype()), t.shape());
                return Some(format!("output {i} is {} instead of {}", form(got), form(want)));
            }
            let (want, got) = (numbers(want), numbers(got));
            let close = |(a, b): (&f64, &f64)| {
                a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= self.atol + self.rtol * a.abs()
            };
            let at = want.iter().zip(&got).position(|pair| !close(pair))?;
            Some(format!("output {i}: element {at} is {} instead of {}", got[at], want[at]))
        })
    }
}

/// The elements, widened. Only uint64 values past the range of int64 are no numbers then, and compare bit by bit.
fn numbers(t: &Tensor) -> Vec<f64> {
    match (t.is_float(), t.i64s()) {
        (true, _) => t.f64s().unwrap(),
        (false, Ok(x)) => x.into_iter().map(|x| x as f64).collect(),
        (false, Err(_)) => t.bytes().iter().map(|&b| b.into()).collect(),
    }
}
