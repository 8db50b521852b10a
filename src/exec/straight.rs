//! Runs samples of any shape through a model without branches.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Executor, InputShape, Prepared, Seen, Session};
use crate::error::{Error, ErrorKind, Result, listed};
use crate::model::{Dim, InputSpec, Model, Tensor, dtype_name};
use crate::sample::Sample;

/// How many prepared forms of a model are kept at a time.
const PLANS: usize = 4;

/// A model and an engine, ready for samples of whatever shape comes.
///
/// The first sample's shape is prepared as it is. When another shape comes, the axes that differ become symbols;
/// where the engine cannot run those, each shape is prepared for itself.
pub(super) struct Straight<'a> {
    executor: &'a dyn Executor,
    model: Cow<'a, Model>,
    specs: Vec<InputSpec>,
    watch: Vec<String>,
    plans: Mutex<Vec<Plan>>,
    /// Whether the engine failed on symbols: from then on each shape is prepared for itself.
    exact_only: AtomicBool,
}

#[derive(Clone)]
struct Plan {
    shapes: Vec<InputShape>,
    prepared: Arc<dyn Prepared>,
}

impl<'a> Straight<'a> {
    /// Watches the given values. Errors when an input of the model is no tensor.
    pub fn new(executor: &'a dyn Executor, model: Cow<'a, Model>, watch: Vec<String>) -> Result<Self> {
        let specs = InputSpec::all(&model.graph)?;
        let (plans, exact_only) = (Mutex::new(Vec::new()), AtomicBool::new(false));
        Ok(Straight { executor, model, specs, watch, plans, exact_only })
    }

    /// Frees what was prepared. It is prepared anew when it is needed.
    pub fn forget(&self) {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn plan_for(&self, sample: &Sample) -> Result<Plan> {
        self.check(sample)?;
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let exact_only = self.exact_only.load(Ordering::Relaxed);
        if let Some(plan) = plans.iter().find(|p| p.fits(sample) && !(exact_only && p.symbolic())) {
            return Ok(plan.clone());
        }
        let fixed = |x: &Tensor| x.shape().iter().map(|&n| Dim::Fixed(n)).collect::<InputShape>();
        let exact: Vec<InputShape> = sample.inputs.iter().map(fixed).collect();
        let known = plans.first().filter(|_| !exact_only);
        let symbolic = known.map(|p| self.loosen(&p.shapes, &exact)).filter(|s| *s != exact);
        let prepare = |shapes: Vec<InputShape>| -> Result<Plan> {
            let prepared = self.executor.prepare(&self.model, &shapes, &self.watch)?.into();
            Ok(Plan { shapes, prepared })
        };
        let plan = match symbolic.map(prepare) {
            Some(Ok(plan)) => plan,
            _ => prepare(exact)?,
        };
        if plans.len() == PLANS {
            plans.remove(1);
        }
        plans.push(plan.clone());
        Ok(plan)
    }

    /// The shape that covers both: symbols where they differ, named as the model names the axis.
    fn loosen(&self, known: &[InputShape], new: &[InputShape]) -> Vec<InputShape> {
        let axis = |input: usize, axis: usize, a: &Dim, b: &Dim| {
            if a == b {
                return a.clone();
            }
            match self.specs[input].shape.as_ref().and_then(|s| s.get(axis)) {
                Some(Dim::Symbol(s)) => Dim::Symbol(s.clone()),
                _ => Dim::Symbol(String::new()),
            }
        };
        let shape = |(i, (a, b)): (usize, (&InputShape, &InputShape))| -> InputShape {
            if a.len() != b.len() {
                return b.clone();
            }
            a.iter().zip(b).enumerate().map(|(x, (a, b))| axis(i, x, a, b)).collect()
        };
        known.iter().zip(new).enumerate().map(shape).collect()
    }

    fn check(&self, sample: &Sample) -> Result<()> {
        if sample.inputs.len() != self.specs.len() {
            let what = format!("the model takes {} inputs, the sample has {}", self.specs.len(), sample.inputs.len());
            return Err(Error::new(ErrorKind::Data, what));
        }
        for (spec, x) in self.specs.iter().zip(&sample.inputs) {
            if spec.dtype != x.dtype() || !spec.shape.as_ref().is_none_or(|s| takes(s, x)) {
                return Err(Error::new(
                    ErrorKind::Data,
                    format!("expected `{spec}`, found {} {}", dtype_name(x.dtype()), listed(x.shape())),
                ));
            }
        }
        Ok(())
    }
}

impl Plan {
    fn symbolic(&self) -> bool {
        self.shapes.iter().flatten().any(|d| matches!(d, Dim::Symbol(_)))
    }

