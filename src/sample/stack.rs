//! Samples that lie one after the other in arrays.

use std::path::Path;

use super::array::{ArraySpec, Arrays, Element, Store};
use super::fit::{Fit, convert, converts, fit, misfit};
use super::npy::Npy;
use super::npz::Npz;
use super::safetensors::SafetensorsFile;
use super::{Sample, Samples, named, no_such_sample};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::events::Events;
use crate::model::{DataType, InputSpec, Tensor, width};

/// How alike two names must be to be taken for a slip (Jaro-Winkler similarity, 1 for equal names).
const ALIKE: f64 = 0.8;

/// Opens a file of arrays; `None` if its extension is not of one.
///
/// Errors when it is not what its extension says.
pub(super) fn open_arrays(path: &Path) -> Result<Option<Box<dyn Arrays>>> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    Ok(Some(match extension.as_str() {
        "npy" => Box::new(Npy::open(path)?),
        "npz" => Box::new(Npz::open(path)?),
        "safetensors" => Box::new(SafetensorsFile::open(path)?),
        _ => return Ok(None),
    }))
}

/// Reads every array of an `.npy`, `.npz` or `.safetensors` file whole, by name, in the file's order.
///
/// The array of an `.npy` takes the name of the file. Errors when the file is none of these, is cut short, or holds
/// something else than plain numbers.
pub fn read_arrays(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let place = || named(path);
    let Some(mut file) = open_arrays(path)? else {
        return Err(Error::new(ErrorKind::Usage, "not a file of arrays")
            .at(place())
            .hint("arrays are read from .npy, .npz and .safetensors files"));
    };
    (0..file.specs().len())
        .map(|i| {
            let spec = file.specs()[i].clone();
            let Element::Known(dtype) = spec.element else {
                return Err(Error::new(ErrorKind::Unsupported, format!("`{spec}` is not read")).at(place()));
            };
            let tensor = file.load(i).and_then(|store| store.read(dtype, &spec.shape, 0));
            Ok((spec.name.clone(), tensor.at(|| format!("array `{}`", spec.name)).at(place)?))
        })
        .collect()
}

/// The samples of a file of arrays.
struct Stacked {
    source: String,
    len: usize,
    inputs: Vec<Input>,
}

/// The samples of one input.
struct Input {
    /// What the file calls the array.
    name: String,
    /// The element type in the file.
    from: DataType,
    /// The element type that the model takes.
    to: DataType,
    fit: Fit,
    store: Store,
}

/// Takes the arrays of a file as the samples of a model.
///
/// Errors when an input has no array, or one that does not fit it, and when arrays hold different numbers of samples.
/// Warns of arrays that no input takes and of rows that do not fill a sample.
pub(super) fn stack(
    mut file: Box<dyn Arrays>,
    source: &str,
    inputs: &[InputSpec],
    events: &dyn Events,
) -> Result<Box<dyn Samples>> {
    let chosen = pair(inputs, file.specs(), source, events)?;
    let mut stacked = Stacked { source: source.to_owned(), len: 1, inputs: Vec::new() };
    for (spec, i) in inputs.iter().zip(chosen) {
        let found = file.specs()[i].clone();
        let from = match found.element {
            Element::Known(dtype) if converts(dtype, spec.dtype) => dtype,
            _ => return Err(misfit(spec, &found, source)),
        };
        let fit = fit(spec, &found.shape).ok_or_else(|| misfit(spec, &found, source))?;
        if fit.left > 0 {
            events.warn(&format!(
                "the last {} rows of `{found}` in `{source}` are left out: `{spec}` takes {} at a time",
                fit.left, fit.shape[0]
            ));
        }
        let store = file.load(i).at(|| format!("array `{}`", found.name)).at(|| format!("`{source}`"))?;
        stacked.len = stacked.len.max(fit.count);
        stacked.inputs.push(Input { name: found.name, from, to: spec.dtype, fit, store });
    }
    if let Some(few) = stacked.inputs.iter().find(|i| i.fit.count != 1 && i.fit.count != stacked.len) {
        let many = stacked.inputs.iter().find(|i| i.fit.count == stacked.len).unwrap_or(few);
        let what = format!(
            "`{}` holds {} samples and `{}` holds {} in `{source}`",
            many.name, many.fit.count, few.name, few.fit.count
        );
        return Err(Error::new(ErrorKind::Data, what)
            .hint("every array must hold the same number of samples, or one that is the same for all"));
    }
    Ok(Box::new(stacked))
}

