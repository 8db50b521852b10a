//! Scale and zero point: [`Scheme`] says of what kind, [`QuantParams`] holds them.

use super::{Format, Granularity, Range};
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
}

impl Scheme {
    /// Scale and zero point for one range.
    ///
    /// Affine: `scale = (max - min) / (qmax - qmin)`, `zero point = round(qmin - min / scale)`
    /// (Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    /// Inference", CVPR 2018, section 3). Symmetric: `scale = max(|min|, |max|) / (qmax - middle)`.
    /// An empty range `[0, 0]` gets scale 1.
    pub fn fit(&self, range: Range) -> (f32, i32) {
        self.fit_stored(range, |scale| scale)
    }

    /// As [`Scheme::fit`], with a scale that `stored` can hold: of a positive number it gives the next one that is not
    /// smaller, so that the range stays covered.
    pub fn fit_stored(&self, range: Range, stored: impl Fn(f32) -> f32) -> (f32, i32) {
        let (qmin, qmax) = (f64::from(self.format.min), f64::from(self.format.max));
        if range.magnitude() == 0.0 {
            return (
                1.0,
                if self.symmetric { self.format.middle() } else { 0.clamp(self.format.min, self.format.max) },
            );
        }
        if self.symmetric {
            let middle = self.format.middle();
            let scale = f64::from(range.magnitude()) / (qmax - f64::from(middle));
            return (stored(positive(scale)), middle);
        }
        let (min, max) = (f64::from(range.min()), f64::from(range.max()));
        let scale = stored(positive((max - min) / (qmax - qmin)));
        let zero_point = (qmin - min / f64::from(scale)).round_ties_even().clamp(qmin, qmax);
        (scale, zero_point as i32)
    }

    /// Steps from one end of a range to the other.
    pub fn steps(&self) -> f64 {
        let lowest = if self.symmetric {
            2 * i64::from(self.format.middle()) - i64::from(self.format.max)
        } else {
            self.format.min.into()
        };
        (i64::from(self.format.max) - lowest) as f64
    }

    /// The smallest code used: the format's, or one more where a signed format is used narrow.
    pub fn lowest(&self) -> i32 {
        if self.narrow && self.format.signed() { -self.format.max } else { self.format.min }
    }
}

/// A scale that arithmetic can divide by: not smaller than the smallest normal number.
fn positive(scale: f64) -> f32 {
    (scale as f32).max(f32::MIN_POSITIVE)
}

/// The parameters of `real = (code - zero point) * scale`.
///
/// Scales are positive and finite, zero points lie inside the format (so zero is exactly representable), and
/// their numbers agree: one of each for every group of the [`Granularity`].
#[derive(Debug, Clone, PartialEq)]
pub struct QuantParams {
    format: Format,
    lowest: i32,
    granularity: Granularity,
    scales: Vec<f32>,
    zero_points: Vec<i32>,
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

    /// Parameters that cover the ranges: one for each group of the scheme's granularity.
    pub fn from_ranges(scheme: &Scheme, ranges: &[Range]) -> Result<Self> {
        Self::from_ranges_stored(scheme, ranges, |scale| scale)
    }

    /// As [`QuantParams::from_ranges`], with scales that `stored` can hold ([`Scheme::fit_stored`]).
    pub fn from_ranges_stored(scheme: &Scheme, ranges: &[Range], stored: impl Fn(f32) -> f32) -> Result<Self> {
        let (scales, zero_points) = ranges.iter().map(|&r| scheme.fit_stored(r, &stored)).unzip();
        let params = Self::checked(scheme.format, scheme.granularity, scales, zero_points)?;
        Ok(QuantParams { lowest: scheme.lowest(), ..params })
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
        Ok(QuantParams { format, lowest: format.min, granularity, scales, zero_points })
    }

    /// The same with other scales, as many. Errors when one is not a positive finite number.
    pub fn with_scales(&self, scales: Vec<f32>) -> Result<Self> {
        let params = Self::checked(self.format, self.granularity, scales, self.zero_points.clone())?;
        Ok(QuantParams { lowest: self.lowest, ..params })
    }

    /// The number format of the codes.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The smallest code used: the format's, or one more where the scheme is narrow.
    pub fn lowest(&self) -> i32 {
        self.lowest
    }

    /// Which numbers share a scale.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// The axis along which the parameters change, counted from the front; `None` for per-tensor.
    pub fn axis(&self) -> Option<usize> {
        self.granularity.axis()
    }

    /// The scales: one for each group.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The zero points: one for each group.
    pub fn zero_points(&self) -> &[i32] {
        &self.zero_points
    }

    /// The scale and zero point of channel or block `c`, whatever the granularity.
    pub fn channel(&self, c: usize) -> (f32, i32) {
        let c = if self.granularity == Granularity::Tensor { 0 } else { c };
        (self.scales[c], self.zero_points[c])
    }

    /// The smallest and largest real number that channel or block `c` can represent.
    pub fn reach(&self, c: usize) -> (f32, f32) {
        let (scale, zero) = self.channel(c);
        let real = |code: i32| ((i64::from(code) - i64::from(zero)) as f64 * f64::from(scale)) as f32;
        (real(self.lowest), real(self.format.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(format: Format, symmetric: bool) -> Scheme {
        Scheme { format, symmetric, narrow: false, granularity: Granularity::Tensor }
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