    fn fits(&self, sample: &Sample) -> bool {
        self.shapes.iter().zip(&sample.inputs).all(|(shape, x)| takes(shape, x))
    }
}

/// Whether a tensor has that shape; a symbol stands for any size.
fn takes(shape: &InputShape, x: &Tensor) -> bool {
    shape.len() == x.shape().len()
        && shape.iter().zip(x.shape()).all(|(d, &n)| match d {
            Dim::Fixed(want) => *want == n,
            Dim::Symbol(_) => true,
        })
}

/// One thread's session.
pub(super) struct Seat<'a> {
    straight: Arc<Straight<'a>>,
    current: Option<(Plan, Box<dyn Session>)>,
}

impl<'a> Seat<'a> {
    /// A seat that has run nothing yet.
    pub fn new(straight: Arc<Straight<'a>>) -> Self {
        Seat { straight, current: None }
    }

    /// Whether this is a seat at that model.
    pub fn is_at(&self, straight: &Arc<Straight<'a>>) -> bool {
        Arc::ptr_eq(&self.straight, straight)
    }

    /// Runs a sample, calling back with every watched value, and returns the outputs.
    pub fn run(&mut self, sample: &Sample, see: &mut dyn FnMut(Seen<'_>)) -> Result<Vec<Tensor>> {
        if !self.session(sample)?.0 {
            return self.session(sample)?.1.run(sample, see);
        }
        // A run with symbols may fail half way; nobody is to see its values then.
        let mut held: Vec<(usize, Vec<usize>, Vec<f32>)> = Vec::new();
        let hold = &mut |s: Seen<'_>| held.push((s.value, s.shape.to_vec(), s.numbers.to_vec()));
        match self.session(sample)?.1.run(sample, hold) {
            Ok(outputs) => {
                for (value, shape, numbers) in &held {
                    see(Seen { value: *value, shape, numbers });
                }
                Ok(outputs)
            }
            Err(_) => self.exact(sample)?.run(sample, see),
        }
    }

    /// Runs a sample for its outputs alone.
    pub fn outputs(&mut self, sample: &Sample) -> Result<Vec<Tensor>> {
        let (symbolic, session) = self.session(sample)?;
        match session.outputs(sample) {
            Err(_) if symbolic => self.exact(sample)?.outputs(sample),
            outcome => outcome,
        }
    }

    /// Prepares what will run this sample, if it can be prepared.
    pub fn warm_up(&mut self, sample: &Sample) {
        self.session(sample).ok();
    }

    /// A session for exactly this shape, after one with symbols failed.
    fn exact(&mut self, sample: &Sample) -> Result<&mut Box<dyn Session>> {
        self.straight.exact_only.store(true, Ordering::Relaxed);
        self.current = None;
        Ok(self.session(sample)?.1)
    }

    /// The session for a sample, and whether it was prepared with symbols.
    fn session(&mut self, sample: &Sample) -> Result<(bool, &mut Box<dyn Session>)> {
        if !self.current.as_ref().is_some_and(|(plan, _)| plan.fits(sample)) {
            let plan = self.straight.plan_for(sample)?;
            let session = plan.prepared.session()?;
            self.current = Some((plan, session));
        }
        match &mut self.current {
            Some((plan, session)) => Ok((plan.symbolic(), session)),
            None => Err(Error::new(ErrorKind::Engine, "no session")),
        }
    }
}
