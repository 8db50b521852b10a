//! What every model must stand, whatever it is: read, checked, inspected, prepared, quantized, written and read again.
//!
//! Panics where the library breaks a promise; what the library refuses is no reason to. Shared with the fuzz target.

use std::collections::HashMap;

use bytes::Bytes;
use qdq::error::{Error, Result};
use qdq::events::Silent;
use qdq::exec::{Executor, InputShape, Prepared, Seen, Session, lower};
use qdq::inspect::inspect;
use qdq::model::{Dim, InputSpec, Model, Tensor, width};
use qdq::pass::{self, Context};
use qdq::plan::Policy;
use qdq::quantize::{Recipe, quantize};
use qdq::report;
use qdq::sample::{Sample, Samples};
use qdq::target::ORT_CPU;
use qdq::validate::modern;

/// How far a model came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It was refused.
    Refused,
    /// It was read and written.
    Read,
    /// A pass changed it, and the result was written.
    Changed,
    /// It was quantized, and the result was written.
    Quantized,
}

/// Puts the bytes of a model through everything that needs no real engine.
pub fn run(bytes: &[u8]) -> Fate {
    let model = match Model::from_bytes(Bytes::copy_from_slice(bytes)) {
        Ok(model) => model,
        Err(e) => return refused(&e),
    };
    // Nodes that were out of order are put in order, and nothing else changes.
    let written = rewritten(&model);
    assert!(model.graph.revision() > 0 || written == bytes, "an untouched model is written as it was read");
    look(&model);
    let mut fate = Fate::Read;
    for opset in [13, 21] {
        let prepared = prepare(&model, opset);
        if rewritten(&prepared) != written {
            fate = Fate::Changed;
        }
        look(&prepared);
    }
    rewritten(&modern(&model));
    if let Ok(lowered) = lower(&model).map_err(|e| refused(&e)) {
        rewritten(&lowered);
    }
    match quantized(&model) {
        true => Fate::Quantized,
        false => fate,
    }
}

/// The model after the exact passes, without an engine; one that is refused changes nothing.
fn prepare(model: &Model, opset: i64) -> Model {
    let mut model = model.clone();
    for pass in pass::exact(opset) {
        let before = model.clone();
        if let Err(e) = pass::run(pass.as_ref(), &mut model, &mut Context::new(None, &Silent)) {
            refused(&e);
            assert!(rewritten(&model) == rewritten(&before), "a pass that fails leaves the model as it was");
        } else if model.graph.revision() != before.graph.revision() {
            model.graph.check().unwrap_or_else(|e| panic!("after {}: {e}", pass.name()));
        }
    }
    model
}

/// Quantizes the model with an engine that makes everything up; says whether that went well.
fn quantized(model: &Model) -> bool {
    let Some(samples) = Zeros::of(model) else { return false };
    match quantize(model, &samples, &Recipe { policy: Policy::of(&ORT_CPU) }, &Dreamer, &Silent) {
        Ok(made) => {
            rewritten(&made.model);
            look(&made.model);
            said(&report::text(&made.report.tables(), Some(100)));
            report::json(&made.report).unwrap();
            true
        }
        Err(e) => {
            refused(&e);
            false
        }
    }
}

/// Holds that a model can be written and read again, and is the same then. Returns its bytes.
fn rewritten(model: &Model) -> Vec<u8> {
    model.graph.check().unwrap();
    let written = model.to_bytes().unwrap();
    assert_eq!(written.len(), model.encoded_len());
    let again =
        Model::from_bytes(written.clone().into()).unwrap_or_else(|e| panic!("what was written is refused: {e}"));
    assert!(again.graph.revision() == 0 && again.to_bytes().unwrap() == written, "what was written reads otherwise");
    written
}

/// Shows what is in the model, in every form.
fn look(model: &Model) {
    match inspect(model) {
        Ok(seen) => {
            let tables = seen.tables();
            said(&report::text(&tables, Some(100)));
            said(&report::text(&tables, None));
            said(&report::markdown(&tables));
            report::json(&seen).unwrap();
        }
        Err(e) => drop(refused(&e)),
    }
    for spec in InputSpec::all(&model.graph).into_iter().flatten() {
        assert!(!spec.to_string().is_empty());
    }
}

/// Text for a terminal holds no control characters but line ends.
fn said(text: &str) {
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
}

/// Holds that a message can be read.
fn refused(e: &Error) -> Fate {
    let text = e.to_string();
    assert!(!text.is_empty() && text.chars().count() < 4000 && !text.contains(char::is_control), "{text:?}");
    Fate::Refused
}

/// Samples of zeros, of the shapes that the model states; 2 stands for what it leaves open.
struct Zeros(Vec<Tensor>);

impl Zeros {
    /// The samples for a model whose inputs are small tensors.
    fn of(model: &Model) -> Option<Zeros> {
        let zeros = |spec: InputSpec| {
            let size = |d: Dim| match d {
                Dim::Fixed(n) => n,
                Dim::Symbol(_) => 2,
            };
            let shape: Vec<usize> = spec.shape?.into_iter().map(size).collect();
            let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n < 1 << 16)?;
            Tensor::new(spec.dtype, shape, vec![0; elements * width(spec.dtype)?].into()).ok()
        };
        InputSpec::all(&model.graph).ok()?.into_iter().map(zeros).collect::<Option<_>>().map(Zeros)
    }
}

impl Samples for Zeros {
    fn len(&self) -> usize {
        1
    }

    fn get(&self, _: usize) -> Result<Sample> {
        Ok(Sample { inputs: self.0.clone() })
    }

    fn describe(&self) -> String {
        "zeros".to_owned()
    }
}

/// An engine that runs nothing: every value holds the same few numbers, every output one zero of its type.
struct Dreamer;

struct Dream {
    watched: usize,
    outputs: Vec<Tensor>,
}

impl Executor for Dreamer {
    fn name(&self) -> String {
        "dreamer".to_owned()
    }

    fn prepare(&self, model: &Model, _: &[InputShape], watch: &[String]) -> Result<Box<dyn Prepared>> {
        lower(model)?.to_bytes()?;
        let zero = |v| {
            let dtype = InputSpec::of(v)?.dtype;
            let zero = |n| Tensor::new(dtype, vec![], vec![0; n].into());
            width(dtype).map_or_else(|| Ok(Tensor::from_f32(vec![], vec![0.0])), zero)
        };
        let outputs = model.graph.outputs().iter().map(zero).collect::<Result<_>>()?;
        Ok(Box::new(Dream { watched: watch.len(), outputs }))
    }

    fn shapes(&self, model: &Model) -> Result<HashMap<String, Vec<Option<usize>>>> {
        let outputs = model.graph.nodes().flat_map(|(_, n)| &n.output);
        Ok(outputs.map(|o| (o.clone(), vec![Some(2), None])).collect())
    }
}

impl Prepared for Dream {
    fn session(&self) -> Result<Box<dyn Session>> {
        Ok(Box::new(Dream { watched: self.watched, outputs: self.outputs.clone() }))
    }
}

impl Session for Dream {
    fn run(&mut self, sample: &Sample, see: &mut dyn FnMut(Seen<'_>)) -> Result<Vec<Tensor>> {
        (0..self.watched).for_each(|value| see(Seen { value, shape: &[3], numbers: &[-1.5, 0.0, 2.0] }));
        self.outputs(sample)
    }

    fn outputs(&mut self, _: &Sample) -> Result<Vec<Tensor>> {
        Ok(self.outputs.clone())
    }
}
