//! `qdq calibrate`, and `qdq quantize --ranges`, as a user meets them.

use crate::desk::{CALIB, DIGITS, Desk, bytes_of, run};
use assert_cmd::Command;

impl Desk {
    /// Calibrates digits into a file of the folder, and returns its bytes.
    fn calibrate(&self, name: &str, more: &[&str]) -> Vec<u8> {
        let outcome = run(&[&["calibrate", DIGITS, "--data", CALIB, "-o", &self.path(name)], more].concat());
        assert_eq!((outcome.code, outcome.data.as_str()), (0, ""), "{}", outcome.words);
        std::fs::read(self.path(name)).unwrap()
    }

    /// A file of ranges in the folder, changed.
    fn spoiled(&self, ranges: &[u8], change: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut json: serde_json::Value = serde_json::from_slice(ranges).unwrap();
        change(&mut json);
        self.file("spoiled.json", json.to_string().as_bytes())
    }
}

#[test]
fn shares_merge_into_the_file_of_one_run() {
    let desk = Desk::new();
    let whole = desk.calibrate("whole.json", &[]);
    for i in 1..=3 {
        desk.calibrate(&format!("{i}.json"), &["--shard", &format!("{i}/3"), "--quiet"]);
    }
    for order in [["1", "2", "3"], ["3", "1", "2"]] {
        let files = order.map(|i| desk.path(&format!("{i}.json")));
        let out = desk.path("merged.json");
        let merge: Vec<&str> = ["calibrate", "-o", &out, "--force", "--merge"]
            .into_iter()
            .chain(files.iter().map(|f| f.as_str()))
            .collect();
        let outcome = run(&merge);
        assert_eq!(outcome.code, 0, "{}", outcome.words);
        assert!(std::fs::read(&out).unwrap() == whole, "{order:?}");
    }
    let json: serde_json::Value = serde_json::from_slice(&whole).unwrap();
    assert_eq!(
        (json["format"].as_str(), json["version"].as_u64(), json["samples"].as_u64()),
        (Some("qdq ranges"), Some(1), Some(100))
    );
    let input = &json["values"]["input"];
    assert_eq!(input["count"], 6400);
    let sum = |key: &str| input[key].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("below") + sum("above") + input["zeros"].as_u64().unwrap(), 6400);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let desk = Desk::new();
    let on = |threads: &str| {
        let out = desk.path(threads);
        let mut command = Command::new(env!("CARGO_BIN_EXE_qdq"));
        let command = command.current_dir(env!("CARGO_MANIFEST_DIR")).env("RAYON_NUM_THREADS", threads);
        command.args(["calibrate", DIGITS, "--data", CALIB, "-o", &out]).assert().success();
        std::fs::read(out).unwrap()
    };
    let one = on("1");
    assert!(one == on("3") && one == on("7"));
}

