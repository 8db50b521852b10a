//! The arithmetic of QuantizeLinear and DequantizeLinear on slices (ai.onnx, opset 10 to 25):
//! `code = saturate(round_half_even(x / scale) + zero point)`, `real = (code - zero point) * scale`.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{Format, QuantParams, Range, Scheme, Storage};
use crate::error::{Error, ErrorKind, Result};

/// So many numbers are worth a thread. Where sums are made in parts, this is what a part is, whatever the number of threads.
pub(super) const PART: usize = 1 << 18;

/// The codes one scale and zero point can reach: what the kernels work with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// Distance between neighbouring codes, in reals.
    pub scale: f32,
    /// The code of zero.
    pub zero: i32,
    /// The smallest code.
    pub lowest: i32,
    /// The largest code.
    pub highest: i32,
}

impl Grid {
    /// The grid of channel `c`.
    pub fn of(params: &QuantParams, c: usize) -> Grid {
        let (scale, zero) = params.channel(c);
        Grid { scale, zero, lowest: params.lowest(), highest: params.format().max }
    }

    /// The grid that a scheme lays over a range.
    pub fn fit(scheme: &Scheme, range: Range) -> Grid {
        let (scale, zero) = scheme.fit(range);
        Grid { scale, zero, lowest: scheme.lowest(), highest: scheme.format.max }
    }

    /// The code of `x`; NaN becomes the lowest code.
    pub fn code(self, x: f32) -> i32 {
        // In f64 every code up to 32 bits is exact, and so are the quotient's ties.
        let steps = f64::from(x / self.scale).round_ties_even() + f64::from(self.zero);
        steps.max(f64::from(self.lowest)).min(f64::from(self.highest)) as i32
    }

    /// The real number a code stands for.
    pub fn real(self, code: i32) -> f32 {
        (i64::from(code) - i64::from(self.zero)) as f32 * self.scale
    }
}

/// The codes of `x`, a tensor of this shape.
///
/// Errors when the parameters' axis does not fit the shape.
pub fn quantize(x: &[f32], shape: &[usize], params: &QuantParams) -> Result<Vec<i32>> {
    let mut codes = Vec::with_capacity(x.len());
    each_run(x.len(), shape, params, |span, grids| match grids {
        [grid] => codes.extend(x[span].iter().map(|&x| grid.code(x))),
        grids => codes.extend(x[span].iter().zip(grids).map(|(&x, grid)| grid.code(x))),
    })?;
    Ok(codes)
}

/// The real numbers that codes stand for, as a tensor of this shape.
///
/// Errors when the parameters' axis does not fit the shape.
pub fn dequantize(codes: &[i32], shape: &[usize], params: &QuantParams) -> Result<Vec<f32>> {
    let mut x = Vec::with_capacity(codes.len());
    each_run(codes.len(), shape, params, |span, grids| match grids {
        [grid] => x.extend(codes[span].iter().map(|&q| grid.real(q))),
        grids => x.extend(codes[span].iter().zip(grids).map(|(&q, grid)| grid.real(q))),
    })?;
    Ok(x)
}

/// Quantizes and dequantizes in place: what a Q/DQ pair does to `x`.
///
/// Errors when the parameters' axis does not fit the shape.
pub fn fake_quantize(x: &mut [f32], shape: &[usize], params: &QuantParams) -> Result<()> {
    each_run(x.len(), shape, params, |span, grids| match grids {
        [grid] if i64::from(grid.highest) - i64::from(grid.lowest) <= 1 << 20 => {
            let (low, high) = ((grid.lowest - grid.zero) as f32, (grid.highest - grid.zero) as f32);
            snap(&mut x[span], grid.scale, low, high);
        }
        grids => x[span].iter_mut().zip(grids.iter().cycle()).for_each(|(x, grid)| *x = grid.real(grid.code(*x))),
    })
}

