//! The arithmetic of QuantizeLinear and DequantizeLinear on slices (ai.onnx, opset 10 to 25):
//! `code = saturate(round_half_even(x / scale) + zero point)`, `real = (code - zero point) * scale`; and the same with the
//! numbers of a table in the place of whole ones: `code = nearest(table, x / scale)`, `real = table[code] * scale`.

use multiversion::multiversion;
use rayon::prelude::*;

use super::extremes::Extremes;
use super::levels::nearest;
use super::{Format, Granularity, Levels, QuantParams, Range, Scheme, Storage, pack_bits, unpack_bits};
use crate::error::{Error, ErrorKind, Result, listed};

/// So many numbers are worth a thread. Where sums are made in parts, this is what a part is, whatever the number of threads.
pub(super) const PART: usize = 1 << 18;

/// The codes one scale and zero point can reach: what the kernels work with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid<'a> {
    /// What the number of a code is multiplied by.
    pub scale: f32,
    /// The code of zero.
    pub zero: i32,
    /// The smallest code.
    pub lowest: i32,
    /// The largest code.
    pub highest: i32,
    /// The numbers of the codes from 0 on, ascending; `None` where they are the codes less the zero.
    pub table: Option<&'a [f32]>,
}

impl<'a> Grid<'a> {
    /// The grid of channel or block `c`.
    pub fn of(params: &'a QuantParams, c: usize) -> Grid<'a> {
        let (scale, zero) = params.channel(c);
        Grid { scale, zero, lowest: params.lowest(), highest: params.format().max, table: params.table(c) }
    }

    /// Whole numbers from `lowest` to `highest`, less a zero, times a scale.
    pub fn linear(scale: f32, zero: i32, lowest: i32, highest: i32) -> Grid<'static> {
        Grid { scale, zero, lowest, highest, table: None }
    }

    /// The grid that a scheme lays over a range.
    pub fn fit(scheme: &Scheme, range: Range) -> Grid<'static> {
        let (scale, zero) = scheme.fit(range);
        Grid { scale, zero, lowest: scheme.lowest(), highest: scheme.format.max, table: scheme.format.table() }
    }

    /// The code of `x`; NaN becomes the lowest code.
    #[inline(always)]
    pub fn code(self, x: f32) -> i32 {
        if let Some(table) = self.table {
            return nearest(table, f64::from(x / self.scale)) as i32;
        }
        // In f64 every code up to 32 bits is exact, and so are the quotient's ties.
        let steps = f64::from(x / self.scale).round_ties_even() + f64::from(self.zero);
        steps.max(f64::from(self.lowest)).min(f64::from(self.highest)) as i32
    }

    /// The real number a code stands for.
    pub fn real(self, code: i32) -> f32 {
        if let Some(table) = self.table {
            return usize::try_from(code).ok().and_then(|c| table.get(c)).map_or(f32::NAN, |&level| level * self.scale);
        }
        (i64::from(code) - i64::from(self.zero)) as f32 * self.scale
    }
}

/// The codes of `x`, a tensor of this shape.
///
/// Errors when the parameters' axis does not fit the shape.
pub fn quantize(x: &[f32], shape: &[usize], params: &QuantParams) -> Result<Vec<i32>> {
    let mut codes = vec![0; x.len()];
    each_run(x.len(), shape, params, |span, grids| encode(&mut codes[span.clone()], &x[span], grids))?;
    Ok(codes)
}

/// The codes of numbers that share a grid, or have one each.
#[multiversion(targets = "simd")]
fn encode(codes: &mut [i32], x: &[f32], grids: &[Grid]) {
    let pairs = codes.iter_mut().zip(x);
    match grids {
        &[grid] => pairs.for_each(|(q, &x)| *q = grid.code(x)),
        grids => pairs.zip(grids).for_each(|((q, &x), grid)| *q = grid.code(x)),
    }
}

