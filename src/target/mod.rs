//! What a runtime or chip wants, as data.

mod ort_cpu;

use crate::number::Format;

pub use ort_cpu::ORT_CPU;

/// What a runtime wants of a quantized model.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The name users write.
    pub name: String,
    /// What it is, in a sentence.
    pub about: String,
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
    pub operators: Vec<String>,
    /// Of those, the ones whose integer kernels can write float: their output is quantized only where
    /// integers read it.
    pub float_output: Vec<String>,
    /// The lowest opset to emit: DequantizeLinear has an axis since 13.
    pub opset: i64,
}

impl Target {
    /// Every target, in the order they are listed to users.
    pub fn all() -> [&'static Target; 1] {
        [&ORT_CPU]
    }

    /// The target of that name.
    pub fn by_name(name: &str) -> Option<&'static Target> {
        Self::all().into_iter().find(|t| t.name == name)
    }

    /// Whether integer kernels of the operator can write float.
    pub fn writes_float(&self, op: &str) -> bool {
        self.float_output.iter().any(|o| o == op)
    }
}
