//! Engines that run models: [`Executor`] makes a model ready, [`Session`] runs samples through it.
//!
//! The engine is never asked to understand a number format: before a model reaches it, what is quantized is lowered
//! to float constants and fake quantization by our own kernels.

use crate::error::Result;
use crate::model::{Model, Tensor};
use crate::sample::Sample;

/// How an input is shaped in the runs to come: a size, or `None` where it changes from run to run.
pub type InputShape = Vec<Option<usize>>;

/// An engine.
pub trait Executor: Sync {
    /// Its name and version, for reports.
    fn name(&self) -> String;

    /// Makes a model ready for runs whose inputs have these shapes and element types (in the order of
    /// [`InputSpec::all`](crate::model::InputSpec::all)), watching every float value if `watch` is set.
    ///
    /// Errors name the node that the engine cannot run.
    fn prepare(&self, model: &Model, shapes: &[InputShape], watch: bool) -> Result<Box<dyn Prepared>>;
}

/// A model that is ready to run, to be shared by threads.
pub trait Prepared: Send + Sync {
    /// The values that are watched; the numbers that [`Session::run`] calls back with are places in this list.
    fn watched(&self) -> &[String];

    /// Starts a session: one for each thread.
    fn session(&self) -> Result<Box<dyn Session + '_>>;
}

/// What a watched value looked like in one run.
pub struct Seen<'a> {
    /// Which value: its place in [`Prepared::watched`].
    pub value: usize,
    /// Its shape.
    pub shape: &'a [usize],
    /// Its numbers, row major.
    pub numbers: &'a [f32],
}

/// Runs one sample after the other.
pub trait Session {
    /// Runs a sample and returns the model's outputs in their order; `see` is called with every watched value.
    fn run(&mut self, sample: &Sample, see: &mut dyn FnMut(Seen<'_>)) -> Result<Vec<Tensor>>;
}
