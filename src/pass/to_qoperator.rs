//! From Q/DQ around float operators to operators on codes.

use super::{Context, Effect, Pass};
use crate::error::Result;
use crate::integer::fold;
use crate::model::Model;

/// Rewrites what stands between DequantizeLinear and QuantizeLinear into operators on codes.
///
/// - **Does**: see [`crate::integer::fold`].
/// - **Skips when** there is no operator on codes, or with `contrib` unset only onnxruntime's own; an input is not quantized,
///   or the output is read as float; types, scales or zero points are none that kernels take; a ReLU or Clip cuts more off
///   than the codes; a bias is no constant or does not fit int32.
/// - **Before**: `Q(Conv(DQ(x, sx, zx), DQ(w, sw, zw), DQ(b)), sy, zy)`. **After**: `QLinearConv(x, sx, zx, w, sw, zw, sy, zy, b)`.
/// - **Source**: ONNX QLinearConv-10, QLinearMatMul-21; onnxruntime's docs/ContribOperators.md, docs/OperatorKernels.md.
#[derive(Debug, Clone, Copy)]
pub struct ToQOperator {
    /// Whether onnxruntime's own operators (com.microsoft) may be used.
    pub contrib: bool,
}

impl Pass for ToQOperator {
    fn name(&self) -> &'static str {
        "to-qoperator"
    }

    fn effect(&self) -> Effect {
        Effect::Rounding
    }

    fn enters_bodies(&self) -> bool {
        true
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        let mut told = Vec::new();
        cx.changed += fold(model, self.contrib, &mut |outcome| told.push(outcome))?;
        told.into_iter().for_each(|outcome| cx.tell(self, outcome));
        Ok(())
    }
}
