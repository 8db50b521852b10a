//! Broken models, by thousands: each is refused, or read, prepared, quantized and written; none makes the library panic.

use crate::gauntlet;
use crate::mutator;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{self, floats, ints, model, node, weights};
use crate::gauntlet::Fate;
use prost::Message;
use qdq::model::attribute::{float, floats as reals, int, ints as whole, string, tensor};
use qdq::model::{AttributeProto, DataType, GraphProto, Model, NodeProto, Tensor};
use qdq::proto::{FunctionProto, OperatorSetIdProto};
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rayon::prelude::*;

/// The models among the fixtures that hold all of themselves; the small ones come more often.
fn seeds() -> Vec<Vec<u8>> {
    let read = |name: &str| std::fs::read(Path::new("fixtures").join(name).join("model.onnx")).unwrap();
    let small = ["float16", "legacy", "legacy_upsample", "transformer"].map(|name| read(&format!("small/{name}")));
    let made = [old_operators(), branches(), quantized()].map(|m| m.to_bytes().unwrap());
    let mut seeds = vec![read("digits"), read("ppocr_cls")];
    for _ in 0..5 {
        seeds.extend(small.iter().chain(&made).cloned());
    }
    seeds
}

/// A chain of every operator whose form changed since opset 7.
fn old_operators() -> Model {
    let steps = [
        ("Slice", "", vec![whole("starts", &[0]), whole("ends", &[2]), whole("axes", &[0])]),
        ("Clip", "", vec![float("max", 6.0)]),
        ("Dropout", "", vec![float("ratio", 0.25)]),
        ("Softmax", "", vec![int("axis", 1)]),
        ("Pad", "", vec![whole("pads", &[0, 0, 1, 1, 0, 0, 1, 1]), float("value", 2.0)]),
        ("Upsample", "", vec![reals("scales", &[1.0, 1.0, 2.0, 2.0]), string("mode", "nearest")]),
        ("BatchNormalization", "g b m v", vec![int("spatial", 1)]),
        ("Erf", "", vec![]),
        ("Unsqueeze", "", vec![whole("axes", &[0])]),
        ("Squeeze", "", vec![whole("axes", &[0])]),
        ("ReduceMean", "", vec![whole("axes", &[1]), int("keepdims", 1)]),
        ("ReduceSum", "", vec![whole("axes", &[1])]),
        ("LogSoftmax", "", vec![]),
        ("Hardmax", "", vec![]),
        ("Split", "", vec![whole("split", &[1])]),
        ("TopK", "", vec![int("k", 1)]),
        ("Cast", "", vec![int("to", DataType::Float16 as i64)]),
        ("Identity", "", vec![]),
        ("Shape", "", vec![]),
        ("Gather", "i", vec![]),
    ];
    let last = steps.len() - 1;
    let nodes = steps.iter().enumerate().map(|(i, (op, more, attributes))| {
        let from = if i == 0 { "x".to_owned() } else { format!("v{}", i - 1) };
        let to = if i == last { "y".to_owned() } else { format!("v{i}") };
        node(op, &format!("{from} {more}"), &to, attributes)
    });
    let constants = ["g", "b", "m", "v"].map(|n| floats(n, &[2], &[1.0, 2.0]));
    let constants = [&constants[..], &[ints("i", &[0])]].concat();
    model(7, &[1, 2, 4, 4], nodes.collect(), constants, &[("y", &[1])])
}