#[test]
fn ranges_quantize_as_the_samples_do() {
    let desk = Desk::new();
    let ranges = desk.path("ranges.json");
    desk.calibrate("ranges.json", &["--samples", "8"]);
    for method in
        ["min-max", "moving-average", "percentile:99", "entropy", "mse", "mse:3", "octav", "aciq", "isotone", "auto"]
    {
        // As few as 8 samples all calibrate.
        // Steps are chosen by trying them on samples, or on none.
        let steps = ["--equalize", "off", "--absorb-bias", "off", "--limit-ranges", "off", "--correct-bias", "off"];
        let by = [&["--samples", "8", "--calibration", method, "--force"][..], &steps].concat();
        assert_eq!(desk.quantize_digits(&by).code, 0, "{method}");
        let by_samples = std::fs::read(desk.path("out.onnx")).unwrap();
        let out = desk.path("out.onnx");
        let command = ["quantize", DIGITS, "--ranges", &ranges, "-o", &out, "--calibration", method, "--force"];
        let outcome = run(&[&command[..], &steps].concat());
        assert_eq!(outcome.code, 0, "{}", outcome.words);
        assert!(std::fs::read(&out).unwrap() == by_samples, "{method}");
        assert!(
            outcome.data.contains("8 calibrated before") && outcome.data.contains("not verified"),
            "{}",
            outcome.data
        );
    }
    let verified = desk.report(DIGITS, CALIB, &["--ranges", &ranges]);
    assert_eq!(verified["samples"]["verification"], 100);
    assert_eq!(verified["outputs"][0]["name"], "logits");
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let desk = Desk::new();
    let good = desk.calibrate("good.json", &["--samples", "4"]);
    let quantize =
        |model: &str, ranges: &str| run(&["quantize", model, "--ranges", ranges, "-o", &desk.path("out.onnx")]);
    let with = |change: &dyn Fn(&mut serde_json::Value)| quantize(DIGITS, &desk.spoiled(&good, change));

    let other = desk.changed("other.onnx", DIGITS, |m| {
        m.graph.as_mut().unwrap().node[0].name = Some("another".into());
    });
    quantize(&other, &desk.path("good.json")).is_error_with_hint("the ranges are of another model");
    with(&|j| j["version"] = 2.into()).is_error_with_hint("version 2, and version 1 is read");
    with(&|j| j["format"] = "other".into()).is_error_with_hint("no file of ranges");
    with(&|j| j["bins"] = 100.into()).is_error("histograms of 100 bins");
    with(&|j| drop(j["values"].as_object_mut().unwrap().remove("input"))).is_error_with_hint("nothing about `input`");
    with(&|j| j["values"]["input"]["count"] = 7.into()).is_error("`input`: the histogram contradicts itself");
    with(&|j| j["values"]["input"]["max"] = serde_json::Value::Null).is_error("contradicts itself");
    with(&|j| j["values"]["input"]["exponent"] = 40.into()).is_error("contradicts itself");
    with(&|j| j["more"] = 1.into()).is_error_with_hint("unknown field `more`");
    for text in [&b""[..], b"{", b"[]", b"null", &[0xff, 0xfe], b"{\"format\":\"qdq ranges\",\"version\":1}"] {
        quantize(DIGITS, &desk.file("garbage.json", text)).is_error("garbage.json");
    }
    quantize(DIGITS, &desk.path("none.json")).is_error("none.json");

    let strange = desk.spoiled(&good, |j| j["model"] = "0".into());
    run(&["calibrate", "-o", &desk.path("m.json"), "--merge", &desk.path("good.json"), &strange])
        .is_error_with_hint("different models");
    assert!(!desk.names().iter().any(|n| n == "out.onnx" || n == "m.json"));
}

#[test]
fn calibrate_refuses_what_makes_no_sense() {
    let desk = Desk::new();
    let out = desk.path("r.json");
    run(&["calibrate", DIGITS, "-o", &out]).is_usage();
    run(&["calibrate", "-o", &out]).is_usage();
    run(&["calibrate", DIGITS, "--merge", "a.json", "-o", &out]).is_usage();
    run(&["calibrate", DIGITS, "--data", CALIB, "--shard", "3/2", "-o", &out]).is_usage();
    run(&["calibrate", DIGITS, "--data", CALIB, "--samples", "2", "--shard", "3/3", "-o", &out])
        .is_error_with_hint("none of the 2 samples");
    desk.calibrate("r.json", &["--samples", "2"]);
    run(&["calibrate", DIGITS, "--data", CALIB, "-o", &out]).is_error_with_hint("exists");
    run(&["calibrate", DIGITS, "--data", CALIB, "-o", DIGITS, "--force"]).is_error_with_hint("given model itself");
    assert_eq!(bytes_of(DIGITS).len(), std::fs::metadata(DIGITS).unwrap().len() as usize);
    let quantize =
        |more: &[&str]| run(&[&["quantize", DIGITS, "--data", CALIB, "-o", &desk.path("o.onnx")], more].concat());
    quantize(&["--calibration", "kl"]).is_usage();
    quantize(&["--calibration", "mse:100"]).is_usage();
    quantize(&["--weight-clip", "isotone"]).is_error_with_hint("cannot choose ranges of weights");
    quantize(&["--mode", "weights", "--ranges", &out]).is_error_with_hint("need no ranges");
}