/// The real numbers that codes stand for, as a tensor of this shape.
///
/// Errors when the parameters' axis does not fit the shape.
pub fn dequantize(codes: &[i32], shape: &[usize], params: &QuantParams) -> Result<Vec<f32>> {
    let mut x = vec![0.0; codes.len()];
    each_run(codes.len(), shape, params, |span, grids| {
        let pairs = x[span.clone()].iter_mut().zip(&codes[span]);
        match grids {
            [grid] => pairs.for_each(|(x, &q)| *x = grid.real(q)),
            grids => pairs.zip(grids).for_each(|((x, &q), grid)| *x = grid.real(q)),
        }
    })?;
    Ok(x)
}

/// What DequantizeLinear makes of numbers that are codes, in place: `real = (code - zero point) * scale`.
///
/// Takes the scales that a file holds, which may be zero or negative as [`QuantParams`] may not, and codes of any type:
/// integers as floats, or the numbers that floating-point codes stand for.
/// Errors when the numbers do not fill the shape, or scales and zero points do not fit it or each other.
pub fn rescale(
    x: &mut [f32],
    shape: &[usize],
    granularity: Granularity,
    scales: &[f32],
    zero_points: &[f32],
) -> Result<()> {
    fits(x.len(), shape, granularity, scales.len())?;
    if zero_points.len() != scales.len() {
        let what = format!("{} scales but {} zero points", scales.len(), zero_points.len());
        return Err(Error::new(ErrorKind::InvalidModel, what));
    }
    granularity.each_run(shape, |span, groups| match (&scales[groups.clone()], &zero_points[groups]) {
        (&[scale], &[zero]) => x[span].iter_mut().for_each(|x| *x = (*x - zero) * scale),
        (scales, zeros) => {
            let params = scales.iter().zip(zeros);
            x[span].iter_mut().zip(params).for_each(|(x, (&scale, &zero))| *x = (*x - zero) * scale);
        }
    })
}

/// Quantizes and dequantizes in place: what a Q/DQ pair does to `x`.
///
/// Errors when the parameters' axis does not fit the shape.
pub fn fake_quantize(x: &mut [f32], shape: &[usize], params: &QuantParams) -> Result<()> {
    each_run(x.len(), shape, params, |span, grids| match grids {
        [grid] if grid.table.is_none() && i64::from(grid.highest) - i64::from(grid.lowest) <= 1 << 20 => {
            let (low, high) = ((grid.lowest - grid.zero) as f32, (grid.highest - grid.zero) as f32);
            snap(&mut x[span], grid.scale, low, high);
        }
        grids => x[span].iter_mut().zip(grids.iter().cycle()).for_each(|(x, grid)| *x = grid.real(grid.code(*x))),
    })
}

