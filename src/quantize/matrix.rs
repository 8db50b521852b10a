//! The matrices of a layer with the grids of their weights: what rounding works on.

use std::borrow::Cow;

use super::rounding::Layer;
use crate::error::Result;
use crate::number::{Grid, QuantParams};
use crate::round::{GridOf, Problem};
use crate::rule::WeightMatrix;

/// One matrix of a layer: a group of a convolution, or the whole weight.
pub(super) struct Matrix<'w> {
    weights: Cow<'w, [f32]>,
    rows: usize,
    columns: usize,
    pub grids: Vec<Grid<'w>>,
    /// Where each grid stands among those of the weight.
    pub places: Vec<usize>,
    row_base: Vec<usize>,
    place: Vec<usize>,
}

impl<'w> Matrix<'w> {
    /// All matrices of a layer with these weights, and whether each has its grids for itself.
    pub fn all(layer: &'w Layer, weights: &'w [f32]) -> Result<(Vec<Matrix<'w>>, bool)> {
        let shape = layer.weight.shape();
        // The grid of each weight, as its granularity counts them.
        let mut grid_of = vec![0; weights.len()];
        layer.params.granularity().each_run(shape, |span, grids| match grids.len() {
            1 => grid_of[span].fill(grids.start),
            _ => grid_of[span].iter_mut().zip(grids).for_each(|(of, grid)| *of = grid),
        })?;
        // Joined channels are on the grid of the first of them.
        let joined = layer.params.joined().get();
        grid_of.iter_mut().for_each(|grid| *grid -= *grid % joined);
        let size = layer.matrix.rows * layer.matrix.columns;
        let mut owner = vec![None; layer.params.scales().len()];
        let alone = grid_of.iter().enumerate().all(|(i, &grid)| *owner[grid].get_or_insert(i / size) == i / size);
        let matrices = (0..layer.matrix.groups).map(|group| Matrix::of(layer, group, weights, &grid_of)).collect();
        Ok((matrices, alone))
    }

    fn of(layer: &'w Layer, group: usize, weights: &'w [f32], grid_of: &[usize]) -> Matrix<'w> {
        let WeightMatrix { rows, columns, .. } = layer.matrix;
        let at = |row: usize, column: usize| grid_of[layer.matrix.place(group, row, column)];
        let first = if rows * columns > 0 { at(0, 0) } else { 0 };
        let unique = |mut all: Vec<usize>| {
            all.sort_unstable();
            all.dedup();
            all
        };
        // What lies between the first grid of a row and that of a column is the same in all rows.
        let bases: Vec<usize> = (0..rows).map(|row| at(row, 0)).collect();
        let offsets: Vec<usize> = (0..columns).map(|column| at(0, column) - first).collect();
        let (known_bases, known_offsets) = (unique(bases.clone()), unique(offsets.clone()));
        let places: Vec<usize> = known_bases.iter().flat_map(|b| known_offsets.iter().map(move |o| b + o)).collect();
        let rank = |known: &[usize], all: &[usize], step: usize| {
            all.iter().map(|x| known.partition_point(|k| k < x) * step).collect::<Vec<usize>>()
        };
        Matrix {
            weights: layer.matrix.matrix(group, weights),
            rows,
            columns,
            grids: places.iter().map(|&c| Grid::of(&layer.params, c)).collect(),
            row_base: rank(&known_bases, &bases, known_offsets.len()),
            place: rank(&known_offsets, &offsets, 1),
            places,
        }
    }

    /// The problem of choosing its codes by these moments.
    pub fn problem<'a>(&'a self, moments: &'a [f64]) -> Problem<'a> {
        Problem {
            weights: &self.weights,
            rows: self.rows,
            columns: self.columns,
            grids: &self.grids,
            grid_of: GridOf { row_base: &self.row_base, place: &self.place },
            moments,
        }
    }

    /// The weights, row by row.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Gives it other weights, as many.
    pub fn set_weights(&mut self, weights: Vec<f32>) {
        debug_assert_eq!(weights.len(), self.weights.len());
        self.weights = weights.into();
    }

    /// How many columns it has.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Its grids by other parameters of the weight.
    pub fn grids_of<'p>(&self, params: &'p QuantParams) -> Vec<Grid<'p>> {
        self.places.iter().map(|&c| Grid::of(params, c)).collect()
    }

    /// The codes that stand for zeros, or come nearest.
    pub fn zeros(&self) -> Vec<i32> {
        let grid_of = self.row_base.iter().flat_map(|base| self.place.iter().map(move |place| base + place));
        grid_of.map(|grid| self.grids[grid].code(0.0)).collect()
    }

    /// A matrix of at most `count` of its rows, evenly spread.
    pub fn some_rows(&self, count: usize) -> Matrix<'w> {
        let count = count.min(self.rows);
        let picks = (0..count).map(|i| i * self.rows / count);
        let row = |row: usize| &self.weights[row * self.columns..(row + 1) * self.columns];
        Matrix {
            weights: picks.clone().flat_map(row).copied().collect(),
            rows: count,
            columns: self.columns,
            grids: self.grids.clone(),
            places: self.places.clone(),
            row_base: picks.map(|row| self.row_base[row]).collect(),
            place: self.place.clone(),
        }
    }
}
