//! `qdq targets`, and `--target` with a file, as a user meets them.

use crate::desk::{CALIB, DIGITS, Desk, run};
use qdq::target::Target;

#[test]
fn targets_are_listed_and_shown() {
    let listed = run(&["targets"]);
    assert_eq!((listed.code, listed.words.as_str()), (0, ""));
    for target in Target::all() {
        assert!(listed.data.contains(&target.name), "{}", listed.data);
        let shown = run(&["targets", &target.name]);
        assert!(shown.data.starts_with(&format!("Target {}\n", target.name)), "{}", shown.data);
        let json: serde_json::Value = serde_json::from_str(&run(&["targets", &target.name, "--json"]).data).unwrap();
        assert_eq!(json, serde_json::to_value(target).unwrap());
    }
    let json: serde_json::Value = serde_json::from_str(&run(&["targets", "--json"]).data).unwrap();
    assert_eq!(json.as_array().unwrap().len(), Target::all().len());
    let unknown = run(&["targets", "abacus"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.words.contains("targets are ort-cpu, "), "{}", unknown.words);
}

#[test]
fn a_file_is_a_target() {
    let desk = Desk::new();
    let toml = run(&["targets", "tensorrt", "--toml"]).data;
    let same = desk.file("same.toml", toml.as_bytes());
    let other = desk.file("other.toml", b"based_on = \"tensorrt\"\nbias = \"int32\"\nexcluded = []\n");
    let quantized = |target: &str, out: &str| {
        let out = desk.path(out);
        let outcome = run(&["quantize", DIGITS, "--data", CALIB, "--target", target, "-o", &out]);
        assert_eq!(outcome.code, 0, "{}", outcome.words);
        (outcome.data, std::fs::read(out).unwrap())
    };
    let (_, own) = quantized("tensorrt", "own.onnx");
    assert!(quantized(&same, "same.onnx").1 == own);
    let (told, _) = quantized(&other, "other.onnx");
    assert!(told.contains("target           other\n") && told.contains(", 12 biases\n"), "{told}");
}

#[test]
fn a_wrong_file_is_an_error_that_names_the_key() {
    let desk = Desk::new();
    for (text, want) in [
        ("per_chanel = true", "`per_chanel` is no key of a target"),
        ("bias = 3", "`bias`: "),
        ("bias =", "line 1: "),
        ("operators = [\"conv\"]", "`conv` is no operator that can be quantized"),
    ] {
        let file = desk.file("wrong.toml", text.as_bytes());
        let outcome = run(&["quantize", DIGITS, "--data", CALIB, "--target", &file, "-o", &desk.path("out.onnx")]);
        assert_eq!(outcome.code, 2);
        assert!(outcome.words.contains(want) && outcome.words.contains("wrong.toml"), "{}", outcome.words);
    }
    let missing = run(&["targets", &desk.path("none.toml")]);
    assert!(missing.code == 2 && missing.words.contains("none.toml"), "{}", missing.words);
}

#[test]
fn formats_that_a_target_does_not_take_are_refused() {
    let desk = Desk::new();
    for (more, want) in [
        (["tensorrt", "--activations", "uint8"], "target `tensorrt` takes no activations of uint8"),
        (["ort-cpu-no-vnni", "--weights", "int8"], "target `ort-cpu-no-vnni` takes no weights of int8"),
    ] {
        let out = desk.path("out.onnx");
        let outcome = run(&[&["quantize", DIGITS, "--data", CALIB, "-o", &out, "--target"], &more[..]].concat());
        assert_eq!(outcome.code, 2);
        assert!(outcome.words.contains(want) && outcome.words.contains("hint: formats of"), "{}", outcome.words);
    }
}

#[test]
fn explain_shows_a_target_as_targets_does() {
    let shown = run(&["explain", "target", "qnn"]);
    assert_eq!((shown.code, &shown.data), (0, &run(&["targets", "qnn"]).data));
    assert_eq!(run(&["explain", "target", "abacus"]).code, 2);
    assert_eq!(run(&["explain", "--lint"]).code, 2);
}