/// A shape that so many numbers fill, as the sizes before, along and behind the axis of the parameters.
fn fitting(len: usize, shape: &[usize], params: &QuantParams) -> Result<(usize, usize, usize)> {
    let (outer, channels, inner) = params.split(shape)?;
    if outer * channels * inner != len {
        return Err(Error::new(ErrorKind::InvalidModel, format!("{len} numbers do not fill the shape {shape:?}")));
    }
    Ok((outer, channels, inner))
}

/// Visits a tensor in runs of neighbouring numbers: those that share one grid, or, where channels lie on the last axis,
/// rows with a grid for each number.
fn each_run(
    len: usize,
    shape: &[usize],
    params: &QuantParams,
    mut visit: impl FnMut(std::ops::Range<usize>, &[Grid]),
) -> Result<()> {
    let (outer, channels, inner) = fitting(len, shape, params)?;
    let grids: Vec<Grid> = (0..channels).map(|c| Grid::of(params, c)).collect();
    if inner == 1 && channels > 0 {
        (0..outer).for_each(|row| visit(row * channels..(row + 1) * channels, &grids));
        return Ok(());
    }
    for slice in 0..outer * channels {
        let c = slice % channels;
        visit(slice * inner..(slice + 1) * inner, &grids[c..=c]);
    }
    Ok(())
}

/// Rounds to the grid. Clamping to whole bounds before rounding gives the same as after it, and makes
/// the addition of 1.5 * 2^23 round half to even in every SIMD instruction set.
#[multiversion(targets = "simd")]
fn snap(x: &mut [f32], scale: f32, low: f32, high: f32) {
    const MAGIC: f32 = 12_582_912.0;
    for x in x {
        let clamped = (*x / scale).max(low).min(high);
        *x = ((clamped + MAGIC) - MAGIC) * scale;
    }
}

/// What rounding does to `x`, a tensor of this shape, without doing it: the energy of `x`, and that of the error. Both are
/// sums in f64, in an order that depends on the shape alone.
///
/// Errors when the parameters' axis does not fit the shape.
pub fn rounding_loss(x: &[f32], shape: &[usize], params: &QuantParams) -> Result<(f64, f64)> {
    let (_, channels, inner) = fitting(x.len(), shape, params)?;
    let steps: Vec<Steps> = (0..channels).map(|c| Steps::of(&Grid::of(params, c))).collect();
    let side_by_side = inner == 1 && channels > 1;
    // Rows of numbers with one grid, or with all of them side by side.
    let row = if channels == 1 { PART } else { inner.max(if side_by_side { channels } else { 1 }) };
    let together = (PART / row).max(1);
    let of_part = |(part, x): (usize, &[f32])| {
        x.chunks(row).enumerate().fold((0.0, 0.0), |sums, (i, x)| {
            let (signal, noise) = match side_by_side {
                true => loss_of_row(x, &steps),
                false => loss(x, steps[(part * together + i) % channels]),
            };
            (sums.0 + signal, sums.1 + noise)
        })
    };
    let parts: Vec<(f64, f64)> = x.par_chunks(row * together).enumerate().map(of_part).collect();
    Ok(parts.into_iter().fold((0.0, 0.0), |sums, part| (sums.0 + part.0, sums.1 + part.1)))
}

/// A grid without its zero point: the scale, and the ends as multiples of it.
#[derive(Clone, Copy)]
struct Steps {
    scale: f32,
    low: f32,
    high: f32,
}

impl Steps {
    fn of(grid: &Grid) -> Steps {
        Steps { scale: grid.scale, low: (grid.lowest - grid.zero) as f32, high: (grid.highest - grid.zero) as f32 }
    }
}

/// Sums that run side by side, so that they can be vectorised: the same ones on every machine.
struct Sums {
    signal: [f64; Sums::LANES],
    noise: [f64; Sums::LANES],
}

impl Sums {
    const LANES: usize = 16;
    const ZERO: Sums = Sums { signal: [0.0; Sums::LANES], noise: [0.0; Sums::LANES] };

