//! Seeded noise, for trying things out: nothing that is measured on it holds for real data.
//!
//! Floats are drawn from the normal distribution N(0, 1), 8-bit integers over their whole range, wider integers
//! (token ids, masks, types) and booleans are 0 or 1. Sample `i` depends on the seed and `i` alone.
//!
//! Symbolic dimensions: 1 on the first axis; 224 on the last two axes of an input with four, and 3 on its second;
//! 16 elsewhere. Equal symbols get the size of the first.

use std::collections::BTreeMap;

use rand::rngs::ChaCha8Rng;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::StandardNormal;

use super::fit::convert;
use super::{Sample, Samples, no_such_sample};
use crate::error::{Error, ErrorKind, Result, listed};
use crate::events::Events;
use crate::model::{DataType, Dim, InputSpec, Tensor, dtype_name};

/// The most numbers that are drawn for an input.
const MOST: usize = 1 << 30;

/// Samples of noise.
struct Random {
    len: usize,
    seed: u64,
    inputs: Vec<(DataType, Vec<usize>)>,
}

/// Makes the samples of `random:N`, given the text after the colon.
///
/// Errors when that is no number from 1 on, and for inputs whose shape or type leaves too much open. Always warns.
pub(super) fn open(count: &str, seed: u64, inputs: &[InputSpec], events: &dyn Events) -> Result<Box<dyn Samples>> {
    let len = count.parse().ok().filter(|&n| n > 0).ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("`random:{count}` does not say how many samples"))
            .hint("write it as `random:32`")
    })?;
    let mut sizes = BTreeMap::new();
    let mut drawn = Vec::new();
    let mut open = Vec::new();
    for spec in inputs {
        let Some(dims) = &spec.shape else {
            return Err(Error::new(ErrorKind::Data, format!("`{spec}` cannot be drawn at random"))
                .hint("the model does not say the shape: give real samples"));
        };
        let shape: Vec<usize> = (0..dims.len()).map(|axis| size(dims, axis, &mut sizes)).collect();
        let random = Random { len, seed, inputs: vec![(spec.dtype, shape.clone())] };
        random.get(0)?;
        if dims.iter().any(|d| matches!(d, Dim::Symbol(_))) {
            open.push(format!("`{}` as {}", spec.name, listed(&shape)));
        }
        drawn.extend(random.inputs);
    }
    let shapes =
        if open.is_empty() { String::new() } else { format!("; open shapes were made up: {}", open.join(", ")) };
    events.warn(&format!(
        "the samples are random noise: ranges, accuracy and drift measured on them say little about real data{shapes}"
    ));
    Ok(Box::new(Random { len, seed, inputs: drawn }))
}

/// How long an axis is made.
fn size(dims: &[Dim], axis: usize, sizes: &mut BTreeMap<String, usize>) -> usize {
    let symbol = match &dims[axis] {
        Dim::Fixed(n) => return *n,
        Dim::Symbol(symbol) => symbol,
    };
    let size = match (axis, dims.len()) {
        (0, _) => 1,
        (1, 4) => 3,
        (2 | 3, 4) => 224,
        _ => 16,
    };
    if symbol.is_empty() { size } else { *sizes.entry(symbol.clone()).or_insert(size) }
}

fn draw(rng: &mut impl Rng, dtype: DataType, shape: &[usize]) -> Result<Tensor> {
    let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= MOST);
    let n = n.ok_or_else(|| {
        let what = format!("an input of shape {} is too large to be drawn at random", listed(shape));
        Error::new(ErrorKind::Unsupported, what)
    })?;
    match dtype {
        DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double => {
            let numbers = (0..n).map(|_| rng.sample(StandardNormal)).collect();
            convert(Tensor::from_f32(shape.to_vec(), numbers), dtype)
        }
        DataType::Int8 | DataType::Uint8 => {
            let mut bytes = vec![0; n];
            rng.fill_bytes(&mut bytes);
            Tensor::new(dtype, shape.to_vec(), bytes.into())
        }
        DataType::Bool => {
            let bytes: Vec<u8> = (0..n).map(|_| rng.random::<bool>().into()).collect();
            Tensor::new(dtype, shape.to_vec(), bytes.into())
        }
        DataType::Int16
        | DataType::Uint16
        | DataType::Int32
        | DataType::Uint32
        | DataType::Int64
        | DataType::Uint64 => {
            let numbers = (0..n).map(|_| rng.random::<bool>().into()).collect();
            convert(Tensor::from_i64(shape.to_vec(), numbers), dtype)
        }
        other => Err(Error::new(ErrorKind::Unsupported, format!("{} cannot be drawn at random", dtype_name(other)))
            .hint("give real samples")),
    }
}

