//! From operators on codes to Q/DQ around float operators.

use super::{Context, Effect, Pass};
use crate::error::Result;
use crate::integer::unfold;
use crate::model::Model;

/// Rewrites operators on codes into float operators between DequantizeLinear and QuantizeLinear.
///
/// - **Does**: see [`crate::integer::unfold`].
/// - **Skips when** no single float operator computes the same; weights alone are codes, or activations are quantized by the
///   range they have in each run; a scale or a zero point is no constant, or does not fit; channels are last.
/// - **Before**: `MaxPool(QLinearConv(x, sx, zx, w, sw, zw, sy, zy))`. **After**:
///   `Q(MaxPool(DQ(Q(Conv(DQ(x, sx, zx), DQ(w, sw, zw)), sy, zy), sy, zy)), sy, zy)`.
/// - **Source**: as of [`ToQOperator`](super::ToQOperator).
#[derive(Debug, Clone, Copy)]
pub struct ToQdq;

impl Pass for ToQdq {
    fn name(&self) -> &'static str {
        "to-qdq"
    }

    fn effect(&self) -> Effect {
        Effect::Rounding
    }

    fn enters_bodies(&self) -> bool {
        true
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        let mut told = Vec::new();
        cx.changed += unfold(model, &mut |outcome| told.push(outcome))?;
        told.into_iter().for_each(|outcome| cx.tell(self, outcome));
        model.graph.prune_value_info(|_| false);
        Ok(())
    }
}
