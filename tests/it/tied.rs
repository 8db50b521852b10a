//! An embedding that is the last layer's weight too is stored once.

use std::num::NonZeroUsize;

use crate::common::{emit, model, node, noise_samples, weights};
use qdq::check::check;
use qdq::events::Silent;
use qdq::exec::Tract;
use qdq::model::{DataType, Model, NodeExt, attribute, width};
use qdq::number::Format;
use qdq::plan::{Emit, Policy};
use qdq::quantize::{Quantized, quantize_dynamic, quantize_weights};
use qdq::target::ORT_CPU;

/// Rows of a table of 128 by 64, picked by what `x` rounds to, through a layer, and back to 128 numbers by the same table.
fn tied(gemm: bool) -> Model {
    let mut nodes = vec![
        node("Cast", "x", "ids", &[attribute::int("to", DataType::Int64 as i64)]),
        node("Gather", "table ids", "picked", &[]),
        node("MatMul", "picked w", "hidden", &[]),
    ];
    match gemm {
        true => nodes.push(node("Gemm", "hidden table", "y", &[attribute::int("transB", 1)])),
        false => nodes.extend([
            node("Transpose", "table", "turned", &[attribute::ints("perm", &[1, 0])]),
            node("MatMul", "hidden turned", "y", &[]),
        ]),
    }
    let constants = vec![weights("table", &[128, 64]), weights("w", &[64, 64])];
    model(21, &[6], nodes, constants, &[("y", &[6, 128])])
}

/// The constants of a model that hold as many elements as the table, with the bytes of each.
fn tables(made: &Model) -> Vec<(String, usize)> {
    let large = made.graph.initializers().filter(|t| t.dims.iter().product::<i64>() == 128 * 64);
    let bytes = |t: &qdq::model::TensorProto| width(DataType::try_from(t.data_type()).unwrap()).unwrap_or(0);
    large.map(|t| (t.name().to_owned(), bytes(t))).collect()
}

fn holds_one_table(name: &str, float: &Model, made: &Quantized, least: f64) {
    let samples = noise_samples(&[6], 4);
    assert_eq!(tables(&made.model).len(), 1, "{name}: {:?}", tables(&made.model));
    assert!(tables(&made.model)[0].1 <= 1, "{name}");
    assert_eq!(check(&made.model.to_proto(), None).findings, [], "{name}");
    let db = made.report.outputs[0].sqnr_db.unwrap();
    assert!(db > least, "{name}: {db}");
    emit(name, float, &made.model, &samples, &made.report.outputs);
}

#[test]
fn tied_weights_are_stored_once_in_every_mode() {
    let samples = noise_samples(&[6], 4);
    let verify = Some((&samples as _, &Tract as _));
    let policy = Policy::of(&ORT_CPU);
    let block_size = NonZeroUsize::new(32);
    for gemm in [true, false] {
        let float = tied(gemm);
        let form = if gemm { "gemm" } else { "matmul" };
        let weights = |policy: &Policy| quantize_weights(&float, policy, verify, None, &Silent).unwrap();
        holds_one_table(&format!("tied_{form}_int8"), &float, &weights(&policy), 40.0);
        let few = Policy { weights: Format::UINT4, block_size, ..policy.clone() };
        holds_one_table(&format!("tied_{form}_uint4"), &float, &weights(&few), 20.0);
        let packed = Policy { emit: Emit::MatMulNBits, ..few };
        holds_one_table(&format!("tied_{form}_packed"), &float, &weights(&packed), 20.0);
        let dynamic = quantize_dynamic(&float, &policy, verify, None, &Silent).unwrap();
        holds_one_table(&format!("tied_{form}_dynamic"), &float, &dynamic, 30.0);
        assert_eq!(dynamic.report.counts.dynamic, 2, "{form}");
        assert_eq!(dynamic.model.graph.nodes().filter(|(_, n)| n.is("MatMulInteger")).count(), 2, "{form}");
    }
}
