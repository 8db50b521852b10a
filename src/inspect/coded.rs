//! Weights that are stored as codes: behind DequantizeLinear, and inside operators that compute on integers.

use serde::Serialize;

use super::walk::{Origin, Walk};
use crate::error::Result;
use crate::integer::{IntegerOp, Operand, Style};
use crate::model::{DataType, Linear, NodeExt, dtype_name, format_of};
use crate::number::{QuantParams, dequantize, unpack};

/// A smallest and a largest number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Span<T> {
    /// The smallest.
    pub min: T,
    /// The largest.
    pub max: T,
}

/// Which numbers of a weight share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grain {
    /// All of them.
    Tensor,
    /// Those with the same index along an axis.
    Channel,
    /// So many neighbours along an axis.
    Block,
}

/// How a weight is quantized.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Coding {
    /// The element type of the codes, `int8`.
    pub storage: String,
    /// Which numbers share a scale; `None` where the scales are no constants.
    pub grain: Option<Grain>,
    /// The axis of the scales, counted from the front; `None` if there is one scale for all.
    pub axis: Option<usize>,
    /// How many neighbours share a scale.
    pub block_size: Option<u64>,
    /// The scales; `None` where they are no constants.
    pub scale: Option<Span<f32>>,
    /// The zero points; `None` where they are no constants, or packed.
    pub zero_point: Option<Span<i64>>,
}

/// What stands in a weight's place.
pub(super) struct Stored {
    /// The constant that holds the numbers or the codes.
    pub constant: usize,
    /// Where scale and zero point of the codes are, if they are codes.
    pub code: Option<Code>,
}

/// Where the parameters of codes are.
pub(super) struct Code {
    /// The element type of the codes: the constant's, or what QuantizeLinear would make of a float constant.
    dtype: DataType,
    /// Bits of a code that is packed with others into bytes of the constant.
    pub packed: Option<u64>,
    scale: Option<usize>,
    zero: Zero,
    axis: Option<usize>,
    block_size: Option<u64>,
}

#[derive(Clone, Copy)]
enum Zero {
    /// It is left out, which means 0.
    Absent,
    Constant(usize),
    Unknown,
}

