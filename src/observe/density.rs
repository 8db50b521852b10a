//! A histogram as a density: what methods compute with.

use multiversion::multiversion;

use super::Histogram;
use crate::number::{Grid, decibels};

/// Numbers spread evenly inside each bin of a histogram, zeros in one place, and nothing beyond the exact extremes.
#[derive(Debug, Clone)]
pub struct Density {
    cells: Vec<Cell>,
    zeros: f64,
    total: f64,
    energy: f64,
    /// Where the density changes, rising, and by how much it falls there.
    edges: Vec<f64>,
    falls: Vec<f64>,
}

/// A bin that is not empty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    /// Its lower end.
    pub low: f64,
    /// Its upper end, above the lower one.
    pub high: f64,
    /// How many numbers lie in it.
    pub count: f64,
}

impl Cell {
    fn density(self) -> f64 {
        self.count / (self.high - self.low)
    }

    /// How many of its numbers lie above `x`, and their sum.
    fn above(self, x: f64) -> (f64, f64) {
        let low = self.low.max(x);
        if low >= self.high {
            return (0.0, 0.0);
        }
        let count = self.density() * (self.high - low);
        (count, count * 0.5 * (low + self.high))
    }
}

impl Density {
    /// The density of what a histogram saw.
    pub fn of(histogram: &Histogram) -> Density {
        let width = histogram.width();
        let (min, max) = (f64::from(histogram.extremes().min()), f64::from(histogram.extremes().max()));
        let below = histogram.below().iter().enumerate();
        let first = histogram.below().len() as f64;
        let below = below.map(|(i, &n)| (i as f64 - first, n));
        let above = histogram.above().iter().enumerate().map(|(i, &n)| (i as f64, n));
        let cells: Vec<Cell> = below
            .chain(above)
            .filter(|(_, n)| *n > 0)
            .map(|(i, n)| {
                let (low, high) = ((i * width).max(min), ((i + 1.0) * width).min(max));
                // Equal numbers get the width that rounding to f32 leaves them.
                let least = 0.5 * f64::from(f32::EPSILON) * low.abs().max(f64::from(f32::MIN_POSITIVE));
                let missing = (least - (high - low)).max(0.0);
                Cell { low: low - 0.5 * missing, high: high + 0.5 * missing, count: n as f64 }
            })
            .collect();
        let mut changes: Vec<(f64, f64)> = Vec::with_capacity(2 * cells.len());
        for cell in &cells {
            match changes.last_mut().filter(|(edge, _)| *edge == cell.low) {
                Some((_, fall)) => *fall -= cell.density(),
                None => changes.push((cell.low, -cell.density())),
            }
            changes.push((cell.high, cell.density()));
        }
        let (edges, falls) = changes.into_iter().filter(|(_, fall)| *fall != 0.0).unzip();
        Density {
            cells,
            zeros: histogram.zeros() as f64,
            total: histogram.finite() as f64,
            energy: histogram.powers()[1].value(),
            edges,
            falls,
        }
    }

    /// The bins that are not empty, rising. Zeros are in none.
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// How many numbers there are, zeros with them.
    pub fn total(&self) -> f64 {
        self.total
    }

    /// How many numbers are zero.
    pub fn zeros(&self) -> f64 {
        self.zeros
    }

    /// The mean of `|x - q(x)|^norm` over all numbers, where `q` is rounding to the grid: the rounding of what lies
    /// inside it and the cutting off of what does not, the integral of each bin in closed form.
    ///
    /// Zeros lose nothing. Without numbers there is no error.
    pub fn error(&self, grid: Grid, norm: f64) -> f64 {
        let step = f64::from(grid.scale);
        let (lowest, highest) = (f64::from(grid.lowest - grid.zero), f64::from(grid.highest - grid.zero));
        let sum = if norm == 2.0 {
            squared(&self.edges, &self.falls, 1.0 / step, lowest, highest)
        } else {
            let power = norm + 1.0;
            let cell = 2.0 * 0.5f64.powf(power);
            let integral = |edge: f64| {
                let x = edge / step;
                let code = x.round_ties_even().max(lowest).min(highest);
                (code * cell + (x - code).abs().powf(power).copysign(x - code)) / power
            };
            self.edges.iter().zip(&self.falls).map(|(&edge, fall)| fall * integral(edge)).sum()
        };
        // Rounding may leave less than nothing where there is no error.
        (sum * step.powf(norm + 1.0)).max(0.0) / self.total.max(1.0)
    }

    /// What [`Density::error`] of the squares leaves of the signal, in dB; infinite without any error.
    pub fn sqnr(&self, grid: Grid) -> f64 {
        decibels(self.energy / self.total.max(1.0), self.error(grid, 2.0))
    }

    /// How many numbers lie above `x`, and their sum; `x` is not below zero.
    pub fn above(&self, x: f64) -> (f64, f64) {
        self.cells.iter().rev().take_while(|c| c.high > x).map(|c| c.above(x)).fold((0.0, 0.0), add)
    }

