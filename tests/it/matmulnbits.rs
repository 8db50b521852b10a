//! MatMulNBits in the place of MatMul: the same codes in another form.

use std::num::NonZeroUsize;

use crate::common::{difference, emit, model, model_of, node, noise_samples, samples_of, weights};
use qdq::dequantize::{Recipe, dequantize};
use qdq::error::ErrorKind;
use qdq::events::Silent;
use qdq::exec::Tract;
use qdq::inspect::quantization;
use qdq::integer::Style;
use qdq::model::{Model, NodeExt};
use qdq::number::Format;
use qdq::pass::Ends;
use qdq::plan::{Emit, Policy};
use qdq::quantize::{Quantized, quantize_weights};
use qdq::sample::Samples;
use qdq::target::ORT_CPU;

fn policy(weights: Format, block: usize, emit: Emit) -> Policy {
    Policy { weights, block_size: NonZeroUsize::new(block), emit, ..Policy::of(&ORT_CPU) }
}

fn quantized(float: &Model, policy: &Policy, samples: &dyn Samples) -> Quantized {
    quantize_weights(float, policy, Some((samples, &Tract)), None, &Silent).unwrap()
}

fn count(model: &Model, op: &str) -> usize {
    model.graph.nodes().filter(|(_, n)| n.op_type() == op).count()
}

/// Two products whose inputs fill their last block, or do not.
fn products(inputs: usize) -> Model {
    let nodes = vec![node("MatMul", "x w", "m", &[]), node("Add", "m b", "a", &[]), node("MatMul", "a v", "y", &[])];
    let constants = vec![weights("w", &[inputs, 40]), weights("b", &[40]), weights("v", &[40, 24])];
    model(13, &[2, 3, inputs], nodes, constants, &[("y", &[2, 3, 24])])
}

#[test]
fn packed_weights_are_those_between_dequantize_linear_and_matmul() {
    let formats = [
        (Format::UINT4, 4),
        (Format::INT4, 4),
        (Format::UINT8, 8),
        (Format::INT8, 8),
        (Format::UINT2, 2),
        (Format::INT2, 2),
        (Format::INT3, 4),
        (Format::UINT3, 4),
    ];
    for (format, bits) in formats {
        for (inputs, block) in [(64, 32), (50, 16), (33, 32)] {
            let float = products(inputs);
            let samples = noise_samples(&[2, 3, inputs], 4);
            let packed = quantized(&float, &policy(format, block, Emit::MatMulNBits), &samples);
            let plain = quantized(&float, &policy(format, block, Emit::Qdq), &samples);
            let name = format!("matmulnbits_{}_{inputs}_{block}", format.name);
            assert_eq!(
                (count(&packed.model, "MatMulNBits"), count(&packed.model, "DequantizeLinear")),
                (2, 0),
                "{name}"
            );
            assert_eq!(packed.report.counts, plain.report.counts, "{name}");
            let off = difference(&plain.model, &packed.model, &samples);
            assert!(off < 1e-6, "{name}: {off:e}");
            let (_, first) = packed.model.graph.nodes().find(|(_, n)| n.op_type() == "MatMulNBits").unwrap();
            assert_eq!(
                (first.int("bits"), first.int("K"), first.int("N")),
                (Some(bits), Some(inputs as i64), Some(40))
            );
            assert_eq!(first.input.len(), if format.signed() { 3 } else { 4 }, "{name}");
            assert_eq!((first.domain(), packed.model.imported("com.microsoft")), ("com.microsoft", Some(1)));
            let findings = qdq::check::check(&packed.model.to_proto(), None);
            assert_eq!(findings.errors, 0, "{name}: {findings:?}");
            assert_eq!(quantization(&packed.model).unwrap().unwrap().styles[0].style, Style::WeightOnly, "{name}");
            emit(&name, &float, &packed.model, &samples, &packed.report.outputs);
        }
    }
}

#[test]
fn the_way_back_is_the_float_model_with_rounded_weights() {
    let float = products(64);
    let samples = noise_samples(&[2, 3, 64], 4);
    let made = quantized(&float, &policy(Format::UINT8, 32, Emit::MatMulNBits), &samples);
    let back = dequantize(&made.model, None, &Recipe { ends: Ends::Open }, &Tract, &Silent).unwrap();
    assert_eq!((&back.report.left[..], quantization(&back.model).unwrap()), (&[][..], None));
    assert_eq!(count(&back.model, "MatMul"), 2);
    assert!(difference(&float, &back.model, &samples) < 0.02);
}

#[test]
fn a_weight_that_two_nodes_read_is_packed_once() {
    let nodes = vec![node("MatMul", "x w", "m", &[]), node("MatMul", "m w", "y", &[])];
    let float = model(13, &[3, 32], nodes, vec![weights("w", &[32, 32])], &[("y", &[3, 32])]);
    let samples = noise_samples(&[3, 32], 3);
    let made = quantized(&float, &policy(Format::UINT4, 16, Emit::MatMulNBits), &samples);
    let weights: Vec<String> = made.model.graph.nodes().map(|(_, n)| n.input[1].clone()).collect();
    assert_eq!(weights[0], weights[1]);
    assert_eq!(made.model.graph.initializers().count(), 3);
    emit("matmulnbits_shared", &float, &made.model, &samples, &made.report.outputs);
}

#[test]
fn what_has_no_blocks_stays_between_dequantize_linear_and_says_why() {
    let nodes = vec![node("MatMul", "x w", "m", &[]), node("Gemm", "m g", "n", &[]), node("MatMul", "n few", "y", &[])];
    let constants = vec![weights("w", &[32, 32]), weights("g", &[32, 8]), weights("few", &[8, 32])];
    let float = model(13, &[3, 32], nodes, constants, &[("y", &[3, 32])]);
    let samples = noise_samples(&[3, 32], 3);
    let made = quantized(&float, &policy(Format::UINT4, 16, Emit::MatMulNBits), &samples);
    assert_eq!((count(&made.model, "MatMulNBits"), count(&made.model, "DequantizeLinear")), (1, 2));
    let reason = |i: usize| made.report.nodes[i].reason.as_str();
    assert_eq!(reason(0), "its weight is packed in blocks");
    assert!(reason(1).contains("MatMul alone") && reason(2).contains("no blocks"), "{} / {}", reason(1), reason(2));
    emit("matmulnbits_mixed", &float, &made.model, &samples, &made.report.outputs);
}

#[test]
fn whole_models_and_the_same_bytes_each_time() {
    let float = model_of("small/transformer/model.onnx");
    let samples = samples_of("small/transformer/data.npz", &float);
    let policy = policy(Format::UINT4, 16, Emit::MatMulNBits);
    let made = quantized(&float, &policy, samples.as_ref());
    assert!(count(&made.model, "MatMulNBits") > 0);
    let again = quantize_weights(&float, &policy, None, None, &Silent).unwrap();
    assert!(made.model.to_bytes().unwrap() == again.model.to_bytes().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let scratch = qdq::model::Scratch::new(folder.path());
    let apart = quantize_weights(&float, &policy, None, Some(scratch), &Silent).unwrap();
    assert!(made.model.to_bytes().unwrap() == apart.model.to_bytes().unwrap());
}

#[test]
fn blocks_that_the_operator_does_not_have_are_refused() {
    for block in [0, 8, 24, 512] {
        let policy = policy(Format::UINT4, block, Emit::MatMulNBits);
        let e = quantize_weights(&products(64), &policy, None, None, &Silent).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Usage);
        assert!(e.to_string().contains("blocks of 16, 32"), "{e}");
    }
}
