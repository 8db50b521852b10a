//! Scale and zero point: [`Scheme`] says of what kind, [`QuantParams`] holds them.

use std::num::NonZeroUsize;
use std::sync::Arc;

use super::scales::{ScaleForm, StoredScales, power_above, rule_of_maximum};
use super::{Format, Granularity, Levels, Range};
use crate::error::{Error, ErrorKind, Result};

/// How a tensor is to be quantized, before its range is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scheme {
    /// The number format of the codes.
    pub format: Format,
    /// The zero point is the format's middle, and the range is made symmetric around zero.
    pub symmetric: bool,
    /// The lowest code of a signed format is left unused, so that codes are symmetric too.
    pub narrow: bool,
    /// Which values share a scale.
    pub granularity: Granularity,
    /// So many neighbouring channels have the same scale and zero point, each its own copy of them, as DequantizeLinear reads
    /// them; 1 where there are no channels. The last group may have fewer.
    pub joined: NonZeroUsize,
    /// Which numbers scales can be.
    pub scales: ScaleForm,
}

impl Scheme {
    /// A scheme with scales of float32.
    pub const fn new(format: Format, symmetric: bool, granularity: Granularity) -> Scheme {
        Scheme { format, symmetric, narrow: false, granularity, joined: NonZeroUsize::MIN, scales: ScaleForm::Float }
    }

    /// Scale and zero point for one range.
    ///
    /// Affine: `scale = (max - min) / (qmax - qmin)`, `zero point = round(qmin - min / scale)`
    /// (Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    /// Inference", CVPR 2018, section 3). Symmetric, and all that are no linear formats: `scale = max(|min|, |max|)` over
    /// the largest number of a code. Where scales are powers of two, `scale = 2^(floor(log2(max)) - floor(log2(largest)))`
    /// with them, and the next power of two that covers an affine range (OCP Microscaling Formats (MX) Specification v1.0, section 6.3), and what is larger saturates.
    /// An empty range `[0, 0]` gets scale 1.
    pub fn fit(&self, range: Range) -> (f32, i32) {
        self.fit_stored(range, |scale| scale)
    }

    /// As [`Scheme::fit`], with a scale that `stored` can hold: of a positive number it gives the next one that is not
    /// smaller, so that the range stays covered.
    pub fn fit_stored(&self, range: Range, stored: impl Fn(f32) -> f32) -> (f32, i32) {
        let (qmin, qmax) = (f64::from(self.format.min), f64::from(self.format.max));
        let symmetric = self.symmetric || self.format.levels.is_table();
        if range.magnitude() == 0.0 {
            return (1.0, if symmetric { self.format.middle() } else { 0.clamp(self.format.min, self.format.max) });
        }
        if symmetric {
            let magnitude = f64::from(range.magnitude());
            let scale = match self.scales.is_power() {
                true => rule_of_maximum(magnitude, self.format.largest()),
                false => stored(positive(magnitude / self.format.largest())),
            };
            return (scale, self.format.middle());
        }
        let (min, max) = (f64::from(range.min()), f64::from(range.max()));
        let scale = match positive((max - min) / (qmax - qmin)) {
            scale if self.scales.is_power() => power_above(scale),
            scale => stored(scale),
        };
        let zero_point = (qmin - min / f64::from(scale)).round_ties_even().clamp(qmin, qmax);
        (scale, zero_point as i32)
    }

    /// Steps from one end of a range to the other.
    pub fn steps(&self) -> f64 {
        let lowest = if self.symmetric && self.format.levels == Levels::Linear {
            2 * i64::from(self.format.middle()) - i64::from(self.format.max)
        } else {
            self.format.min.into()
        };
        (i64::from(self.format.max) - lowest) as f64
    }

    /// The smallest code used: the format's, or one more where a signed format is used narrow.
    pub fn lowest(&self) -> i32 {
        if self.narrow && self.format.min < 0 { -self.format.max } else { self.format.min }
    }
}

/// A scale that arithmetic can divide by: not smaller than the smallest normal number.
pub(super) fn positive(scale: f64) -> f32 {
    (scale as f32).max(f32::MIN_POSITIVE)
}

