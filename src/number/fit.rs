//! From the numbers of a tensor to the parameters of a scheme, whatever its format.

use rayon::prelude::*;

use super::cluster::{binary, means, ternary};
use super::{Format, Granularity, Grid, Levels, QuantParams, Range, Scheme};
use crate::error::{Error, ErrorKind, Result};

/// Where ranges of numbers end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Clip {
    /// At the extremes.
    #[default]
    Max,
    /// Where the sum of the squared errors is least, as far as a search along one factor finds.
    Best,
}

/// Parts of the extremes that are tried as ends of a range, on the way to the best.
const FACTORS: usize = 32;

/// The parameters of a scheme for a tensor of this shape, from its numbers.
///
/// Ternary and binary scales and tables of means are the best there are, whatever the clip; means of clusters are exact, or
/// found from the seed 0 ([`means`](super::means)). Elsewhere ranges end where the clip says, and scales take the form of
/// the scheme, `stored` included ([`Scheme::fit_stored`]).
///
/// Errors when the axis is outside the shape, and when a number is not finite.
pub fn fit(
    x: &[f32],
    shape: &[usize],
    scheme: &Scheme,
    clip: Clip,
    stored: impl Fn(f32) -> f32 + Sync,
) -> Result<QuantParams> {
    if let Some(bad) = x.iter().find(|x| !x.is_finite()) {
        return Err(Error::new(ErrorKind::InvalidModel, format!("it holds {bad}, which is not finite")));
    }
    if scheme.format.levels.is_fitted() {
        return fit_tables(x, None, shape, scheme);
    }
    let groups = joined(gather(x, shape, scheme.granularity)?, scheme);
    let ranges: Vec<Range> = groups.par_iter().map(|x| range(x, scheme, clip)).collect();
    let ranges: Vec<Range> = each_joined(ranges, shape, scheme)?;
    QuantParams::of_shape(scheme, shape, &ranges, stored)
}

/// The tables of a format whose tables are found for the numbers at hand, for a tensor of this shape: those with the least
/// sum of squared distances, each times what that number weighs (at least 0), where weights are given.
///
/// Means of clusters are exact, or found from the seed 0 ([`means`](super::means)). Weights that say how much the loss grows
/// with each distance, the diagonal of a Hessian, make it the first part of that loss (Kim et al., "SqueezeLLM: Dense-and-sparse
/// quantization", 2024, equation 4).
///
/// Errors when the axis is outside the shape, and when tables of the format are not found but given.
pub fn fit_tables(x: &[f32], weights: Option<&[f64]>, shape: &[usize], scheme: &Scheme) -> Result<QuantParams> {
    let groups = joined(gather(x, shape, scheme.granularity)?, scheme);
    let weights = weights.map(|w| gather(w, shape, scheme.granularity)).transpose()?.map(|w| joined(w, scheme));
    let of = |(i, x): (usize, &Vec<f32>)| table(x, weights.as_ref().map(|w| &w[i][..]), scheme.format);
    let tables: Vec<Vec<f32>> = groups.par_iter().enumerate().map(of).collect();
    QuantParams::with_tables(scheme, each_joined(tables, shape, scheme)?.concat())
}

/// The numbers of joined channels together: each counts.
fn joined<T: Copy>(groups: Vec<Vec<T>>, scheme: &Scheme) -> Vec<Vec<T>> {
    match scheme.joined.get() {
        1 => groups,
        joined => groups.chunks(joined).map(<[Vec<T>]>::concat).collect(),
    }
}

/// For each channel, or other group, what was found for those that are joined.
fn each_joined<T: Clone>(found: Vec<T>, shape: &[usize], scheme: &Scheme) -> Result<Vec<T>> {
    let joined = scheme.joined.get();
    Ok((0..scheme.granularity.groups(shape)?).map(|c| found[c / joined].clone()).collect())
}

/// The numbers of each group, in the order of the groups.
pub fn gather<T: Copy>(x: &[T], shape: &[usize], granularity: Granularity) -> Result<Vec<Vec<T>>> {
    let mut groups = vec![Vec::new(); granularity.groups(shape)?];
    granularity.each_run(shape, |span, of| match of.len() {
        1 => groups[of.start].extend_from_slice(&x[span]),
        _ => x[span].iter().zip(of).for_each(|(&x, group)| groups[group].push(x)),
    })?;
    Ok(groups)
}

/// The table of a group, of the format's length.
fn table(x: &[f32], weights: Option<&[f64]>, format: Format) -> Vec<f32> {
    if format.levels == Levels::TwoScales {
        let weight = |i: usize| weights.map_or(1.0, |w| w[i]);
        let side = |sign: f32| ternary(x.iter().enumerate().map(|(i, &x)| ((sign * x).max(0.0), weight(i))));
        return vec![-side(-1.0), 0.0, side(1.0)];
    }
    means(x, weights, format.max as usize + 1, 0)
}

