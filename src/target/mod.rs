//! What a runtime or chip wants, as data.
//!
//! A [`Target`] says it in fields, which the plan obeys; no code asks for a target's name. The targets of this crate are
//! listed in [`Target::all`], one file each with its sources; users write others as TOML ([`Target::from_toml`]).

mod file;
mod formats;
mod openvino;
mod ort_arm;
mod ort_cpu;
mod ort_cpu_no_vnni;
mod qnn;
mod shape;
mod tables;
mod tensorrt;
mod tract;
mod xnnpack;

use serde::{Deserialize, Serialize};

use crate::number::{Format, QuantParams};

pub use formats::{FormatRow, format_table, onnxruntime_runs, tract_runs};
pub use openvino::OPENVINO;
pub use ort_arm::ORT_ARM;
pub use ort_cpu::ORT_CPU;
pub use ort_cpu_no_vnni::ORT_CPU_NO_VNNI;
pub use qnn::QNN;
pub use shape::{Extents, Small, Unless};
pub use tables::list;
pub use tensorrt::TENSORRT;
pub use tract::TRACT;
pub use xnnpack::XNNPACK;

/// What a runtime wants of a quantized model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The name users write.
    pub name: String,
    /// What it is, in a sentence.
    pub about: String,
    /// The lowest opset to emit: DequantizeLinear has an axis since 13.
    pub opset: i64,

    /// The format of activations.
    pub activations: Format,
    /// The formats that activations may have. Those of tables that no element type holds are simulated by operators in float.
    pub activation_formats: Vec<Format>,
    /// Operators compute on activations of 16 bits as they do on those of 8, all of an operator alike: the way out for values
    /// that lose too much in 8. They stay float elsewhere.
    pub wide_kernels: bool,
    /// Activations have their zero point in the middle of the format.
    pub symmetric_activations: bool,
    /// Narrower ranges, of activations and of weights, are widened to this; 0 where any will do.
    pub minimum_range: f64,

    /// The format of weights.
    pub weights: Format,
    /// The formats that weights may have.
    pub weight_formats: Vec<Format>,
    /// DequantizeLinear takes powers of two, float8e8m0, as scales of blocks.
    pub power_scales: bool,
    /// One scale for each output channel of a weight.
    pub per_channel: bool,
    /// The operators whose weights have one scale all the same.
    pub per_tensor_operators: Vec<String>,
    /// Signed weights leave their lowest code unused.
    pub narrow_weights: bool,
    /// What becomes of biases.
    pub bias: BiasForm,

    /// Which values carry Q/DQ.
    pub placement: Placement,
    /// The operators that are quantized.
    pub operators: Vec<String>,
    /// Of those, the ones whose integer kernels can write float: their output is quantized only where
    /// integers read it.
    pub float_output: Vec<String>,
    /// Gather picks rows of a table of codes, which become floats behind it, whether or not it is among the operators.
    pub tables: bool,
    /// What stands between float neighbours is quantized too: float falls back to another processor.
    pub everywhere: bool,
    /// A ReLU or Clip that no range can take the place of is one with the operator before it: no Q/DQ between them.
    pub fused_bounds: bool,
    /// Which inputs of an Add of two activations carry Q/DQ.
    pub residual_add: ResidualAdd,
    /// Which products of attention, MatMul of two activations, are quantized.
    pub attention: Attention,
    /// The operators whose inputs and output share one scale and zero point.
    pub tied: Vec<String>,

    /// Outputs whose scale and zero point the runtime prescribes.
    pub fixed_outputs: Vec<FixedOutput>,
    /// Shapes that are not worth integers.
    pub excluded: Vec<Small>,
}

/// Which values carry Q/DQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Those that quantized operators read and those that they write: kernels compute from codes to codes.
    Around,
    /// Those that quantized operators read, none for the sake of who writes it. What activates, bounds or moves values stays
    /// between float and float: the runtime fuses it with the operator before it, or moves QuantizeLinear past it.
    Inputs,
}

/// What becomes of biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BiasForm {
    /// int32 at the scale of the accumulator, behind DequantizeLinear.
    Int32,
    /// Float, as they are.
    Float,
}

/// Which inputs of an Add of two activations carry Q/DQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResidualAdd {
    /// Both.
    Both,
    /// The residual alone: the Add becomes one with the convolution on the other side. One that cannot stays float.
    ResidualSide,
}

/// Which products of attention are quantized: MatMul of two activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attention {
    /// All.
    All,
    /// All but those with what comes out of Softmax.
    Scores,
    /// None.
    None,
}

/// Scale and zero point that a runtime prescribes for the output of an operator in a format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedOutput {
    /// The operator.
    pub operator: String,
    /// The format of the output.
    pub format: Format,
    /// The scale, above zero.
    pub scale: f64,
    /// The zero point, a code of the format.
    pub zero_point: i32,
}

impl Target {
    /// Every target of this crate, in the order they are listed to users.
    pub fn all() -> [&'static Target; 8] {
        [&ORT_CPU, &ORT_CPU_NO_VNNI, &ORT_ARM, &TENSORRT, &OPENVINO, &QNN, &XNNPACK, &TRACT]
    }

    /// The target of that name.
    pub fn by_name(name: &str) -> Option<&'static Target> {
        Self::all().into_iter().find(|t| t.name == name)
    }

    /// The format of activations that lose too much in `base`: 16 bits, signed as `base` is; `None` where no operator computes on
    /// them.
    pub fn wide_activations(&self, base: Format) -> Option<Format> {
        let wide = if base.signed() { Format::INT16 } else { Format::UINT16 };
        (self.wide_kernels && base.bits < wide.bits && self.allows_activations(wide)).then_some(wide)
    }

    /// Whether integer kernels of the operator can write float.
    pub fn writes_float(&self, op: &str) -> bool {
        has(&self.float_output, op)
    }

    /// Whether the weight of the operator has one scale, whatever holds for others.
    pub fn one_scale(&self, op: &str) -> bool {
        has(&self.per_tensor_operators, op)
    }

    /// Whether inputs and output of the operator share one scale and zero point.
    pub fn ties(&self, op: &str) -> bool {
        has(&self.tied, op)
    }

    /// Scale and zero point that are prescribed for the output of the operator in that format.
    pub fn fixed_output(&self, op: &str, format: Format) -> Option<QuantParams> {
        let fixed = self.fixed_outputs.iter().find(|f| f.operator == op && f.format == format)?;
        QuantParams::per_tensor(format, fixed.scale as f32, fixed.zero_point).ok()
    }
}

fn has(list: &[String], op: &str) -> bool {
    list.iter().any(|o| o == op)
}

/// A list of names, as targets hold them.
fn names<const N: usize>(list: [&str; N]) -> Vec<String> {
    list.map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_keeps_the_rules_that_files_must_keep() {
        for target in Target::all() {
            target.check().unwrap_or_else(|e| panic!("{}: {e}", target.name));
            assert_eq!(Target::by_name(&target.name), Some(target));
            assert!(target.operators.is_sorted(), "{}", target.name);
        }
        assert_eq!(Target::by_name("abacus"), None);
    }

    #[test]
    fn prescribed_scales_hold_for_their_operator_and_format_alone() {
        let params = QNN.fixed_output("Tanh", Format::UINT16).unwrap();
        assert_eq!(params.channel(0), (1.0 / 32768.0, 32768));
        assert_eq!(QNN.fixed_output("Tanh", Format::UINT8), None);
        assert_eq!(QNN.fixed_output("Relu", Format::UINT16), None);
    }
}
