//! Every element type, in every form that a file may hold it, against what onnx and numpy read.

use crate::common::{self, arrays, fixture, model_of};
use qdq::events::Silent;
use qdq::exec::{Tract, lower};
use qdq::inspect::{Grain, inspect};
use qdq::model::{DataType, Model, SparseTensorProto, Tensor, bits, dtype_name, strings};
use qdq::pass::{self, Context, FoldConstants};
use qdq::plan::Policy;
use qdq::quantize::{Recipe, prepare, quantize};
use qdq::report;
use qdq::target::ORT_CPU;

/// The elements as the fixture states them: float64 with complex numbers in two, or int64.
fn numbers(t: &Tensor) -> (Vec<f64>, Vec<i64>) {
    let b = t.bytes();
    match t.dtype() {
        DataType::Complex64 => (b.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x).into()).collect(), vec![]),
        DataType::Complex128 => (b.as_chunks().0.iter().map(|&x| f64::from_le_bytes(x)).collect(), vec![]),
        _ => match t.f64s() {
            Ok(x) => (x, vec![]),
            Err(_) => (vec![], t.i64s().unwrap()),
        },
    }
}

fn same(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

#[test]
fn every_element_is_what_onnx_reads() {
    let model = model_of("small/encodings/model.onnx");
    let expected = arrays("small/encodings/expected.npz");
    let mut types = std::collections::BTreeSet::new();
    let (mut tensors, mut elements) = (0, 0);
    for proto in model.graph.initializers().filter(|t| t.data_type() != DataType::String as i32) {
        let name = proto.name();
        let [kind, form, at] = name.split('.').collect::<Vec<_>>()[..] else { panic!("{name}") };
        let t = model.graph.constant(name).unwrap().unwrap();
        assert_eq!((dtype_name(t.dtype()), form == "raw"), (kind, proto.raw_data.is_some()), "{name}");
        let (_, want) = expected.iter().find(|(n, _)| *n == format!("{kind}.{at}")).unwrap();
        let (reals, whole) = numbers(&t);
        let (wanted_reals, wanted_whole) = numbers(want);
        assert_eq!((reals.len(), &whole), (wanted_reals.len(), &wanted_whole), "{name}");
        assert!(reals.iter().zip(&wanted_reals).all(|(&a, &b)| same(a, b)), "{name}: {reals:?}");
        assert_eq!(t.shape(), &want.shape()[..t.shape().len()], "{name}");
        // What is written is the raw form, whatever was read.
        let written = t.to_proto(name);
        assert_eq!(Tensor::from_proto(&written).unwrap(), t, "{name}");
        if let Some(raw) = &proto.raw_data {
            assert_eq!(written.raw_data.as_ref(), Some(raw), "{name}");
        }
        types.insert(kind);
        tensors += 1;
        elements += t.len();
    }
    let known = (1..64).filter_map(|i| DataType::try_from(i).ok()).filter(|&d| bits(d).is_some());
    assert_eq!(types.into_iter().collect::<Vec<_>>(), {
        let mut names: Vec<_> = known.map(dtype_name).collect();
        names.sort_unstable();
        names
    });
    assert!(tensors > 250 && elements > 4000, "{tensors} {elements}");
    let words = strings(model.graph.initializer("string.typed").unwrap()).unwrap();
    assert_eq!(words, ["qdq", "", "é", "weights"].map(str::as_bytes));
}

#[test]
fn the_file_comes_back_byte_for_byte() {
    for name in ["small/encodings/model.onnx", "small/coded/model.onnx", "small/sparse/model.onnx"] {
        assert!(model_of(name).to_bytes().unwrap() == std::fs::read(fixture(name)).unwrap(), "{name}");
    }
}

#[test]
fn constants_of_every_type_are_shown() {
    let seen = inspect(&model_of("small/encodings/model.onnx")).unwrap();
    assert!(seen.model.constant_bytes > 4000);
    let seen = inspect(&model_of("small/coded/model.onnx")).unwrap();
    let weights = arrays("small/coded/weights.npz");
    // What DequantizeLinear reads at once, and not behind Cast or Transpose.
    assert_eq!(seen.weights.len(), weights.len() - 2);
    for (name, want) in weights.iter().filter(|(n, _)| !n.starts_with("cast")) {
        let name = name.strip_suffix(".weight").unwrap();
        let row = seen.weights.iter().find(|w| w.weight == format!("{name}.codes")).unwrap();
        let want = want.f32s().unwrap();
        let (low, high) = want.iter().fold((f32::MAX, f32::MIN), |(l, h), &x| (l.min(x), h.max(x)));
        assert_eq!((row.statistics.min, row.statistics.max), (Some(low), Some(high)), "{name}");
        let coding = row.coding.as_ref().unwrap();
        let kind = name.split('_').next().unwrap();
        let kind = if kind.ends_with("fp4") { "float4e2m1" } else { kind };
        let grain = match name {
            _ if name.ends_with("fp4") || name.ends_with("block") => Grain::Block,
            _ if name.ends_with("channel") || name.ends_with("half") => Grain::Channel,
            _ => Grain::Tensor,
        };
        assert_eq!((&coding.storage[..], coding.grain, &row.dtype[..]), (kind, Some(grain), kind), "{name}");
        assert_eq!(coding.zero_point.is_none(), kind.starts_with("float"), "{name}");
    }
    // Elements of codes behind DequantizeLinear, and of the float8 that is cast.
    assert_eq!(seen.model.parameters, 48 * (weights.len() as u64 - 1) + 12);
}

/// The engine gets floats, each bit as numpy computes it.
#[test]
fn the_engine_gets_what_the_codes_stand_for() {
    let model = model_of("small/coded/model.onnx");
    let lowered = lower(&model).unwrap();
    for (name, want) in arrays("small/coded/weights.npz") {
        let got = lowered.graph.constant(&name).unwrap().unwrap();
        assert_eq!((got.shape(), got.f64s().unwrap()), (want.shape(), want.f64s().unwrap()), "{name}");
    }
    agrees("small/coded", &model);
    // Folding constants must not leave codes in the wider type that the engine gave back.
    let mut prepared = model.clone();
    let folded = pass::run(&FoldConstants, &mut prepared, &mut Context::new(Some(&Tract), &Silent)).unwrap();
    assert_eq!(folded, 2);
    assert_eq!(prepared.graph.stated_dtype("cast_int4.weight"), Some(DataType::Float));
    assert_eq!(prepared.graph.stated_dtype("moved.codes"), Some(DataType::Uint4));
    assert!(prepared.graph.producer("moved.transposed").is_some());
    agrees("small/coded", &prepared);
}

fn agrees(folder: &str, model: &Model) {
    let samples = common::samples_of(&format!("{folder}/data.npz"), model);
    let expected = arrays(&format!("{folder}/expected.npz"));
    for (i, outputs) in common::run(model, samples.as_ref()).iter().enumerate() {
        assert_eq!(outputs.len(), expected.len());
        for (info, got) in model.graph.outputs().iter().zip(outputs) {
            let (name, got) = (info.name(), got.f32s().unwrap());
            let (_, all) = expected.iter().find(|(n, _)| n == name).unwrap();
            let all = all.f32s().unwrap();
            let want = &all[i * got.len()..][..got.len()];
            let size = want.iter().fold(0f32, |m, x| m.max(x.abs()));
            for (g, w) in got.iter().zip(want) {
                assert!((g - w).abs() <= 1e-5 * size, "{folder}, sample {i}, `{name}`: {g} instead of {w}");
            }
        }
    }
}

#[test]
fn sparse_constants_are_shown_run_and_kept() {
    let model = model_of("small/sparse/model.onnx");
    agrees("small/sparse", &model);
    let before: Vec<SparseTensorProto> = model.graph.sparse_initializers().cloned().collect();
    let stored = |t: &SparseTensorProto| t.values.as_ref().unwrap().dims[0] as u64;
    let [places, pairs] = &before[..] else { panic!("{before:?}") };
    let (dense, bias) = (4 * 4 * 3 * 3, Tensor::from_sparse(constant_of(&model)).unwrap());
    let bias = bias.f32s().unwrap().iter().filter(|&&x| x != 0.0).count() as u64;
    let seen = inspect(&model).unwrap();
    assert_eq!(seen.model.parameters, stored(places) + stored(pairs) + dense + bias);
    let bytes = 12 * stored(places) + (4 + 16) * stored(pairs) + 4 * dense + 12 * bias;
    assert_eq!(seen.model.constant_bytes, bytes);
    let row = &seen.weights[0];
    let value = model.graph.constant("conv.weight").unwrap().unwrap();
    assert_eq!((&row.weight[..], row.sparse, &row.shape[..]), ("conv.weight", true, value.shape()));
    assert!(report::text(&seen.tables(), None).contains(" float32, sparse "));
    assert_eq!(row.statistics.max, value.f32s().unwrap().iter().copied().reduce(f32::max));

    let mut prepared = model.clone();
    prepare(&mut prepared, 17, &mut Context::new(Some(&Tract), &Silent)).unwrap();
    assert_eq!(prepared.graph.sparse_initializers().cloned().collect::<Vec<_>>(), before);
    agrees("small/sparse", &prepared);

    let samples = common::samples_of("small/sparse/data.npz", &model);
    let made = quantize(&model, samples.as_ref(), &Recipe { policy: Policy::of(&ORT_CPU) }, &Tract, &Silent).unwrap();
    let written = Model::from_bytes(made.model.to_bytes().unwrap().into()).unwrap();
    assert_eq!(written.graph.sparse_initializers().cloned().collect::<Vec<_>>(), before);
    let reason = |node: &str| made.report.nodes.iter().find(|n| n.node == node).map(|n| &n.reason[..]);
    assert_eq!(reason("conv/Conv"), Some("`conv.weight` is sparse"));
    assert_eq!(reason("times/MatMul"), Some("`times.weight` is sparse"));
    assert!(
        made.report.nodes.iter().any(|n| n.node == "dense/Conv" && n.verdict != "float"),
        "{:?}",
        made.report.nodes
    );
    assert!(made.report.outputs.iter().all(|o| o.sqnr_db > Some(25.0)), "{:?}", made.report.outputs);
}

/// The value of the Constant node.
fn constant_of(model: &Model) -> &SparseTensorProto {
    let (_, node) = model.graph.nodes().find(|(_, n)| n.op_type() == "Constant").unwrap();
    node.attribute[0].sparse_tensor.as_ref().unwrap()
}

#[test]
fn a_sparse_tensor_that_claims_to_be_huge_is_not_made_dense() {
    let mut model = model_of("small/sparse/model.onnx");
    let mut huge = model.graph.sparse_initializer("times.weight").unwrap().clone();
    huge.dims = vec![1 << 30, 5 << 7];
    model.graph.set_sparse_initializer(huge);
    let row = &inspect(&model).unwrap().weights[2];
    assert_eq!((row.elements(), row.statistics.min), (5 << 37, None));
    let e = lower(&model).unwrap_err().to_string();
    assert!(e.starts_with("sparse tensor `times.weight`: its ") && e.ends_with("out of proportion"), "{e}");
}
