//! What the integration tests share: small graphs, samples in memory, and the folder for the cross-check in ONNX Runtime.

use std::path::{Path, PathBuf};

use qdq::error::Result;
use qdq::events::Silent;
use qdq::exec::{Runner, Tract};
use qdq::model::{
    AttributeProto, DataType, GraphProto, InputSpec, Model, ModelProto, NodeProto, Tensor, TensorProto, ValueInfoProto,
    replace_file,
};
use qdq::number::Drift;
use qdq::proto::tensor_shape_proto::{Dimension, dimension};
use qdq::proto::{OperatorSetIdProto, TensorShapeProto, TypeProto, type_proto};
use qdq::sample::{Sample, Samples};
use qdq::validate::OutputDrift;

/// A file among the fixtures.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A model among the fixtures.
pub fn model_of(name: &str) -> Model {
    Model::read(&fixture(name)).unwrap()
}

/// The samples in a file among the fixtures.
pub fn samples_of(name: &str, model: &Model) -> Box<dyn Samples> {
    let path = fixture(name);
    qdq::sample::open(path.to_str().unwrap(), &Default::default(), &InputSpec::all(&model.graph).unwrap(), &Silent)
        .unwrap()
}

/// Samples in memory.
pub struct InMemory(pub Vec<Sample>);

impl Samples for InMemory {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, i: usize) -> Result<Sample> {
        Ok(self.0[i].clone())
    }

    fn describe(&self) -> String {
        format!("{} in memory", self.0.len())
    }
}

/// Numbers that look random, spread evenly over -1 to 1, the same each time.
pub fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(step).collect()
}

/// `count` samples for a model with one input of that shape.
pub fn noise_samples(shape: &[usize], count: usize) -> InMemory {
    let size = shape.iter().product();
    let sample = |i| Sample { inputs: vec![Tensor::from_f32(shape.to_vec(), noise(i as u64 + 1, size))] };
    InMemory((0..count).map(sample).collect())
}

/// A node; names are separated by spaces, `_` stands for one that is left out.
pub fn node(op: &str, inputs: &str, outputs: &str, attributes: &[AttributeProto]) -> NodeProto {
    let names = |s: &str| s.split_whitespace().map(|n| if n == "_" { String::new() } else { n.to_owned() }).collect();
    NodeProto {
        name: Some(format!("{}_node", outputs.split_whitespace().next().unwrap())),
        op_type: Some(op.into()),
        input: names(inputs),
        output: names(outputs),
        attribute: attributes.to_vec(),
        ..Default::default()
    }
}

/// A float value of that shape, or of a shape that is not stated.
pub fn value(name: &str, shape: Option<&[usize]>) -> ValueInfoProto {
    let dim = |&n: &usize| Dimension { value: Some(dimension::Value::DimValue(n as i64)), ..Default::default() };
    let tensor = type_proto::Tensor {
        elem_type: Some(DataType::Float as i32),
        shape: shape.map(|s| TensorShapeProto { dim: s.iter().map(dim).collect() }),
    };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}

/// A float32 initializer of seeded noise.
pub fn weights(name: &str, shape: &[usize]) -> TensorProto {
    let seed = name.bytes().fold(7, |h: u64, b| h.wrapping_mul(31).wrapping_add(b.into()));
    Tensor::from_f32(shape.to_vec(), noise(seed, shape.iter().product())).to_proto(name)
}

/// A float32 initializer.
pub fn floats(name: &str, shape: &[usize], x: &[f32]) -> TensorProto {
    Tensor::from_f32(shape.to_vec(), x.to_vec()).to_proto(name)
}

/// An int64 initializer of rank 1.
pub fn ints(name: &str, x: &[i64]) -> TensorProto {
    Tensor::from_i64(vec![x.len()], x.to_vec()).to_proto(name)
}

/// A model of that opset with one float input `x` and float outputs of these shapes.
pub fn model(
    opset: i64,
    shape: &[usize],
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    outputs: &[(&str, &[usize])],
) -> Model {
    let graph = GraphProto {
        name: Some("test".into()),
        node: nodes,
        initializer: initializers,
        input: vec![value("x", Some(shape))],
        output: outputs.iter().map(|(o, shape)| value(o, Some(shape))).collect(),
        ..Default::default()
    };
    Model::from_proto(ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) }],
        graph: Some(graph),
        ..Default::default()
    })
    .unwrap()
}

/// The outputs of a model, sample by sample. Operators of old opsets, which the engine does not know, are raised.
pub fn run(model: &Model, samples: &dyn Samples) -> Vec<Vec<Tensor>> {
    let model = qdq::validate::modern(model);
    let runner = Runner::new(&Tract, &model, Vec::new()).unwrap();
    let mut worker = runner.worker();
    (0..samples.len()).map(|i| worker.outputs(&samples.get(i).unwrap()).unwrap()).collect()
}

/// The largest difference between what two models give, relative to the largest output.
pub fn difference(a: &Model, b: &Model, samples: &dyn Samples) -> f64 {
    let (mut largest, mut size) = (0f64, 1e-30f64);
    for (a, b) in run(a, samples).iter().flatten().zip(run(b, samples).iter().flatten()) {
        assert_eq!(a.shape(), b.shape());
        assert_eq!(a.dtype(), b.dtype());
        for (&a, &b) in a.f32s().unwrap().iter().zip(b.f32s().unwrap().iter()) {
            largest = largest.max(f64::from((a - b).abs()));
            size = size.max(f64::from(a.abs()));
            assert!(a.is_finite() == b.is_finite());
        }
    }
    largest / size
}

