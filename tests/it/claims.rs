//! What papers say of distributions, clips, steps and scales, measured with the kernels of `number`.

use crate::common;
use std::path::Path;

use qdq::inspect::forecast;
use qdq::model::Model;
use qdq::number::{Clip, Distribution, Format, QuantParams, WeightFormat, decibels, fit, rounding_loss};

const COUNT: usize = 1 << 17;

fn drawn() -> [Vec<f32>; 3] {
    [Distribution::Laplace, Distribution::Gauss, Distribution::Uniform].map(|d| d.draw(COUNT, 11))
}

fn format(bits: u32) -> WeightFormat {
    format!("int{bits}/tensor/narrow").parse().unwrap()
}

fn best(x: &[f32], bits: u32) -> QuantParams {
    fit(x, &[x.len()], &format(bits).scheme(&[x.len()], None, None), Clip::Best, |s| s).unwrap()
}

/// SQNR in dB with a step that is `by` times the best one.
fn sqnr(x: &[f32], params: &QuantParams, by: f32) -> f64 {
    let off = params.with_scales(params.scales().iter().map(|s| s * by).collect()).unwrap();
    let (signal, noise) = rounding_loss(x, &[x.len()], &off).unwrap();
    decibels(signal, noise)
}

/// Yu et al., "Low-bit quantization needs good distribution" (GDRQ), 2020, section 3: the relative loss `|W - Q(W)| / |W|` at
/// the best clip is larger for Laplace than for Gauss than for uniform weights, and the best clip, as a part of the
/// largest magnitude, is smaller.
#[test]
fn uniform_weights_lose_least_and_are_clipped_least() {
    let all = drawn();
    for bits in [2, 3, 4] {
        let found = all.each_ref().map(|x| (x, best(x, bits)));
        let loss = found.each_ref().map(|(x, p)| 10f64.powf(-sqnr(x, p, 1.0) / 20.0));
        assert!(loss.is_sorted_by(|a, b| *a > *b * 1.1), "{bits} bits: {loss:?}");
        let clip = found.each_ref().map(|(x, p)| {
            let reach = p.scales()[0] * ((1 << (bits - 1)) - 1) as f32;
            reach / x.iter().fold(0f32, |a, x| a.max(x.abs()))
        });
        assert!(clip.is_sorted_by(|a, b| *a * 1.1 < *b), "{bits} bits: {clip:?}");
    }
}

/// Shkolnik et al., "Robust quantization: one model to rule them all" (KURE), 2020, section 3: with a step 20 % off the best,
/// either way, uniform weights of 2 to 4 bits have the highest SQNR.
///
/// They have it at the best step too, and by more: in dB of their own they lose more than the others, since a step too small
/// cuts off what their edges hold, and one too large is all rounding and no less cutting. Of noise, with the signal as the
/// measure, a step too large adds the least to uniform weights from 4 bits on.
#[test]
fn uniform_weights_are_nearest_with_a_step_that_is_off() {
    let all = drawn();
    for bits in [2, 3, 4, 8] {
        let found = all.each_ref().map(|x| (x, best(x, bits)));
        let at = |by: f32| found.each_ref().map(|(x, p)| sqnr(x, p, by));
        for by in [0.8, 1.2] {
            let (db, whole) = (at(by), at(1.0));
            assert!(bits > 4 || db.is_sorted(), "{bits} bits, step times {by}: {db:?}");
            let lost = whole[2] - db[2];
            assert!(lost > whole[1] - db[1] && lost > whole[0] - db[0], "{bits} bits, step times {by}: {db:?}");
        }
        let noise = |db: f64| 10f64.powf(-db / 10.0);
        let added = [0, 1, 2].map(|i| noise(at(1.2)[i]) - noise(at(1.0)[i]));
        assert!(bits < 4 || added[2] < added[1] && added[2] < added[0], "{bits} bits: {added:?} of the signal added");
    }
}

/// Dai et al., "VS-Quant", 2021, section 3 and table 2, on trained weights: a scale a vector is nearer than a scale a channel,
/// and that than a scale a tensor, at 4 bits and in every layer long enough for a vector.
#[test]
fn finer_scales_are_nearer_on_trained_weights() {
    let names = ["int4/tensor", "int4", "vsq4"];
    let formats: Vec<WeightFormat> = names.iter().map(|n| n.parse().unwrap()).collect();
    let ordered = |path: &Path| {
        let found = forecast(&Model::read(path).unwrap(), &formats).unwrap();
        let db: Vec<f64> = found.total.iter().map(|t| t.sqnr_db.unwrap()).collect();
        assert!(db.is_sorted_by(|a, b| a + 0.3 < *b), "{}: {db:?}", path.display());
        assert!(found.total[2].bits_per_weight < 6.0 && formats.iter().all(|f| f.format.bits == Format::INT4.bits));
    };
    ordered(&common::fixture("digits/model.onnx"));
    ordered(&common::fixture("ppocr_cls/model.onnx"));
    if let Some(zoo) = common::zoo() {
        ordered(&zoo.join("stories260K/model.onnx"));
        ordered(&zoo.join("resnet20_cifar10/model.onnx"));
    }
}
