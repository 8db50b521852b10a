//! Weights to bytes, as fast as memory is read: extremes, and codes in their storage, on all threads.

use multiversion::multiversion;
use rayon::prelude::*;

use super::extremes::Extremes;
use super::granularity::Split;
use super::kernel::{PART, fits};
use super::{Granularity, Levels, QuantParams, Storage, pack, quantize};
use crate::error::Result;

/// So many numbers are encoded at a time: their codes stay in the nearest cache until they are packed.
const BATCH: usize = 1 << 15;

/// The extremes of each group of a tensor of this shape, 0 among them, and whether all numbers are finite; if not, the extremes
/// mean nothing.
///
/// Errors when the numbers do not fill the shape, or the granularity does not fit it.
pub fn extremes(x: &[f32], shape: &[usize], granularity: Granularity) -> Result<(Vec<(f32, f32)>, bool)> {
    let groups = granularity.groups(shape)?;
    fits(x.len(), shape, granularity, groups)?;
    let mut found = vec![Extremes::ZERO; groups];
    if !x.is_empty() {
        let Split { outer, length, inner } = granularity.split(shape)?;
        match granularity {
            Granularity::Tensor => {
                let parts = x.par_chunks(PART).map(Extremes::of_run);
                found[0] = parts.reduce(|| Extremes::ZERO, Extremes::with);
            }
            Granularity::Channel { .. } if inner == 1 => {
                let rows = (PART / length).max(1);
                let parts = x.par_chunks(rows * length).map(|x| {
                    let mut found = vec![Extremes::ZERO; length];
                    of_columns(&mut found, x);
                    found
                });
                for part in parts.collect::<Vec<_>>() {
                    found.iter_mut().zip(part).for_each(|(all, own)| *all = all.with(own));
                }
            }
            Granularity::Channel { .. } => found.par_iter_mut().enumerate().for_each(|(c, found)| {
                let runs = (0..outer).map(|o| Extremes::of_run(&x[(o * length + c) * inner..][..inner]));
                *found = runs.fold(*found, Extremes::with);
            }),
            Granularity::Block { size, .. } => {
                let size = size.clamp(1, length);
                let rows = x.par_chunks(length * inner).zip(found.par_chunks_mut(length.div_ceil(size) * inner));
                rows.for_each(|(x, found)| match inner {
                    1 => of_blocks(found, x, size),
                    _ => {
                        let blocks = x.par_chunks(size * inner).zip(found.par_chunks_mut(inner));
                        blocks.for_each(|(x, found)| of_columns(found, x));
                    }
                });
            }
        }
    }
    let mut finite = true;
    let numbers = found.into_iter().map(|extremes| {
        let (low, high, whole) = extremes.numbers();
        finite &= whole;
        (low, high)
    });
    let numbers = numbers.collect();
    Ok((numbers, finite))
}

/// Widens the extremes of each block of so many numbers by these.
#[multiversion(targets = "simd")]
fn of_blocks(found: &mut [Extremes], x: &[f32], size: usize) {
    found.iter_mut().zip(x.chunks(size)).for_each(|(found, x)| *found = found.with(Extremes::of(x)));
}

/// Widens the extremes of each column by rows of `found.len()` numbers.
#[multiversion(targets = "simd")]
fn of_columns(found: &mut [Extremes], x: &[f32]) {
    for row in x.chunks(found.len()) {
        found.iter_mut().zip(row).for_each(|(found, &x)| found.see(x));
    }
}

/// A tensor as stretches of neighbouring numbers, in each of which the groups follow one rule.
struct Stretches {
    /// Numbers in a stretch; the last may have fewer where there is one group.
    len: usize,
    /// Stretches that are worth a thread together, an even number of numbers.
    together: usize,
    granularity: Granularity,
    split: Split,
}

/// The groups of a stretch.
enum Groups {
    One(usize),
    /// Each number has its own, from this one on.
    Each(usize),
    /// So many neighbours each, from this one on.
    Blocks(usize, usize),
}

