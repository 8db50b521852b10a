//! Samples that are filled up and a mask that says so: what comes out is what comes out of the samples as they were.

use crate::common::{InMemory, floats, node, noise, value, weights};
use qdq::events::Silent;
use qdq::exec::{Executor, Masked, Runner, Tract};
use qdq::model::{DataType, GraphProto, Model, ModelProto, Tensor};
use qdq::number::WeightFormat;
use qdq::plan::{Policy, Steps};
use qdq::proto::OperatorSetIdProto;
use qdq::proto::type_proto::Value;
use qdq::quantize::{Recipe, quantize, quantize_weights};
use qdq::round::Rounding;
use qdq::sample::Sample;
use qdq::target::ORT_CPU;
use qdq::validate::{Questions, validate};

/// Two layers over texts `x` [batch, places, 4], with a `mask` [batch, places].
fn texts() -> Model {
    let mut mask = value("mask", None);
    if let Some(Value::TensorType(tensor)) = mask.r#type.as_mut().and_then(|t| t.value.as_mut()) {
        tensor.elem_type = Some(DataType::Int64 as i32);
    }
    let nodes = vec![
        node("MatMul", "x v", "h", &[]),
        node("Add", "h b", "c", &[]),
        node("Relu", "c", "r", &[]),
        node("MatMul", "r w", "y", &[]),
    ];
    let graph = GraphProto {
        name: Some("texts".into()),
        node: nodes,
        initializer: vec![weights("v", &[4, 24]), floats("b", &[24], &noise(3, 24)), weights("w", &[24, 5])],
        input: vec![value("x", None), mask],
        output: vec![value("y", None)],
        ..Default::default()
    };
    Model::from_proto(ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        graph: Some(graph),
        ..Default::default()
    })
    .unwrap()
}

/// Texts of 3 to 7 places, as they are or filled up to 12 with what would widen every range.
fn samples(filled: bool) -> InMemory {
    let sample = |i: usize| {
        let places = 3 + i % 5;
        let mut x = noise(i as u64 + 1, 4 * places);
        let mut mask = vec![1; places];
        if filled {
            x.resize(4 * 12, 50.0 + i as f32);
            mask.resize(12, 0);
        }
        let shape = vec![1, mask.len()];
        let x = Tensor::from_f32(vec![1, mask.len(), 4], x);
        Sample { inputs: vec![x, Tensor::from_i64(shape, mask)] }
    };
    InMemory((0..40).map(sample).collect())
}

fn masked(model: &Model) -> Masked {
    Masked::new(Box::new(Tract), model, "mask").unwrap()
}

#[test]
fn codes_and_ranges_are_those_of_samples_without_padding() {
    let float = texts();
    let (bare, filled, masked) = (samples(false), samples(true), masked(&float));
    let mut policy = Policy { rounding: Rounding::AUTO, ..Policy::of(&ORT_CPU) };
    policy.set_weight_format(&"int4".parse::<WeightFormat>().unwrap());
    let weights = |samples: &InMemory, engine: &dyn Executor| {
        let made = quantize_weights(&float, &policy, Some((samples, engine)), None, &Silent).unwrap();
        (made.model.to_bytes().unwrap(), made.report.outputs)
    };
    let right = weights(&bare, &Tract);
    assert!(weights(&filled, &masked) == right);
    assert!(weights(&filled, &Tract).0 != right.0);

    let recipe = Recipe { policy: Policy { rounding: Rounding::Nearest, ..Policy::of(&ORT_CPU) } };
    let whole = |samples: &InMemory, engine: &dyn Executor| {
        let made = quantize(&float, samples, &recipe, engine, &Silent).unwrap();
        (made.model.to_bytes().unwrap(), made.report.outputs, made.report.steps)
    };
    let right = whole(&bare, &Tract);
    assert!(whole(&filled, &masked) == right);
    assert!(whole(&filled, &Tract).0 != right.0);
}

#[test]
fn padding_is_not_compared() {
    let float = texts();
    let (bare, filled, masked) = (samples(false), samples(true), masked(&float));
    let recipe = Recipe { policy: Policy { steps: Steps::NONE, ..Policy::of(&ORT_CPU) } };
    let quantized = quantize(&float, &bare, &recipe, &Tract, &Silent).unwrap().model;
    let questions = Questions { layers: true, ..Questions::default() };
    let found = |samples: &InMemory, engine: &dyn Executor| {
        validate(&float, &quantized, samples, &questions, engine, &Silent).unwrap()
    };
    let (right, without, with) = (found(&bare, &Tract), found(&filled, &Tract), found(&filled, &masked));
    assert!(with.outputs == right.outputs && without.outputs != right.outputs);
    // Layers get whole values as inputs, and are compared on these.
    assert!(with.layers == without.layers && with.layers.is_some_and(|layers| !layers.is_empty()));
}

/// A batch of two texts is the rows of both, and what has no row for each place stays whole.
#[test]
fn rows_of_a_batch_are_one_after_the_other() {
    let float = texts();
    let (one, other) = (noise(1, 4 * 3), noise(2, 4 * 2));
    let filled = [&one[..], &other, &[9.0; 4]].concat();
    let mask = Tensor::from_i64(vec![2, 3], vec![1, 1, 1, 1, 1, 0]);
    let sample = Sample { inputs: vec![Tensor::from_f32(vec![2, 3, 4], filled), mask] };
    let masked = masked(&float);
    let outputs = |engine: &dyn Executor, sample: &Sample| {
        let runner = Runner::new(engine, &float, vec!["r".to_owned()]).unwrap();
        let mut shape = Vec::new();
        let outputs = runner.worker().run(sample, &mut |seen| shape = seen.shape.to_vec()).unwrap();
        (outputs[0].shape().to_vec(), outputs[0].f32s().unwrap().to_vec(), shape)
    };
    let (shape, kept, seen) = outputs(&masked, &sample);
    let (whole, all, _) = outputs(&Tract, &sample);
    assert_eq!((shape, seen, whole), (vec![1, 5, 5], vec![1, 5, 24], vec![2, 3, 5]));
    assert_eq!(kept, all[..25]);
}

#[test]
fn masks_that_are_none_are_errors() {
    let float = texts();
    let e = Masked::new(Box::new(Tract), &float, "attention_mask").err().unwrap();
    assert!(e.to_string().contains("no input `attention_mask`"), "{e}");
    assert!(e.way_out().unwrap().contains("`x`, `mask`"));
    let refused = |mask: Tensor, text: &str| {
        let x = Tensor::from_f32(vec![1, 2, 4], noise(1, 8));
        let samples = InMemory(vec![Sample { inputs: vec![x, mask] }]);
        let recipe = Recipe { policy: Policy::of(&ORT_CPU) };
        let e = quantize(&float, &samples, &recipe, &masked(&float), &Silent).unwrap_err();
        assert!(e.to_string().contains(text), "{e}");
    };
    refused(Tensor::from_i64(vec![1, 2], vec![0, 0]), "nothing but padding");
    refused(Tensor::from_i64(vec![1, 1, 1, 2], vec![1, 0]), "a mask is [batch, places]");
}
