//! The table, in alphabetical order.

use serde::Serialize;

use crate::model::{Linear, NodeExt, NodeProto};
use crate::rule::RULES;

/// How a quantized model keeps and computes its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Style {
    /// Float operators between DequantizeLinear and QuantizeLinear.
    Qdq,
    /// Operators that take codes, scales and zero points.
    #[serde(rename = "qoperator")]
    QOperator,
    /// Activations are quantized by the range they have in each run.
    Dynamic,
    /// Weights are codes; activations are floats.
    WeightOnly,
}

impl Style {
    /// The name users know.
    pub fn name(self) -> &'static str {
        match self {
            Style::Qdq => "QDQ",
            Style::QOperator => "QOperator",
            Style::Dynamic => "dynamic",
            Style::WeightOnly => "weight-only",
        }
    }
}

/// An operator that computes on codes.
#[derive(Debug, Clone, Copy)]
pub struct IntegerOp {
    domain: &'static str,
    /// The operator.
    pub op: &'static str,
    /// The operator of ONNX's own domain that computes on floats what this one computes on codes; `None` where no
    /// single one does.
    pub float: Option<&'static str>,
    /// How many inputs in front of the operands are handed on as they are.
    pub before: usize,
    /// The inputs that are codes.
    pub operands: Operands,
    /// The slot of the bias: int32 at the scale of the sums, or float where the output is float.
    pub bias: Option<usize>,
    /// What comes out.
    pub output: Output,
    /// The style it belongs to. Operators that give sums belong to [`Style::Dynamic`] only where their activations do.
    pub style: Style,
}

/// An input that is codes: the slots of the codes, of their scale and of their zero point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operand {
    /// The codes.
    pub codes: usize,
    /// Their scale; `None` where the operator does not take it.
    pub scale: Option<usize>,
    /// Their zero point; `None` where the operator does not take it.
    pub zero: Option<usize>,
    /// Whether it stands in the place of a weight.
    pub weight: bool,
}

/// The inputs that are codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operands {
    /// These.
    Each(&'static [Operand]),
    /// Codes, scale and zero point in turn, from this slot on.
    Triples(usize),
}

/// What comes out of an operator on codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Codes, whose scale and zero point stand in these slots; floats where the scale is left out.
    Codes(usize, usize),
    /// The sums of products, in int32.
    Sums,
    /// Floats.
    Floats,
}

/// The domain of onnxruntime's own operators.
pub(super) const MS: &str = "com.microsoft";

const fn data(codes: usize, scale: usize, zero: usize) -> Operand {
    Operand { codes, scale: Some(scale), zero: Some(zero), weight: false }
}

const fn weight(codes: usize, scale: usize, zero: usize) -> Operand {
    Operand { weight: true, ..data(codes, scale, zero) }
}

const fn op(op: &'static str, float: &'static str, operands: &'static [Operand], output: Output) -> IntegerOp {
    let operands = Operands::Each(operands);
    let style = Style::QOperator;
    IntegerOp { domain: MS, op, float: Some(float), before: 0, operands, bias: None, output, style }
}

const fn unary(name: &'static str, float: &'static str) -> IntegerOp {
    op(name, float, ONE, Output::Codes(3, 4))
}

const ONE: &[Operand] = &[data(0, 1, 2)];
const TWO: &[Operand] = &[data(0, 1, 2), data(3, 4, 5)];
const WEIGHTED: &[Operand] = &[data(0, 1, 2), weight(3, 4, 5)];
const SUMMED: &[Operand] = &[
    Operand { codes: 0, scale: None, zero: Some(2), weight: false },
    Operand { codes: 1, scale: None, zero: Some(3), weight: true },
];

