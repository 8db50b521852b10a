//! Bad input of every kind: exit code 2, an `error:` that says what, mostly a `hint:`, and nothing left behind.

use crate::desk::{self, CALIB, DIGITS, Desk, bytes_of};
use qdq::model::{DataType, Tensor};

/// Fails unless quantizing is an error with this text, and the folder holds what it held before.
fn refused(desk: &Desk, model: &str, data: &str, text: &str, hint: bool) {
    let before = desk.names();
    let outcome = desk.quantize(model, data, &[]);
    outcome.is_error(text);
    if hint {
        outcome.is_error_with_hint(text);
    }
    assert_eq!(desk.names(), before, "{text}");
}

#[test]
fn files_that_are_no_models() {
    let desk = Desk::new();
    let folder = desk.path("");
    let cases = [
        (desk.path("none.onnx"), "no such file", false),
        (folder, "is a directory", false),
        (desk.file("empty.onnx", b""), "the file is empty", false),
        (desk.file("text.onnx", b"version https://git-lfs.github.com/spec/v1\n"), "not an ONNX model", true),
        (desk.file("page.onnx", b"<html><body>404</body></html>"), "not an ONNX model", true),
        (desk.changed("opset.onnx", DIGITS, |m| m.opset_import.clear()), "imports no operator set", true),
        (desk.changed("graph.onnx", DIGITS, |m| m.graph = None), "it has no graph", true),
    ];
    for (model, text, hint) in cases {
        refused(&desk, &model, CALIB, text, hint);
    }
}

#[test]
fn models_cut_short() {
    let desk = Desk::new();
    let whole = bytes_of(DIGITS);
    let ends = [1, 2, 7, 30, 100, 1000, whole.len() / 3, whole.len() / 2, whole.len() - 10, whole.len() - 1];
    for end in ends {
        let model = desk.file("cut.onnx", &whole[..end]);
        let before = desk.names();
        desk.quantize(&model, CALIB, &[]).is_error("`");
        assert_eq!(desk.names(), before, "{end}");
    }
}

#[test]
fn masks_that_say_nothing() {
    let desk = Desk::new();
    let nope = desk.quantize_digits(&["--mask", "nope"]);
    nope.is_error_with_hint("`fixtures/digits/model.onnx`: the model has no input `nope` that could be a mask");
    assert!(nope.words.contains("name one of its inputs: `input`"), "{}", nope.words);
    desk.quantize_digits(&["--mask", "input"]).is_error_with_hint("a mask is [batch, places]");
    desk::run(&["inspect", DIGITS, "--mask", "input"]).is_usage();
    let out = desk.path("out");
    desk::run(&["quantize", DIGITS, "--mode", "weights", "--mask", "input", "-o", &out]).is_usage();
    assert!(desk.names().is_empty());
}

#[cfg(not(feature = "ort"))]
#[test]
fn an_engine_that_was_not_built_in() {
    let desk = Desk::new();
    let out = desk.path("out");
    let hint = "hint: build it with `cargo build --release --features ort`";
    for (command, engine) in [("calibrate", "onnxruntime"), ("quantize", "onnxruntime"), ("validate", "both")] {
        let place: &[&str] = if command == "validate" { &[DIGITS] } else { &["-o", &out] };
        let outcome = desk::run(&[&[command, DIGITS, "--data", CALIB, "--engine", engine], place].concat());
        outcome.is_error_with_hint("this qdq was built without ONNX Runtime");
        assert!(outcome.words.contains(hint), "{}", outcome.words);
    }
    desk::run(&["calibrate", DIGITS, "--data", CALIB, "-o", &out, "--ort-lib", "libonnxruntime.so"]).is_usage();
    assert!(desk.names().is_empty());
}

#[test]
fn a_quantized_model() {
    let desk = Desk::new();
    assert_eq!(desk.quantize_digits(&[]).code, 0);
    std::fs::rename(desk.path("out.onnx"), desk.path("q.onnx")).unwrap();
    refused(&desk, &desk.path("q.onnx"), CALIB, "is quantized already: 72 of its nodes", true);
    let weights = ["quantize", &desk.path("q.onnx"), "--mode", "weights", "-o", &desk.path("w.onnx")];
    desk::run(&weights).is_error_with_hint("is quantized already");
}

