//! Weights that are stored as codes: behind DequantizeLinear, and inside operators that compute on integers.

use serde::Serialize;

use super::walk::{Origin, Walk};
use crate::error::Result;
use crate::integer::{IntegerOp, Operand, Style};
use crate::model::{DataType, Linear, NodeExt, Tensor, dtype_name, format_of, minifloat_of};

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
    /// The zero points; `None` where they are no constants or inside packed codes, and for floats as codes, which have none.
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
    scale: Option<Box<Stored>>,
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
/// A table of codes that Gather reads takes its parameters from the DequantizeLinear behind, or from the tables that scales and zero
/// points of its rows are picked from.
/// Errors when a tensor's shape is impossible.
pub(super) fn stored(walk: &Walk<'_>, site: usize, slot: usize) -> Result<Option<Stored>> {
    let node = walk.sites[site].node;
    if let Some(entry) = IntegerOp::of(node)
        && let Some(operand) = entry.weights().find(|w| w.codes == slot)
    {
        return in_integer_op(walk, site, entry, *operand);
    }
    if let Some(constant) = walk.constant_at(site, slot) {
        let dtype = walk.constants[constant].dtype();
        let plain = |scale, zero, axis| Code { dtype, packed: None, scale, zero, axis, block_size: None };
        let columns = gathers_codes(walk, site).filter(|_| slot == 0);
        let columns = columns.map(|dq| plain(plain_scale(walk.constant_at(dq, 1)), zero_at(walk, dq, 2), None));
        let rows = || gathers_rows(walk, site).filter(|_| slot == 0);
        let rows = || rows().map(|(scale, zero)| plain(plain_scale(Some(scale)), zero, Some(0)));
        return Ok(Some(Stored { constant, code: columns.or_else(rows) }));
    }
    match walk.site_at(site, slot, Linear::dequantizes) {
        Some(dq) => behind(walk, dq, true),
        None => Ok(None),
    }
}

/// What DequantizeLinear makes reals of, if that is a constant. `deep` says whether its scales may be codes too, behind a
/// DequantizeLinear of their own, as two levels of scales are written.
fn behind(walk: &Walk<'_>, dq: usize, deep: bool) -> Result<Option<Stored>> {
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
        scale: match walk.site_at(dq, 1, Linear::dequantizes).filter(|_| deep) {
            Some(dq) => behind(walk, dq, false)?.map(Box::new),
            None => plain_scale(walk.constant_at(dq, 1)),
        },
        zero,
        axis: usize::try_from(axis).ok().filter(|&a| a < rank),
        block_size: node.int("block_size").and_then(|b| u64::try_from(b).ok()).filter(|&b| b > 0),
    };
    Ok(Some(Stored { constant, code: Some(code) }))
}

fn plain_scale(constant: Option<usize>) -> Option<Box<Stored>> {
    constant.map(|constant| Box::new(Stored { constant, code: None }))
}

/// Whether elements of the type may be codes: those that DequantizeLinear takes.
fn holds_codes(dtype: DataType) -> bool {
    format_of(dtype).is_some() || minifloat_of(dtype).is_some()
}

/// The DequantizeLinear behind a Gather that reads a table of codes.
pub(super) fn gathers_codes(walk: &Walk<'_>, site: usize) -> Option<usize> {
    let table = walk.constant_at(site, 0).filter(|_| walk.sites[site].node.is("Gather"))?;
    walk.reader(site, Linear::dequantizes).filter(|_| holds_codes(walk.constants[table].dtype()))
}

/// Whether the site picks from a table of codes that become floats behind it.
pub(super) fn picks_codes(walk: &Walk<'_>, site: usize) -> bool {
    gathers_codes(walk, site).is_some() || gathers_rows(walk, site).is_some()
}

