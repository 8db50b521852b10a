//! Runs samples of any shape, on every thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::{Executor, InputShape, Prepared, Seen, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::events::Events;
use crate::model::{Dim, InputSpec, Model, Tensor, dtype_name};
use crate::sample::Sample;

/// How many prepared forms of a model are kept at a time.
const PLANS: usize = 4;

/// A model and an engine, ready for samples of whatever shape comes.
///
/// The first sample's shape is prepared as it is. When another shape comes, the axes that differ become symbols;
/// where the engine cannot run those, each shape is prepared for itself.
pub struct Runner<'a> {
    executor: &'a dyn Executor,
    model: &'a Model,
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

impl<'a> Runner<'a> {
    /// A runner that watches the given values. Errors when an input of the model is no tensor.
    pub fn new(executor: &'a dyn Executor, model: &'a Model, watch: Vec<String>) -> Result<Self> {
        let specs = InputSpec::all(&model.graph)?;
        Ok(Runner { executor, model, specs, watch, plans: Mutex::new(Vec::new()), exact_only: AtomicBool::new(false) })
    }

    /// The values that were asked to be watched; [`Seen::value`] is a place in this list.
    pub fn watch(&self) -> &[String] {
        &self.watch
    }

    /// The names of the model's outputs, in their order.
    pub fn output_names(&self) -> Vec<String> {
        self.model.graph.outputs().iter().map(|v| v.name().to_owned()).collect()
    }

    /// A worker for one thread.
    pub fn worker(&self) -> Worker<'_> {
        Worker { runner: self, current: None }
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
            let prepared = self.executor.prepare(self.model, &shapes, &self.watch)?.into();
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
                    format!("expected `{spec}`, found {} {:?}", dtype_name(x.dtype()), x.shape()),
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
pub struct Worker<'a> {
    runner: &'a Runner<'a>,
    current: Option<(Plan, Box<dyn Session>)>,
}

impl Worker<'_> {
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

    /// A session for exactly this shape, after one with symbols failed.
    fn exact(&mut self, sample: &Sample) -> Result<&mut Box<dyn Session>> {
        self.runner.exact_only.store(true, Ordering::Relaxed);
        self.current = None;
        Ok(self.session(sample)?.1)
    }

    /// The session for a sample, and whether it was prepared with symbols.
    fn session(&mut self, sample: &Sample) -> Result<(bool, &mut Box<dyn Session>)> {
        if !self.current.as_ref().is_some_and(|(plan, _)| plan.fits(sample)) {
            let plan = self.runner.plan_for(sample)?;
            let session = plan.prepared.session()?;
            self.current = Some((plan, session));
        }
        match &mut self.current {
            Some((plan, session)) => Ok((plan.symbolic(), session)),
            None => Err(Error::new(ErrorKind::Engine, "no session")),
        }
    }
}

/// What came of the steps that one thread took.
type Steps<R> = Vec<(usize, Result<R>)>;

/// Spreads `count` steps over the threads: each makes one worker and takes the next step when it is free.
///
/// Returns the workers (as many as there were threads at work, in no order that means anything) and the results in
/// the order of the steps, so that what is made of them does not depend on the threads. The error with the lowest
/// step is returned when steps fail.
pub fn spread<W: Send, R: Send>(
    count: usize,
    events: &dyn Events,
    make: impl Fn() -> Result<W> + Sync,
    step: impl Fn(&mut W, usize) -> Result<R> + Sync,
) -> Result<(Vec<W>, Vec<R>)> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failed = AtomicUsize::new(usize::MAX);
    let threads = rayon::current_num_threads().min(count).max(1);
    let outcomes: Vec<(Option<W>, Steps<R>)> = (0..threads)
        .into_par_iter()
        .map(|_| {
            let mut worker = None;
            let mut results = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                // Steps before a failed one are still taken: the lowest error is the one to report.
                if i >= count || i > failed.load(Ordering::Relaxed) {
                    return (worker, results);
                }
                let made = match &mut worker {
                    Some(w) => Ok(w),
                    None => make().map(|w| worker.insert(w)),
                };
                let result = made.and_then(|w| step(w, i));
                if result.is_err() {
                    failed.fetch_min(i, Ordering::Relaxed);
                }
                results.push((i, result));
                events.tick(done.fetch_add(1, Ordering::Relaxed) + 1, count);
            }
        })
        .collect();
    let mut workers = Vec::new();
    let mut results = Vec::new();
    for (worker, part) in outcomes {
        workers.extend(worker);
        results.extend(part);
    }
    results.sort_by_key(|(i, _)| *i);
    Ok((workers, results.into_iter().map(|(_, r)| r).collect::<Result<Vec<R>>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Silent;

    #[test]
    fn results_come_in_order_and_the_first_error_wins() {
        let (workers, results) = spread(
            100,
            &Silent,
            || Ok(0usize),
            |w, i| {
                *w += 1;
                Ok(i * 2)
            },
        )
        .unwrap();
        assert_eq!(workers.iter().sum::<usize>(), 100);
        assert_eq!(results, (0..100).map(|i| i * 2).collect::<Vec<_>>());
        let fail = |_: &mut (), i: usize| {
            if i % 10 == 7 { Err(Error::new(ErrorKind::Data, i.to_string())) } else { Ok(()) }
        };
        let error = spread(100, &Silent, || Ok(()), fail).unwrap_err();
        assert_eq!(error.to_string(), "7");
    }
}
