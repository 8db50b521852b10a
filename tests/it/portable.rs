//! What is stored portably runs in an engine that is not told of our formats: tract as it comes, which reads the file's own
//! DequantizeLinear, Gather, Cast and arithmetic. (The embedded engine, [`Tract`](qdq::exec::Tract), never sees these: they are
//! lowered before.)

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::common::{self, InMemory, node, noise, run, value};
use qdq::events::Silent;
use qdq::model::{DataType, GraphProto, Model, ModelProto, Tensor, attribute};
use qdq::number::WeightFormat;
use qdq::plan::{Policy, StorageForm};
use qdq::proto::{OperatorSetIdProto, TypeProto, type_proto};
use qdq::quantize::quantize_weights;
use qdq::sample::Sample;
use qdq::target::ORT_CPU;
use tract_onnx::prelude::*;

/// What tract alone makes of a model; the message of what keeps it from that.
fn stock(model: &Model, samples: &InMemory) -> Result<Vec<Vec<f32>>, String> {
    let bytes = model.to_bytes().unwrap();
    let tensor = |x: &Tensor| -> TractResult<TValue> {
        Ok(match x.dtype() {
            DataType::Int64 => tract_onnx::prelude::Tensor::from_shape(x.shape(), &x.i64s().unwrap())?,
            _ => tract_onnx::prelude::Tensor::from_shape(x.shape(), &x.f32s().unwrap())?,
        }
        .into())
    };
    let outputs = || -> TractResult<Vec<Vec<f32>>> {
        let runnable = tract_onnx::onnx().model_for_read(&mut &bytes[..])?.into_optimized()?.into_runnable()?;
        let inputs = samples.0[0].inputs.iter().map(tensor).collect::<TractResult<TVec<TValue>>>()?;
        let outputs = runnable.run(inputs)?;
        outputs.iter().map(|y| Ok(y.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())).collect()
    };
    match catch_unwind(AssertUnwindSafe(outputs)) {
        Ok(outcome) => outcome.map_err(|e| format!("{e:#}")),
        Err(_) => Err("a panic".to_owned()),
    }
}

/// Products, convolutions of one group and of several, and a table whose rows are picked. Channels fill no block.
fn layers() -> (Model, InMemory) {
    let strided = [attribute::ints("strides", &[2, 2]), attribute::int("group", 3)];
    let nodes = vec![
        node("Conv", "x k", "a", &[attribute::ints("pads", &[1, 1, 1, 1])]),
        node("Conv", "a d", "b", &strided),
        node("Flatten", "b", "c", &[]),
        node("MatMul", "c w", "y", &[]),
        node("Gemm", "c v", "z", &[attribute::int("transB", 1)]),
        node("ConvTranspose", "a t", "u", &[]),
        node("Gather", "rows i", "r", &[]),
    ];
    let initializer = vec![
        common::weights("k", &[6, 35, 3, 3]),
        common::weights("d", &[9, 2, 2, 2]),
        common::weights("w", &[81, 7]),
        common::weights("v", &[5, 81]),
        common::weights("t", &[6, 4, 2, 2]),
        common::weights("rows", &[40, 70]),
    ];
    let mut indices = value("i", Some(&[3]));
    if let Some(TypeProto { value: Some(type_proto::Value::TensorType(t)), .. }) = &mut indices.r#type {
        t.elem_type = Some(DataType::Int64 as i32);
    }
    let outputs: [(&str, &[usize]); 4] = [("y", &[1, 7]), ("z", &[1, 5]), ("u", &[1, 4, 7, 7]), ("r", &[3, 70])];
    let graph = GraphProto {
        name: Some("layers".into()),
        node: nodes,
        initializer,
        input: vec![value("x", Some(&[1, 35, 6, 6])), indices],
        output: outputs.iter().map(|(name, shape)| value(name, Some(shape))).collect(),
        ..Default::default()
    };
    let model = Model::from_proto(ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(13) }],
        graph: Some(graph),
        ..Default::default()
    })
    .unwrap();
    let x = Tensor::from_f32(vec![1, 35, 6, 6], noise(5, 35 * 36));
    let sample = Sample { inputs: vec![x, Tensor::from_i64(vec![3], vec![7, 0, 39])] };
    (model, InMemory(vec![sample]))
}

/// What is said behind a name, in the forms that are stored differently.
const SUFFIXES: [&str; 14] = [
    "int8/tensor/affine",
    "int8/b16",
    "uint8/b32",
    "int4/tensor",
    "int4/b16/affine",
    "int16/tensor",
    "uint16/b32",
    "fp8e4m3/b32",
    "fp6e3m2/tensor",
    "nf4/channel",
    "pow2-4/b32",
    "sqrt2-4/tensor",
    "kmeans3/channel",
    "ttq/b16",
];

#[test]
fn every_format_runs_where_nothing_is_known_of_it() {
    let (float, samples) = layers();
    let suffixed = SUFFIXES.map(|name| name.parse::<WeightFormat>().unwrap());
    let mut wrong = Vec::new();
    for format in WeightFormat::ALL.into_iter().chain(suffixed) {
        let mut policy = Policy { storage: StorageForm::Portable, ..Policy::of(&ORT_CPU) };
        policy.set_weight_format(&format);
        policy.weights = policy.weights.widened();
        let made = quantize_weights(&float, &policy, None, None, &Silent).unwrap();
        let ours = run(&made.model, &samples);
        match stock(&made.model, &samples) {
            Err(message) => wrong.push(format!("{format}: {message}")),
            Ok(theirs) => {
                for (name, (ours, theirs)) in ["y", "z", "u", "r"].iter().zip(ours[0].iter().zip(&theirs)) {
                    let ours = ours.f32s().unwrap();
                    let size = ours.iter().fold(0f32, |m, x| m.max(x.abs()));
                    let off = ours.iter().zip(theirs).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
                    if ours.len() != theirs.len() || off.is_nan() || off > 1e-5 * size {
                        wrong.push(format!("{format}: `{name}` is off by {off} of {size}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