impl Stretches {
    /// The shape must hold numbers. Errors when the granularity does not fit it.
    fn of(shape: &[usize], granularity: Granularity) -> Result<Stretches> {
        let split = granularity.split(shape)?;
        let len = match (granularity, split.inner) {
            (Granularity::Tensor, _) => BATCH,
            (_, 1) => split.length,
            (_, inner) => inner,
        };
        Ok(Stretches { len, together: (BATCH / len).max(1).next_multiple_of(2), granularity, split })
    }

    fn groups(&self, stretch: usize) -> Groups {
        let Split { length, inner, .. } = self.split;
        match self.granularity {
            Granularity::Tensor => Groups::One(0),
            Granularity::Channel { .. } if inner == 1 => Groups::Each(0),
            Granularity::Channel { .. } => Groups::One(stretch % length),
            Granularity::Block { size, .. } => {
                let size = size.clamp(1, length.max(1));
                let blocks = length.div_ceil(size);
                match inner {
                    1 => Groups::Blocks(stretch * blocks, size),
                    _ => Groups::Each((stretch / length * blocks + stretch % length / size) * inner),
                }
            }
        }
    }
}

/// The codes of `x`, a tensor of this shape, in the storage of their format: [`pack`] of [`quantize`].
///
/// Errors as these.
pub fn encode(x: &[f32], shape: &[usize], params: &QuantParams) -> Result<Vec<u8>> {
    let format = params.format();
    let bits = match (format.levels, format.storage) {
        (Levels::Linear, Storage::I8 | Storage::U8) => 8,
        (Levels::Linear, Storage::I4 | Storage::U4) => 4,
        _ => return Ok(pack(format, &quantize(x, shape, params)?)),
    };
    fits(x.len(), shape, params.granularity(), params.scales().len())?;
    let mut bytes = vec![0u8; (x.len() * bits).div_ceil(8)];
    if x.is_empty() {
        return Ok(bytes);
    }
    let stretches = Stretches::of(shape, params.granularity())?;
    let numbers = stretches.len * stretches.together;
    let parts = bytes.par_chunks_mut(numbers * bits / 8).zip(x.par_chunks(numbers)).enumerate();
    parts.for_each(|(part, (bytes, x))| {
        let first = part * stretches.together;
        if bits == 8 {
            return encode_part(&stretches, first, params, x, bytes);
        }
        let mut codes = vec![0u8; x.len()];
        encode_part(&stretches, first, params, x, &mut codes);
        join(bytes, &codes);
    });
    Ok(bytes)
}

/// Two codes a byte, the first in the lower half.
#[multiversion(targets = "simd")]
fn join(bytes: &mut [u8], codes: &[u8]) {
    let (pairs, rest) = codes.as_chunks::<2>();
    bytes.iter_mut().zip(pairs).for_each(|(byte, [low, high])| *byte = low & 15 | high << 4);
    if let ([code], Some(byte)) = (rest, bytes.last_mut()) {
        *byte = code & 15;
    }
}

fn encode_part(stretches: &Stretches, first: usize, params: &QuantParams, x: &[f32], codes: &mut [u8]) {
    let ends = (params.lowest(), params.format().max);
    let (scales, zeros) = (params.scales(), params.zero_points());
    let pairs = x.chunks(stretches.len).zip(codes.chunks_mut(stretches.len)).enumerate();
    for (i, (x, codes)) in pairs {
        match stretches.groups(first + i) {
            Groups::One(group) => encode_run(codes, x, Line { scale: scales[group], zero: zeros[group], ends }),
            Groups::Blocks(group, size) => encode_blocks(codes, x, size, &scales[group..], &zeros[group..], ends),
            Groups::Each(group) => encode_each(codes, x, &scales[group..], &zeros[group..], ends),
        }
    }
}

/// A linear grid of codes that fit a byte.
#[derive(Clone, Copy)]
struct Line {
    scale: f32,
    zero: i32,
    /// The smallest and the largest code.
    ends: (i32, i32),
}

