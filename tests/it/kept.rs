//! Values that are kept out of the format of activations, because they lose too much in it.

use crate::common::{emit, floats, model, node, noise, noise_samples, weights};
use qdq::check::check;
use qdq::events::Silent;
use qdq::exec::Tract;
use qdq::lint::lint;
use qdq::model::{DataType, Linear, Model, NodeExt};
use qdq::number::Format;
use qdq::plan::{Policy, Steps};
use qdq::quantize::{Quantized, Recipe, quantize};
use qdq::target::{ORT_CPU, QNN, Target};

/// Six products in a row. Between the first two, one channel is a thousand times the others, and counts as much as they do.
fn lopsided() -> Model {
    let square = |name: &str, factor: &dyn Fn(usize) -> f32| {
        let x: Vec<f32> = noise(name.len() as u64, 256).iter().enumerate().map(|(i, x)| x * factor(i)).collect();
        floats(name, &[16, 16], &x)
    };
    let mut constants = vec![
        square("w1", &|i| if i % 16 == 0 { 1000.0 } else { 1.0 }),
        square("w2", &|i| if i < 16 { 0.001 } else { 1.0 }),
    ];
    constants.extend((3..=6).map(|i| weights(&format!("w{i}"), &[16, 16])));
    let nodes = vec![
        node("Gemm", "x w1", "a", &[]),
        node("Transpose", "a", "b", &[]),
        node("Transpose", "b", "c", &[]),
        node("Gemm", "c w2", "d", &[]),
        node("Gemm", "d w3", "e", &[]),
        node("Relu", "e", "f", &[]),
        node("Gemm", "f w4", "g", &[]),
        node("Gemm", "g w5", "h", &[]),
        node("Gemm", "h w6", "y", &[]),
    ];
    model(21, &[8, 16], nodes, constants, &[("y", &[8, 16])])
}

fn quantized(target: &Target, choose: bool) -> Quantized {
    let policy = Policy { choose_activations: choose, steps: Steps::NONE, ..Policy::of(target) };
    let samples = noise_samples(&[8, 16], 20);
    quantize(&lopsided(), &samples, &Recipe { policy }, &Tract, &Silent).unwrap()
}

fn sqnr(quantized: &Quantized) -> f64 {
    quantized.report.outputs[0].sqnr_db.unwrap()
}

#[test]
fn what_loses_too_much_gets_16_bits_where_the_target_has_them() {
    let (plain, chosen) = (quantized(&QNN, false), quantized(&QNN, true));
    assert!(plain.report.kept.is_none());
    let kept = chosen.report.kept.as_ref().unwrap();
    assert!(kept.taken && kept.gain_db.unwrap() > 8.0, "{kept:?}");
    let worst = &kept.values[0];
    assert_eq!((worst.value.as_str(), worst.node.as_str(), worst.format), ("a", "a_node", "uint16"));
    // The two that only move it share its codes.
    assert_eq!((worst.values, kept.products), (3, (2, 6)));
    assert!(sqnr(&chosen) > sqnr(&plain) + 8.0, "{} {}", sqnr(&chosen), sqnr(&plain));

    // All activations of a node have one width: codes are turned between the nodes.
    let values = &chosen.plan.values;
    assert_eq!(["x", "a", "b", "c", "d"].map(|v| values[v].params.format()), [Format::UINT16; 5]);
    assert_eq!(["f", "g", "h", "y"].map(|v| values[v].params.format()), [Format::UINT8; 4]);
    let turned: Vec<&str> = values.iter().filter(|(_, d)| d.turned.is_some()).map(|(v, _)| v.as_str()).collect();
    assert_eq!(turned, ["d"]);
    let graph = &chosen.model.graph;
    let found = lint(graph, chosen.model.opset(), &chosen.plan, true).unwrap();
    assert!(found.iter().all(|f| f.rule == "int16-sum"), "{found:?}");
    assert_eq!(check(&chosen.model.to_proto(), None).findings, []);
    let next = |value: &str| graph.uses(value).iter().find_map(|u| graph.node(u.node));
    let through = |value: &str| next(value).and_then(|n| n.output_at(0)).unwrap().to_owned();
    let quantizes = |value: &str| Linear::read(graph, next(value).unwrap()).unwrap().dtype;
    let wide = through(&through("d"));
    assert_eq!((quantizes("d"), quantizes(&wide)), (DataType::Uint16, DataType::Uint8));
    assert_eq!(next(&through(&through(&wide))).unwrap().name(), "e_node");
    emit("kept_wide", &lopsided(), &chosen.model, &noise_samples(&[8, 16], 20), &chosen.report.outputs);
}

#[test]
fn what_loses_too_much_stays_float_elsewhere() {
    let (plain, chosen) = (quantized(&ORT_CPU, false), quantized(&ORT_CPU, true));
    let kept = chosen.report.kept.as_ref().unwrap();
    assert!(kept.taken, "{kept:?}");
    assert_eq!(kept.values[0].format, "float");
    assert!(kept.products.0 == 1 && kept.products.1 == 6, "{kept:?}");
    assert!(sqnr(&chosen) > sqnr(&plain) + 3.0, "{} {}", sqnr(&chosen), sqnr(&plain));
    let reasons: Vec<&str> = chosen.report.nodes.iter().map(|n| n.reason.as_str()).collect();
    assert!(reasons.iter().any(|r| r.ends_with("stays float: it loses too much in uint8")), "{reasons:?}");
    assert_eq!(check(&chosen.model.to_proto(), None).findings, []);
}

#[test]
fn values_are_not_chosen_without_samples() {
    let policy = Policy { choose_activations: true, ..Policy::of(&QNN) };
    assert!(policy.check_choice(false).is_err() && policy.check_choice(true).is_ok());
    assert!(policy.check_mode(qdq::plan::Mode::Dynamic).is_err());
    assert_eq!(policy.opset(), 21);
}