/// How near two models are on the sample in the middle: the median over the samples of the SQNR in dB, of all float outputs
/// together, 200 where they are equal. Unlike the sum over all samples it does not hang on a few samples whose scores are
/// nearly tied, which fall to one side or the other by the last bit of a float, and so by the processor.
pub fn median_sqnr(reference: &Model, other: &Model, samples: &dyn Samples) -> f64 {
    let of_sample = |(a, b): (&Vec<Tensor>, &Vec<Tensor>)| {
        let mut drift = Drift::default();
        for (a, b) in a.iter().zip(b).filter(|(a, _)| a.is_float()) {
            drift.add(&a.f32s().unwrap(), &b.f32s().unwrap());
        }
        drift.sqnr().min(200.0)
    };
    let mut all: Vec<f64> = run(reference, samples).iter().zip(&run(other, samples)).map(of_sample).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Hands a model to the cross-check in ONNX Runtime, if the environment names a folder for it (`QDQ_EMIT`): the float and
/// the quantized model, the samples, and the drift that was measured on them.
pub fn emit(name: &str, float: &Model, quantized: &Model, samples: &dyn Samples, drifts: &[OutputDrift]) {
    let narrow = InputSpec::all(&float.graph).unwrap().iter().any(|s| s.dtype == DataType::Float16);
    let sqnr: serde_json::Map<_, _> = drifts
        .iter()
        .filter(|d| d.exact || d.sqnr_db.is_some())
        .map(|d| (d.name.clone(), d.sqnr_db.map_or(serde_json::Value::Null, Into::into)))
        .collect();
    let sqnr = if narrow { serde_json::Value::Null } else { sqnr.into() };
    hand_over(name, float, quantized, samples, "sqnr_db", sqnr);
}

/// Hands two models to the cross-check that differ by no more than `quantum` in any number of their outputs.
pub fn emit_alike(name: &str, one: &Model, other: &Model, samples: &dyn Samples, quantum: f32) {
    hand_over(name, one, other, samples, "quantum", quantum.into());
}

/// Hands two models to the cross-check that give the same, bit for bit: weights stored portably, and natively, which
/// ONNX Runtime runs or not.
pub fn emit_storage(name: &str, portable: &Model, native: &Model, samples: &dyn Samples, runs: bool) {
    hand_over(name, portable, native, samples, "storage", if runs { "runs" } else { "does not run" }.into());
}

fn hand_over(
    name: &str,
    float: &Model,
    quantized: &Model,
    samples: &dyn Samples,
    measure: &str,
    value: serde_json::Value,
) {
    let Some(folder) = std::env::var_os("QDQ_EMIT").map(PathBuf::from) else { return };
    std::fs::create_dir_all(&folder).unwrap();
    let file = |end: &str| folder.join(format!("{name}.{end}"));
    replace_file(&file("float.onnx"), &float.to_bytes().unwrap()).unwrap();
    replace_file(&file("quantized.onnx"), &quantized.to_bytes().unwrap()).unwrap();
    let mut npz = ndarray_npy::NpzWriter::new(std::fs::File::create(file("npz")).unwrap());
    for (i, spec) in InputSpec::all(&float.graph).unwrap().iter().enumerate() {
        let tensors: Vec<Tensor> = (0..samples.len()).map(|s| samples.get(s).unwrap().inputs[i].clone()).collect();
        let mut shape = vec![tensors.len()];
        shape.extend(tensors[0].shape());
        // A rank above the input's: one entry a sample.
        match tensors[0].dtype() {
            DataType::Int64 => {
                let x: Vec<i64> = tensors.iter().flat_map(|t| t.i64s().unwrap()).collect();
                npz.add_array(&spec.name, &ndarray::ArrayD::from_shape_vec(shape, x).unwrap()).unwrap();
            }
            DataType::Float => {
                let x: Vec<f32> = tensors.iter().flat_map(|t| t.f32s().unwrap().into_owned()).collect();
                npz.add_array(&spec.name, &ndarray::ArrayD::from_shape_vec(shape, x).unwrap()).unwrap();
            }
            // The cross-check then only loads and checks the model.
            _ => {}
        }
    }
    npz.finish().unwrap();
    let facts = serde_json::json!({
        "name": name,
        "float": format!("{name}.float.onnx"),
        "quantized": format!("{name}.quantized.onnx"),
        "data": format!("{name}.npz"),
        "first": 0,
        "count": samples.len(),
        measure: value,
    });
    std::fs::write(file("json"), facts.to_string()).unwrap();
}

/// The folder of real models, if the environment names it (`QDQ_ZOO`); says so where it does not.
pub fn zoo() -> Option<PathBuf> {
    let zoo = std::env::var_os("QDQ_ZOO").map(PathBuf::from).filter(|p| p.is_dir());
    if zoo.is_none() {
        eprintln!("skipped: QDQ_ZOO names no folder of real models");
    }
    zoo
}

/// The arrays of a file among the fixtures, by name.
pub fn arrays(name: &str) -> Vec<(String, Tensor)> {
    qdq::sample::read_arrays(&fixture(name)).unwrap()
}