impl Line {
    /// The code of `x` in its lowest byte. Clamping to whole bounds before rounding gives the same as after it, and makes the
    /// addition of 1.5 * 2^23 round half to even in every SIMD instruction set; the code is then in the last bits.
    #[inline(always)]
    fn code(self, x: f32) -> u8 {
        const MAGIC: f32 = 12_582_912.0;
        let (low, high) = ((self.ends.0 - self.zero) as f32, (self.ends.1 - self.zero) as f32);
        let steps = (x / self.scale).max(low).min(high) + MAGIC;
        (steps.to_bits() as i32).wrapping_add(self.zero) as u8
    }

    #[inline(always)]
    fn encode(self, codes: &mut [u8], x: &[f32]) {
        codes.iter_mut().zip(x).for_each(|(code, &x)| *code = self.code(x));
    }
}

#[multiversion(targets = "simd")]
fn encode_run(codes: &mut [u8], x: &[f32], line: Line) {
    line.encode(codes, x);
}

#[multiversion(targets = "simd")]
fn encode_blocks(codes: &mut [u8], x: &[f32], size: usize, scales: &[f32], zeros: &[i32], ends: (i32, i32)) {
    let blocks = codes.chunks_mut(size).zip(x.chunks(size)).zip(scales.iter().zip(zeros));
    blocks.for_each(|((codes, x), (&scale, &zero))| Line { scale, zero, ends }.encode(codes, x));
}

#[multiversion(targets = "simd")]
fn encode_each(codes: &mut [u8], x: &[f32], scales: &[f32], zeros: &[i32], ends: (i32, i32)) {
    let lines = codes.iter_mut().zip(x).zip(scales.iter().zip(zeros));
    lines.for_each(|((code, &x), (&scale, &zero))| *code = Line { scale, zero, ends }.code(x));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::{Clip, Distribution, Format, Scheme, fit};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_are_those_of_pack_and_quantize(
            shape in proptest::collection::vec(1usize..9, 1..4), axis in 0usize..3, size in 1usize..6, kind in 0usize..3,
            f in 0..Format::ALL.len(), symmetric: bool, seed: u64,
        ) {
            let axis = axis % shape.len();
            let granularity =
                [Granularity::Tensor, Granularity::Channel { axis }, Granularity::Block { axis, size }][kind];
            let x = Distribution::Laplace.draw(shape.iter().product(), seed);
            let scheme = Scheme::new(Format::ALL[f], symmetric, granularity);
            let params = fit(&x, &shape, &scheme, Clip::Max, |s| s * 0.7).unwrap();
            let wanted = pack(Format::ALL[f], &quantize(&x, &shape, &params).unwrap());
            prop_assert_eq!(encode(&x, &shape, &params).unwrap(), wanted);
            let (found, finite) = extremes(&x, &shape, granularity).unwrap();
            let groups = crate::number::gather(&x, &shape, granularity).unwrap();
            prop_assert!(finite);
            for ((low, high), x) in found.into_iter().zip(groups) {
                prop_assert_eq!(low, x.iter().copied().fold(0.0, f32::min));
                prop_assert_eq!(high, x.iter().copied().fold(0.0, f32::max));
            }
        }
    }

    /// Tensors of several parts, whose rows have an odd number of numbers.
    #[test]
    fn parts_meet_at_whole_bytes() {
        let shape = [1201, 331];
        let mut x = Distribution::Gauss.draw(shape[0] * shape[1], 0);
        for granularity in [
            Granularity::Tensor,
            Granularity::Channel { axis: 0 },
            Granularity::Channel { axis: 1 },
            Granularity::Block { axis: 1, size: 32 },
            Granularity::Block { axis: 0, size: 32 },
        ] {
            for format in [Format::INT4, Format::INT8, Format::UINT4] {
                let params = fit(&x, &shape, &Scheme::new(format, true, granularity), Clip::Max, |s| s).unwrap();
                let wanted = pack(format, &quantize(&x, &shape, &params).unwrap());
                assert!(encode(&x, &shape, &params).unwrap() == wanted, "{granularity:?} {}", format.name);
            }
        }
        x[5000] = f32::NAN;
        assert!(!extremes(&x, &shape, Granularity::Channel { axis: 0 }).unwrap().1);
        assert!(extremes(&x, &[3], Granularity::Tensor).is_err());
    }
}