#[test]
fn samples_that_do_not_fit() {
    let desk = Desk::new();
    let zeros = |shape: &[usize]| vec![0.0; shape.iter().product()];
    let shape: &[usize] = &[3, 1, 8, 8];
    let (wide, turned): (&[usize], &[usize]) = (&[3, 1, 8, 9], &[3, 8, 8, 1]);
    let integers = desk.path("integers.npy");
    ndarray_npy::write_npy(&integers, &ndarray::Array4::<i64>::zeros((3, 1, 8, 8))).unwrap();
    let bytes = desk.path("bytes.npy");
    ndarray_npy::write_npy(&bytes, &ndarray::Array4::<u8>::zeros((3, 1, 8, 8))).unwrap();
    std::fs::create_dir(desk.path("empty")).unwrap();
    desk.file("strange/a.txt", b"x");
    desk.file("broken/a.png", b"\x89PNG");
    desk.file("pb/test_data_set_0/input_0.pb", b"\xff\xff");
    desk.test_data("two", 0, &[Tensor::from_f32(vec![1, 1, 8, 8], zeros(&[64])), Tensor::from_i64(vec![1], vec![1])]);
    let calib = bytes_of(CALIB);
    let cases = [
        (desk.path("none.npz"), "no such file", true),
        (desk.path("empty"), "it is empty", true),
        (desk.path("strange"), "it holds 1 .txt", true),
        (desk.path("strange/a.txt"), "not a known kind of samples", true),
        (desk.path("broken"), "a.png", false),
        (desk.path("pb"), "not a tensor file", true),
        (desk.path("two"), "found 2 files", true),
        (desk.npz("name.npz", &[("image", shape, zeros(shape)), ("other", shape, zeros(shape))]), "input", true),
        (desk.npz("wide.npz", &[("input", wide, zeros(wide))]), "found `input: float32 [3, 1, 8, 9]`", true),
        (desk.npz("turned.npz", &[("input", turned, zeros(turned))]), "found `input: float32 [3, 8, 8, 1]`", true),
        (desk.npz("none.npz.npz", &[("input", &[0, 1, 8, 8], vec![])]), "expected `input: float32", true),
        (integers, "int64", true),
        (bytes, "uint8", true),
        (desk.file("empty.npz", b""), "empty.npz", false),
        (desk.file("text.npy", b"hello"), "text.npy", false),
        (desk.file("cut.npz", &calib[..calib.len() / 2]), "cut.npz", false),
        (desk.file("text.safetensors", b"hello"), "text.safetensors", false),
        ("random".to_owned(), "no such file", true),
        ("random:0".to_owned(), "0", false),
        ("random:many".to_owned(), "many", true),
        ("fixtures/ppocr_cls/calib.npz".to_owned(), "expected `input: float32 [batch, 1, 8, 8]`", true),
    ];
    for (data, text, hint) in cases {
        refused(&desk, DIGITS, &data, text, hint);
    }
    let outcome = desk.quantize_digits(&["--samples", "0"]);
    outcome.is_error_with_hint("0 samples were asked for");
}

#[test]
fn weights_beside_the_model() {
    const EXTERNAL: &str = "fixtures/small/external/model.onnx";
    const DATA: &str = "fixtures/small/external/data.npz";
    let desk = Desk::new();
    let model = desk.file("m.onnx", &bytes_of(EXTERNAL));
    let whole = bytes_of("fixtures/small/external/weights.bin");
    refused(&desk, &model, DATA, "external data of tensor `conv1.weight`", true);
    for end in [0, 100, 1344 + 160 - 1] {
        desk.file("weights.bin", &whole[..end]);
        refused(&desk, &model, DATA, "external data of tensor", false);
    }
    desk.file("weights.bin", &whole);
    for (location, text) in [("../x", "leaves the model's folder"), ("/etc/passwd", "leaves the model's folder")] {
        let model = desk.changed("away.onnx", EXTERNAL, |m| {
            let tensors = &mut m.graph.as_mut().unwrap().initializer;
            tensors[0].external_data[0].value = Some(location.to_owned());
        });
        refused(&desk, &model, DATA, text, true);
    }
    assert_eq!(desk.quantize(&model, DATA, &[]).code, 0);
}

#[test]
fn graphs_that_break_the_rules() {
    let desk = Desk::new();
    let cases = [
        (
            desk.changed("a.onnx", DIGITS, |m| drop(m.graph.as_mut().unwrap().initializer.remove(0))),
            "which nothing produces",
        ),
        (desk.changed("b.onnx", DIGITS, |m| drop(m.graph.as_mut().unwrap().node.remove(3))), "which nothing produces"),
        (desk.changed("c.onnx", DIGITS, |m| m.graph.as_mut().unwrap().input.clear()), "`input`"),
        (
            desk.changed("d.onnx", DIGITS, |m| m.graph.as_mut().unwrap().initializer[0].dims[0] = 17),
            "tensor `block1.depthwise.bn.bias`",
        ),
        (
            desk.changed("e.onnx", DIGITS, |m| m.graph.as_mut().unwrap().initializer[0].dims[0] = -1),
            "tensor `block1.depthwise.bn.bias`",
        ),
        (
            desk.changed("f.onnx", DIGITS, |m| {
                m.graph.as_mut().unwrap().initializer[0].data_type = Some(DataType::String as i32)
            }),
            "tensor `block1.depthwise.bn.bias`",
        ),
        (
            desk.changed("g.onnx", DIGITS, |m| m.graph.as_mut().unwrap().node[0].op_type = Some("Nonsense".into())),
            "Nonsense",
        ),
    ];
    for (model, text) in cases {
        refused(&desk, &model, CALIB, text, false);
    }
}

/// `/proc` takes no files, not even from root.
#[cfg(target_os = "linux")]
#[test]
fn folders_that_take_no_files() {
    let args = ["quantize", DIGITS, "--data", CALIB, "-o", "/proc/out.onnx"];
    desk::run(&args).is_error("`/proc/out.onnx`: cannot write");
}

#[test]
fn stages_of_codes_that_are_not_chosen() {
    let desk = Desk::new();
    desk.quantize(DIGITS, CALIB, &["--sequential"]).is_error_with_hint("each weight takes the nearest");
}

#[test]
fn steps_that_need_ranges_in_modes_without() {
    let desk = Desk::new();
    let out = desk.path("out.onnx");
    for (mode, step) in [
        ("dynamic", "--equalize"),
        ("dynamic", "--smooth"),
        ("weights", "--absorb-bias"),
        ("weights", "--limit-ranges"),
    ] {
        let args = ["quantize", DIGITS, "--mode", mode, step, "on", "--data", CALIB, "-o", &out];
        desk::run(&args).is_error(&format!("`{step} on` changes a model by the ranges of its values"));
        assert!(!std::path::Path::new(&out).exists());
    }
}