/// The parameters of `real = (code - zero point) * scale`, or `real = table[code] * scale` for codes that are places in a
/// table.
///
/// Scales are positive and finite, zero points lie inside the format (so zero is exactly representable by codes that have
/// one), and their numbers agree: one of each for every group of the [`Granularity`].
#[derive(Debug, Clone, PartialEq)]
pub struct QuantParams {
    format: Format,
    lowest: i32,
    granularity: Granularity,
    joined: NonZeroUsize,
    scales: Vec<f32>,
    zero_points: Vec<i32>,
    /// The tables of all groups one after the other, where they are found for the numbers at hand.
    tables: Option<Arc<[f32]>>,
    stored: StoredScales,
}

impl QuantParams {
    /// Parameters with one scale and zero point for the whole tensor.
    pub fn per_tensor(format: Format, scale: f32, zero_point: i32) -> Result<Self> {
        Self::checked(format, Granularity::Tensor, vec![scale], vec![zero_point])
    }

    /// Parameters with one scale and zero point for each index along `axis`.
    pub fn per_channel(format: Format, axis: usize, scales: Vec<f32>, zero_points: Vec<i32>) -> Result<Self> {
        Self::checked(format, Granularity::Channel { axis }, scales, zero_points)
    }

    /// Parameters with zero points of 0, and scales that are stored as they are.
    pub fn scaled(format: Format, granularity: Granularity, scales: Vec<f32>) -> Result<Self> {
        let zero_points = vec![0; scales.len()];
        Self::checked(format, granularity, scales, zero_points)
    }

    /// Parameters whose codes are places in a table for each group of the scheme, `[groups, numbers]`, ascending in each;
    /// joined channels take that of the first of them.
    ///
    /// Errors when the tables do not hold a finite number for every code.
    pub fn with_tables(scheme: &Scheme, mut tables: Vec<f32>) -> Result<Self> {
        let Scheme { format, granularity, joined, .. } = *scheme;
        let count = format.max as usize + 1;
        for group in tables.chunks_mut(count.saturating_mul(joined.get())) {
            let (first, others) = group.split_at_mut(count.min(group.len()));
            others.chunks_exact_mut(count).for_each(|table| table.copy_from_slice(first));
        }
        let groups = tables.len() / count;
        let sorted = tables.chunks(count).all(|t| t.len() == count && t.is_sorted() && t.iter().all(|x| x.is_finite()));
        if !sorted || groups == 0 || !format.levels.is_fitted() {
            let what = format!("{} numbers are no tables of {} ascending ones", tables.len(), count);
            return Err(Error::new(ErrorKind::InvalidModel, what));
        }
        let params = Self::checked(format, granularity, vec![1.0; groups], vec![0; groups])?;
        Ok(QuantParams { tables: Some(tables.into()), joined, ..params })
    }

    /// Parameters that cover the ranges: one for each group of the scheme's granularity. Those of joined channels cover the
    /// ranges of all of them.
    ///
    /// Scales are floats or powers of two, as the scheme says; those that are products of codes need the shape of the
    /// tensor: [`QuantParams::of_shape`]. Errors for these, and for tables that are found for the numbers at hand.
    pub fn from_ranges(scheme: &Scheme, ranges: &[Range]) -> Result<Self> {
        Self::from_ranges_stored(scheme, ranges, |scale| scale)
    }

