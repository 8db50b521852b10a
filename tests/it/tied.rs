//! An embedding that is the last layer's weight too is stored once.

use std::num::NonZeroUsize;

use crate::common::{emit, floats, model, node, noise, noise_samples, run, weights};
use qdq::check::check;
use qdq::dequantize::{self, dequantize};
use qdq::events::Silent;
use qdq::exec::Tract;
use qdq::model::{DataType, Model, NodeExt, attribute, width};
use qdq::number::Format;
use qdq::plan::{Emit, Policy};
use qdq::quantize::{Quantized, Recipe, quantize, quantize_dynamic, quantize_weights};
use qdq::target::{OPENVINO, ORT_ARM, ORT_CPU, QNN, TENSORRT, TRACT, Target, XNNPACK};

const ROWS: usize = 128;
const COLUMNS: usize = 64;

/// In what form the last layer reads the table.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    /// Gemm with `transB`.
    Gemm,
    /// MatMul, through a Transpose.
    Transpose,
    /// MatMul, of a constant that an exporter turned.
    Turned,
}

const FORMS: [Form; 3] = [Form::Gemm, Form::Transpose, Form::Turned];

/// Rows of a table of 128 by 64, each of a size of its own, picked by what `x` rounds to, through a layer, and back to 128
/// numbers by the same table.
fn tied(form: Form) -> Model {
    let size = |row: usize| 0.2 + 1.5 * (row % 7) as f32;
    let table: Vec<f32> = noise(3, ROWS * COLUMNS).iter().enumerate().map(|(i, x)| x * size(i / COLUMNS)).collect();
    let mut constants = vec![floats("table", &[ROWS, COLUMNS], &table), weights("w", &[COLUMNS, COLUMNS])];
    let mut nodes = vec![
        node("Cast", "x", "ids", &[attribute::int("to", DataType::Int64 as i64)]),
        node("Gather", "table ids", "picked", &[]),
        node("MatMul", "picked w", "hidden", &[]),
    ];
    match form {
        Form::Gemm => nodes.push(node("Gemm", "hidden table", "y", &[attribute::int("transB", 1)])),
        Form::Transpose => nodes.push(node("Transpose", "table", "turned", &[attribute::ints("perm", &[1, 0])])),
        Form::Turned => {
            let turned = (0..ROWS * COLUMNS).map(|i| table[i % ROWS * COLUMNS + i / ROWS]).collect::<Vec<_>>();
            constants.push(floats("turned", &[COLUMNS, ROWS], &turned));
        }
    }
    if form != Form::Gemm {
        nodes.push(node("MatMul", "hidden turned", "y", &[]));
    }
    model(21, &[6], nodes, constants, &[("y", &[6, ROWS])])
}

/// The constants of a model that hold as many elements as the table, with the bytes of each.
fn tables(made: &Model) -> Vec<(String, usize)> {
    let large = made.graph.initializers().filter(|t| t.dims.iter().product::<i64>() == (ROWS * COLUMNS) as i64);
    let bytes = |t: &qdq::model::TensorProto| width(DataType::try_from(t.data_type()).unwrap()).unwrap_or(0);
    large.map(|t| (t.name().to_owned(), bytes(t))).collect()
}

/// Numbers that round to every kind of row.
fn samples() -> crate::common::InMemory {
    let mut samples = noise_samples(&[6], 4);
    for sample in &mut samples.0 {
        let x = sample.inputs[0].f32s().unwrap().iter().map(|x| (x * 63.0).abs()).collect();
        sample.inputs[0] = qdq::model::Tensor::from_f32(vec![6], x);
    }
    samples
}

fn is_sound(name: &str, float: &Model, made: &Quantized, least: f64) {
    assert_eq!(check(&made.model.to_proto(), None).findings, [], "{name}");
    let db = made.report.outputs[0].sqnr_db.unwrap();
    assert!(db > least, "{name}: {db}");
    emit(name, float, &made.model, &samples(), &made.report.outputs);
}

fn holds_one_table(name: &str, float: &Model, made: &Quantized, least: f64) {
    assert_eq!(tables(&made.model).len(), 1, "{name}: {:?}", tables(&made.model));
    assert!(tables(&made.model)[0].1 <= 1, "{name}");
    is_sound(name, float, made, least);
}