    /// Adds numbers, and what rounding each to its grid takes from it.
    #[inline(always)]
    fn add(&mut self, x: &[f32; Sums::LANES], to: impl Fn(usize) -> Steps) {
        let mut error = [0f32; Sums::LANES];
        for i in 0..Sums::LANES {
            error[i] = error_of(x[i], to(i));
        }
        for (sum, &x) in self.signal.iter_mut().zip(x) {
            *sum += f64::from(x) * f64::from(x);
        }
        for (sum, &e) in self.noise.iter_mut().zip(&error) {
            *sum += f64::from(e) * f64::from(e);
        }
    }

    /// Adds fewer numbers than there are lanes; numbers of 0 have no error.
    #[inline(always)]
    fn add_rest(&mut self, x: &[f32], to: impl Fn(usize) -> Steps) {
        let mut lanes = [0f32; Sums::LANES];
        lanes[..x.len()].copy_from_slice(x);
        self.add(&lanes, |i| to(i.min(x.len().saturating_sub(1))));
    }

    fn total(&self) -> (f64, f64) {
        (self.signal.iter().sum(), self.noise.iter().sum())
    }
}

/// What rounding to the grid takes from `x`. Exact where the grid reaches `x`: the two numbers are then within a factor
/// of two, or one of them is 0.
#[inline(always)]
fn error_of(x: f32, to: Steps) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    let clamped = (x / to.scale).max(to.low).min(to.high);
    x - ((clamped + MAGIC) - MAGIC) * to.scale
}

#[multiversion(targets = "simd")]
fn loss(x: &[f32], to: Steps) -> (f64, f64) {
    let mut sums = Sums::ZERO;
    let (chunks, rest) = x.as_chunks();
    chunks.iter().for_each(|chunk| sums.add(chunk, |_| to));
    sums.add_rest(rest, |_| to);
    sums.total()
}

/// As [`loss`], with a grid for each number.
#[multiversion(targets = "simd")]
fn loss_of_row(x: &[f32], to: &[Steps]) -> (f64, f64) {
    let mut sums = Sums::ZERO;
    let (chunks, rest) = x.as_chunks();
    let (grids, last) = to.as_chunks::<{ Sums::LANES }>();
    chunks.iter().zip(grids).for_each(|(chunk, grids)| sums.add(chunk, |i| grids[i]));
    if !rest.is_empty() {
        sums.add_rest(rest, |i| last[i]);
    }
    sums.total()
}

/// The extremes of `x`, and how many of its numbers are not finite (those are left out of the extremes).
///
/// Without any finite number the extremes are `(+inf, -inf)`.
pub fn min_max(x: &[f32]) -> (f32, f32, u64) {
    let (min, max, poison) = scan(x);
    if poison == 0.0 {
        return (min, max, 0);
    }
    let finite = x.iter().copied().filter(|x| x.is_finite());
    let (min, max) = finite.fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), x| (lo.min(x), hi.max(x)));
    (min, max, x.iter().filter(|x| !x.is_finite()).count() as u64)
}

/// The extremes of each channel of a tensor of this shape, whose channels lie along `axis`, widened in place; how many
/// numbers are not finite. There must be a pair for every channel.
pub fn min_max_channels(x: &[f32], shape: &[usize], axis: usize, extremes: &mut [(f32, f32)]) -> u64 {
    let inner: usize = shape[axis + 1..].iter().product();
    if inner == 1 {
        return min_max_columns(x, extremes);
    }
    let mut non_finite = 0;
    for (i, run) in x.chunks(inner.max(1)).enumerate() {
        let (min, max, bad) = min_max(run);
        let (lo, hi) = &mut extremes[i % shape[axis]];
        (*lo, *hi) = (lo.min(min), hi.max(max));
        non_finite += bad;
    }
    non_finite
}

