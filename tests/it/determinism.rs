//! The same input and recipe give the same files, in every run and on any number of threads.

use std::process::Command;

use crate::desk::{CALIB, DIGITS, Desk};

/// What the command leaves in a folder of its own; `OUT` stands for the file it writes.
fn files(threads: &str, args: &[&str]) -> Vec<(String, Vec<u8>)> {
    let desk = Desk::new();
    let out = desk.path("out.onnx");
    let args: Vec<&str> = args.iter().map(|&a| if a == "OUT" { &out } else { a }).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_qdq"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("RAYON_NUM_THREADS", threads).args(&args);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let files = desk.names().into_iter().map(|n| (n.clone(), std::fs::read(desk.path(&n)).unwrap()));
    files.collect()
}

fn same(args: &[&str]) {
    let first = files("1", args);
    assert!(!first.is_empty());
    for threads in ["1", "2", "5"] {
        assert!(files(threads, args) == first, "{threads} threads: {args:?}");
    }
}

#[test]
fn quantized_models() {
    let digits = ["quantize", DIGITS, "--data", CALIB, "-o", "OUT"];
    same(&digits);
    for more in [
        &["--calibration", "entropy", "--weight-clip", "mse", "--per-tensor"][..],
        &["--symmetric-activations", "--activations", "uint16"],
        &["--external-data", "always", "--external-threshold", "100"],
    ] {
        same(&[&digits[..], more].concat());
    }
    same(&["quantize", "fixtures/small/float16/model.onnx", "--data", "random:4", "-o", "OUT"]);
    same(&["quantize", "fixtures/small/transformer/model.onnx", "--data", "random:4", "-o", "OUT"]);
}

#[test]
fn weights_alone() {
    for external in ["never", "always"] {
        same(&["quantize", DIGITS, "--mode", "weights", "--external-data", external, "-o", "OUT"]);
    }
}
