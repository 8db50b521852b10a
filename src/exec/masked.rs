//! Samples that are filled up: what stands where they hold nothing is left out of what an engine shows.

use std::collections::HashMap;

use super::{Executor, InputShape, Prepared, Seen, Session};
use crate::error::{Error, ErrorKind, Result, listed};
use crate::model::{InputSpec, Model, Tensor};
use crate::sample::Sample;

/// An engine that shows nothing of padding.
///
/// Texts of different lengths are filled up to one, and an input `[batch, places]` says with zeros where: the `attention_mask` of
/// transformers. What a model makes of those places matters to nobody, and is often most of what there is. Of float values
/// and outputs `[batch, places, channels]` only the rows at places that count are shown, as `[1, rows, channels]`, and of
/// `[batch * places, channels]` as `[rows, channels]`: so nothing is learned from padding, and none is compared.
/// Values of other shapes, such as the heads and scores of attention, and models that have no such input are shown as they are.
///
/// Runs fail with a sample in which no place counts, or whose mask has other than two axes.
pub struct Masked {
    engine: Box<dyn Executor>,
    mask: String,
}

impl Masked {
    /// Leaves out what this engine shows of padding in runs of the model, and of others that take an input of that name.
    ///
    /// Errors when the model does not.
    pub fn new(engine: Box<dyn Executor>, model: &Model, mask: &str) -> Result<Masked> {
        let inputs = InputSpec::all(&model.graph)?;
        if inputs.iter().all(|input| input.name != mask) {
            let names: Vec<String> = inputs.iter().map(|input| format!("`{}`", input.name)).collect();
            return Err(Error::new(ErrorKind::Usage, format!("the model has no input `{mask}` that could be a mask"))
                .hint(format!("name one of its inputs: {}", names.join(", "))));
        }
        Ok(Masked { engine, mask: mask.to_owned() })
    }
}

impl Executor for Masked {
    fn name(&self) -> String {
        format!("{}, padding by `{}` left out", self.engine.name(), self.mask)
    }

    fn prepare(&self, model: &Model, shapes: &[InputShape], watch: &[String]) -> Result<Box<dyn Prepared>> {
        let prepared = self.engine.prepare(model, shapes, watch)?;
        match InputSpec::all(&model.graph)?.into_iter().position(|input| input.name == self.mask) {
            Some(input) => Ok(Box::new(MaskedModel { prepared, mask: self.mask.clone(), input })),
            None => Ok(prepared),
        }
    }

    fn shapes(&self, model: &Model) -> Result<HashMap<String, Vec<Option<usize>>>> {
        self.engine.shapes(model)
    }

    fn rewritten(&self, model: &Model) -> Result<Option<Model>> {
        self.engine.rewritten(model)
    }

    fn unmasked(&self) -> Option<&dyn Executor> {
        Some(&*self.engine)
    }
}

/// A model that takes a mask.
struct MaskedModel {
    prepared: Box<dyn Prepared>,
    mask: String,
    /// Which of the inputs is the mask.
    input: usize,
}

impl Prepared for MaskedModel {
    fn session(&self) -> Result<Box<dyn Session>> {
        let session = self.prepared.session()?;
        Ok(Box::new(MaskedSession { session, mask: self.mask.clone(), input: self.input, rows: Vec::new() }))
    }
}

struct MaskedSession {
    session: Box<dyn Session>,
    mask: String,
    input: usize,
    /// Room for the rows that are shown.
    rows: Vec<f32>,
}

impl MaskedSession {
    fn kept(&self, sample: &Sample) -> Result<Option<Kept>> {
        let wrong = |what: String, way_out: &str| Error::new(ErrorKind::Data, what).hint(way_out);
        let mask = &self.mask;
        let Some(tensor) = sample.inputs.get(self.input) else { return Ok(None) };
        let &[batch, places] = tensor.shape() else {
            let what = format!("`{mask}` is {}, and a mask is [batch, places]", listed(tensor.shape()));
            return Err(wrong(what, "leave out `--mask`"));
        };
        let counts: Vec<bool> = tensor.reals()?.iter().map(|&x| x != 0.0).collect();
        let rows = counts.iter().filter(|&&counts| counts).count();
        if rows == 0 {
            let what = format!("`{mask}` is 0 everywhere: there is nothing but padding");
            return Err(wrong(what, "leave such samples out, or `--mask`"));
        }
        Ok((rows < counts.len()).then_some(Kept { size: [batch, places], counts, rows }))
    }
}

