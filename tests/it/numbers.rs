//! Hands what the kernels of `number` make of codes and numbers to a cross-check by other libraries, if the environment names
//! a folder for it (`QDQ_EMIT`), and checks here what needs no other library.

use ndarray::ArrayD;
use ndarray_npy::NpzWriter;
use qdq::number::{
    Clip, Distribution, Format, Minifloat, Storage, WeightFormat, decibels, dequantize, fit, pack, quantize,
    rounding_loss,
};

/// Numbers around everything that a format rounds: each finite number, what lies half-way to the next, their neighbours in
/// float32, numbers past both ends, and random ones down to subnormals.
fn probes(float: Minifloat) -> Vec<f32> {
    let mut reals: Vec<f32> = float.ascending().into_iter().map(|c| float.real(c)).collect();
    let middles: Vec<f32> = reals.windows(2).map(|p| ((f64::from(p[0]) + f64::from(p[1])) / 2.0) as f32).collect();
    let largest = reals.last().copied().unwrap_or(1.0);
    let least = reals.iter().copied().filter(|&x| x > 0.0).fold(f32::INFINITY, f32::min);
    reals.extend(middles);
    let near = |x: f32| [x, x.next_up(), x.next_down()];
    let mut x: Vec<f32> = reals.into_iter().flat_map(near).collect();
    x.extend([
        largest * 1.01,
        largest * 1.0625,
        -largest * 1.5,
        f32::MAX.min(largest * 1e6),
        least / 3.0,
        -least / 3.0,
    ]);
    x.extend([f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0, -0.0]);
    x.extend(Distribution::Laplace.draw(5000, 3).into_iter().map(|x| x * largest.min(1e30) / 8.0));
    x.extend(Distribution::Laplace.draw(5000, 4).into_iter().map(|x| x * least.max(1e-30) * 8.0));
    x
}

#[test]
fn kernels_are_handed_to_other_libraries() {
    let Some(folder) = std::env::var_os("QDQ_EMIT").map(std::path::PathBuf::from) else { return };
    let folder = folder.join("numbers");
    std::fs::create_dir_all(&folder).unwrap();
    let mut npz = NpzWriter::new(std::fs::File::create(folder.join("numbers.npz")).unwrap());
    let mut put = |name: String, x: Vec<f32>| {
        npz.add_array(&*name, &ArrayD::from_shape_vec(vec![x.len()], x).unwrap()).unwrap();
    };
    for float in Minifloat::ALL {
        let x = probes(float);
        put(format!("{}.codes", float.name), x.iter().map(|&x| f32::from(float.code(x))).collect());
        put(format!("{}.x", float.name), x);
        put(format!("{}.reals", float.name), float.reals());
    }
    for name in ["int2", "uint2", "int4", "uint4", "float4e2m1", "float8e4m3fn", "float8e5m2"] {
        let format = Format::by_name(name).unwrap();
        for count in [1, 2, 3, 4, 5, 254] {
            let span = format.max - format.min + 1;
            let codes: Vec<i32> = (0..count).map(|i| format.min + i * 7 % span).collect();
            let numbers = match (format.storage, format.table()) {
                (Storage::Float(_), Some(table)) => codes.iter().map(|&c| table[c as usize]).collect(),
                _ => codes.iter().map(|&c| c as f32).collect(),
            };
            put(format!("{name}.{count}.numbers"), numbers);
            put(format!("{name}.{count}.bytes"), pack(format, &codes).into_iter().map(f32::from).collect());
        }
    }
    // Blocks whose largest numbers differ by many powers of two.
    let shape = [24, 96];
    let mut x = Distribution::Laplace.draw(24 * 96, 5);
    x.iter_mut().enumerate().for_each(|(i, x)| *x *= 2f32.powi((i / 32 * 7 % 41) as i32 - 20));
    for format in WeightFormat::ALL.into_iter().filter(|f| f.name.starts_with("mx") || f.name == "nvfp4") {
        let params = fit(&x, &shape, &format.scheme(&shape, Some(0), Some(1)), Clip::Max, |s| s).unwrap();
        let codes = quantize(&x, &shape, &params).unwrap();
        put(format!("{}.made", format.name), dequantize(&codes, &shape, &params).unwrap());
    }
    put("blocks.x".into(), x);
    npz.finish().unwrap();
}

/// Per-vector scales beat scales a channel, and these one a tensor (Dai et al., "VS-Quant", 2021, table 2), on weights whose
/// channels differ as those of trained models do.
#[test]
fn finer_scales_come_nearer() {
    let shape = [64, 512];
    let mut x = Distribution::Laplace.draw(64 * 512, 6);
    x.iter_mut().enumerate().for_each(|(i, x)| *x *= 1.05f32.powi((i / 512) as i32));
    let db = |name: &str| {
        let format: WeightFormat = name.parse().unwrap();
        let params = fit(&x, &shape, &format.scheme(&shape, Some(0), Some(1)), Clip::Best, |s| s).unwrap();
        let (signal, noise) = rounding_loss(&x, &shape, &params).unwrap();
        decibels(signal, noise)
    };
    let found = ["int4/tensor", "int4", "vsq4"].map(db);
    assert!(found.is_sorted_by(|a, b| a + 0.5 < *b), "{found:?}");
}
