//! What it takes to make bytes of weights, memory to memory, beside a plain copy of them: extremes, scales, codes and their packing.
//!
//! `cargo bench --bench quantize`. Throughput counts the bytes of the float weights.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qdq::number::{Distribution, Format, Granularity, QuantParams, Range, Scheme, encode, extremes};

/// Outputs and inputs of a layer.
const SHAPE: [usize; 2] = [4096, 4096];

fn to_bytes(x: &[f32], scheme: &Scheme) -> Vec<u8> {
    let (found, _) = extremes(x, &SHAPE, scheme.granularity).unwrap();
    let ranges: Vec<Range> = found.into_iter().filter_map(|(low, high)| Range::new(low, high)).collect();
    encode(x, &SHAPE, &QuantParams::from_ranges(scheme, &ranges).unwrap()).unwrap()
}

fn weights(c: &mut Criterion) {
    let x = Distribution::Gauss.draw(SHAPE.iter().product(), 0);
    let mut group = c.benchmark_group("weights");
    group.throughput(Throughput::Bytes(4 * x.len() as u64));
    group.sample_size(20);
    group.bench_function("copy", |b| b.iter(|| black_box(&x).to_vec()));
    for (name, format, granularity) in [
        ("int8 per channel", Format::INT8, Granularity::Channel { axis: 0 }),
        ("int8 per channel, inputs first", Format::INT8, Granularity::Channel { axis: 1 }),
        ("int4 in blocks of 32", Format::INT4, Granularity::Block { axis: 1, size: 32 }),
        ("int4 in blocks of 32, inputs first", Format::INT4, Granularity::Block { axis: 0, size: 32 }),
    ] {
        let scheme = Scheme::new(format, true, granularity);
        group.bench_function(name, |b| b.iter(|| to_bytes(black_box(&x), &scheme)));
    }
    group.finish();
}

criterion_group!(benches, weights);
criterion_main!(benches);