/// The range of a group.
fn range(x: &[f32], scheme: &Scheme, clip: Clip) -> Range {
    let (low, high) = x.iter().fold((0f32, 0f32), |(low, high), &x| (low.min(x), high.max(x)));
    let whole = Range::new(low, high).unwrap_or(Range::ZERO);
    let scaled = |by: f32| Range::new(low * by, high * by).unwrap_or(whole);
    let around = |size: f32| Range::new(-size, size).unwrap_or(whole);
    match (scheme.format.levels, clip) {
        (Levels::Ternary, _) => around(ternary(x.iter().map(|&x| (x, 1.0)))),
        (Levels::Binary, _) => around(binary(x)),
        (_, Clip::Max) => whole,
        (_, Clip::Best) if whole.magnitude() == 0.0 => whole,
        (_, Clip::Best) => {
            let loss = |range: Range| {
                let grid = Grid::fit(scheme, range);
                x.iter().map(|&x| (f64::from(x) - f64::from(grid.real(grid.code(x)))).powi(2)).sum::<f64>()
            };
            let better = |best: (f64, f32), by: f32| {
                let loss = loss(scaled(by));
                if loss < best.0 { (loss, by) } else { best }
            };
            let whole = (loss(whole), 1.0);
            if scheme.scales.is_power() {
                return scaled([0.5, 2.0, 0.25].into_iter().fold(whole, better).1);
            }
            let step = 1.0 / FACTORS as f32;
            let coarse = (1..FACTORS).map(|i| 1.0 - i as f32 * step).fold(whole, better);
            // Ranges past the extremes help formats whose largest number has a far neighbour.
            let coarse = (1..FACTORS / 4).map(|i| 1.0 + i as f32 * step).fold(coarse, better);
            let closer = |best: (f64, f32), part: f32| {
                let at = best.1;
                [at - part * step, at + part * step].into_iter().filter(|&by| by > 0.0).fold(best, better)
            };
            scaled([0.5, 0.25, 0.125].into_iter().fold(coarse, closer).1)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::number::{Distribution, dequantize, quantize};

    /// Channels of several sizes along each axis, joined in threes; the last group is of one.
    #[test]
    fn joined_channels_have_the_clip_that_is_best_for_all_of_them() {
        let draw = Distribution::Laplace.draw(7 * 40, 3);
        let size = |channel: usize| [1.0, 0.3, 2.0, 0.1, 0.1, 0.2, 5.0][channel];
        for (axis, shape) in [(0, [7, 40]), (1, [40, 7])] {
            let channel = |i: usize| if axis == 0 { i / 40 } else { i % 7 };
            let x: Vec<f32> = draw.iter().enumerate().map(|(i, x)| x * size(channel(i))).collect();
            for (format, symmetric) in [(Format::INT3, true), (Format::UINT4, false), (Format::E2M1, true)] {
                let joined = NonZeroUsize::new(3).unwrap();
                let scheme = Scheme { joined, ..Scheme::new(format, symmetric, Granularity::Channel { axis }) };
                let params = fit(&x, &shape, &scheme, Clip::Best, |scale| scale).unwrap();
                assert_eq!(params.joined(), joined);
                for first in [0, 3, 6] {
                    let group = first..(first + 3).min(7);
                    let own: Vec<f32> = (0..x.len()).filter(|&i| group.contains(&channel(i))).map(|i| x[i]).collect();
                    let loss = |params: &QuantParams, channel: usize| {
                        let (scale, zero) = params.channel(channel);
                        let grid = Grid { scale, zero, ..Grid::fit(&scheme, Range::ZERO) };
                        own.iter().map(|&x| f64::from(x - grid.real(grid.code(x))).powi(2)).sum::<f64>()
                    };
                    let (low, high) = own.iter().fold((0f32, 0f32), |(l, h), &x| (l.min(x), h.max(x)));
                    let best = (100..1400).map(|i| {
                        let by = i as f32 * 0.001;
                        let range = Range::new(low * by, high * by).unwrap();
                        loss(&QuantParams::from_ranges(&scheme, &[range]).unwrap(), 0)
                    });
                    let best = best.fold(f64::INFINITY, f64::min);
                    for c in group.clone() {
                        assert_eq!(params.channel(c), params.channel(first), "{} {c}", format.name);
                        assert!(loss(&params, c) <= 1.02 * best, "{} {c}: {best}", format.name);
                    }
                }
            }
        }
    }

    #[test]
    fn tables_of_joined_channels_fit_all_of_them() {
        let x = [1.0, 1.0, 2.0, 2.0, 7.0, 8.0];
        let format = Format::TABLES[17];
        let joined = NonZeroUsize::new(2).unwrap();
        let scheme = Scheme { joined, ..Scheme::new(format, true, Granularity::Channel { axis: 0 }) };
        let params = fit(&x, &[3, 2], &scheme, Clip::Max, |scale| scale).unwrap();
        let codes = quantize(&x, &[3, 2], &params).unwrap();
        assert_eq!(dequantize(&codes, &[3, 2], &params).unwrap(), x);
        assert_eq!(params.table(0), params.table(1));
        assert_ne!(params.table(0), params.table(2));
    }
}