    /// As [`QuantParams::from_ranges`], with scales that `stored` can hold ([`Scheme::fit_stored`]).
    pub fn from_ranges_stored(scheme: &Scheme, ranges: &[Range], stored: impl Fn(f32) -> f32) -> Result<Self> {
        if scheme.format.levels.is_fitted() || matches!(scheme.scales, ScaleForm::Coded { .. }) {
            let what = format!("a range alone does not say the scales of {}", scheme.format.name);
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        Self::direct(scheme, ranges, stored)
    }

    fn direct(scheme: &Scheme, ranges: &[Range], stored: impl Fn(f32) -> f32) -> Result<Self> {
        let (count, joined) = (ranges.len(), scheme.joined.get());
        let mut of_group = (1.0, 0);
        let of_place = |i: usize| {
            if i.is_multiple_of(joined) {
                let group = &ranges[i..count.min(i.saturating_add(joined))];
                of_group = scheme.fit_stored(group.iter().fold(group[0], |all, &r| all.hull(r)), &stored);
            }
            of_group
        };
        let (scales, zero_points) = (0..count).map(of_place).unzip();
        let params = Self::checked(scheme.format, scheme.granularity, scales, zero_points)?;
        let form = if scheme.scales.is_power() { StoredScales::Powers } else { StoredScales::Floats };
        Ok(QuantParams { lowest: scheme.lowest(), stored: form, joined: scheme.joined, ..params })
    }

    /// As [`QuantParams::from_ranges_stored`] for a tensor of this shape, with scales of every form: those that are
    /// products of codes and coarser scales are rounded to the nearest such product.
    ///
    /// Errors when the ranges do not fit the shape.
    pub fn of_shape(scheme: &Scheme, shape: &[usize], ranges: &[Range], stored: impl Fn(f32) -> f32) -> Result<Self> {
        let ScaleForm::Coded { .. } = scheme.scales else { return Self::from_ranges_stored(scheme, ranges, stored) };
        Self::direct(scheme, ranges, |scale| scale)?.coded(scheme.scales, shape)
    }

    /// The same with scales of that form for a tensor of this shape, as near as they come.
    pub fn coded(self, form: ScaleForm, shape: &[usize]) -> Result<Self> {
        let (scales, stored) = form.store(&self.scales, self.granularity, shape)?;
        Ok(QuantParams { stored, ..self.with_scales(scales)? })
    }

    fn checked(format: Format, granularity: Granularity, scales: Vec<f32>, zero_points: Vec<i32>) -> Result<Self> {
        let wrong = |what: String| Err(Error::new(ErrorKind::InvalidModel, what));
        if scales.len() != zero_points.len() || (granularity == Granularity::Tensor && scales.len() != 1) {
            return wrong(format!("{} scales but {} zero points", scales.len(), zero_points.len()));
        }
        if let Some(s) = scales.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
            return wrong(format!("scale {s} is not a positive finite number"));
        }
        if let Some(z) = zero_points.iter().find(|z| !(format.min..=format.max).contains(z)) {
            return wrong(format!("zero point {z} is outside {} ({} to {})", format.name, format.min, format.max));
        }
        let (lowest, stored) = (format.min, StoredScales::Floats);
        Ok(QuantParams {
            format,
            lowest,
            granularity,
            joined: NonZeroUsize::MIN,
            scales,
            zero_points,
            tables: None,
            stored,
        })
    }

    /// The same with other scales, as many, which are stored as floats; joined channels take that of the first of them.
    /// Errors when one is not a positive finite number.
    pub fn with_scales(&self, mut scales: Vec<f32>) -> Result<Self> {
        scales.chunks_mut(self.joined.get()).for_each(|group| group.fill(group[0]));
        let params = Self::checked(self.format, self.granularity, scales, self.zero_points.clone())?;
        Ok(QuantParams { lowest: self.lowest, joined: self.joined, tables: self.tables.clone(), ..params })
    }

    /// Those of a matrix with its axes exchanged; `None` where blocks share scales, which are not in the order of channels.
    pub fn transposed(&self) -> Option<Self> {
        let granularity = match self.granularity {
            Granularity::Tensor => Granularity::Tensor,
            Granularity::Channel { axis } => Granularity::Channel { axis: 1usize.checked_sub(axis)? },
            Granularity::Block { .. } => return None,
        };
        Some(QuantParams { granularity, ..self.clone() })
    }

    /// The number format of the codes.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The same codes in another storage of them: `format` differs in nothing else.
    pub fn stored_as(&self, format: Format) -> Self {
        QuantParams { format: Format { storage: format.storage, opset: format.opset, ..self.format }, ..self.clone() }
    }

    /// The smallest code used: the format's, or one more where the scheme is narrow.
    pub fn lowest(&self) -> i32 {
        self.lowest
    }

    /// Which numbers share a scale.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// So many neighbouring channels have the same scale and zero point ([`Scheme::joined`]).
    pub fn joined(&self) -> NonZeroUsize {
        self.joined
    }

    /// The axis along which the parameters change, counted from the front; `None` for per-tensor.
    pub fn axis(&self) -> Option<usize> {
        self.granularity.axis()
    }

    /// The scales: one for each group.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// How the scales are stored.
    pub fn stored_scales(&self) -> &StoredScales {
        &self.stored
    }

    /// The zero points: one for each group.
    pub fn zero_points(&self) -> &[i32] {
        &self.zero_points
    }

