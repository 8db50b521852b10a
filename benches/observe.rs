//! What watching costs: observers on slices, and watched runs beside plain ones.
//!
//! `cargo bench --bench observe`. With `QDQ_ZOO` naming a folder of real models, their runs are measured too.

use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qdq::events::Silent;
use qdq::exec::{Runner, Tract};
use qdq::model::{InputSpec, Model};
use qdq::observe::{Histogram, MinMax, Observer, Profile};
use qdq::pass::Context;
use qdq::plan::watch_list;
use qdq::quantize::prepare;
use qdq::sample::{SampleOptions, open};

/// Numbers that look like those of a layer: a sum of four even ones.
fn bells(count: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut even = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| even() + even() + even() + even()).collect()
}

fn observers(c: &mut Criterion) {
    let bells = bells(1 << 18);
    let relu: Vec<f32> = bells.iter().map(|x| x.max(0.0)).collect();
    let mut group = c.benchmark_group("observe");
    for (name, x) in [("bells", &bells), ("relu", &relu)] {
        group.throughput(Throughput::Elements(x.len() as u64));
        group.bench_function(format!("min-max/{name}"), |b| {
            let mut observer = MinMax::default();
            b.iter(|| observer.observe(black_box(x)));
        });
        group.bench_function(format!("histogram/{name}"), |b| {
            let mut observer = Histogram::default();
            b.iter(|| observer.observe(black_box(x)));
        });
    }
}

fn models() -> Vec<(String, PathBuf)> {
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/digits/model.onnx");
    let mut models = vec![("digits".to_owned(), digits)];
    if let Some(zoo) = std::env::var_os("QDQ_ZOO").map(PathBuf::from) {
        for name in ["mobilenet_v2_dfq", "resnet20_cifar10", "mlperf_tiny_resnet8_cifar10", "face_rfb_320"] {
            models.push((name.to_owned(), zoo.join(name).join("model.onnx")));
        }
    }
    models
}

fn runs(c: &mut Criterion) {
    let mut group = c.benchmark_group("run");
    group.sample_size(20);
    for (name, path) in models() {
        let mut model = Model::read(&path).expect("the model can be read");
        prepare(&mut model, 13, &mut Context::new(Some(&Tract), &Silent)).expect("the model can be prepared");
        let specs = InputSpec::all(&model.graph).expect("inputs are tensors");
        let samples = open("random:1", &SampleOptions::default(), &specs, &Silent).expect("noise fits");
        let sample = samples.get(0).expect("there is a sample");
        let plain = Runner::new(&Tract, &model, Vec::new()).expect("the model runs");
        let mut worker = plain.worker();
        group.bench_function(format!("plain/{name}"), |b| b.iter(|| worker.outputs(&sample).expect("it runs")));
        let watch = watch_list(&model.graph).expect("branches are graphs");
        let watched = Runner::new(&Tract, &model, watch).expect("the model runs");
        let mut worker = watched.worker();
        let mut extremes = vec![MinMax::default(); watched.watch().len()];
        group.bench_function(format!("min-max/{name}"), |b| {
            b.iter(|| worker.run(&sample, &mut |s| extremes[s.value].observe(s.numbers)).expect("it runs"));
        });
        let mut profiles = vec![Profile::default(); watched.watch().len()];
        group.bench_function(format!("profile/{name}"), |b| {
            b.iter(|| worker.run(&sample, &mut |s| profiles[s.value].see(s.numbers, None, 0)).expect("it runs"));
        });
    }
}

criterion_group!(benches, observers, runs);
criterion_main!(benches);
