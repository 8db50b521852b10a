//! Operators on codes become float operators between Q and DQ.

use crate::error::Result;
use crate::integer::expand;
use crate::model::Model;
use crate::pass::{Context, Effect, Pass};

/// Rewrites every operator that computes on codes into the float operator that it stands for.
///
/// - **Does**: see [`crate::integer::expand`].
/// - **Skips when** no single float operator computes the same; a scale or a zero point is no constant (what
///   DynamicQuantizeLinear computes may stay); they do not fit the codes; the sums of ConvInteger and MatMulInteger do not
///   go through one Cast and one Mul with the scales; channels are last.
/// - **Before**: `y = QLinearAdd(a, sa, za, b, sb, zb, sy, zy)`. **After**: `y = Q(Add(DQ(a, sa, za), DQ(b, sb, zb)), sy, zy)`.
/// - **Source**: ONNX QLinearConv-10, QLinearMatMul-21, ConvInteger-10, MatMulInteger-10; onnxruntime's
///   docs/ContribOperators.md.
#[derive(Debug, Clone, Copy)]
pub struct ExpandInteger;

impl Pass for ExpandInteger {
    fn name(&self) -> &'static str {
        "expand-integer"
    }

    fn effect(&self) -> Effect {
        Effect::Rounding
    }

    fn enters_bodies(&self) -> bool {
        true
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        let mut left = Vec::new();
        cx.changed += expand(model, &mut |_, node, reason| left.push((node, reason)))?;
        for (node, reason) in left {
            cx.skip(self, model, node, reason);
        }
        model.graph.prune_value_info(|_| false);
        Ok(())
    }
}