/// Subgraphs inside one another that read what is around them, and a function.
fn branches() -> Model {
    let graph = |name: &str, g: GraphProto| AttributeProto {
        name: Some(name.into()),
        g: Some(g),
        r#type: Some(5),
        ..Default::default()
    };
    let value = |n: &str| common::value(n, None);
    let body = |nodes: Vec<NodeProto>, out: &str| GraphProto {
        node: nodes,
        initializer: vec![weights(&format!("{out}_w"), &[4, 4])],
        output: vec![value(out)],
        ..Default::default()
    };
    let deep = body(vec![node("MatMul", "a p_w", "p", &[])], "p");
    let other = body(vec![node("Clip", "a q_w", "q", &[int("group", 1)])], "q");
    let inner = node("If", "c", "r", &[graph("then_branch", deep.clone()), graph("else_branch", other)]);
    let then = body(vec![node("Constant", "", "k", &[tensor("value", weights("", &[4]))]), inner], "r");
    let call = NodeProto { domain: Some("own".into()), ..node("F", "z", "y", &[]) };
    let nodes = vec![
        node("MatMul", "x w", "a", &[]),
        node(
            "Constant",
            "",
            "c",
            &[tensor("value", Tensor::new(DataType::Bool, vec![], vec![1].into()).unwrap().to_proto(""))],
        ),
        node("If", "c", "z", &[graph("then_branch", then), graph("else_branch", deep)]),
        call,
    ];
    let mut proto = model(11, &[4, 4], nodes, vec![weights("w", &[4, 4])], &[("y", &[4, 4])]).to_proto();
    proto.functions.push(FunctionProto {
        name: Some("F".into()),
        domain: Some("own".into()),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: vec![node("Unsqueeze", "a", "u", &[whole("axes", &[0])]), node("Relu", "u", "b", &[])],
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(11) }],
        ..Default::default()
    });
    proto.opset_import.push(OperatorSetIdProto { domain: Some("own".into()), version: Some(1) });
    Model::from_bytes(proto.encode_to_vec().into()).unwrap()
}

/// Codes of every kind: behind DequantizeLinear, in operators on integers, packed.
fn quantized() -> Model {
    let codes = |name: &str, shape: &[usize]| {
        let bytes = vec![3; shape.iter().product()];
        Tensor::new(DataType::Int8, shape.to_vec(), bytes.into()).unwrap().to_proto(name)
    };
    let nodes = vec![
        node("QuantizeLinear", "x s z", "q", &[]),
        node("DequantizeLinear", "q s z", "d", &[]),
        node("DequantizeLinear", "w ss", "wd", &[int("axis", 0)]),
        node("MatMul", "d wd", "m", &[]),
        node("DynamicQuantizeLinear", "m", "dq ds dz", &[]),
        node("MatMulInteger", "dq w dz z", "i", &[]),
        node("Cast", "i", "f", &[int("to", 1)]),
        node("Mul", "ds s", "p", &[]),
        node("Mul", "f p", "r", &[]),
        node("Gather", "w g", "t", &[int("axis", 0)]),
        node("DequantizeLinear", "t s z", "td", &[int("block_size", 0)]),
        NodeProto {
            domain: Some("com.microsoft".into()),
            ..node("MatMulNBits", "r b ss", "n", &[int("bits", 4), int("block_size", 2)])
        },
        node("Add", "n td", "y", &[]),
    ];
    let constants = vec![
        floats("s", &[], &[0.5]),
        codes("z", &[]),
        codes("w", &[4, 4]),
        floats("ss", &[4], &[0.5, 1.0, 2.0, 4.0]),
        ints("g", &[0, 1]),
        codes("b", &[4, 1, 4]),
    ];
    model(17, &[4, 4], nodes, constants, &[("y", &[4, 4])])
}

/// How many mutants are made: `QDQ_MUTANTS`, or as many as take seconds.
fn how_many() -> u64 {
    std::env::var("QDQ_MUTANTS").map_or(2_000, |n| n.parse().expect("QDQ_MUTANTS is a number"))
}

#[test]
fn no_mutant_makes_the_library_panic() {
    let seeds = seeds();
    let counts: [AtomicUsize; 4] = Default::default();
    let panics = |i: &u64| {
        let bytes = mutator::mutant(&mut ChaCha8Rng::seed_from_u64(*i), &seeds);
        let outcome = catch_unwind(AssertUnwindSafe(|| gauntlet::run(&bytes)));
        if let Ok(fate) = outcome {
            counts[fate as usize].fetch_add(1, Ordering::Relaxed);
        }
        outcome.is_err()
    };
    let panicked: Vec<u64> = (0..how_many()).into_par_iter().filter(panics).collect();
    let count = |fate: Fate| counts[fate as usize].load(Ordering::Relaxed);
    let [refused, read, changed, quantized] = [Fate::Refused, Fate::Read, Fate::Changed, Fate::Quantized].map(count);
    let all = format!("{refused} refused, {read} read, {changed} changed, {quantized} quantized");
    eprintln!("{} mutants: {all}, {} made it panic", how_many(), panicked.len());
    assert!(panicked.is_empty(), "the mutants of the seeds {panicked:?}");
    // A mutator that breaks everything, or nothing, tests nothing.
    let some = how_many() as usize / 10;
    assert!(refused > some && changed > some && quantized > some, "{all}");
}
