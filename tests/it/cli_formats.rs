//! `qdq formats`, and `--weights` with its names, as a user meets them.

use crate::desk::{CALIB, DIGITS, Desk, run};
use qdq::number::WeightFormat;

#[test]
fn formats_are_listed() {
    let listed = run(&["formats"]);
    assert_eq!((listed.code, listed.words.as_str()), (0, ""));
    for format in WeightFormat::ALL {
        assert!(listed.data.lines().any(|l| l.split_whitespace().next() == Some(format.name)), "{}", listed.data);
    }
    let json: serde_json::Value =
        serde_json::from_str(&run(&["formats", "mxfp4", "int4/b128", "--json"]).data).unwrap();
    assert_eq!(
        (&json[0]["name"], &json[0]["bits_per_weight"], &json[0]["opset"]),
        (&"mxfp4".into(), &4.25.into(), &24.into())
    );
    assert_eq!((&json[1]["name"], &json[1]["bits_per_weight"]), (&"int4/b128".into(), &4.25.into()));
    assert_eq!(json[0]["native"].as_array().unwrap().len(), 0);
    let unknown = run(&["formats", "int9"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.words.contains("there is no format `int9`"), "{}", unknown.words);
}

#[test]
fn weights_take_a_format_by_its_name() {
    let desk = Desk::new();
    let out = desk.path("out.onnx");
    let quantize = |more: &[&str]| {
        let mode: &[&str] = if more.contains(&"--mode") { &[] } else { &["--mode", "weights"] };
        run(&[&["quantize", DIGITS, "--force", "-o", &out, "--json"], mode, more].concat())
    };
    for (options, format, storage) in [
        (&["--weights", "nf4"][..], "nf4", "native"),
        (&["--weights", "mxfp4", "--storage", "portable"], "mxfp4", "portable"),
        (&["--weights", "int4", "--block-size", "16"], "int4/b16", "native"),
        (&["--weights", "kmeans3/channel"], "kmeans3/channel", "native"),
        (&["--weights", "int4/affine"], "int4/affine", "native"),
    ] {
        let outcome = quantize(options);
        assert_eq!(outcome.code, 0, "{}", outcome.words);
        let report: serde_json::Value = serde_json::from_str(&outcome.data).unwrap();
        assert_eq!((&report["weights"]["format"], &report["weights"]["storage"]), (&format.into(), &storage.into()));
        assert!(report["weights"]["bits_per_weight"].as_f64().unwrap() > 3.0);
    }
    for (options, what) in [
        (&["--weights", "mxfp4"][..], "hint: store it in others with `--storage portable`"),
        (&["--weights", "mxfp4", "--block-size", "16"], "`mxfp4` has blocks of 32, not of 16"),
        (&["--weights", "nf5"], "there is no format `nf5`"),
        (&["--weights", "nf4", "--mode", "dynamic"], "integer operators multiply integers, and `nf4` is none"),
        (
            &["--mode", "static", "--data", CALIB, "--activations", "pow2-4", "--emit", "qoperator"],
            "no operator computes on codes of `pow2-4`",
        ),
        (&["--weights", "nf4", "--weight-clip", "octav"], "`octav` chooses ranges of integers"),
    ] {
        let outcome = quantize(options);
        assert_eq!(outcome.code, 2, "{}", outcome.data);
        assert!(outcome.words.contains(what), "{}", outcome.words);
    }
}
