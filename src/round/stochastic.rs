//! Stochastic rounding, the best of many draws.
//!
//! A weight between two codes goes up with the probability of its distance from the one below, so that its mean stays
//! where it is. Among many draws some have a far smaller error at the layer's output than the nearest codes: Nagel et
//! al., *Up or Down? Adaptive Rounding for Post-Training Quantization*, ICML 2020, table 1. There the best of 100 draws of
//! a whole layer counts; here it is the best draw of each row, since rows do not touch each other.

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::Attempt;
use super::problem::{Panel, Problem, around, between, real};

/// The draw of each row from `start` on that costs least. A row's draws depend on its number and the seed.
pub(super) fn round(problem: &Problem, start: usize, rows: usize, tries: u32, seed: u64) -> Attempt {
    let columns = problem.columns;
    let mut draws: Vec<ChaCha8Rng> = (start..start + rows)
        .map(|row| {
            let mut draw = ChaCha8Rng::seed_from_u64(seed);
            draw.set_stream(row as u64);
            draw
        })
        .collect();
    let mut best = Attempt { method: "stochastic", codes: vec![0; rows * columns], costs: vec![f64::INFINITY; rows] };
    for _ in 0..tries {
        let mut drawn = Vec::with_capacity(rows * columns);
        for (row, draw) in draws.iter_mut().enumerate() {
            for (column, &w) in problem.row(start + row).iter().enumerate() {
                let grid = problem.grid(start + row, column);
                let (low, high) = around(grid, w.into());
                let (below, gap) = (f64::from(w) - real(grid, low), between(grid, low, high));
                let up = draw.random::<f64>() < if gap > 0.0 { below / gap } else { 0.0 };
                drawn.push(if up { high } else { low });
            }
        }
        let panel = Panel::of(problem, start..start + rows, |row, column| drawn[(row - start) * columns + column]);
        for (row, cost) in panel.costs().into_iter().enumerate() {
            if cost < best.costs[row] {
                let span = row * columns..(row + 1) * columns;
                best.codes[span.clone()].copy_from_slice(&panel.codes[span]);
                best.costs[row] = cost;
            }
        }
    }
    best
}