/// Which array each input takes.
fn pair(inputs: &[InputSpec], found: &[ArraySpec], source: &str, events: &dyn Events) -> Result<Vec<usize>> {
    if let ([_], [_]) = (inputs, found) {
        return Ok(vec![0]);
    }
    let place_of = |input: &InputSpec| found.iter().position(|f| f.name == input.name);
    let missing: Vec<&InputSpec> = inputs.iter().filter(|i| place_of(i).is_none()).collect();
    let spare: Vec<&ArraySpec> = found.iter().filter(|f| inputs.iter().all(|i| i.name != f.name)).collect();
    if !missing.is_empty() {
        return Err(unnamed(&missing, &spare, source));
    }
    for array in spare {
        events.warn(&format!("`{array}` in `{source}` is ignored: the model has no input of that name"));
    }
    Ok(inputs.iter().filter_map(place_of).collect())
}

/// Inputs without an array of their name.
fn unnamed(missing: &[&InputSpec], spare: &[&ArraySpec], source: &str) -> Error {
    let list = |names: Vec<String>| {
        let shown: Vec<String> = names.iter().take(8).map(|n| format!("`{n}`")).collect();
        let more = if names.len() > shown.len() { ", ..." } else { "" };
        if shown.is_empty() { "nothing more".to_owned() } else { shown.join(", ") + more }
    };
    let expected = list(missing.iter().map(ToString::to_string).collect());
    let found = list(spare.iter().map(ToString::to_string).collect());
    let closest = missing
        .iter()
        .flat_map(|i| spare.iter().map(move |a| (strsim::jaro_winkler(&i.name, &a.name), i, a)))
        .filter(|(alike, ..)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = match closest {
        Some((_, input, array)) => format!("did you mean to call `{}` `{}`?", array.name, input.name),
        None => format!(
            "save an array for each input, by the input's name: `np.savez(path, **{{'{}': x}})`",
            missing.first().map_or("", |i| &i.name)
        ),
    };
    Error::new(ErrorKind::Data, format!("expected {expected}, found {found} in `{source}`")).hint(hint)
}

impl Samples for Stacked {
    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, i: usize) -> Result<Sample> {
        if i >= self.len {
            return Err(no_such_sample(i, self.len));
        }
        let inputs = self.inputs.iter().map(|input| {
            let i = if input.fit.count == 1 { 0 } else { i };
            input.read(i).at(|| format!("sample {i} of `{}`", input.name)).at(|| format!("`{}`", self.source))
        });
        Ok(Sample { inputs: inputs.collect::<Result<_>>()? })
    }

    fn describe(&self) -> String {
        format!("`{}`: {} samples", self.source, self.len)
    }
}

