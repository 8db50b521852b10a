//! What of a model is quantized: its nodes, and its activations.

use std::collections::BTreeMap;

use serde::Serialize;

use super::coded::{Span, gathers_codes, picks_codes, scales, span, stored, whole};
use super::walk::{Origin, Walk};
use super::weights::is_recurrent;
use crate::error::{Place, Result};
use crate::integer::{IntegerOp, Style, computes_on_codes, moves};
use crate::model::{DataType, Linear, NodeExt, NodeProto, dtype_name, format_of};
use crate::number::QuantParams;
use crate::rule::{OpRule, Role};

/// What of a model is quantized.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quantization {
    /// The styles it is in, and how much of it is in each.
    pub styles: Vec<StyleCount>,
    /// The layers: nodes that multiply and accumulate (Conv, Gemm, MatMul, LSTM, their forms on integers ...).
    pub layers: Coverage,
    /// Every other node but Constant, Identity and those that quantize and dequantize. Arithmetic on shapes counts
    /// as float.
    pub others: Coverage,
    /// QuantizeLinear nodes.
    pub quantize_linear: usize,
    /// DequantizeLinear nodes.
    pub dequantize_linear: usize,
    /// DynamicQuantizeLinear nodes.
    pub dynamic_quantize_linear: usize,
    /// The activations that are turned into codes or back, in the order of execution.
    pub activations: Vec<QuantizedActivation>,
    /// How many activations there are, whatever [`super::Inspection::truncate`] left.
    pub activations_total: usize,
}

/// How many quantized nodes are in one style.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StyleCount {
    /// The style.
    pub style: Style,
    /// The layers.
    pub layers: usize,
    /// The other nodes.
    pub others: usize,
}

/// How many nodes are quantized.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Nodes that compute on codes or move them, nodes whose data all come out of DequantizeLinear, and activation
    /// functions (Relu, Clip) right behind such a node.
    pub quantized: usize,
    /// Nodes whose weights are codes, and whose activations are floats.
    pub weight_only: usize,
    /// The others.
    pub float: usize,
}

impl Coverage {
    /// All nodes.
    pub fn total(&self) -> usize {
        self.quantized + self.weight_only + self.float
    }
}

/// An activation that QuantizeLinear turns into codes, or that reaches DequantizeLinear as codes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QuantizedActivation {
    /// The value that is quantized.
    pub value: String,
    /// The element type of the codes; `None` where the file does not say.
    pub dtype: Option<String>,
    /// How many scales there are; `None` where they are computed.
    pub scales: Option<usize>,
    /// The scale, or the smallest and the largest; `None` where it is computed.
    pub scale: Option<Span<f32>>,
    /// The zero point, or the smallest and the largest; `None` where it is computed.
    pub zero_point: Option<Span<i64>>,
    /// The reals that the codes reach, over all channels; `None` where that is not known.
    pub range: Option<Span<f32>>,
}

