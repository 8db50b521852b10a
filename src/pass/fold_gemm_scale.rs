//! The factors of Gemm become part of its constants.

use super::refusal::{Refusal, float_constant, no, settle};
use super::{Context, Effect, Pass};
use crate::error::Result;
use crate::model::{Graph, Model, NodeExt, Tensor, Use};

/// Folds `alpha` and `beta` of Gemm into its constant weight and bias.
///
/// - **Does**: multiplies the weight `B` by `alpha` and the bias `C` by `beta` (in f64, rounded once to their type), so
///   that both factors are 1. A constant that something else reads too is copied first.
/// - **Skips when** a factor is not 1 and its tensor is not a constant of floats, or would not be finite.
/// - **Before**: `y = Gemm(x, B, C) alpha=0.5 beta=2`. **After**: `y = Gemm(x, B', C')`, `B' = 0.5 B`, `C' = 2 C`.
/// - **Source**: operator Gemm-13, `Y = alpha * A' * B' + beta * C`.
#[derive(Debug, Clone, Copy)]
pub struct FoldGemmScale;

impl Pass for FoldGemmScale {
    fn name(&self) -> &'static str {
        "fold-gemm-scale"
    }

    fn effect(&self) -> Effect {
        Effect::Rounding
    }

    fn enters_bodies(&self) -> bool {
        true
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        for id in model.graph.node_ids() {
            for (factor, slot, what) in [("alpha", 1, "weight"), ("beta", 2, "bias")] {
                let value = model.graph.node(id).filter(|n| n.is("Gemm")).and_then(|n| n.float(factor));
                if let Some(value) = value.filter(|&v| v != 1.0) {
                    let outcome = fold(&mut model.graph, Use { node: id, slot }, factor, value.into(), what);
                    settle(outcome, self, model, id, cx)?;
                }
            }
        }
        Ok(())
    }
}

fn fold(graph: &mut Graph, at: Use, factor: &str, value: f64, what: &str) -> Result<(), Refusal> {
    let Some(node) = graph.node(at.node) else { return Ok(()) };
    if let Some(name) = node.input_at(at.slot).map(str::to_owned) {
        let reason = |r| match r {
            Refusal::Skip(why) => Refusal::Skip(format!("`{factor}` is {value}, and {why}")),
            fail => fail,
        };
        let tensor = float_constant(graph, node, at.slot, what).map_err(reason)?;
        let new: Vec<f64> = tensor.f64s()?.iter().map(|x| x * value).collect();
        let new = Tensor::from_f64(tensor.dtype(), tensor.shape().to_vec(), &new)?;
        if new.f64s()?.iter().any(|x| !x.is_finite()) {
            return no(format!("its {what} times `{factor}` would not be finite"));
        }
        graph.give_constant(at, &name, &new)?;
    }
    graph.edit(at.node, |n| drop(n.take(factor)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::sketch::{self, floats, graph, lines, model, node};
    use super::*;
    use crate::model::attribute;

    #[test]
    fn factors_move_into_the_constants() {
        let factors = [attribute::float("alpha", 0.5), attribute::int("transB", 1), attribute::float("beta", 2.0)];
        let nodes = vec![node("Gemm", "x w c", "h", &factors), node("Gemm", "h w", "y", &factors[..2])];
        let constants = vec![floats("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0]), floats("c", &[2], &[5.0, 6.0])];
        let mut m = model(13, graph("x", nodes, constants, "y"));
        assert_eq!(sketch::run(&FoldGemmScale, &mut m).unwrap(), (3, vec![]));
        assert_eq!(lines(&m.graph.to_proto()), ["h = Gemm(x, w_2, c) transB=1", "y = Gemm(h, w) transB=1"]);
        for (name, x) in [("w", [0.5, 1.0, 1.5, 2.0].as_slice()), ("w_2", &[0.5, 1.0, 1.5, 2.0]), ("c", &[10.0, 12.0])]
        {
            assert_eq!(m.graph.constant(name).unwrap().unwrap().f64s().unwrap(), x);
        }
    }

    #[test]
    fn what_is_not_constant_keeps_its_factor() {
        let factors = [attribute::float("alpha", 0.5), attribute::float("beta", 2.0)];
        let nodes = vec![node("Gemm", "x w x", "y", &factors)];
        let mut m = model(13, graph("x", nodes, vec![floats("w", &[1, 1], &[1.0])], "y"));
        let (changed, skipped) = sketch::run(&FoldGemmScale, &mut m).unwrap();
        assert!(changed == 1 && skipped[0].reason == "`beta` is 2, and its bias `x` is a graph input");
        assert_eq!(lines(&m.graph.to_proto()), ["y = Gemm(x, w, x) beta=2"]);
    }
}
