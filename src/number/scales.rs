//! Which numbers scales can be, and how they are stored.

use super::params::positive;
use super::{Format, Granularity, QuantParams, quantize};
use crate::error::Result;

/// Which numbers the scales of a scheme can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleForm {
    /// All of float32, or of the type of the tensor.
    Float,
    /// Powers of two from 2^-127 to 2^127: E8M0 (OCP Microscaling Formats (MX) Specification v1.0, section 5.4.1).
    Power,
    /// Codes of a format times coarser scales.
    Coded {
        /// The format of the codes, of which only those of positive numbers are used.
        format: Format,
        /// Which scales share a coarser one.
        over: Over,
        /// Whether the coarser scales are powers of two, not floats.
        power: bool,
    },
}

/// Which scales share a coarser one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Over {
    /// All of a tensor.
    Tensor,
    /// Those with the same index along an axis of the tensor; all where the tensor has no such axis.
    Channel {
        /// The axis, counted from the front.
        axis: Option<usize>,
    },
    /// So many neighbours along the axis of the blocks.
    Neighbours(usize),
}

/// How scales are stored.
#[derive(Debug, Clone, PartialEq)]
pub enum StoredScales {
    /// As floats.
    Floats,
    /// As exponents of two, E8M0.
    Powers,
    /// As codes that have scales of their own.
    Codes(Box<ScaleCodes>),
}

/// Scales as codes.
#[derive(Debug, Clone, PartialEq)]
pub struct ScaleCodes {
    /// A code for each scale.
    pub codes: Vec<i32>,
    /// The shape of the scales, row major.
    pub shape: Vec<usize>,
    /// The parameters of the codes.
    pub params: QuantParams,
}

impl StoredScales {
    /// Bits that so many scales take.
    pub(super) fn bits(&self, scales: u64) -> u64 {
        match self {
            StoredScales::Floats => 32 * scales,
            StoredScales::Powers => 8 * scales,
            StoredScales::Codes(inner) => inner.params.bits(inner.codes.len()),
        }
    }
}

/// The power of two by which the largest of numbers comes into the highest binade of the format, as the OCP
/// specification scales blocks (section 6.3), as far as E8M0 reaches and float32 is normal.
pub(super) fn rule_of_maximum(magnitude: f64, largest: f64) -> f32 {
    power(exponent(magnitude) - exponent(largest))
}

/// The exponent of the largest power of two that is not above a positive finite number.
fn exponent(x: f64) -> i32 {
    // f64 of a finite f32 is normal: its exponent field says it.
    (x.to_bits() >> 52 & 0x7ff) as i32 - 1023
}

/// The smallest power of two that is not below a positive finite number, as far as float32 reaches.
pub(super) fn power_above(x: f32) -> f32 {
    let below = exponent(x.into());
    if power(below) < x { power(below + 1) } else { power(below) }
}

fn power(exponent: i32) -> f32 {
    2f64.powi(exponent.clamp(-126, 127)) as f32
}

impl ScaleForm {
    /// Whether scales are powers of two, or become so before they are coded.
    pub fn is_power(self) -> bool {
        matches!(self, ScaleForm::Power | ScaleForm::Coded { power: true, .. })
    }

    /// Which of the scales of blocks share a coarser one.
    fn coarse(over: Over, granularity: Granularity) -> Granularity {
        match (over, granularity) {
            (Over::Channel { axis: Some(axis) }, _) => Granularity::Channel { axis },
            (Over::Neighbours(size), Granularity::Block { axis, .. }) => Granularity::Block { axis, size },
            _ => Granularity::Tensor,
        }
    }

    /// Bits that so many scales take for a tensor of this shape.
    pub(super) fn bits(self, scales: u64, granularity: Granularity, shape: &[usize]) -> Result<u64> {
        Ok(match (self, granularity) {
            (ScaleForm::Coded { format, over, power }, Granularity::Block { .. }) => {
                let coarse = Self::coarse(over, granularity).groups(&granularity.scale_shape(shape)?)?;
                scales * u64::from(format.bits) + coarse as u64 * if power { 8 } else { 32 }
            }
            (form, _) if form.is_power() => 8 * scales,
            _ => 32 * scales,
        })
    }

    /// The form for a tensor whose channels lie along this axis.
    pub fn along(self, channels: Option<usize>) -> ScaleForm {
        match self {
            ScaleForm::Coded { format, over: Over::Channel { .. }, power } => {
                ScaleForm::Coded { format, over: Over::Channel { axis: channels }, power }
            }
            other => other,
        }
    }

    /// The numbers of this form nearest to the scales of a tensor of this shape, and how they are stored.
    ///
    /// Codes: the coarser scale lets the largest of its scales be the largest code, and no code stands for 0
    /// (Dai et al., "VS-Quant: Per-vector scaled quantization for accurate low-precision neural network inference", 2021,
    /// section 4; NVIDIA, "Introducing NVFP4 for efficient and accurate low-precision inference", 2025). Where there are no
    /// blocks, coarser scales have nothing to gather, and these are floats or powers of two.
    pub(super) fn store(
        self,
        scales: &[f32],
        granularity: Granularity,
        shape: &[usize],
    ) -> Result<(Vec<f32>, StoredScales)> {
        let (format, over, of_two) = match (self, granularity) {
            (ScaleForm::Coded { format, over, power }, Granularity::Block { .. }) => (format, over, power),
            (form, _) => {
                return Ok(if form.is_power() {
                    // The power of two at the least ratio.
                    let near = |&s: &f32| power((f64::from(s).log2()).round_ties_even() as i32);
                    (scales.iter().map(near).collect(), StoredScales::Powers)
                } else {
                    (scales.to_vec(), StoredScales::Floats)
                });
            }
        };
        let shape = granularity.scale_shape(shape)?;
        let coarse = Self::coarse(over, granularity);
        let mut largest = vec![0f32; coarse.groups(&shape)?];
        coarse.each_run(&shape, |span, groups| {
            for (i, &s) in scales[span].iter().enumerate() {
                let group = groups.start + if groups.len() == 1 { 0 } else { i };
                largest[group] = largest[group].max(s);
            }
        })?;
        let top = if format.table().is_some() { format.largest() } else { f64::from(format.max) };
        let coarser: Vec<f32> = largest
            .iter()
            .map(|&s| match of_two {
                true => rule_of_maximum(f64::from(s), top),
                false => positive(f64::from(s) / top),
            })
            .collect();
        let params = QuantParams::scaled(format, coarse, coarser)?;
        let params = if of_two { params.coded(ScaleForm::Power, &shape)? } else { params };
        let least = match format.table() {
            Some(table) => table.partition_point(|&x| x <= 0.0) as i32,
            None => format.min.max(1),
        };
        let codes: Vec<i32> = quantize(scales, &shape, &params)?.into_iter().map(|q| q.max(least)).collect();
        let scales = super::dequantize(&codes, &shape, &params)?;
        // A product can fall below the normal numbers where all weights of a channel are next to nothing.
        let scales = scales.into_iter().map(|s| if s > 0.0 { s } else { f32::MIN_POSITIVE }).collect();
        Ok((scales, StoredScales::Codes(Box::new(ScaleCodes { codes, shape, params }))))
    }
}