/// The extremes of each column of rows of `extremes.len()` numbers.
fn min_max_columns(x: &[f32], extremes: &mut [(f32, f32)]) -> u64 {
    let (mut low, mut high): (Vec<f32>, Vec<f32>) = extremes.iter().copied().unzip();
    let mut non_finite = 0;
    for row in x.chunks(extremes.len().max(1)) {
        if scan_row(row, &mut low, &mut high) == 0.0 {
            continue;
        }
        for (&x, (lo, hi)) in row.iter().zip(low.iter_mut().zip(&mut high)) {
            if x.is_finite() {
                (*lo, *hi) = (lo.min(x), hi.max(x));
            } else {
                non_finite += 1;
            }
        }
    }
    extremes.iter_mut().zip(low.into_iter().zip(high)).for_each(|(e, new)| *e = new);
    non_finite
}

/// Widens the extremes by a row whose numbers are all finite, and returns a sum that is zero exactly when they are; the
/// extremes stay as they were when they are not.
#[multiversion(targets = "simd")]
fn scan_row(row: &[f32], low: &mut [f32], high: &mut [f32]) -> f32 {
    let mut poison = [0f32; 16];
    let (chunks, rest) = row.as_chunks::<16>();
    for chunk in chunks {
        for i in 0..16 {
            poison[i] += chunk[i] * 0.0;
        }
    }
    let poison = poison.iter().sum::<f32>() + rest.iter().map(|x| x * 0.0).sum::<f32>();
    if poison == 0.0 {
        for ((&x, low), high) in row.iter().zip(low).zip(high) {
            *low = if x < *low { x } else { *low };
            *high = if x > *high { x } else { *high };
        }
    }
    poison
}

/// The sums of the numbers and of their squares, in f64, in a fixed order.
#[multiversion(targets = "simd")]
pub fn power_sums(x: &[f32]) -> (f64, f64) {
    const LANES: usize = 16;
    let (mut sums, mut squares) = ([0f64; LANES], [0f64; LANES]);
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            let x = f64::from(chunk[i]);
            sums[i] += x;
            squares[i] += x * x;
        }
    }
    for (i, &x) in rest.iter().enumerate() {
        let x = f64::from(x);
        sums[i] += x;
        squares[i] += x * x;
    }
    (sums.iter().sum(), squares.iter().sum())
}

/// Minimum, maximum, and a sum that is zero exactly when every number is finite.
#[multiversion(targets = "simd")]
fn scan(x: &[f32]) -> (f32, f32, f32) {
    const LANES: usize = 32;
    let (mut min, mut max) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let mut poison = [0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            min[i] = if chunk[i] < min[i] { chunk[i] } else { min[i] };
            max[i] = if chunk[i] > max[i] { chunk[i] } else { max[i] };
            poison[i] += chunk[i] * 0.0;
        }
    }
    for (i, &x) in rest.iter().enumerate() {
        min[i] = if x < min[i] { x } else { min[i] };
        max[i] = if x > max[i] { x } else { max[i] };
        poison[i] += x * 0.0;
    }
    (
        min.iter().fold(f32::INFINITY, |a, &b| a.min(b)),
        max.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b)),
        poison.iter().sum(),
    )
}

/// The bytes of codes in the storage of their format, little endian.
pub fn pack(format: Format, codes: &[i32]) -> Vec<u8> {
    match format.storage {
        Storage::I8 | Storage::U8 => codes.iter().map(|&q| q as u8).collect(),
        Storage::I16 | Storage::U16 => codes.iter().flat_map(|&q| (q as u16).to_le_bytes()).collect(),
        Storage::I32 => codes.iter().flat_map(|&q| q.to_le_bytes()).collect(),
    }
}