/// Visits a tensor in runs of neighbouring numbers: those that share one grid, or rows with a grid for each number.
fn each_run(
    len: usize,
    shape: &[usize],
    params: &QuantParams,
    mut visit: impl FnMut(std::ops::Range<usize>, &[Grid<'_>]),
) -> Result<()> {
    fits(len, shape, params.granularity(), params.scales().len())?;
    let grids: Vec<Grid<'_>> = (0..params.scales().len()).map(|c| Grid::of(params, c)).collect();
    params.granularity().each_run(shape, |span, groups| visit(span, &grids[groups]))
}

/// Checks that so many numbers fill the shape, and that it has so many groups.
pub(super) fn fits(len: usize, shape: &[usize], granularity: Granularity, scales: usize) -> Result<()> {
    let wrong = |what: String| Err(Error::new(ErrorKind::InvalidModel, what));
    let elements = if shape.contains(&0) { Some(0) } else { shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) };
    if elements != Some(len) {
        return wrong(format!("{len} numbers do not fill the shape {}", listed(shape)));
    }
    let groups = granularity.groups(shape)?;
    if groups != scales {
        let along = granularity.axis().map_or(String::new(), |axis| format!(" along axis {axis}"));
        return wrong(format!("{scales} scales{along} do not fit the shape {}, which takes {groups}", listed(shape)));
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
    fits(x.len(), shape, params.granularity(), params.scales().len())?;
    if params.format().levels.is_table() {
        let mut sums = (0.0, 0.0);
        each_run(x.len(), shape, params, |span, grids| {
            for (&x, grid) in x[span].iter().zip(grids.iter().cycle()) {
                let (error, x) = (f64::from(x) - f64::from(grid.real(grid.code(x))), f64::from(x));
                sums = (sums.0 + x * x, sums.1 + error * error);
            }
        })?;
        return Ok(sums);
    }
    let steps: Vec<Steps> = (0..params.scales().len()).map(|c| Steps::of(&Grid::of(params, c))).collect();
    let (channels, inner) = match params.granularity() {
        _ if x.is_empty() => return Ok((0.0, 0.0)),
        Granularity::Tensor => (1, x.len()),
        Granularity::Channel { axis } => (shape[axis], shape[axis + 1..].iter().product::<usize>()),
        Granularity::Block { .. } => {
            let mut sums = (0.0, 0.0);
            params.granularity().each_run(shape, |span, groups| {
                let (signal, noise) = match &steps[groups] {
                    &[step] => loss(&x[span], step),
                    steps => loss_of_row(&x[span], steps),
                };
                sums = (sums.0 + signal, sums.1 + noise);
            })?;
            return Ok(sums);
        }
    };
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

/// Sums that run side by side, so that they can be vectorised: the same ones on every machine. So many that the compiler
/// keeps the loop over them, which it vectorises, and does not take it apart into single numbers, which it pairs badly.
struct Sums {
    signal: [f64; Sums::LANES],
    noise: [f64; Sums::LANES],
}

impl Sums {
    const LANES: usize = 32;
    const ZERO: Sums = Sums { signal: [0.0; Sums::LANES], noise: [0.0; Sums::LANES] };

    /// Adds numbers, and what rounding each to its grid takes from it.
    #[inline(always)]
    fn add(&mut self, x: &[f32; Sums::LANES], to: impl Fn(usize) -> Steps) {
        for i in 0..Sums::LANES {
            let (error, x) = (f64::from(error_of(x[i], to(i))), f64::from(x[i]));
            self.signal[i] += x * x;
            self.noise[i] += error * error;
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
    let (min, max, finite) = Extremes::of_run(x).numbers();
    if finite {
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

/// The bytes of codes in the storage of their format, little endian, packed where they are narrower than a byte.
///
/// Places in the table of a format that is stored as numbers become those: floating-point ones as their bits, -1, 0 and 1
/// as integers.
pub fn pack(format: Format, codes: &[i32]) -> Vec<u8> {
    let numbers: Option<Vec<i32>> = match (format.levels, format.storage, format.table()) {
        (Levels::Float(float), Storage::Float(_), _) => Some(float.ascending().into_iter().map(i32::from).collect()),
        (_, Storage::I2, Some(table)) => Some(table.iter().map(|&x| x as i32).collect()),
        _ => None,
    };
    if let Some(numbers) = numbers {
        let number = |&q: &i32| usize::try_from(q).ok().and_then(|q| numbers.get(q)).copied().unwrap_or(0) as u8;
        return pack_bits(format.storage.bits(), codes.iter().map(number));
    }
    match format.storage {
        Storage::I2 | Storage::U2 | Storage::I4 | Storage::U4 => {
            pack_bits(format.storage.bits(), codes.iter().map(|&q| q as u8))
        }
        Storage::I8 | Storage::U8 | Storage::Float(_) => codes.iter().map(|&q| q as u8).collect(),
        Storage::I16 | Storage::U16 => codes.iter().flat_map(|&q| (q as u16).to_le_bytes()).collect(),
        Storage::I32 => codes.iter().flat_map(|&q| q.to_le_bytes()).collect(),
    }
}

/// The first `count` codes in bytes of this storage, little endian, those of floating-point numbers as their bits; fewer where the bytes end before.
pub fn unpack(storage: Storage, bytes: &[u8], count: usize) -> Vec<i32> {
    let packed = || unpack_bits(storage.bits(), bytes, count).into_iter();
    // Shifts the sign of a narrow code to that of a byte and back.
    let signed = |spare: u32| packed().map(move |b| i32::from((b << spare) as i8 >> spare));
    match storage {
        Storage::I2 => signed(6).collect(),
        Storage::I4 => signed(4).collect(),
        Storage::U2 | Storage::U4 | Storage::Float(_) => packed().map(i32::from).collect(),
        Storage::I8 => bytes.iter().take(count).map(|&b| i32::from(b as i8)).collect(),
        Storage::U8 => bytes.iter().take(count).map(|&b| i32::from(b)).collect(),
        Storage::I16 => bytes.as_chunks().0.iter().take(count).map(|&b| i32::from(i16::from_le_bytes(b))).collect(),
        Storage::U16 => bytes.as_chunks().0.iter().take(count).map(|&b| i32::from(u16::from_le_bytes(b))).collect(),
        Storage::I32 => bytes.as_chunks().0.iter().take(count).map(|&b| i32::from_le_bytes(b)).collect(),
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
            let codes = [format.min, format.max, format.middle(), 1, 0];
            for codes in (0..=codes.len()).map(|n| &codes[..n]) {
                let bytes = pack(format, codes);
                assert_eq!(bytes.len(), (codes.len() * format.storage.bits() as usize).div_ceil(8));
                assert_eq!(unpack(format.storage, &bytes, codes.len()), codes);
            }
        }
    }

    #[test]
    fn blocks_take_their_own_scale() {
        let granularity = Granularity::Block { axis: 0, size: 2 };
        let scheme = crate::number::Scheme::new(Format::INT4, true, granularity);
        let range = |m: f32| crate::number::Range::new(-m, m).unwrap();
        let p = QuantParams::from_ranges(&scheme, &[range(7.0), range(14.0), range(0.7), range(1.4)]).unwrap();
        let (x, shape) = ([7.0, 14.0, -1.0, -2.0, 0.1, 0.2], [3, 2]);
        let codes = quantize(&x, &shape, &p).unwrap();
        assert_eq!(codes, [7, 7, -1, -1, 1, 1]);
        let mut fake = x;
        fake_quantize(&mut fake, &shape, &p).unwrap();
        assert_eq!(fake, dequantize(&codes, &shape, &p).unwrap()[..]);
        for granularity in [granularity, Granularity::Block { axis: 1, size: 2 }] {
            let ranges = vec![range(11.0); granularity.groups(&shape).unwrap()];
            let p = QuantParams::from_ranges(&crate::number::Scheme { granularity, ..scheme }, &ranges).unwrap();
            let mut fake = x;
            fake_quantize(&mut fake, &shape, &p).unwrap();
            let sum = |f: &dyn Fn(f32, f32) -> f32| x.iter().zip(fake).map(|(&x, y)| f64::from(f(x, y).powi(2))).sum();
            let (signal, noise): (f64, f64) = (sum(&|x, _| x), sum(&|x, y| x - y));
            let got = rounding_loss(&x, &shape, &p).unwrap();
            assert!((got.0 - signal).abs() < 1e-4 && noise > 0.0 && (got.1 - noise).abs() < 1e-4 * noise, "{got:?}");
        }
        assert!(quantize(&x, &[2, 3], &p).unwrap_err().to_string().contains("4 scales along axis 0"));
    }

    #[test]
    fn scales_of_files_need_not_be_positive() {
        let mut x = [-8.0, 7.0, 1.0, 2.0];
        rescale(&mut x, &[2, 2], Granularity::Channel { axis: 0 }, &[-0.5, 0.0], &[-1.0; 2]).unwrap();
        assert_eq!(x, [3.5, -4.0, 0.0, 0.0]);
        let mut x = [1.0, 2.0, 3.0, 4.0];
        rescale(&mut x, &[2, 2], Granularity::Channel { axis: 1 }, &[1.0, 2.0], &[0.0, 1.0]).unwrap();
        assert_eq!(x, [1.0, 2.0, 3.0, 6.0]);
        assert!(rescale(&mut x, &[2, 2], Granularity::Tensor, &[1.0, 2.0], &[0.0]).is_err());
        assert!(rescale(&mut x, &[4], Granularity::Channel { axis: 0 }, &[1.0; 4], &[0.0; 2]).is_err());
        assert!(rescale(&mut x, &[5], Granularity::Tensor, &[1.0], &[0.0]).is_err());
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
            scale in 1e-4f32..100.0, zero in 0i32..256, f in 0..Format::ALL.len(),
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