/// The constant in that slot, DequantizeLinear (and QuantizeLinear before it) seen through; `None` if it is none.
///
/// A table of codes that Gather reads takes its parameters from the DequantizeLinear behind.
/// Errors when a tensor's shape is impossible.
pub(super) fn stored(walk: &Walk<'_>, site: usize, slot: usize) -> Result<Option<Stored>> {
    let node = walk.sites[site].node;
    if let Some(entry) = IntegerOp::of(node)
        && let Some(operand) = entry.weights().find(|w| w.codes == slot)
    {
        return in_integer_op(walk, site, entry, *operand);
    }
    if let Some(constant) = walk.constant_at(site, slot) {
        let code = gathers_codes(walk, site).filter(|_| slot == 0).map(|dq| Code {
            dtype: walk.constants[constant].dtype(),
            packed: None,
            scale: walk.constant_at(dq, 1),
            zero: zero_at(walk, dq, 2),
            axis: None,
            block_size: None,
        });
        return Ok(Some(Stored { constant, code }));
    }
    let Some(dq) = walk.site_at(site, slot, Linear::dequantizes) else { return Ok(None) };
    let (constant, float) = match (walk.origin(dq, 0), walk.site_at(dq, 0, Linear::quantizes)) {
        (Origin::Constant(c), _) => (c, false),
        (_, Some(q)) => match walk.constant_at(q, 0) {
            Some(c) => (c, true),
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    let node = walk.sites[dq].node;
    let zero = zero_at(walk, dq, 2);
    let dtype = match zero {
        _ if !float => walk.constants[constant].dtype(),
        Zero::Constant(z) => walk.constants[z].dtype(),
        _ => DataType::Uint8,
    };
    let rank = walk.constants[constant].shape()?.len();
    let axis = node.int("axis").unwrap_or(1);
    let axis = if axis < 0 { axis + rank as i64 } else { axis };
    let code = Code {
        dtype,
        packed: None,
        scale: walk.constant_at(dq, 1),
        zero,
        axis: usize::try_from(axis).ok().filter(|&a| a < rank),
        block_size: node.int("block_size").and_then(|b| u64::try_from(b).ok()).filter(|&b| b > 0),
    };
    Ok(Some(Stored { constant, code: Some(code) }))
}

/// The DequantizeLinear behind a Gather that reads a table of codes.
pub(super) fn gathers_codes(walk: &Walk<'_>, site: usize) -> Option<usize> {
    let table = walk.constant_at(site, 0).filter(|_| walk.sites[site].node.is("Gather"))?;
    format_of(walk.constants[table].dtype()).and_then(|_| walk.reader(site, Linear::dequantizes))
}

/// The weight's scale behind ConvInteger or MatMulInteger, as onnxruntime's dynamic quantization places it: the
/// accumulator is cast, and multiplied with the product of the input's scale and the weight's.
fn scale_behind(walk: &Walk<'_>, site: usize) -> Option<usize> {
    let cast = walk.reader(site, |n| n.is("Cast"))?;
    let product = walk.reader(cast, |n| n.is("Mul"))?;
    let scales = (0..2).find_map(|slot| walk.site_at(product, slot, |n| n.is("Mul")))?;
    match (walk.constant_at(scales, 0), walk.constant_at(scales, 1)) {
        (Some(constant), None) | (None, Some(constant)) => Some(constant),
        _ => None,
    }
}

fn in_integer_op(walk: &Walk<'_>, site: usize, entry: &IntegerOp, operand: Operand) -> Result<Option<Stored>> {
    let node = walk.sites[site].node;
    let weight_only = entry.style == Style::WeightOnly;
    let Some(constant) = walk.constant_at(site, operand.codes) else { return Ok(None) };
    let rank = walk.constants[constant].shape()?.len();
    let bits = node.int("bits").and_then(|b| u64::try_from(b).ok()).filter(|b| (1..=8).contains(b));
    let code = Code {
        dtype: walk.constants[constant].dtype(),
        packed: weight_only.then_some(bits.unwrap_or(4)),
        scale: match operand.scale {
            Some(slot) => walk.constant_at(site, slot),
            None => scale_behind(walk, site),
        },
        zero: match operand.zero {
            Some(_) if weight_only => Zero::Unknown,
            Some(z) => zero_at(walk, site, z),
            None => Zero::Unknown,
        },
        axis: entry.channel_axis(node, rank),
        block_size: node.int("block_size").and_then(|b| u64::try_from(b).ok()).filter(|_| weight_only),
    };
    Ok(Some(Stored { constant, code: Some(code) }))
}

fn zero_at(walk: &Walk<'_>, site: usize, slot: usize) -> Zero {
    match walk.constant_at(site, slot) {
        Some(c) => Zero::Constant(c),
        None if walk.sites[site].node.input_at(slot).is_none() => Zero::Absent,
        None => Zero::Unknown,
    }
}

/// The scales in a constant; `None` if they are no floats. Errors as [`super::walk::Constant::tensor`].
pub(super) fn scales(walk: &Walk<'_>, constant: Option<usize>) -> Result<Option<Vec<f32>>> {
    constant.map_or(Ok(None), |c| walk.constants[c].floats(<[f32]>::to_vec))
}

impl Code {
    /// The facts for reports. Errors when the data of scale or zero point do not fit their shape.
    pub fn facts(&self, walk: &Walk<'_>) -> Result<Coding> {
        let scales = scales(walk, self.scale)?;
        let zeros = self.zeros(walk)?;
        let many = [scales.as_ref().map(Vec::len), zeros.as_ref().map(Vec::len)].into_iter().flatten().max();
        let grain = match (self.block_size, many) {
            (Some(_), _) => Some(Grain::Block),
            (None, Some(n)) if n > 1 => Some(Grain::Channel),
            _ => scales.as_ref().map(|_| Grain::Tensor),
        };
        let storage = match self.packed {
            Some(bits) => format!("{bits} bits"),
            None => dtype_name(self.dtype).to_lowercase(),
        };
        Ok(Coding {
            storage,
            grain,
            axis: self.axis.filter(|_| matches!(grain, Some(Grain::Channel | Grain::Block))),
            block_size: self.block_size,
            scale: scales.as_deref().and_then(span),
            zero_point: zeros.as_deref().and_then(span),
        })
    }

    fn zeros(&self, walk: &Walk<'_>) -> Result<Option<Vec<i64>>> {
        match self.zero {
            Zero::Absent => Ok(Some(vec![0])),
            Zero::Constant(c) => whole(walk, c),
            Zero::Unknown => Ok(None),
        }
    }

    /// The reals that the codes in `constant` stand for; for a float constant, its own numbers.
    ///
    /// `None` for types without a [`crate::number::Format`], for blocks, and for parameters that are not there or
    /// cannot be computed with. Errors when data do not fit their shape.
    pub fn reals(&self, walk: &Walk<'_>, constant: usize) -> Result<Option<Vec<f32>>> {
        let constant = &walk.constants[constant];
        if constant.is_float() {
            return constant.floats(<[f32]>::to_vec);
        }
        let (Some(format), None) = (format_of(self.dtype), self.block_size.or(self.packed)) else { return Ok(None) };
        let (Some(scales), Some(mut zeros)) = (scales(walk, self.scale)?, self.zeros(walk)?) else { return Ok(None) };
        let Some(tensor) = constant.tensor()? else { return Ok(None) };
        if let (&[zero], n) = (&zeros[..], scales.len()) {
            zeros = vec![zero; n];
        }
        let zeros: Vec<i32> = zeros.into_iter().filter_map(|z| i32::try_from(z).ok()).collect();
        let params = match (&scales[..], &zeros[..], self.axis) {
            (&[scale], &[zero], _) => QuantParams::per_tensor(format, scale, zero),
            (_, _, Some(axis)) => QuantParams::per_channel(format, axis, scales, zeros),
            _ => return Ok(None),
        };
        let codes = unpack(format.storage, tensor.bytes());
        Ok(params.and_then(|params| dequantize(&codes, tensor.shape(), &params)).ok())
    }
}

/// The integers in a constant; `None` for types without a [`crate::number::Format`].
///
/// Errors as [`super::walk::Constant::tensor`].
pub(super) fn whole(walk: &Walk<'_>, constant: usize) -> Result<Option<Vec<i64>>> {
    match walk.constants[constant].tensor()? {
        Some(tensor) if format_of(tensor.dtype()).is_some() => Ok(Some(tensor.i64s()?)),
        _ => Ok(None),
    }
}

/// The smallest and largest of some numbers; `None` if there are none.
pub(super) fn span<T: Copy + PartialOrd>(numbers: &[T]) -> Option<Span<T>> {
    let (&first, rest) = numbers.split_first()?;
    Some(rest.iter().fold(Span { min: first, max: first }, |s, &x| Span {
        min: if x < s.min { x } else { s.min },
        max: if x > s.max { x } else { s.max },
    }))
}