/// The quantization of a model; `None` if there is none. Errors as [`super::inspect`].
pub(super) fn of(walk: &Walk<'_>) -> Result<Option<Quantization>> {
    let count = |f: &dyn Fn(&NodeProto) -> bool| walk.sites.iter().filter(|s| f(s.node)).count();
    let mut q = Quantization {
        styles: Vec::new(),
        layers: Coverage::default(),
        others: Coverage::default(),
        quantize_linear: count(&Linear::quantizes),
        dequantize_linear: count(&Linear::dequantizes),
        dynamic_quantize_linear: count(&|n| n.is("DynamicQuantizeLinear")),
        activations: Vec::new(),
        activations_total: 0,
    };
    let integer = count(&|n| computes_on_codes(n) || IntegerOp::of(n).is_some());
    if q.quantize_linear + q.dequantize_linear + q.dynamic_quantize_linear + integer == 0 {
        return Ok(None);
    }
    let mut before: Vec<Judged> = Vec::with_capacity(walk.sites.len());
    let mut styles: BTreeMap<Style, (usize, usize)> = BTreeMap::new();
    for (site, s) in walk.sites.iter().enumerate() {
        let style = style(walk, site, &before).at(|| s.node.label())?;
        before.push(Judged { style, gives_codes: gives_codes(walk, site, &before) });
        if s.node.is("Constant") || s.node.is("Identity") || s.node.is("DynamicQuantizeLinear") {
            continue;
        }
        if Linear::quantizes(s.node) || Linear::dequantizes(s.node) {
            q.activations.extend(activation(walk, site).at(|| s.node.label())?);
            continue;
        }
        let layer = is_layer(s.node);
        let coverage = if layer { &mut q.layers } else { &mut q.others };
        match style {
            Some(Style::WeightOnly) => coverage.weight_only += 1,
            Some(_) => coverage.quantized += 1,
            None => coverage.float += 1,
        }
        if let Some(style) = style {
            let (layers, others) = styles.entry(style).or_default();
            *if layer { layers } else { others } += 1;
        }
    }
    q.styles = styles.into_iter().map(|(style, (layers, others))| StyleCount { style, layers, others }).collect();
    q.activations_total = q.activations.len();
    Ok(Some(q))
}

/// What is known of a node when those behind it are looked at.
#[derive(Clone, Copy, Default)]
struct Judged {
    style: Option<Style>,
    gives_codes: bool,
}

fn is_layer(node: &NodeProto) -> bool {
    IntegerOp::of(node).is_some_and(IntegerOp::is_layer)
        || is_recurrent(node)
        || OpRule::of(node).is_some_and(|r| r.role == Role::Compute)
}

/// The style in which a node is quantized; `None` if it is not.
fn style(walk: &Walk<'_>, site: usize, before: &[Judged]) -> Result<Option<Style>> {
    let node = walk.sites[site].node;
    if let Some(op) = IntegerOp::of(node) {
        let first = op.operands(node).first().map(|o| o.codes);
        let dynamic = first.is_some_and(|slot| quantized_in_the_run(walk, site, slot));
        return Ok(Some(if dynamic { Style::Dynamic } else { op.style }));
    }
    if computes_on_codes(node) {
        return Ok(Some(Style::QOperator));
    }
    if picks_codes(walk, site) {
        return Ok(Some(Style::WeightOnly));
    }
    let rule = OpRule::of(node);
    let data: Vec<usize> = match rule {
        Some(rule) => rule.data_slots(node).collect(),
        None if is_recurrent(node) => vec![0, 1, 2],
        None => vec![0],
    };
    let role = rule.map(|r| r.role);
    // Constants behind DequantizeLinear say weight-only: what else comes in decides.
    let from_codes = |&slot: &usize| match (walk.origin(site, slot), role) {
        (Origin::Site(s), _) if Linear::dequantizes(walk.sites[s].node) => match walk.origin(s, 0) {
            Origin::Constant(_) => Some(Style::WeightOnly),
            // What comes out of a table of codes is a float like any other.
            Origin::Site(g) if gathers_codes(walk, g).is_some() => None,
            _ => Some(Style::Qdq),
        },
        (Origin::Site(s), Some(Role::Bound)) => before.get(s)?.style.filter(|&s| s != Style::WeightOnly),
        (Origin::Site(s), Some(Role::Pass)) => {
            let style = if quantized_in_the_run(walk, site, slot) { Style::Dynamic } else { Style::QOperator };
            before.get(s).filter(|j| j.gives_codes).map(|_| style)
        }
        _ => None,
    };
    let data: Vec<usize> = data.into_iter().filter(|&slot| node.input_at(slot).is_some()).collect();
    let styles: Vec<Style> = data.iter().map_while(from_codes).collect();
    if !data.is_empty() && styles.len() == data.len() {
        return Ok(styles.into_iter().find(|&s| s != Style::WeightOnly).or(Some(Style::WeightOnly)));
    }
    if is_layer(node) {
        for slot in 0..node.input.len() {
            if stored(walk, site, slot)?.is_some_and(|s| s.code.is_some()) {
                return Ok(Some(Style::WeightOnly));
            }
        }
    }
    Ok(None)
}