    /// The tables of all groups one after the other, where they were found for the numbers at hand.
    pub fn tables(&self) -> Option<&[f32]> {
        self.tables.as_deref()
    }

    /// The numbers of the codes of channel or block `c` before the scale, ascending; `None` where codes are linear.
    pub fn table(&self, c: usize) -> Option<&[f32]> {
        let Some(tables) = &self.tables else { return self.format.table() };
        let count = tables.len() / self.scales.len().max(1);
        let c = if self.granularity == Granularity::Tensor { 0 } else { c };
        tables.get(c * count..(c + 1) * count)
    }

    /// The scale and zero point of channel or block `c`, whatever the granularity.
    pub fn channel(&self, c: usize) -> (f32, i32) {
        let c = if self.granularity == Granularity::Tensor { 0 } else { c };
        (self.scales[c], self.zero_points[c])
    }

    /// The smallest and largest real number that channel or block `c` can represent.
    pub fn reach(&self, c: usize) -> (f32, f32) {
        let grid = super::Grid::of(self, c);
        (grid.real(grid.lowest), grid.real(grid.highest))
    }

    /// Bits that so many codes take with their scales, the zero points that are not the format's middle, and tables of
    /// their own: scales and numbers of tables as float32 where they are no codes themselves.
    pub fn bits(&self, codes: usize) -> u64 {
        let groups = self.scales.len() as u64;
        let affine = self.zero_points.iter().any(|&z| z != self.format.middle());
        let zeros = if affine { groups * u64::from(self.format.bits) } else { 0 };
        let scales = match &self.tables {
            Some(tables) => 32 * tables.len() as u64,
            None => self.stored.bits(groups),
        };
        codes as u64 * u64::from(self.format.bits) + zeros + scales
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(format: Format, symmetric: bool) -> Scheme {
        Scheme::new(format, symmetric, Granularity::Tensor)
    }

    #[test]
    fn a_matrix_is_turned_with_its_channels() {
        let of = |axis: usize| QuantParams::per_channel(Format::UINT8, axis, vec![0.5, 2.0], vec![3, 4]).unwrap();
        assert_eq!(of(0).transposed(), Some(of(1)));
        assert_eq!(of(1).transposed(), Some(of(0)));
        assert_eq!(of(2).transposed(), None);
        let one = QuantParams::per_tensor(Format::INT8, 0.5, 0).unwrap();
        assert_eq!(one.transposed(), Some(one.clone()));
        let blocks = QuantParams::scaled(Format::INT8, Granularity::Block { axis: 0, size: 2 }, vec![1.0; 4]).unwrap();
        assert_eq!(blocks.transposed(), None);
    }

    #[test]
    fn zero_is_exact_in_every_format_and_range() {
        for format in Format::ALL {
            for symmetric in [false, true] {
                for (lo, hi) in [(0.0, 0.0), (-1.0, 0.0), (0.0, 6.0), (-3.3, 0.01), (1e-42, 2e-42), (-3e38, 3e38)] {
                    let range = Range::new(lo, hi).unwrap();
                    let p = QuantParams::from_ranges(&scheme(format, symmetric), &[range]).unwrap();
                    assert!((format.min..=format.max).contains(&p.zero_points()[0]), "{format:?} {range:?}");
                    assert!(p.scales()[0] > 0.0);
                }
            }
        }
    }

    #[test]
    fn fits_as_the_field_does() {
        let r = Range::new(-1.0, 3.0).unwrap();
        assert_eq!(scheme(Format::UINT8, false).fit(r), (4.0 / 255.0, 64));
        assert_eq!(scheme(Format::INT8, false).fit(r), (4.0 / 255.0, -64));
        assert_eq!(scheme(Format::INT8, true).fit(r), (3.0 / 127.0, 0));
        assert_eq!(scheme(Format::UINT8, true).fit(r), (3.0 / 127.0, 128));
    }

    #[test]
    fn refuses_what_cannot_be_computed_with() {
        assert!(QuantParams::per_tensor(Format::UINT8, 0.0, 0).is_err());
        assert!(QuantParams::per_tensor(Format::UINT8, f32::NAN, 0).is_err());
        assert!(QuantParams::per_tensor(Format::UINT8, 1.0, 256).is_err());
        assert!(QuantParams::per_channel(Format::INT8, 0, vec![1.0, 1.0], vec![0]).is_err());
    }
}