/// Every operator on codes whose inputs are known.
///
/// Sources: ai.onnx ConvInteger-10, MatMulInteger-10, QLinearConv-10, QLinearMatMul-21; onnxruntime's
/// docs/ContribOperators.md for the rest.
pub const OPERATORS: &[IntegerOp] = &[
    IntegerOp { domain: "", ..op("ConvInteger", "Conv", SUMMED, Output::Sums) },
    IntegerOp {
        float: None,
        style: Style::Dynamic,
        ..op("DynamicQuantizeLSTM", "", &[weight(1, 8, 9), weight(2, 10, 11)], Output::Floats)
    },
    IntegerOp {
        before: 1,
        bias: Some(4),
        style: Style::Dynamic,
        ..op("DynamicQuantizeMatMul", "MatMul", &[weight(1, 2, 3)], Output::Floats)
    },
    IntegerOp { domain: "", ..op("MatMulInteger", "MatMul", SUMMED, Output::Sums) },
    IntegerOp {
        bias: Some(6),
        ..op("MatMulIntegerToFloat", "MatMul", &[data(0, 2, 4), weight(1, 3, 5)], Output::Floats)
    },
    IntegerOp {
        before: 1,
        bias: Some(5),
        style: Style::WeightOnly,
        ..op("MatMulNBits", "MatMul", &[weight(1, 2, 3)], Output::Floats)
    },
    IntegerOp { float: None, ..op("QAttention", "", &[data(0, 3, 6), weight(1, 4, 7)], Output::Floats) },
    IntegerOp { bias: Some(6), ..op("QGemm", "Gemm", WEIGHTED, Output::Codes(7, 8)) },
    op("QLinearAdd", "Add", TWO, Output::Codes(6, 7)),
    unary("QLinearAveragePool", "AveragePool"),
    IntegerOp { operands: Operands::Triples(2), ..op("QLinearConcat", "Concat", &[], Output::Codes(0, 1)) },
    IntegerOp { domain: "", bias: Some(8), ..op("QLinearConv", "Conv", WEIGHTED, Output::Codes(6, 7)) },
    IntegerOp { bias: Some(8), ..op("QLinearConv", "Conv", WEIGHTED, Output::Codes(6, 7)) },
    unary("QLinearGlobalAveragePool", "GlobalAveragePool"),
    unary("QLinearLeakyRelu", "LeakyRelu"),
    IntegerOp { domain: "", ..op("QLinearMatMul", "MatMul", WEIGHTED, Output::Codes(6, 7)) },
    op("QLinearMul", "Mul", TWO, Output::Codes(6, 7)),
    unary("QLinearReduceMean", "ReduceMean"),
    unary("QLinearSigmoid", "Sigmoid"),
    unary("QLinearSoftmax", "Softmax"),
    IntegerOp { before: 1, ..op("QLinearWhere", "Where", &[data(1, 2, 3), data(4, 5, 6)], Output::Codes(7, 8)) },
];

impl IntegerOp {
    /// The entry of a node.
    pub fn of(node: &NodeProto) -> Option<&'static IntegerOp> {
        OPERATORS.iter().find(|o| {
            o.op == node.op_type() && if o.domain.is_empty() { node.is(o.op) } else { node.domain() == o.domain }
        })
    }

    /// The inputs of this node that are codes.
    pub fn operands(&self, node: &NodeProto) -> Vec<Operand> {
        match self.operands {
            Operands::Each(list) => list.to_vec(),
            Operands::Triples(from) => (from..node.input.len()).step_by(3).map(|i| data(i, i + 1, i + 2)).collect(),
        }
    }

    /// The inputs that are codes, of an operator that takes codes, scale and zero point in turn, where there are so many.
    pub(super) fn triples(&self, count: usize) -> Vec<Operand> {
        match self.operands {
            Operands::Each(_) => Vec::new(),
            Operands::Triples(from) => (0..count).map(|i| from + 3 * i).map(|i| data(i, i + 1, i + 2)).collect(),
        }
    }

    /// Whether it is onnxruntime's own.
    pub(super) fn is_foreign(&self) -> bool {
        !self.domain.is_empty()
    }

    /// Whether onnxruntime's CPU provider runs it: QLinearReduceMean has a schema and no kernel (docs/OperatorKernels.md).
    pub(super) fn has_kernel(&self) -> bool {
        self.op != "QLinearReduceMean"
    }

    /// The operands that stand in the place of a weight.
    pub fn weights(&self) -> impl Iterator<Item = &'static Operand> {
        let list = match self.operands {
            Operands::Each(list) => list,
            Operands::Triples(_) => &[],
        };
        list.iter().filter(|o| o.weight)
    }

    /// Whether it multiplies and accumulates.
    pub fn is_layer(&self) -> bool {
        self.weights().next().is_some()
    }

    /// The axis of a weight of this rank along which its output channels lie; `None` where there is no such axis.
    pub fn channel_axis(&self, node: &NodeProto, rank: usize) -> Option<usize> {
        // The blocks of a packed weight run along its rows.
        if self.style == Style::WeightOnly {
            return None;
        }
        let like = self.float.unwrap_or("MatMul");
        RULES.iter().find(|r| r.op == like)?.channel_axis(node, rank)
    }
}