impl Input {
    fn read(&self, i: usize) -> Result<Tensor> {
        let size = self.fit.shape.iter().product::<usize>() * width(self.from).unwrap_or(0);
        convert(self.store.read(self.from, &self.fit.shape, i * size)?, self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::super::heard::Heard;
    use super::super::npy::tests::{npy, npy_f32};
    use super::*;
    use crate::model::Dim;

    fn spec(name: &str, dtype: DataType, dims: &[Option<usize>]) -> InputSpec {
        let dim = |d: &Option<usize>| d.map_or(Dim::Symbol("n".into()), Dim::Fixed);
        InputSpec { name: name.into(), dtype, shape: Some(dims.iter().map(dim).collect()) }
    }

    /// Arrays in memory.
    struct Memory {
        specs: Vec<ArraySpec>,
        bytes: Vec<Vec<u8>>,
    }

    impl Arrays for Memory {
        fn specs(&self) -> &[ArraySpec] {
            &self.specs
        }

        fn load(&mut self, i: usize) -> Result<Store> {
            Ok(Store::Memory(self.bytes[i].clone().into()))
        }
    }

    /// `count` samples under each name: sample `i` of array `a` holds `10 * a + i` throughout.
    fn arrays(arrays: &[(&str, DataType, &[usize])]) -> Box<dyn Arrays> {
        let mut memory = Memory { specs: Vec::new(), bytes: Vec::new() };
        for (a, (name, dtype, shape)) in arrays.iter().enumerate() {
            let rest: usize = shape[1..].iter().product();
            let numbers: Vec<i64> = (0..shape[0] * rest).map(|n| (10 * a + n / rest) as i64).collect();
            let bytes = match dtype {
                DataType::Float => numbers.iter().flat_map(|&n| (n as f32).to_le_bytes()).collect(),
                _ => numbers.iter().flat_map(|n| n.to_le_bytes()).collect(),
            };
            let element = Element::Known(*dtype);
            memory.specs.push(ArraySpec { name: name.to_string(), element, shape: shape.to_vec() });
            memory.bytes.push(bytes);
        }
        Box::new(memory)
    }

    const F: DataType = DataType::Float;
    const I: DataType = DataType::Int64;

    #[test]
    fn inputs_take_the_arrays_of_their_names() {
        let heard = Heard::default();
        let inputs = [spec("ids", DataType::Int32, &[None, Some(2)]), spec("x", F, &[None, Some(3)])];
        let file = arrays(&[("x", F, &[4, 3]), ("labels", I, &[4]), ("ids", I, &[4, 2])]);
        let samples = stack(file, "c.npz", &inputs, &heard).unwrap();
        assert_eq!(samples.len(), 4);
        let sample = samples.get(3).unwrap();
        assert_eq!(sample.inputs[0].dtype(), DataType::Int32);
        assert_eq!(sample.inputs[0].i64s().unwrap(), [23, 23]);
        assert_eq!(sample.inputs[1], Tensor::from_f32(vec![1, 3], vec![3.0; 3]));
        assert!(heard.text().contains("`labels: int64 [4]` in `c.npz` is ignored"), "{}", heard.text());
        assert!(samples.get(4).is_err());
    }

    #[test]
    fn one_array_fills_a_single_input_whatever_its_name() {
        let heard = Heard::default();
        let samples = stack(arrays(&[("y", F, &[5, 3])]), "c.npz", &[spec("x", F, &[Some(2), Some(3)])], &heard);
        let samples = samples.unwrap();
        assert_eq!(samples.len(), 2);
        assert_eq!(samples.get(1).unwrap().inputs[0].f32s().unwrap()[..], [2.0, 2.0, 2.0, 3.0, 3.0, 3.0]);
        assert!(heard.text().contains("the last 1 rows"), "{}", heard.text());
    }

    #[test]
    fn a_single_sample_is_shared() {
        let inputs = [spec("x", F, &[None, Some(3)]), spec("size", F, &[Some(2)])];
        let samples = stack(arrays(&[("x", F, &[4, 3]), ("size", F, &[2])]), "c", &inputs, &Heard::default()).unwrap();
        assert_eq!(samples.get(3).unwrap().inputs[1].f32s().unwrap()[..], [10.0, 11.0]);
        let uneven = stack(arrays(&[("x", F, &[4, 3]), ("size", F, &[3, 2])]), "c", &inputs, &Heard::default());
        let e = uneven.err().unwrap();
        assert_eq!(e.to_string(), "`x` holds 4 samples and `size` holds 3 in `c`");
        assert_eq!(e.kind(), ErrorKind::Data);
    }

    #[test]
    fn wrong_names_are_shown_with_the_closest() {
        let inputs = [spec("input_ids", I, &[None, None]), spec("attention_mask", I, &[None, None])];
        let file = arrays(&[("input_ids", I, &[4, 2]), ("attention_msk", I, &[4, 2])]);
        let e = stack(file, "c.npz", &inputs, &Heard::default()).err().unwrap();
        let expected = "expected `attention_mask: int64 [n, n]`, found `attention_msk: int64 [4, 2]` in `c.npz`";
        assert_eq!(e.to_string(), expected);
        assert_eq!(e.way_out(), Some("did you mean to call `attention_msk` `attention_mask`?"));
        let e = stack(arrays(&[("input_ids", I, &[4, 2])]), "c.npz", &inputs, &Heard::default()).err().unwrap();
        assert!(e.to_string().contains("found nothing more in `c.npz`"), "{e}");
        assert!(e.way_out().unwrap().contains("np.savez"));
    }

    #[test]
    fn what_does_not_fit_is_shown() {
        let inputs = [spec("input", F, &[None, Some(3), Some(224), Some(224)])];
        let e = stack(arrays(&[("x", F, &[2, 3, 2, 2])]), "c.npz", &inputs, &Heard::default()).err().unwrap();
        assert_eq!(
            e.to_string(),
            "expected `input: float32 [n, 3, 224, 224]`, found `x: float32 [2, 3, 2, 2]` in `c.npz`"
        );
        assert_eq!(e.kind(), ErrorKind::Data);
    }

    #[test]
    fn whole_arrays_are_read_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        std::fs::write(&path, npy_f32(&[2], &[1.0, 2.0])).unwrap();
        assert_eq!(read_arrays(&path).unwrap(), [("x".to_owned(), Tensor::from_f32(vec![2], vec![1.0, 2.0]))]);
        std::fs::write(&path, npy("'|O'", &[2], &[])).unwrap();
        assert_eq!(read_arrays(&path).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(read_arrays(&folder.path().join("x.txt")).unwrap_err().kind(), ErrorKind::Usage);
    }
}