/// What becomes of the node that picks rows, and why.
fn gather_of(made: &Quantized) -> (&'static str, String) {
    let row = made.report.nodes.iter().find(|n| n.operator == "Gather").unwrap();
    (row.verdict, row.reason.clone())
}

fn of_operator(made: &Model, op: &str) -> usize {
    made.graph.nodes().filter(|(_, n)| n.is(op)).count()
}

#[test]
fn tied_weights_are_stored_once_in_every_mode_without_ranges() {
    let samples = samples();
    let verify = Some((&samples as _, &Tract as _));
    let policy = Policy::of(&ORT_CPU);
    let block_size = NonZeroUsize::new(32);
    for form in FORMS {
        let float = tied(form);
        let name = |what: &str| format!("tied_{form:?}_{what}").to_lowercase();
        let weights = |policy: &Policy| quantize_weights(&float, policy, verify, None, &Silent).unwrap();
        holds_one_table(&name("int8"), &float, &weights(&policy), 40.0);
        let few = Policy { weights: Format::UINT4, block_size, ..policy.clone() };
        holds_one_table(&name("uint4"), &float, &weights(&few), 20.0);
        let packed = Policy { emit: Emit::MatMulNBits, ..few };
        holds_one_table(&name("packed"), &float, &weights(&packed), 20.0);
        let dynamic = quantize_dynamic(&float, &policy, verify, None, &Silent).unwrap();
        holds_one_table(&name("dynamic"), &float, &dynamic, 30.0);
        assert_eq!(dynamic.report.counts.dynamic, 2, "{form:?}");
        assert_eq!(of_operator(&dynamic.model, "MatMulInteger"), 2, "{form:?}");
    }
}

fn statically(float: &Model, policy: &Policy) -> Quantized {
    let recipe = Recipe { policy: policy.clone() };
    quantize(float, &samples(), &recipe, &Tract, &Silent).unwrap()
}

#[test]
fn tied_weights_are_stored_once_in_the_static_mode() {
    for form in FORMS {
        let float = tied(form);
        for target in [&*ORT_CPU, &ORT_ARM, &XNNPACK, &OPENVINO, &TRACT] {
            let name = |what: &str| format!("tied_{form:?}_static_{}_{what}", target.name).to_lowercase();
            let policy = Policy::of(target);
            let made = statically(&float, &policy);
            holds_one_table(&name("rows"), &float, &made, 28.0);
            let (verdict, reason) = gather_of(&made);
            assert_eq!(verdict, "weight-only");
            assert!(reason.contains("stored once, as the codes of the weight of"), "{reason}");
            // Codes are picked, and not what the whole table stands for.
            let picks = made.model.graph.nodes().find(|(_, n)| n.is("Gather")).unwrap().1.input[0].clone();
            assert_eq!(picks, tables(&made.model)[0].0);
            let tensor = Policy { per_channel: false, ..policy };
            holds_one_table(&name("tensor"), &float, &statically(&float, &tensor), 25.0);
        }
        // One that is too few bits for the embedding is stored in the bits that tables have.
        let few = Policy { weights: Format::UINT4, ..Policy::of(&ORT_CPU) };
        let name = format!("tied_{form:?}_static_uint4").to_lowercase();
        holds_one_table(&name, &float, &statically(&float, &few), 15.0);
    }
}

#[test]
fn targets_that_compute_on_rows_as_codes_read_the_same_codes_as_weights() {
    for form in FORMS {
        let float = tied(form);
        let made = statically(&float, &Policy::of(&QNN));
        let (verdict, reason) = gather_of(&made);
        assert_eq!(verdict, "quantized");
        let name = format!("tied_{form:?}_static_qnn").to_lowercase();
        if form == Form::Gemm {
            // Its weight has a scale a row, and the rows that are picked have one together.
            assert!(reason.contains("stored apart from the weight of"), "{reason}");
            assert_eq!(tables(&made.model).len(), 2);
            is_sound(&name, &float, &made, 25.0);
        } else {
            assert!(!reason.contains("apart"), "{reason}");
            holds_one_table(&name, &float, &made, 25.0);
        }
    }
}