/// Whether the node computes on codes: an operator of the table whose activations are codes, or one in ONNX's domain
/// or onnxruntime's whose name says so.
pub fn computes_on_codes(node: &NodeProto) -> bool {
    if let Some(entry) = IntegerOp::of(node) {
        return entry.style != Style::WeightOnly;
    }
    let op = node.op_type();
    let name_says_so = op.starts_with("QLinear")
        || op.ends_with("Integer")
        || (node.domain() == MS && op.starts_with('Q') && op[1..].starts_with(|c: char| c.is_ascii_uppercase()));
    (node.domain() == MS || node.is(op)) && name_says_so
}

/// Whether the node makes codes, unmakes them, or computes with them.
pub fn handles_codes(node: &NodeProto) -> bool {
    Linear::quantizes(node)
        || Linear::dequantizes(node)
        || node.is("DynamicQuantizeLinear")
        || IntegerOp::of(node).is_some()
        || computes_on_codes(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(domain: &str, op: &str, inputs: usize) -> NodeProto {
        NodeProto {
            domain: Some(domain.into()),
            op_type: Some(op.into()),
            input: (0..inputs).map(|i| i.to_string()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn the_table_is_sorted_and_no_slot_has_two_meanings() {
        assert!(OPERATORS.windows(2).all(|w| (w[0].op, w[0].domain) < (w[1].op, w[1].domain)));
        for entry in OPERATORS {
            let operands = entry.operands(&node(entry.domain, entry.op, 8));
            let mut slots: Vec<usize> =
                operands.iter().flat_map(|o| [Some(o.codes), o.scale, o.zero]).flatten().collect();
            slots.extend(0..entry.before);
            slots.extend(entry.bias);
            if let Output::Codes(scale, zero) = entry.output {
                slots.extend([scale, zero]);
            }
            let count = slots.len();
            slots.sort_unstable();
            slots.dedup();
            assert_eq!(slots.len(), count, "{}", entry.op);
        }
    }

    #[test]
    fn every_float_form_is_an_operator_that_has_a_rule() {
        for float in OPERATORS.iter().filter_map(|o| o.float) {
            assert!(RULES.iter().any(|r| r.op == float), "{float}");
        }
    }

    #[test]
    fn operators_are_told_by_domain_and_name() {
        assert!(IntegerOp::of(&node("ai.onnx", "QLinearConv", 9)).is_some_and(|o| o.domain.is_empty()));
        assert!(IntegerOp::of(&node("com.microsoft", "QLinearConv", 9)).is_some_and(|o| o.domain == MS));
        assert!(IntegerOp::of(&node("", "QLinearAdd", 8)).is_none());
        let concat = node("com.microsoft", "QLinearConcat", 8);
        let operands = IntegerOp::of(&concat).unwrap().operands(&concat);
        assert_eq!(operands, [data(2, 3, 4), data(5, 6, 7)]);
        for (domain, op, yes) in [
            ("com.microsoft", "QOrderedMatMul", true),
            ("com.microsoft", "QuickGelu", false),
            ("com.microsoft", "MatMulNBits", false),
            ("", "MatMulInteger", true),
            ("other", "QLinearThing", false),
            ("", "Relu", false),
        ] {
            assert_eq!(computes_on_codes(&node(domain, op, 3)), yes, "{op}");
        }
    }
}
