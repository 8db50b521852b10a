//! The numbers of QuantizeLinear and DequantizeLinear, as far as they are constants.

use super::graph::Scope;
use super::{Checker, Place, rules};
use crate::error::listed;
use crate::model::{DataType, Linear, NodeExt, NodeProto, Tensor, TensorProto, dtype_name};
use crate::schema::ValueType;

impl<'m> Checker<'m> {
    /// Checks scale and zero point of a node that quantizes or dequantizes (ai.onnx 10 to 25, and com.microsoft).
    pub(super) fn quantization(&mut self, node: &NodeProto, place: &Place<'_>, scope: &Scope<'_, 'm>) {
        if !Linear::quantizes(node) && !Linear::dequantizes(node) {
            return;
        }
        let blocks = node.int("block_size").is_some_and(|n| n > 0);
        let constant = |slot: usize| node.input_at(slot).and_then(|name| scope.constant(name));
        if let Some(scale) = constant(1) {
            // What a constant stands for can be computed whatever the scale, and blocks of weights have such scales.
            let any = Linear::dequantizes(node) && constant(0).is_some();
            let right = |x: f64| x.is_finite() && (x > 0.0 || any);
            if let Some(x) = self.numbers(scale).unwrap_or_default().into_iter().find(|&x| !right(x)) {
                self.add(&rules::SCALE, place, format!("a scale of `{}` is {x}", scale.name()));
            }
            let x = constant(0);
            if let Some(why) = misfit(scale, x, node.int("axis").unwrap_or(1), blocks) {
                self.add(&rules::PARAMETERS, place, why);
            } else if !blocks && scale.dims[..] == [1] && x.is_none_or(|x| x.dims.len() != 1) {
                let why = format!("the only scale, `{}`, has rank 1, and not 0", scale.name());
                self.add(&rules::SCALAR_SCALE, place, why);
            }
            if let Some(zero) = constant(2)
                && elements(zero) != elements(scale)
            {
                let (a, b) = (listed(&scale.dims), listed(&zero.dims));
                self.add(&rules::PARAMETERS, place, format!("the scale has shape {a}, and the zero point {b}"));
            }
        }
        self.code_types(node, place, scope);
    }

    /// Checks that zero point and codes are of one type. (Of ONNX's own domain, that of inputs is a rule of types.)
    fn code_types(&mut self, node: &NodeProto, place: &Place<'_>, scope: &Scope<'_, 'm>) {
        let kind = |name: Option<&str>| match name.and_then(|n| scope.kind(n)) {
            Some(ValueType::Tensor(d)) => Some(d),
            _ => None,
        };
        let codes = match Linear::quantizes(node) {
            true => node.int("output_dtype").and_then(|d| DataType::try_from(i32::try_from(d).ok()?).ok()),
            false if node.domain() == "com.microsoft" => kind(node.input_at(0)),
            false => None,
        };
        if let (Some(codes), Some(zero)) = (codes, kind(node.input_at(2)))
            && codes != DataType::Undefined
            && codes != zero
        {
            let (codes, zero) = (dtype_name(codes), dtype_name(zero));
            self.add(&rules::ZERO_POINT, place, format!("the codes are {codes}, and the zero point is {zero}"));
        }
    }

    /// The numbers of a constant, wherever they are; `None` where they cannot be read, which is told elsewhere.
    fn numbers(&mut self, t: &TensorProto) -> Option<Vec<f64>> {
        let mut t = t.clone();
        if let Some(external) = &mut self.external {
            external.resolve(&mut t).ok()?;
        }
        Tensor::from_proto(&t).ok()?.f64s().ok()
    }
}

fn elements(t: &TensorProto) -> Option<i64> {
    t.dims.iter().try_fold(1i64, |n, &d| n.checked_mul(d))
}

/// Why a scale of this shape does not fit the constant `x`; also where nothing is known of `x`.
fn misfit(scale: &TensorProto, x: Option<&TensorProto>, axis: i64, blocks: bool) -> Option<String> {
    let (name, dims) = (scale.name(), &scale.dims);
    let rank = x.map(|x| x.dims.len());
    if blocks {
        return rank
            .filter(|&r| r != dims.len())
            .map(|r| format!("the scale `{name}` has rank {}, and blocks of rank {r} want {r}", dims.len()));
    }
    match (dims.len(), x) {
        (0, _) => None,
        (1, _) if dims[0] == 1 => None,
        (1, None) => None,
        (1, Some(x)) => {
            let rank = x.dims.len() as i64;
            let at = usize::try_from(if axis < 0 { axis.saturating_add(rank) } else { axis }).ok();
            match at.and_then(|at| x.dims.get(at)) {
                None => Some(format!("axis {axis} is outside of rank {rank}")),
                Some(n) if *n != dims[0] => {
                    Some(format!("the scale `{name}` has {} numbers, and axis {axis} has {n}", dims[0]))
                }
                Some(_) => None,
            }
        }
        (rank, _) => Some(format!("the scale `{name}` has rank {rank}, and without blocks 0 or 1 is wanted")),
    }
}
