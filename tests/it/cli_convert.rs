//! `qdq convert`, and `qdq quantize --emit`, as a user meets them.

use crate::desk::{self, CALIB, DIGITS, Desk, Outcome, bytes_of, run};
use qdq::model::{Model, NodeExt};

const QDQ: &str = "fixtures/quantized/cnn/qdq.onnx";
const QOPERATOR: &str = "fixtures/quantized/cnn/qoperator.onnx";
const DATA: &str = "fixtures/quantized/cnn/data.npz";

fn convert(desk: &Desk, model: &str, more: &[&str]) -> Outcome {
    run(&[&["convert", model, "-o", &desk.path("out.onnx"), "--force"], more].concat())
}

/// Whether a line with these words is in the text.
fn has(text: &str, line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    text.lines().any(|l| l.split_whitespace().collect::<Vec<_>>() == words)
}

#[test]
fn it_writes_the_model_and_says_what_became_what() {
    let desk = Desk::new();
    let outcome = convert(&desk, QDQ, &["--to", "qoperator", "--contrib", "--data", DATA, "--min-sqnr", "40"]);
    assert_eq!((outcome.code, outcome.words.as_str()), (0, &*format!("wrote `{}`\n", desk.path("out.onnx"))));
    for line in ["Converted", "Conv QLinearConv 4", "Drift against the given model"] {
        assert!(has(&outcome.data, line), "`{line}` in {}", outcome.data);
    }
    let written = Model::read(desk.path("out.onnx").as_ref()).unwrap();
    assert!(written.graph.nodes().any(|(_, n)| n.is("QLinearConv")));
    assert_eq!(written.imported("com.microsoft"), Some(1));
    assert_eq!(desk.names(), ["out.onnx"]);

    let plain = convert(&desk, QDQ, &["--to", "qoperator", "--quiet"]);
    assert_eq!((plain.code, plain.words.as_str()), (0, ""));
    assert!(plain.data.contains("is onnxruntime's own") && plain.data.contains("As they were"), "{}", plain.data);
    let written = Model::read(desk.path("out.onnx").as_ref()).unwrap();
    assert!(written.graph.nodes().all(|(_, n)| n.domain().is_empty()));
}