/// Scale and zero point of the rows of a table of codes, which are picked beside these: the rows are cast, and multiplied with
/// their scales.
fn gathers_rows(walk: &Walk<'_>, site: usize) -> Option<(usize, Zero)> {
    let table = walk.constant_at(site, 0).filter(|_| walk.sites[site].node.is("Gather"))?;
    let mut numbers = walk.reader(site, |n| n.is("Cast")).filter(|_| holds_codes(walk.constants[table].dtype()))?;
    let mut zero = Zero::Absent;
    if let Some(steps) = walk.reader(numbers, |n| n.is("Sub")) {
        let zeros = walk.site_at(steps, 1, |n| n.is("Unsqueeze")).and_then(|u| walk.site_at(u, 0, |n| n.is("Cast")));
        let zeros = zeros.and_then(|cast| walk.site_at(cast, 0, |n| n.is("Gather")))?;
        (zero, numbers) = (zero_at(walk, zeros, 0), steps);
    }
    let product = walk.reader(numbers, |n| n.is("Mul"))?;
    let column = walk.site_at(product, 1, |n| n.is("Unsqueeze"))?;
    let scales = walk.site_at(column, 0, |n| n.is("Gather"))?;
    Some((walk.constant_at(scales, 0)?, zero))
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
        scale: plain_scale(match operand.scale {
            Some(slot) => walk.constant_at(site, slot),
            None => scale_behind(walk, site),
        }),
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
pub(super) fn scales(walk: &Walk<'_>, constant: usize) -> Result<Option<Tensor>> {
    let Some(tensor) = walk.constants[constant].tensor()? else { return Ok(None) };
    Ok(tensor.f32s().ok().map(|x| Tensor::from_f32(tensor.shape().to_vec(), x.into_owned())))
}

impl Code {
    /// The facts for reports. Errors when the data of scale or zero point do not fit their shape.
    pub fn facts(&self, walk: &Walk<'_>) -> Result<Coding> {
        let scales = self.scales(walk)?;
        let zeros = match self.zero {
            _ if minifloat_of(self.dtype).is_some() => None,
            Zero::Absent => Some(vec![0]),
            Zero::Constant(c) => whole(walk, c)?,
            Zero::Unknown => None,
        };
        let many = [scales.as_ref().map(Tensor::len), zeros.as_ref().map(Vec::len)].into_iter().flatten().max();
        let grain = match (self.block_size, many) {
            (Some(_), _) => Some(Grain::Block),
            (None, Some(n)) if n > 1 => Some(Grain::Channel),
            _ => scales.as_ref().map(|_| Grain::Tensor),
        };
        let storage = match self.packed {
            Some(bits) => format!("{bits} bits"),
            None => dtype_name(self.dtype).to_owned(),
        };
        Ok(Coding {
            storage,
            grain,
            axis: self.axis.filter(|_| matches!(grain, Some(Grain::Channel | Grain::Block))),
            block_size: self.block_size,
            scale: scales.and_then(|s| span(&s.f32s().ok()?)),
            zero_point: zeros.as_deref().and_then(span),
        })
    }

    /// The scales as float32; `None` where they are no constants.
    fn scales(&self, walk: &Walk<'_>) -> Result<Option<Tensor>> {
        match self.scale.as_deref() {
            Some(Stored { constant, code: Some(code) }) => code.reals(walk, *constant),
            Some(Stored { constant, code: None }) => scales(walk, *constant),
            None => Ok(None),
        }
    }

    /// The reals that the codes in `constant` stand for, as float32; for a float constant, its own numbers.
    ///
    /// `None` for codes that are packed by an operator of its own, and for parameters that are not there or do not fit
    /// the codes. Errors when data do not fit their shape.
    pub fn reals(&self, walk: &Walk<'_>, constant: usize) -> Result<Option<Tensor>> {
        if walk.constants[constant].is_float() {
            return scales(walk, constant);
        }
        let (Some(scales), None) = (self.scales(walk)?, self.packed) else { return Ok(None) };
        let zero = match self.zero {
            Zero::Absent => None,
            Zero::Constant(c) => walk.constants[c].tensor()?,
            Zero::Unknown => return Ok(None),
        };
        let axis = match self.axis {
            Some(axis) => axis as i64,
            None if scales.len() == 1 => 0,
            None => return Ok(None),
        };
        let Some(codes) = walk.constants[constant].tensor()? else { return Ok(None) };
        let size = self.block_size.and_then(|size| i64::try_from(size).ok());
        let linear = Linear::of(self.dtype, &scales, zero.as_ref(), axis, size).and_then(|mut linear| {
            // Operators on codes take one zero point for all channels.
            if let [zero] = linear.zero_points[..] {
                linear.zero_points = vec![zero; linear.scales.len()];
            }
            linear.dequantize(&codes)
        });
        Ok(linear.ok())
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