/// The codes in bytes of this storage, little endian.
pub fn unpack(storage: Storage, bytes: &[u8]) -> Vec<i32> {
    match storage {
        Storage::I8 => bytes.iter().map(|&b| i32::from(b as i8)).collect(),
        Storage::U8 => bytes.iter().map(|&b| i32::from(b)).collect(),
        Storage::I16 => bytes.as_chunks().0.iter().map(|&b| i32::from(i16::from_le_bytes(b))).collect(),
        Storage::U16 => bytes.as_chunks().0.iter().map(|&b| i32::from(u16::from_le_bytes(b))).collect(),
        Storage::I32 => bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rounds_half_to_even_and_saturates() {
        let p = QuantParams::per_tensor(Format::UINT8, 2.0, 1).unwrap();
        let codes = quantize(&[-9.0, -1.0, 0.0, 1.0, 3.0, 5.0, 508.0, 1e30, f32::NAN], &[9], &p).unwrap();
        assert_eq!(codes, [0, 1, 1, 1, 3, 3, 255, 255, 0]);
        assert_eq!(dequantize(&[0, 1, 255], &[3], &p).unwrap(), [-2.0, 0.0, 508.0]);
    }

    #[test]
    fn channels_take_their_own_scale() {
        let p = QuantParams::per_channel(Format::INT8, 1, vec![1.0, 10.0], vec![0, 0]).unwrap();
        assert_eq!(
            quantize(&[5.0, 6.0, 50.0, 60.0, 7.0, 8.0, 70.0, 80.0], &[2, 2, 2], &p).unwrap(),
            [5, 6, 5, 6, 7, 8, 7, 8]
        );
        assert!(quantize(&[1.0; 6], &[2, 3], &p).is_err());
        let columns = [5.0, 50.0, 6.0, 60.0];
        assert_eq!(quantize(&columns, &[2, 2], &p).unwrap(), [5, 5, 6, 6]);
        assert_eq!(dequantize(&[5, 5, 6, 6], &[2, 2], &p).unwrap(), columns);
        let mut fake = [5.4, 54.0, 200.0, -4.0];
        fake_quantize(&mut fake, &[2, 2], &p).unwrap();
        assert_eq!(fake, [5.0, 50.0, 127.0, -0.0]);
    }

    #[test]
    fn bytes_hold_every_code() {
        for format in Format::ALL {
            let codes = [format.min, format.max, format.middle(), 1];
            let bytes = pack(format, &codes);
            assert_eq!(bytes.len(), 4 * format.storage.bytes());
            assert_eq!(unpack(format.storage, &bytes), codes);
        }
    }

    #[test]
    fn extremes_leave_out_what_is_not_finite() {
        let mut x: Vec<f32> = (0..100).map(|i| i as f32 - 50.0).collect();
        assert_eq!(min_max(&x), (-50.0, 49.0, 0));
        x[7] = f32::NAN;
        x[99] = f32::INFINITY;
        assert_eq!(min_max(&x), (-50.0, 48.0, 2));
        assert_eq!(min_max(&[]), (f32::INFINITY, f32::NEG_INFINITY, 0));
        let mut columns = [(0.0, 0.0); 2];
        assert_eq!(min_max_columns(&[1.0, -2.0, 3.0, f32::NAN], &mut columns), 1);
        assert_eq!(columns, [(0.0, 3.0), (-2.0, 0.0)]);
    }

    #[test]
    fn power_sums_are_exact_for_small_integers() {
        let x: Vec<f32> = (0..100).map(|i| i as f32 - 30.0).collect();
        let exact = |f: fn(f64) -> f64| x.iter().map(|&x| f(x.into())).sum::<f64>();
        assert_eq!(power_sums(&x), (exact(|x| x), exact(|x| x * x)));
        assert_eq!(power_sums(&[]), (0.0, 0.0));
    }

    proptest! {
        #[test]
        fn fake_quantize_is_dequantize_of_quantize(
            x in proptest::collection::vec(-1e4f32..1e4, 1..200),
            scale in 1e-4f32..100.0, zero in 0i32..256, f in 0usize..5,
        ) {
            let format = Format::ALL[f];
            let p = QuantParams::per_tensor(format, scale, zero.clamp(format.min, format.max)).unwrap();
            let mut fake = x.clone();
            fake_quantize(&mut fake, &[x.len()], &p).unwrap();
            let codes = quantize(&x, &[x.len()], &p).unwrap();
            prop_assert_eq!(fake, dequantize(&codes, &[x.len()], &p).unwrap());
        }
    }
}