#[test]
fn targets_without_tables_of_codes_say_so() {
    let float = tied(Form::Gemm);
    let made = statically(&float, &Policy::of(&TENSORRT));
    let (verdict, reason) = gather_of(&made);
    assert_eq!(verdict, "float");
    assert!(reason.contains("target `tensorrt` has no use for it"), "{reason}");
    let bytes: Vec<usize> = tables(&made.model).into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(bytes, [4, 1]);
    is_sound("tied_gemm_static_tensorrt", &float, &made, 28.0);
}

#[test]
fn operators_on_codes_read_one_table() {
    for form in FORMS {
        let float = tied(form);
        let policy = Policy { emit: Emit::QOperator { contrib: true }, ..Policy::of(&ORT_CPU) };
        let made = statically(&float, &policy);
        holds_one_table(&format!("tied_{form:?}_qoperator").to_lowercase(), &float, &made, 28.0);
        let op = if form == Form::Gemm { "QGemm" } else { "MatMulIntegerToFloat" };
        assert!(made.model.graph.nodes().any(|(_, n)| n.op_type() == op && n.output[0] == "y"), "{form:?}");
    }
}

/// Rows of a table whose columns are of sizes of their own, bent, through a layer.
fn picked() -> Model {
    let size = |i: usize| 10f32.powi((i % COLUMNS) as i32 % 3);
    let table: Vec<f32> = noise(5, ROWS * COLUMNS).iter().enumerate().map(|(i, x)| x * size(i)).collect();
    let nodes = vec![
        node("Cast", "x", "ids", &[attribute::int("to", DataType::Int64 as i64)]),
        node("Gather", "table ids", "rows", &[]),
        node("Erf", "rows", "bent", &[]),
        node("MatMul", "bent w", "y", &[]),
    ];
    let constants = vec![floats("table", &[ROWS, COLUMNS], &table), weights("w", &[COLUMNS, 8])];
    model(13, &[6], nodes, constants, &[("y", &[6, 8])])
}

#[test]
fn tables_that_are_no_layers_have_a_scale_a_column_in_every_mode() {
    let samples = samples();
    let verify = Some((&samples as _, &Tract as _));
    let (float, policy) = (picked(), Policy::of(&ORT_CPU));
    let weights = quantize_weights(&float, &policy, verify, None, &Silent).unwrap();
    for (mode, made, least) in [("weights", &weights, 30.0), ("static", &statically(&float, &policy), 25.0)] {
        assert_eq!(gather_of(made), ("weight-only", "its table is stored as codes".to_owned()));
        holds_one_table(&format!("table_{mode}"), &float, made, least);
        let behind = made.model.graph.nodes().find(|(_, n)| n.output[0] == "rows").unwrap().1;
        assert_eq!((behind.op_type(), behind.int("axis")), ("DequantizeLinear", Some(-1)), "{mode}");
    }
}

#[test]
fn what_was_picked_beside_its_scales_becomes_float_again() {
    for form in FORMS {
        let float = tied(form);
        let made = statically(&float, &Policy::of(&ORT_CPU));
        let back = dequantize(&made.model, None, &dequantize::Recipe::default(), &Tract, &Silent).unwrap().model;
        assert!(tables(&back).iter().all(|(_, bytes)| *bytes == 4), "{form:?}: {:?}", tables(&back));
        let table = |m: &Model| run(m, &samples())[0][0].f32s().unwrap().to_vec();
        let (weights, back) = (table(&float), table(&back));
        let error: f32 = weights.iter().zip(&back).map(|(a, b)| (a - b).powi(2)).sum();
        let signal: f32 = weights.iter().map(|a| a.powi(2)).sum();
        assert!(error < 1e-3 * signal && error > 0.0, "{form:?}: {error} of {signal}");
    }
}

#[test]
fn a_target_of_the_users_may_want_no_table_of_codes() {
    let target = Target { tables: false, operators: vec!["MatMul".into()], ..ORT_CPU.clone() };
    let made = statically(&picked(), &Policy::of(&target));
    assert_eq!(gather_of(&made).0, "float");
    assert_eq!(tables(&made.model)[0].1, 4);
}