    /// How many numbers lie below `-x`, and the sum of their magnitudes; `x` is not below zero.
    pub fn below(&self, x: f64) -> (f64, f64) {
        let mirrored = |c: &Cell| Cell { low: -c.high, high: -c.low, count: c.count };
        self.cells.iter().map(mirrored).take_while(|c| c.high > x).map(|c| c.above(x)).fold((0.0, 0.0), add)
    }
}

fn add(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    (a.0 + b.0, a.1 + b.1)
}

/// `sum of fall * G(edge)`, where `G` is an integral of the squared rounding error in steps: from one code to the
/// next it grows by 1/12, and beyond the last code by the cube of the distance.
#[multiversion(targets = "simd")]
fn squared(edges: &[f64], falls: &[f64], inverse: f64, lowest: f64, highest: f64) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let term = |edge: f64, fall: f64| {
        let x = edge * inverse;
        let code = x.round_ties_even().max(lowest).min(highest);
        let rest = x - code;
        fall * (code * (1.0 / 12.0) + rest * rest * rest * (1.0 / 3.0))
    };
    let (e, e_rest) = edges.as_chunks::<LANES>();
    let (f, f_rest) = falls.as_chunks::<LANES>();
    for (e, f) in e.iter().zip(f) {
        for i in 0..LANES {
            sums[i] += term(e[i], f[i]);
        }
    }
    for (i, (&e, &f)) in e_rest.iter().zip(f_rest).enumerate() {
        sums[i] += term(e, f);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::{Format, Granularity, Range, Scheme};
    use crate::observe::samples::{gauss, laplace};

    fn grid(format: Format, symmetric: bool, low: f32, high: f32) -> Grid<'static> {
        let scheme = Scheme::new(format, symmetric, Granularity::Tensor);
        Grid::fit(&scheme, Range::new(low, high).unwrap())
    }

    /// The error of rounding every number.
    fn measured(x: &[f32], grid: Grid, norm: f64) -> f64 {
        let error = |&x: &f32| (f64::from(x) - f64::from(grid.real(grid.code(x)))).abs().powf(norm);
        x.iter().map(error).sum::<f64>() / x.len() as f64
    }

    #[test]
    fn predicts_the_error_of_rounding_and_of_cutting_off() {
        let relu: Vec<f32> = gauss(40_000).iter().map(|x| x.max(0.0)).collect();
        let grids = [
            grid(Format::INT8, true, -4.0, 4.0),
            grid(Format::INT8, true, -1.0, 1.0),
            grid(Format::UINT8, false, -0.5, 3.0),
            grid(Format::UINT8, false, 0.0, 0.2),
            grid(Format::UINT16, false, -3.0, 3.0),
            // Coarser than all of the numbers.
            grid(Format::INT8, true, -2000.0, 2000.0),
        ];
        for (name, x) in [("gauss", gauss(40_000)), ("laplace", laplace(40_000)), ("relu", relu)] {
            let density = Density::of(&Histogram::of(&x));
            for (i, grid) in grids.into_iter().enumerate() {
                for norm in [1.0, 2.0, 2.4, 4.0] {
                    let (want, got) = (measured(&x, grid, norm), density.error(grid, norm));
                    // What is left is how few numbers there are in the tails, and in steps much finer than a bin.
                    assert!((got / want - 1.0).abs() < 0.05, "{name}, grid {i}, norm {norm}: {got} for {want}");
                }
            }
        }
    }

    #[test]
    fn equal_numbers_and_none() {
        let g = grid(Format::INT8, true, -1.0, 1.0);
        let one = Density::of(&Histogram::of(&[0.7; 9]));
        assert!((one.error(g, 2.0) / measured(&[0.7], g, 2.0) - 1.0).abs() < 1e-3);
        let zeros = Density::of(&Histogram::of(&[0.0; 9]));
        assert_eq!((zeros.error(g, 2.0), zeros.sqnr(g), zeros.total()), (0.0, f64::INFINITY, 9.0));
        assert_eq!(Density::of(&Histogram::default()).error(g, 2.0), 0.0);
    }

    #[test]
    fn tails_count_numbers_and_their_magnitudes() {
        let d = Density::of(&Histogram::of(&[-4.0, -1.0, 0.0, 1.0, 2.0, 8.0]));
        let close = |a: (f64, f64), b: (f64, f64)| (a.0 - b.0).abs() < 0.01 && (a.1 - b.1).abs() < 0.05;
        assert!(close(d.above(0.0), (3.0, 11.0)) && close(d.above(1.5), (2.0, 10.0)), "{:?}", d.above(0.0));
        assert!(close(d.below(0.0), (2.0, 5.0)) && close(d.below(4.5), (0.0, 0.0)));
    }
}
