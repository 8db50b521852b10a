//! What rounding costs: all layers of a MobileNetV2, and the layers of a transformer's feed-forward part.
//!
//! `cargo bench --no-default-features --bench round`. Weights and moments are made; shapes are those of the nets.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use qdq::number::Grid;
use qdq::round::{AdaRoundOptions, GridOf, Problem, Rounding, round, seek_scales};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;
use rayon::prelude::*;

/// A group of a layer.
struct Layer {
    weights: Vec<f32>,
    rows: usize,
    columns: usize,
    grids: Vec<Grid<'static>>,
    row_base: Vec<usize>,
    place: Vec<usize>,
    moments: Vec<f64>,
}

impl Layer {
    /// Normal weights on 4 bits a row. Inputs are positive and neighbours are alike, as behind a ReLU.
    fn new(rows: usize, columns: usize, seed: u64) -> Layer {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut normal = || -> f64 { random.sample(StandardNormal) };
        let weights: Vec<f32> = (0..rows * columns).map(|_| normal() as f32).collect();
        let sizes: Vec<f64> = (0..columns).map(|_| (0.5 * normal()).exp()).collect();
        let alike = |i: usize, j: usize| 0.3 + 0.6 * 0.8f64.powi((i as i32 - j as i32).abs());
        let moment = |i: usize, j: usize| sizes[i] * sizes[j] * (alike(i, j) + if i == j { 0.1 } else { 0.0 });
        let moments = (0..columns * columns).map(|at| moment(at / columns, at % columns)).collect();
        let largest = |row: &[f32]| row.iter().fold(0f32, |m, w| m.max(w.abs()));
        let grid = |row: &[f32]| Grid::linear(largest(row) / 7.0, 0, -8, 7);
        let grids = weights.chunks(columns).map(grid).collect();
        Layer { weights, rows, columns, grids, row_base: (0..rows).collect(), place: vec![0; columns], moments }
    }

    fn problem(&self) -> Problem<'_> {
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

/// The groups of all layers of a MobileNetV2: expansion, depthwise, projection; 16 to 1280 columns, and 9 of the depthwise.
fn mobilenet() -> Vec<Layer> {
    let mut layers = vec![Layer::new(32, 27, 0)];
    let mut wide = |rows: usize, columns: usize| {
        let seed = layers.len() as u64;
        layers.push(Layer::new(rows, columns, seed));
    };
    let mut input = 32;
    // Expansion, outputs, repeats: Sandler et al. 2018, table 2.
    for (expansion, outputs, repeats) in
        [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]
    {
        for _ in 0..repeats {
            let inner = input * expansion;
            if expansion > 1 {
                wide(inner, input);
            }
            (0..inner).for_each(|_| wide(1, 9));
            wide(outputs, inner);
            input = outputs;
        }
    }
    wide(1280, 320);
    wide(1000, 1280);
    layers
}

fn rounding(c: &mut Criterion) {
    let net = mobilenet();
    let feed_forward = [Layer::new(384, 1536, 1), Layer::new(1536, 384, 2)];
    let methods = [
        Rounding::Descent,
        "gptq".parse().unwrap_or_default(),
        Rounding::Auto { adaround: None },
        Rounding::AdaRound(AdaRoundOptions::DEFAULT),
    ];
    let mut group = c.benchmark_group("round");
    group.sample_size(10).warm_up_time(Duration::from_millis(10)).measurement_time(Duration::from_secs(1));
    for method in methods {
        group.bench_function(BenchmarkId::new(method.name(), "mobilenet_v2"), |b| {
            b.iter(|| {
                net.par_iter().map(|l| round(&l.problem(), black_box(&method)).map_or(0.0, |r| r.after)).sum::<f64>()
            });
        });
        for layer in &feed_forward {
            let name = format!("{}x{}", layer.rows, layer.columns);
            group.bench_function(BenchmarkId::new(method.name(), name), |b| {
                b.iter(|| round(black_box(&layer.problem()), &method));
            });
        }
    }
    for layer in &feed_forward {
        let name = format!("{}x{}", layer.rows, layer.columns);
        group.bench_function(BenchmarkId::new("seek_scales", name), |b| {
            b.iter(|| seek_scales(black_box(&layer.problem())));
        });
    }
    group.finish();
}

criterion_group!(benches, rounding);
criterion_main!(benches);
