//! In what way something is quantized.

use std::fmt;

use serde::Serialize;

use crate::inspect::{Grain, Span};
use crate::model::{Linear, dtype_name, format_of};
use crate::number::{Granularity, QuantParams};

/// In what way a value or constant is quantized.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct How {
    /// The number format of the codes, `uint8`.
    pub format: String,
    /// Which numbers share a scale; `None` where scales are computed.
    pub grain: Option<Grain>,
    /// The axis of the channels or blocks. That of a value in a quantized model may count from the back.
    pub axis: Option<i64>,
    /// How many neighbours share a scale.
    pub block_size: Option<usize>,
    /// Whether the zero points are in the middle of the format; `None` where they are computed.
    pub symmetric: Option<bool>,
    /// The scale, or the smallest and the largest; `None` where it is not known yet, or computed.
    pub scale: Option<Span<f32>>,
    /// The zero point, or the smallest and the largest; `None` where it is not known yet, or computed.
    pub zero_point: Option<Span<i64>>,
}

impl How {
    /// As the plan says; without numbers where these are not known yet.
    pub(super) fn planned(params: &QuantParams, known: bool) -> How {
        let (grain, block_size) = match params.granularity() {
            Granularity::Tensor => (Grain::Tensor, None),
            Granularity::Channel { .. } => (Grain::Channel, None),
            Granularity::Block { size, .. } => (Grain::Block, Some(size)),
        };
        let middle = params.format().middle();
        How {
            format: params.format().name.to_owned(),
            grain: Some(grain),
            axis: params.axis().and_then(|a| i64::try_from(a).ok()),
            block_size,
            symmetric: Some(params.zero_points().iter().all(|&z| z == middle)),
            scale: span(params.scales().iter().copied()).filter(|_| known),
            zero_point: span(params.zero_points().iter().map(|&z| z.into())).filter(|_| known),
        }
    }

    /// As a quantized model says. Floats as codes have no zero point.
    pub(super) fn present(linear: &Linear) -> How {
        let several = linear.scales.len() > 1;
        let grain = match &linear.blocks {
            Some(_) if several => Grain::Block,
            _ if several => Grain::Channel,
            _ => Grain::Tensor,
        };
        let middle = format_of(linear.dtype).map_or(0, |f| f.middle());
        How {
            format: dtype_name(linear.dtype).to_owned(),
            grain: Some(grain),
            axis: several.then_some(linear.axis),
            block_size: linear.blocks.as_ref().map(|b| b.size).filter(|_| several),
            symmetric: Some(linear.zero_points.iter().all(|&z| z == middle)),
            scale: span(linear.scales.iter().copied()),
            zero_point: span(linear.zero_points.iter().map(|&z| z.into())),
        }
    }

    /// Codes whose scales are no constants.
    pub(super) fn computed(format: &str) -> How {
        How {
            format: format.to_owned(),
            grain: None,
            axis: None,
            block_size: None,
            symmetric: None,
            scale: None,
            zero_point: None,
        }
    }
}

/// From the smallest to the largest; `None` if there is none.
fn span<T: PartialOrd + Copy>(all: impl Iterator<Item = T>) -> Option<Span<T>> {
    all.fold(None, |span: Option<Span<T>>, x| match span {
        None => Some(Span { min: x, max: x }),
        Some(s) => Some(Span { min: if x < s.min { x } else { s.min }, max: if x > s.max { x } else { s.max } }),
    })
}

impl fmt::Display for How {
    /// `uint8 affine per tensor`, `int8 symmetric per channel (axis 0)`, `int4 symmetric per block of 32 (axis 1)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.format)?;
        match self.symmetric {
            Some(true) => f.write_str(" symmetric")?,
            Some(false) => f.write_str(" affine")?,
            None => {}
        }
        match (self.grain, self.block_size) {
            (Some(Grain::Tensor), _) => f.write_str(" per tensor")?,
            (Some(Grain::Channel), _) => f.write_str(" per channel")?,
            (Some(Grain::Block), Some(size)) => write!(f, " per block of {size}")?,
            (Some(Grain::Block), None) => f.write_str(" per block")?,
            (None, _) => f.write_str(", scale computed in the run")?,
        }
        self.axis.map_or(Ok(()), |axis| write!(f, " (axis {axis})"))
    }
}
