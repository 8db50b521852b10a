//! Weights to bytes, as fast as memory is read: extremes, and codes in their storage, on all threads.

use multiversion::multiversion;
use rayon::prelude::*;

use super::kernel::{PART, fits, scan};
use super::{Granularity, Grid, Levels, QuantParams, Storage, pack, quantize};
use crate::error::Result;

/// A tensor as stretches of neighbouring numbers, in each of which the groups follow one rule.
struct Stretches {
    /// Numbers in a stretch; the last may have fewer where there is one group.
    len: usize,
    /// Stretches that are worth a thread together, an even number of numbers.
    together: usize,
    granularity: Granularity,
    /// The length of the axis, and how many numbers lie behind an index of it.
    axis: (usize, usize),
}

/// A group, and its smallest and largest number.
type Extremes = (usize, f32, f32);

/// The groups of a stretch.
enum Groups {
    One(usize),
    /// Each number has its own, from this one on.
    Each(usize),
    /// So many neighbours each, from this one on.
    Blocks(usize, usize),
}

impl Stretches {
    /// The granularity must fit the shape, and the shape hold numbers.
    fn of(shape: &[usize], granularity: Granularity) -> Stretches {
        let axis = granularity.axis().map_or((1, 1), |a| (shape[a], shape[a + 1..].iter().product()));
        let len = match granularity {
            Granularity::Tensor => PART,
            Granularity::Channel { .. } | Granularity::Block { .. } if axis.1 == 1 => axis.0,
            _ => axis.1,
        };
        Stretches { len, together: (PART / len).max(1).next_multiple_of(2), granularity, axis }
    }

    fn groups(&self, stretch: usize) -> Groups {
        let (length, inner) = self.axis;
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

/// The extremes of each group of a tensor of this shape, 0 among them, and whether all numbers are finite; if not, the extremes
/// mean nothing.
///
/// Errors when the numbers do not fill the shape, or the granularity does not fit it.
pub fn extremes(x: &[f32], shape: &[usize], granularity: Granularity) -> Result<(Vec<(f32, f32)>, bool)> {
    let groups = granularity.groups(shape)?;
    fits(x.len(), shape, granularity, groups)?;
    let mut found = vec![(0f32, 0f32); groups];
    if x.is_empty() {
        return Ok((found, true));
    }
    let stretches = Stretches::of(shape, granularity);
    let parts: Vec<(Vec<Extremes>, bool)> = x
        .par_chunks(stretches.len * stretches.together)
        .enumerate()
        .map(|(part, x)| extremes_of_part(&stretches, part * stretches.together, x))
        .collect();
    let mut finite = true;
    for (part, whole) in parts {
        finite &= whole;
        for (group, low, high) in part {
            found[group] = (found[group].0.min(low), found[group].1.max(high));
        }
    }
    Ok((found, finite))
}

fn extremes_of_part(stretches: &Stretches, first: usize, x: &[f32]) -> (Vec<Extremes>, bool) {
    let (mut found, mut finite) = (Vec::new(), true);
    let one = |group: usize, x: &[f32], found: &mut Vec<Extremes>| {
        let (low, high, poison) = scan(x);
        found.push((group, low, high));
        poison == 0.0
    };
    for (i, x) in x.chunks(stretches.len).enumerate() {
        match stretches.groups(first + i) {
            Groups::One(group) => finite &= one(group, x, &mut found),
            Groups::Blocks(group, size) => {
                x.chunks(size).enumerate().for_each(|(b, x)| finite &= one(group + b, x, &mut found));
            }
            Groups::Each(group) => {
                // Rows of one run of groups widen what the first of them found.
                let known = found.last().is_some_and(|&(last, ..)| last + 1 == group + x.len());
                if !known {
                    found.extend((0..x.len()).map(|k| (group + k, 0.0, 0.0)));
                }
                let start = found.len() - x.len();
                finite &= widen(&mut found[start..], x);
            }
        }
    }
    (found, finite)
}

#[multiversion(targets = "simd")]
fn widen(found: &mut [Extremes], x: &[f32]) -> bool {
    let mut poison = 0f32;
    for ((_, low, high), &x) in found.iter_mut().zip(x) {
        *low = if x < *low { x } else { *low };
        *high = if x > *high { x } else { *high };
        poison += x * 0.0;
    }
    poison == 0.0
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
    let stretches = Stretches::of(shape, params.granularity());
    let grids: Vec<Grid<'_>> = (0..params.scales().len()).map(|c| Grid::of(params, c)).collect();
    let numbers = stretches.len * stretches.together;
    let parts = bytes.par_chunks_mut(numbers * bits / 8).zip(x.par_chunks(numbers)).enumerate();
    parts.for_each(|(part, (bytes, x))| {
        let first = part * stretches.together;
        if bits == 8 {
            return encode_part(&stretches, first, &grids, x, bytes);
        }
        let mut codes = vec![0u8; x.len()];
        encode_part(&stretches, first, &grids, x, &mut codes);
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

fn encode_part(stretches: &Stretches, first: usize, grids: &[Grid<'_>], x: &[f32], codes: &mut [u8]) {
    let pairs = x.chunks(stretches.len).zip(codes.chunks_mut(stretches.len)).enumerate();
    for (i, (x, codes)) in pairs {
        match stretches.groups(first + i) {
            Groups::One(group) => encode_run(codes, x, grids[group]),
            Groups::Blocks(group, size) => encode_blocks(codes, x, size, &grids[group..]),
            Groups::Each(group) => {
                let pairs = codes.iter_mut().zip(x).zip(&grids[group..]);
                pairs.for_each(|((code, &x), grid)| *code = grid.code(x) as u8);
            }
        }
    }
}

/// Clamping to whole bounds before rounding gives the same as after it, and makes the addition of 1.5 * 2^23 round half to even
/// in every SIMD instruction set; the code is then in its last bits.
#[inline(always)]
fn encode_one(codes: &mut [u8], x: &[f32], grid: Grid<'_>) {
    const MAGIC: f32 = 12_582_912.0;
    let (low, high) = ((grid.lowest - grid.zero) as f32, (grid.highest - grid.zero) as f32);
    for (code, &x) in codes.iter_mut().zip(x) {
        let steps = (x / grid.scale).max(low).min(high) + MAGIC;
        *code = (steps.to_bits() as i32).wrapping_add(grid.zero) as u8;
    }
}

#[multiversion(targets = "simd")]
fn encode_run(codes: &mut [u8], x: &[f32], grid: Grid<'_>) {
    encode_one(codes, x, grid);
}

#[multiversion(targets = "simd")]
fn encode_blocks(codes: &mut [u8], x: &[f32], size: usize, grids: &[Grid<'_>]) {
    codes.chunks_mut(size).zip(x.chunks(size)).zip(grids).for_each(|((codes, x), &grid)| encode_one(codes, x, grid));
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