impl Session for MaskedSession {
    fn run(&mut self, sample: &Sample, see: &mut dyn FnMut(Seen<'_>)) -> Result<Vec<Tensor>> {
        let Some(kept) = self.kept(sample)? else { return self.session.run(sample, see) };
        let rows = &mut self.rows;
        let mut without = |seen: Seen<'_>| match kept.shape_of(seen.shape) {
            Some(shape) => {
                rows.clear();
                kept.pick(seen.numbers, rows);
                see(Seen { shape: &shape, numbers: rows, ..seen });
            }
            None => see(seen),
        };
        let outputs = self.session.run(sample, &mut without)?;
        outputs.into_iter().map(|output| kept.of(output)).collect()
    }

    fn outputs(&mut self, sample: &Sample) -> Result<Vec<Tensor>> {
        let Some(kept) = self.kept(sample)? else { return self.session.outputs(sample) };
        self.session.outputs(sample)?.into_iter().map(|output| kept.of(output)).collect()
    }
}

/// The places of a sample that count, not all of them.
struct Kept {
    /// Batch and places.
    size: [usize; 2],
    counts: Vec<bool>,
    /// How many count.
    rows: usize,
}

impl Kept {
    /// The shape of what is left of a value of that shape; `None` where it has no row for each place.
    fn shape_of(&self, shape: &[usize]) -> Option<Vec<usize>> {
        match *shape {
            [batch, places, channels] if [batch, places] == self.size => Some(vec![1, self.rows, channels]),
            [rows, channels] if rows == self.counts.len() => Some(vec![self.rows, channels]),
            _ => None,
        }
    }

    /// Puts the rows that count behind what is there.
    fn pick<T: Copy>(&self, all: &[T], rows: &mut Vec<T>) {
        let size = all.len() / self.counts.len();
        let all = (0..self.counts.len()).map(|row| &all[row * size..(row + 1) * size]);
        all.zip(&self.counts).filter(|(_, counts)| **counts).for_each(|(row, _)| rows.extend(row));
    }

    fn of(&self, output: Tensor) -> Result<Tensor> {
        let Some(shape) = self.shape_of(output.shape()).filter(|_| output.is_float()) else { return Ok(output) };
        let mut rows = Vec::new();
        self.pick(output.bytes(), &mut rows);
        Tensor::new(output.dtype(), shape, rows.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        Kept { size: [2, 3], counts: vec![true, false, false, true, true, false], rows: 3 }
    }

    #[test]
    fn rows_that_count_are_left() {
        let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let one = kept().of(Tensor::from_f32(vec![2, 3, 2], x.clone())).unwrap();
        assert_eq!((one.shape(), &*one.f32s().unwrap()), (&[1, 3, 2][..], &[0.0, 1.0, 6.0, 7.0, 8.0, 9.0][..]));
        let flat = kept().of(Tensor::from_f32(vec![6, 2], x)).unwrap();
        assert_eq!((flat.shape(), &*flat.f32s().unwrap()), (&[3, 2][..], &*one.f32s().unwrap()));
    }

    #[test]
    fn what_has_no_row_for_each_place_stays() {
        for shape in [vec![2, 4, 2], vec![3, 2, 2], vec![2, 3], vec![2, 3, 1, 2], vec![6], vec![]] {
            assert_eq!(kept().shape_of(&shape), None, "{shape:?}");
        }
        let integers = Tensor::from_i64(vec![6, 1], vec![1; 6]);
        assert_eq!(kept().of(integers).unwrap().shape(), [6, 1]);
    }
}
