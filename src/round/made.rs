//! Problems of known kinds, for tests.

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

use super::{GridOf, Problem};
use crate::number::{Format, Granularity, Grid, Range, Scheme};

/// A problem that owns its parts.
pub struct Made {
    pub weights: Vec<f32>,
    pub rows: usize,
    pub columns: usize,
    pub grids: Vec<Grid<'static>>,
    pub row_base: Vec<usize>,
    pub place: Vec<usize>,
    /// The inputs, `[samples, columns]`.
    pub inputs: Vec<f64>,
    pub moments: Vec<f64>,
}

/// Which weights share a grid.
#[derive(Debug, Clone, Copy)]
pub enum Shared {
    Tensor,
    Row,
    Blocks(usize),
}

/// What the grids of a made problem are like.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub bits: u32,
    pub signed: bool,
    pub symmetric: bool,
    pub narrow: bool,
    pub shared: Shared,
}

impl Kind {
    /// Symmetric and signed, a grid for each row.
    pub const fn rows(bits: u32) -> Kind {
        Kind { bits, signed: true, symmetric: true, narrow: false, shared: Shared::Row }
    }

    fn fit(&self, weights: impl Iterator<Item = f32>) -> Grid<'static> {
        let (low, high) = weights.fold((0f32, 0f32), |(low, high), w| (low.min(w), high.max(w)));
        let format = if self.signed { Format::INT8 } else { Format::UINT8 };
        let min = if self.signed { -(1 << (self.bits - 1)) } else { 0 };
        let format = Format { min, max: min + (1 << self.bits) - 1, bits: self.bits as _, ..format };
        let granularity = Granularity::Tensor;
        let scheme = Scheme { narrow: self.narrow, ..Scheme::new(format, self.symmetric, granularity) };
        Grid::fit(&scheme, Range::new(low, high).unwrap())
    }
}

impl Made {
    /// Normal weights, and inputs that have much in common with each other.
    pub fn new(rows: usize, columns: usize, kind: Kind, seed: u64) -> Made {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut normal = || -> f64 { random.sample(StandardNormal) };
        let weights: Vec<f32> = (0..rows * columns).map(|_| normal() as f32).collect();
        let samples = 2 * columns + 8;
        let sizes: Vec<f64> = (0..columns).map(|_| (0.5 * normal()).exp()).collect();
        let mut inputs = Vec::with_capacity(samples * columns);
        for _ in 0..samples {
            let (all, mut walk) = (normal(), 0.0);
            for size in &sizes {
                walk = 0.8 * walk + 0.6 * normal();
                inputs.push(size * (walk + 0.5 * all));
            }
        }
        let mut made =
            Made { weights, rows, columns, grids: vec![], row_base: vec![], place: vec![], inputs, moments: vec![] };
        made.gather();
        made.regrid(kind);
        made
    }

    /// The moments of the inputs.
    pub fn gather(&mut self) {
        let n = self.columns;
        self.moments = vec![0.0; n * n];
        for x in self.inputs.chunks_exact(n.max(1)) {
            for (i, row) in self.moments.chunks_exact_mut(n).enumerate() {
                row.iter_mut().zip(x).for_each(|(h, y)| *h += x[i] * y);
            }
        }
    }

    /// Grids of a kind, fitted to the weights.
    pub fn regrid(&mut self, kind: Kind) {
        let (rows, n) = (self.rows, self.columns);
        let block = match kind.shared {
            Shared::Blocks(size) => size,
            _ => n.max(1),
        };
        let places = n.div_ceil(block);
        self.place = (0..n).map(|j| j / block).collect();
        if let Shared::Tensor = kind.shared {
            self.row_base = vec![0; rows];
            self.grids = vec![kind.fit(self.weights.iter().copied())];
            return;
        }
        self.row_base = (0..rows).map(|row| row * places).collect();
        let rows = self.weights.chunks_exact(n.max(1));
        self.grids = rows.flat_map(|row| row.chunks(block)).map(|part| kind.fit(part.iter().copied())).collect();
    }

    pub fn problem(&self) -> Problem<'_> {
        Problem {
            weights: &self.weights,
            rows: self.rows,
            columns: self.columns,
            grids: &self.grids,
            grid_of: GridOf { row_base: &self.row_base, place: &self.place },
            moments: &self.moments,
        }
    }
}

/// The kinds of grids that a weight can be on.
pub const KINDS: [Kind; 8] = [
    Kind::rows(4),
    Kind::rows(3),
    Kind { bits: 2, signed: true, symmetric: true, narrow: true, shared: Shared::Row },
    Kind { bits: 4, signed: true, symmetric: true, narrow: true, shared: Shared::Tensor },
    Kind { bits: 4, signed: false, symmetric: true, narrow: false, shared: Shared::Row },
    Kind { bits: 4, signed: false, symmetric: false, narrow: false, shared: Shared::Blocks(3) },
    Kind { bits: 8, signed: true, symmetric: true, narrow: false, shared: Shared::Tensor },
    Kind { bits: 3, signed: false, symmetric: false, narrow: false, shared: Shared::Blocks(4) },
];