/// Whether codes come out of DynamicQuantizeLinear; operators that only move them are seen through.
fn quantized_in_the_run(walk: &Walk<'_>, site: usize, slot: usize) -> bool {
    let mut origin = walk.origin(site, slot);
    // A node stands behind those it reads, so this ends.
    while let Origin::Site(s) = origin {
        let node = walk.sites[s].node;
        if node.is("DynamicQuantizeLinear") || !moves(node) {
            return node.is("DynamicQuantizeLinear");
        }
        origin = walk.origin(s, 0);
    }
    false
}

/// Whether the outputs are codes: of what quantizes, of the QLinear operators, and of what moves codes.
fn gives_codes(walk: &Walk<'_>, site: usize, before: &[Judged]) -> bool {
    let node = walk.sites[site].node;
    let from_codes = || matches!(walk.origin(site, 0), Origin::Site(s) if before.get(s).is_some_and(|j| j.gives_codes));
    Linear::quantizes(node)
        || node.is("DynamicQuantizeLinear")
        || node.op_type().starts_with("QLinear")
        || picks_codes(walk, site)
        || (moves(node) && from_codes())
}

/// The row of a QuantizeLinear, or of a DequantizeLinear whose codes neither a constant nor QuantizeLinear gives.
fn activation(walk: &Walk<'_>, site: usize) -> Result<Option<QuantizedActivation>> {
    let node = walk.sites[site].node;
    let known = match walk.origin(site, 0) {
        Origin::Constant(_) => true,
        Origin::Site(s) if Linear::dequantizes(node) => {
            let from = walk.sites[s].node;
            Linear::quantizes(from) || from.is("DynamicQuantizeLinear") || gathers_codes(walk, s).is_some()
        }
        _ => false,
    };
    if known {
        return Ok(None);
    }
    let zero = walk.constant_at(site, 2);
    let stated = node.int("output_dtype").filter(|_| Linear::quantizes(node)).and_then(|d| i32::try_from(d).ok());
    let dtype = match (zero, stated.and_then(|d| DataType::try_from(d).ok())) {
        (Some(z), _) => Some(walk.constants[z].dtype()),
        (None, Some(dtype)) if dtype != DataType::Undefined => Some(dtype),
        (None, _) => (Linear::quantizes(node) && node.input_at(2).is_none()).then_some(DataType::Uint8),
    };
    let scales = walk.constant_at(site, 1).map_or(Ok(None), |c| scales(walk, c))?;
    let scales = scales.and_then(|s| Some(s.f32s().ok()?.into_owned()));
    let zeros = match zero {
        Some(z) => whole(walk, z)?,
        None => node.input_at(2).is_none().then(|| vec![0]),
    };
    Ok(Some(QuantizedActivation {
        value: node.input_at(0).unwrap_or_default().to_owned(),
        dtype: dtype.map(|d| dtype_name(d).to_owned()),
        scales: scales.as_ref().map(Vec::len),
        scale: scales.as_deref().and_then(span),
        zero_point: zeros.as_deref().and_then(span),
        range: dtype.and_then(|d| reach(d, scales.as_deref()?, zeros.as_deref()?)),
    }))
}

/// The reals that codes of this type reach; `None` for parameters that cannot be computed with.
fn reach(dtype: DataType, scales: &[f32], zeros: &[i64]) -> Option<Span<f32>> {
    let format = format_of(dtype)?;
    let mut bounds = Vec::with_capacity(2 * scales.len());
    for (i, &scale) in scales.iter().enumerate() {
        let zero = i32::try_from(*zeros.get(if zeros.len() == 1 { 0 } else { i })?).ok()?;
        let (low, high) = QuantParams::per_tensor(format, scale, zero).ok()?.reach(0);
        bounds.extend([low, high]);
    }
    span(&bounds)
}