#[test]
fn it_goes_back_and_prints_json_and_markdown() {
    let desk = Desk::new();
    let outcome = convert(&desk, QOPERATOR, &["--to", "qdq", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&outcome.data).unwrap();
    let keys: Vec<&String> = report.as_object().unwrap().keys().collect();
    let expected = [
        "qdq",
        "to",
        "styles",
        "opset",
        "size",
        "nodes",
        "converted",
        "left",
        "verified",
        "stages",
        "warnings",
        "peak_memory",
    ];
    assert_eq!(keys, expected);
    assert_eq!(
        (&report["styles"][0][0]["style"], &report["styles"][1][0]["style"]),
        (&"qoperator".into(), &"qdq".into())
    );
    let rows = report["converted"].as_array().unwrap();
    assert!(rows.iter().any(|r| r["from"] == "QLinearConv" && r["into"] == "Conv"), "{rows:?}");
    assert!(convert(&desk, QOPERATOR, &["--to", "qdq", "--markdown"]).data.contains("| QLinearConv | Conv |"));
    let missed = convert(&desk, QDQ, &["--to", "qoperator", "--data", DATA, "--min-sqnr", "1000"]);
    assert!(missed.code <= 1, "{}", missed.words);
}

#[test]
fn what_cannot_be_done_is_refused_and_leaves_nothing() {
    let desk = Desk::new();
    let out = desk.path("out.onnx");
    convert(&desk, DIGITS, &["--to", "qoperator"]).is_error_with_hint("nothing in the model is quantized");
    convert(&desk, QDQ, &["--to", "qdq"]).is_error_with_hint("nothing in the model could be brought into the form QDQ");
    convert(&desk, QDQ, &["--to", "qdq", "--contrib"]).is_error_with_hint("`--contrib` says which operators");
    convert(&desk, QDQ, &["--to", "tflite"]).is_usage();
    convert(&desk, QDQ, &[]).is_usage();
    convert(&desk, &desk.path("none.onnx"), &["--to", "qdq"]).is_error("no such file");
    convert(&desk, QDQ, &["--to", "qoperator", "--min-sqnr", "10"]).is_usage();
    let model = desk.file("m.onnx", &bytes_of(QDQ));
    run(&["convert", &model, "--to", "qoperator", "-o", &model, "--force"])
        .is_error_with_hint("is the given model itself");
    assert_eq!(desk.names(), ["m.onnx"]);
    let old = desk.file("out.onnx", b"old");
    run(&["convert", QDQ, "--to", "qoperator", "-o", &out]).is_error_with_hint("exists");
    assert_eq!(std::fs::read(old).unwrap(), b"old");
    let cut = desk.changed("cut.onnx", QDQ, |m| {
        let tensors = &mut m.graph.as_mut().unwrap().initializer;
        let scale = tensors.iter_mut().find(|t| t.name() == "stem_scale").unwrap();
        scale.raw_data = Some(vec![0, 0, 128].into());
    });
    convert(&desk, &cut, &["--to", "qoperator"]).is_error("3 bytes of float32 do not fill");
    assert_eq!(std::fs::read(desk.path("out.onnx")).unwrap(), b"old");
}

#[test]
fn quantize_emits_operators_on_codes() {
    let desk = Desk::new();
    let outcome = desk.quantize_digits(&["--emit", "qoperator", "--contrib"]);
    assert_eq!(outcome.code, 0, "{}", outcome.words);
    for line in
        ["Operators on codes", "Conv QLinearConv 11", "Add com.microsoft.QLinearAdd 2", "Flatten Flatten on codes 1"]
    {
        assert!(has(&outcome.data, line), "`{line}` in {}", outcome.data);
    }
    let report = desk.report(DIGITS, CALIB, &["--emit", "qoperator"]);
    let skipped = report["skipped"].as_array().unwrap();
    assert!(
        skipped.iter().any(|s| s["pass"] == "to-qoperator" && s["reason"].as_str().unwrap().contains("QLinearAdd"))
    );
    desk.quantize_digits(&["--force", "--contrib"]).is_error_with_hint("`--contrib` says which operators");
    desk.quantize_digits(&["--force", "--emit", "qoperator", "--mode", "weights"])
        .is_error_with_hint("operators on codes take quantized activations");
}

#[test]
fn a_float_model_becomes_float16_and_bfloat16() {
    let desk = Desk::new();
    let data = ["--data", "fixtures/digits/eval.npz", "--samples", "50"];
    for (to, name, least) in [("fp16", "float16", "40"), ("bf16", "bfloat16", "20")] {
        let outcome = convert(&desk, DIGITS, &[&["--to", to, "--min-sqnr", least], &data[..]].concat());
        assert_eq!((outcome.code, outcome.words.as_str()), (0, &*format!("wrote `{}`\n", desk.path("out.onnx"))));
        for line in [format!("type {name}"), "casts 2 put in, 0 taken out".into()] {
            assert!(has(&outcome.data, &line), "`{line}` in {}", outcome.data);
        }
        let made = Model::read(desk.path("out.onnx").as_ref()).unwrap();
        assert_eq!(made.graph.nodes().filter(|(_, n)| n.is("Cast")).count(), 2);
        assert!(desk::run(&["check", &desk.path("out.onnx"), "--strict"]).data.starts_with("no errors"));
        let all = convert(&desk, DIGITS, &["--to", to, "--convert-io", "--json"]);
        let report: serde_json::Value = serde_json::from_str(&all.data).unwrap();
        assert_eq!((&report["to"], &report["casts"][0]), (&name.into(), &0.into()));
        let made = Model::read(desk.path("out.onnx").as_ref()).unwrap();
        assert_eq!(qdq::model::dtype_name(made.graph.stated_dtype("input").unwrap()), name);
    }
    let some = convert(&desk, DIGITS, &["--to", "fp16", "--exclude-ops", "Gemm", "--exclude", "*.add", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&some.data).unwrap();
    assert_eq!(report["left"].as_array().unwrap().len(), 3);
    assert!(report["left"].as_array().unwrap().iter().all(|l| l["reason"] == "excluded by the user"));
}

#[test]
fn what_cannot_become_float16_is_told() {
    let desk = Desk::new();
    convert(&desk, QDQ, &["--to", "qdq", "--convert-io"]).is_error_with_hint("say what becomes float16 or bfloat16");
    convert(&desk, DIGITS, &["--to", "fp16", "--contrib"]).is_error_with_hint("`--contrib` says which operators");
    convert(&desk, DIGITS, &["--to", "fp16", "--exclude", "nowhere"]).is_error("no node is called `nowhere`");
    let half = "fixtures/small/float16/model.onnx";
    convert(&desk, half, &["--to", "fp16"]).is_error_with_hint("nothing in the model computes in float32");
    assert!(desk.names().is_empty());
    // A weight past the range: the layer stays float32, and the user is told.
    let large = desk.changed("large.onnx", DIGITS, |m| {
        let weight = &mut m.graph.as_mut().unwrap().initializer;
        let weight = weight.iter_mut().find(|t| t.name() == "stem.weight").unwrap();
        let mut x = qdq::model::Tensor::from_proto(weight).unwrap().f32s().unwrap().into_owned();
        x[0] = 1e6;
        let shape = weight.dims.iter().map(|&d| d as usize).collect();
        *weight = qdq::model::Tensor::from_f32(shape, x).to_proto("stem.weight");
    });
    let outcome = convert(&desk, &large, &["--to", "fp16"]);
    assert!(outcome.data.contains("its constant `stem.weight` is past the range of float16"), "{}", outcome.data);
}
