//! What a runtime or chip wants, as data.

mod ort_cpu;

use crate::number::Format;

pub use ort_cpu::ORT_CPU;

/// What a runtime wants of a quantized model.
#[derive(Debug, Clone)]
pub struct Target {
    /// The name users write.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub about: &'static str,
    /// The format of activations.
    pub activations: Format,
    /// Activations have their zero point in the middle of the format.
    pub symmetric_activations: bool,
    /// The format of weights.
    pub weights: Format,
    /// One scale for each output channel of a weight.
    pub per_channel: bool,
    /// Signed weights leave their lowest code unused.
    pub narrow_weights: bool,
    /// The operators that are quantized.
    pub operators: &'static [&'static str],
    /// Of those, the ones whose integer kernels can write float: their output is quantized only where
    /// integers read it.
    pub float_output: &'static [&'static str],
    /// The lowest opset to emit: DequantizeLinear has an axis since 13.
    pub opset: i64,
}

impl Target {
    /// Every target, in the order they are listed to users.
    pub const ALL: [&'static Target; 1] = [&ORT_CPU];

    /// The target of that name.
    pub fn by_name(name: &str) -> Option<&'static Target> {
        Self::ALL.into_iter().find(|t| t.name == name)
    }
}
