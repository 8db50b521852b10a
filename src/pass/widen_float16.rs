//! Computes in float32 what a float16 model computes.

use super::{Context, Effect, Pass};
use crate::error::Result;
use crate::model::{Model, widen};

/// Widens float16 and bfloat16 constants and operators to float32; inputs and outputs of the model keep their types,
/// behind Cast nodes.
///
/// - **Does**: see [`crate::model::widen`].
/// - **Skips when** nothing in the model is narrow.
/// - **Before**: `x (float16) -> Conv(W float16) -> y (float16)`. **After**: `x -> Cast -> Conv(W float32) -> Cast -> y`.
/// - **Source**: QuantizeLinear takes float16 only since opset 19, and engines run it slowly.
#[derive(Debug, Clone, Copy)]
pub struct WidenFloat16;

impl Pass for WidenFloat16 {
    fn name(&self) -> &'static str {
        "widen-float16"
    }

    fn effect(&self) -> Effect {
        Effect::Rounding
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        cx.changed += usize::from(widen(model)?);
        Ok(())
    }
}