impl Samples for Random {
    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, i: usize) -> Result<Sample> {
        if i >= self.len {
            return Err(no_such_sample(i, self.len));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(i as u64);
        let inputs = self.inputs.iter().map(|(dtype, shape)| draw(&mut rng, *dtype, shape));
        Ok(Sample { inputs: inputs.collect::<Result<_>>()? })
    }

    fn describe(&self) -> String {
        format!("random noise: {} samples, seed {}", self.len, self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::heard::Heard;
    use super::*;

    fn spec(name: &str, dtype: DataType, dims: &[&str]) -> InputSpec {
        let dim = |d: &&str| d.parse().map_or_else(|_| Dim::Symbol(d.to_string()), Dim::Fixed);
        InputSpec { name: name.into(), dtype, shape: Some(dims.iter().map(dim).collect()) }
    }

    #[test]
    fn open_dimensions_are_filled_as_documented() {
        let heard = Heard::default();
        let inputs = [
            spec("image", DataType::Float, &["b", "3", "h", ""]),
            spec("ids", DataType::Int64, &["b", "s"]),
            spec("mask", DataType::Bool, &["b", "s", "h"]),
            spec("scalar", DataType::Double, &[]),
        ];
        let samples = open("2", 0, &inputs, &heard).unwrap();
        let shapes: Vec<Vec<usize>> = samples.get(1).unwrap().inputs.iter().map(|t| t.shape().to_vec()).collect();
        assert_eq!(shapes, [vec![1, 3, 224, 224], vec![1, 16], vec![1, 16, 224], vec![]]);
        assert!(heard.text().contains("random noise") && heard.text().contains("`ids` as [1, 16]"), "{}", heard.text());
        assert!(samples.get(2).is_err());
    }

    #[test]
    fn numbers_follow_from_seed_and_place() {
        let inputs = [spec("x", DataType::Float, &["1", "20000"]), spec("m", DataType::Int32, &["1", "1000"])];
        let of = |seed, i| open("3", seed, &inputs, &Heard::default()).unwrap().get(i).unwrap();
        assert_eq!(of(7, 1), of(7, 1));
        assert_ne!(of(7, 1), of(7, 2));
        assert_ne!(of(7, 1), of(8, 1));
        let sample = of(7, 0);
        let x = sample.inputs[0].f32s().unwrap();
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / 20000.0;
        let variance = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 20000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        let ones: i64 = sample.inputs[1].i64s().unwrap().iter().sum();
        assert!((400..600).contains(&ones));
        // Pinned: the same seed must give the same samples after an upgrade of the generator.
        let drawn: Vec<i64> = x[..4].iter().map(|x| (x * 1e6).round() as i64).collect();
        assert_eq!(drawn, [-775372, -1383422, 889713, 359779]);
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let x = spec("x", DataType::Float, &["1"]);
        for count in ["", "0", "-1", "x"] {
            assert_eq!(
                open(count, 0, std::slice::from_ref(&x), &Heard::default()).err().unwrap().kind(),
                ErrorKind::Usage
            );
        }
        let text = spec("x", DataType::String, &["1"]);
        let shapeless = InputSpec { shape: None, ..x.clone() };
        let huge = spec("x", DataType::Float, &["4294967296", "4294967296"]);
        for spec in [text, shapeless, huge] {
            assert!(open("1", 0, &[spec], &Heard::default()).is_err());
        }
    }
}
