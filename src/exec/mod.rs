//! Engines that run models: [`Executor`] makes a model ready, [`Session`] runs samples through it.
//!
//! The embedded engine is never asked to understand a number format: before a model reaches it, [`lower`] turns what is
//! quantized into float constants and fake quantization by our own kernels. So it computes what the specification says.
//! ONNX Runtime gets models as they are written, and shows what it makes of them.
//! [`Masked`] stands in front of either, and leaves out what they make of padding.

mod arithmetic;
#[cfg(feature = "tract")]
mod culprit;
mod densify;
#[cfg(any(feature = "tract", feature = "ort"))]
mod guard;
mod lower;
mod masked;
#[cfg(feature = "ort")]
mod onnxruntime;
mod runner;
mod spread;
mod straight;
#[cfg(feature = "tract")]
mod tract;
mod unpack;
#[cfg(feature = "tract")]
mod weightless;

use std::collections::HashMap;

use crate::error::Result;
use crate::model::{Dim, Model, Tensor};
use crate::sample::Sample;

#[cfg(any(feature = "tract", feature = "ort"))]
pub use guard::guards_panics;
pub use lower::{FAKE_QUANTIZE, ROUND_FLOAT, lower};
pub use masked::Masked;
#[cfg(feature = "ort")]
pub use onnxruntime::{OnnxRuntime, Optimization};
pub use runner::{Runner, Worker, warm_up};
pub use spread::spread;
#[cfg(feature = "tract")]
pub use tract::Tract;

/// The shape of an input in the runs to come: fixed sizes, and symbols for what changes from run to run.
pub type InputShape = Vec<Dim>;

/// An engine.
pub trait Executor: Sync {
    /// Its name and version, for reports.
    fn name(&self) -> String;

    /// Makes a model ready for runs whose inputs have these shapes, in the order of
    /// [`InputSpec::all`](crate::model::InputSpec::all), and watches those of the values in `watch` that are floats.
    ///
    /// An output whose declared element type is undefined comes back in whatever type the engine found.
    /// Errors name the node that the engine cannot run.
    fn prepare(&self, model: &Model, shapes: &[InputShape], watch: &[String]) -> Result<Box<dyn Prepared>>;

    /// The shapes that values have whatever the input, as far as the engine can tell: `None` for a size that
    /// depends on the input.
    fn shapes(&self, model: &Model) -> Result<HashMap<String, Vec<Option<usize>>>>;

    /// The model as the engine runs it, once its own rewrites are done; `None` for an engine that cannot tell.
    fn rewritten(&self, model: &Model) -> Result<Option<Model>> {
        let _ = model;
        Ok(None)
    }

    /// The engine that shows whole values, where this one leaves some of them out ([`Masked`]): for whoever hands values on to
    /// another model.
    fn unmasked(&self) -> Option<&dyn Executor> {
        None
    }
}

/// A model that is ready to run, to be shared by threads.
pub trait Prepared: Send + Sync {
    /// Starts a session: one for each thread.
    fn session(&self) -> Result<Box<dyn Session>>;
}

/// What a watched value looked like in one run.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Which value: its place in the list that [`Executor::prepare`] was given.
    pub value: usize,
    /// Its shape.
    pub shape: &'a [usize],
    /// Its numbers, row major.
    pub numbers: &'a [f32],
}

/// Runs one sample after the other.
pub trait Session: Send {
    /// Runs a sample and returns the model's outputs in their order; `see` is called with every watched value.
    fn run(&mut self, sample: &Sample, see: &mut dyn FnMut(Seen<'_>)) -> Result<Vec<Tensor>>;

    /// Runs a sample for its outputs alone.
    fn outputs(&mut self, sample: &Sample) -> Result<Vec<Tensor>>;
}
