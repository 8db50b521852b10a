//! Constants in a narrow type, and what was lost.

use rayon::prelude::*;

use super::Narrow;
use crate::error::Result;
use crate::model::{Scratch, SparseTensorProto, Tensor, TensorProto, release};

/// What became of the numbers of a constant.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Rounded {
    /// The constant.
    pub name: String,
    /// How many numbers it holds.
    pub numbers: usize,
    /// How many were past the range of the type, and became its largest number. Infinities stay, and are not among them.
    pub overflowed: usize,
    /// The largest magnitude of those that were.
    pub largest: f32,
    /// How many are not zero and below the normal numbers of the type, and have fewer digits.
    pub subnormal: usize,
    /// How many of those became zero.
    pub zeroed: usize,
}

impl Rounded {
    /// Both together, under the name of the first.
    #[must_use]
    pub fn with(self, other: Rounded) -> Rounded {
        Rounded {
            name: self.name,
            numbers: self.numbers + other.numbers,
            overflowed: self.overflowed + other.overflowed,
            largest: self.largest.max(other.largest),
            subnormal: self.subnormal + other.subnormal,
            zeroed: self.zeroed + other.zeroed,
        }
    }
}

/// Numbers that one thread rounds at a time.
const PIECE: usize = 1 << 16;
/// Numbers that are converted together.
const ROW: usize = 256;

/// Rounds numbers to the nearest of the type, ties to even; its codes, and what was lost. What is past the range becomes
/// the largest number; infinities and NaN stay.
///
/// A number that stands alone is the small term of a division or a logarithm where it would become zero: it becomes the
/// smallest number of the type.
pub(super) fn round(x: &[f32], to: Narrow) -> (Vec<u16>, Rounded) {
    let mut codes = vec![0u16; x.len()];
    let piece = |(codes, x): (&mut [u16], &[f32])| {
        let (largest, normal, half) = (to.largest(), to.smallest_normal(), to.smallest() / 2.0);
        let mut lost = Rounded { numbers: x.len(), ..Rounded::default() };
        let mut held = [0f32; ROW];
        for (codes, x) in codes.chunks_mut(ROW).zip(x.chunks(ROW)) {
            let held = &mut held[..x.len()];
            for (held, &x) in held.iter_mut().zip(x) {
                let magnitude = x.abs();
                if magnitude > largest && x.is_finite() && to.is_infinite(x) {
                    lost.overflowed += 1;
                    lost.largest = lost.largest.max(magnitude);
                }
                if magnitude < normal && magnitude > 0.0 {
                    lost.subnormal += 1;
                    lost.zeroed += usize::from(magnitude <= half);
                }
                *held = if x.is_finite() { x.clamp(-largest, largest) } else { x };
            }
            to.encode(held, codes);
        }
        release(bytemuck::cast_slice(x));
        lost
    };
    let pieces = codes.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE));
    let mut lost = pieces.map(piece).reduce(Rounded::default, Rounded::with);
    if let ([x], 1) = (x, lost.zeroed) {
        to.encode(&[to.smallest().copysign(*x)], &mut codes);
        lost.zeroed = 0;
    }
    (codes, lost)
}

/// The constant in the narrow type, under that name.
pub(super) fn narrowed(
    t: &TensorProto,
    name: &str,
    to: Narrow,
    scratch: Option<&Scratch>,
) -> Result<(TensorProto, Rounded)> {
    let read = Tensor::from_proto(t)?;
    let (codes, lost) = round(&read.f32s()?, to);
    let mut tensor = Tensor::from_codes(to.dtype(), read.shape().to_vec(), codes)?;
    if let Some(scratch) = scratch {
        tensor = scratch.keep(tensor)?;
    }
    let proto = TensorProto { doc_string: t.doc_string.clone(), ..tensor.to_proto(name) };
    Ok((proto, Rounded { name: t.name().to_owned(), ..lost }))
}

/// A sparse constant likewise.
pub(super) fn narrowed_sparse(t: &SparseTensorProto, name: &str, to: Narrow) -> Result<(SparseTensorProto, Rounded)> {
    let Some(values) = &t.values else { return Ok((t.clone(), Rounded::default())) };
    let (values, lost) = narrowed(values, name, to, None)?;
    Ok((SparseTensorProto { values: Some(values), ..t.clone() }, lost))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(codes: &[u16], to: Narrow) -> Vec<f32> {
        let tensor = Tensor::from_codes(to.dtype(), vec![codes.len()], codes.to_vec()).unwrap();
        tensor.f32s().unwrap().into_owned()
    }

    #[test]
    fn what_is_past_the_range_becomes_the_largest_number_and_is_counted() {
        let x = [1.0, -3.4e38, 65519.0, 65520.0, f32::NEG_INFINITY, f32::NAN, 3e-5, 1e-8, 0.0, -0.0];
        let (codes, lost) = round(&x, Narrow::Float16);
        let y = back(&codes, Narrow::Float16);
        assert_eq!(y[..5], [1.0, -65504.0, 65504.0, 65504.0, f32::NEG_INFINITY]);
        assert!(y[5].is_nan() && y[7..] == [0.0; 3] && y[9].is_sign_negative());
        assert_eq!((lost.numbers, lost.overflowed, lost.largest), (10, 2, 3.4e38));
        assert_eq!((lost.subnormal, lost.zeroed), (2, 1));
        let (codes, lost) = round(&x, Narrow::Bfloat16);
        assert_eq!(back(&codes, Narrow::Bfloat16)[1], -Narrow::Bfloat16.largest());
        assert_eq!((lost.overflowed, lost.subnormal, lost.zeroed), (1, 0, 0));
        // What rounds to infinity is past the range, and nothing before.
        let edge = f32::from_bits(0x7f7f_8000);
        assert_eq!(round(&[edge, 1.0], Narrow::Bfloat16).1.overflowed, 1);
        assert_eq!(round(&[f32::from_bits(0x7f7f_7fff), 1.0], Narrow::Bfloat16).1.overflowed, 0);
    }

    #[test]
    fn a_small_number_that_stands_alone_does_not_vanish() {
        let (codes, lost) = round(&[-1e-12], Narrow::Float16);
        assert_eq!(back(&codes, Narrow::Float16), [-Narrow::Float16.smallest()]);
        assert_eq!((lost.subnormal, lost.zeroed), (1, 0));
        assert_eq!(back(&round(&[0.0], Narrow::Float16).0, Narrow::Float16), [0.0]);
    }

    /// Every code of both types comes back from float32, and what lies between goes to the nearer, or the even one.
    #[test]
    fn rounding_is_to_nearest_ties_to_even() {
        for to in [Narrow::Float16, Narrow::Bfloat16] {
            let reals = back(&(0..=u16::MAX).collect::<Vec<_>>(), to);
            let finite: Vec<u16> = (0..0x7fff).filter(|&c| reals[usize::from(c) + 1].is_finite()).collect();
            for code in finite {
                let (a, b) = (f64::from(reals[usize::from(code)]), f64::from(reals[usize::from(code) + 1]));
                let even = if code % 2 == 0 { a } else { b };
                let middle = (a + b) / 2.0;
                for (x, want) in [(a, a), (middle, even), (b, b)].map(|(x, w)| (x as f32, w as f32)) {
                    assert_eq!(back(&round(&[x, -x], to).0, to), [want, -want], "{to:?} {code:x}");
                }
            }
        }
    }
}
