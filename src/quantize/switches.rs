//! What each value that is quantized does to the outputs, by itself: one model in which pairs are switched on and off.

use super::trial::Trial;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::events::Silent;
use crate::exec::Runner;
use crate::model::{
    At, DataType, Graph, Linear, Model, ModelProto, NodeExt, NodeId, NodeProto, Tensor, ValueInfoProto,
};
use crate::pass::{self, Context, Insert};
use crate::plan::{Plan, Verdict};
use crate::proto::tensor_shape_proto::{Dimension, dimension};
use crate::proto::{TensorShapeProto, TypeProto, type_proto};
use crate::sample::{Sample, Samples};

/// The samples after the first, on which those groups run that made noise enough to matter in it.
const MORE: usize = 3;

/// The share of the noise of all groups that matters.
const MATTERS: f64 = 0.002;

/// The power of the noise in the outputs, relative to that of the outputs: the mean over outputs and samples.
pub(super) struct Noise {
    /// Of each group of values, when it alone is quantized.
    pub groups: Vec<f64>,
    /// Of the constants alone.
    pub constants: f64,
}

/// Measures the noise of groups of values that have pairs in the plan ([`Plan::groups`]). The trial has its reference.
///
/// Each pair is put behind a switch, an element of one more input; what a range was to take the place of stays in, since it
/// does not without its pair. So one model that is prepared once runs with each group quantized alone.
pub(super) fn measure(trial: &Trial<'_>, prepared: &Model, plan: &Plan, groups: &[Vec<String>]) -> Result<Noise> {
    let mut plan = plan.clone();
    plan.nodes.iter_mut().filter(|d| d.verdict == Verdict::Absorbed).for_each(|d| d.verdict = Verdict::Quantized);
    let mut quantized = prepared.clone();
    pass::run(&Insert { plan: &plan }, &mut quantized, &mut Context::new(None, &Silent))?;
    let (model, input) = switched(&quantized, &plan, groups)?;
    let place = || format!("the model with switches, input `{input}`");
    let runner = Runner::new(trial.executor, &model, trial.targets.watch.clone()).at(place)?;
    let mut noise = Noise { groups: vec![0.0; groups.len()], constants: 0.0 };
    let mut jobs: Vec<usize> = (0..=groups.len()).collect();
    for (before, (&pick, reference)) in trial.picks.iter().zip(&trial.reference).take(1 + MORE).enumerate() {
        let samples = Switched { samples: trial.samples, pick, groups: groups.len() };
        let seen = trial.targets.see(&runner, &samples, &jobs).at(place)?;
        let (off, on) = seen.split_last().ok_or_else(|| Error::new(ErrorKind::Engine, "no run"))?;
        // The mean of what was found before and of this.
        let add = |mean: &mut f64, new: f64| *mean += (new - *mean) / (before + 1) as f64;
        add(&mut noise.constants, relative(reference, off));
        for (&group, on) in jobs.iter().zip(on) {
            add(&mut noise.groups[group], relative(off, on));
        }
        let least = MATTERS * noise.groups.iter().sum::<f64>();
        jobs.retain(|&g| noise.groups.get(g).is_none_or(|&n| n >= least));
    }
    Ok(noise)
}

/// The power of the difference relative to that of the first, in the mean over targets. What is zero, or cannot be compared,
/// counts as no noise; what is not finite, as as much as the signal.
fn relative(right: &[Vec<f32>], found: &[Vec<f32>]) -> f64 {
    let one = |(right, found): (&Vec<f32>, &Vec<f32>)| {
        let square = |x: f64| x * x;
        let signal: f64 = right.iter().map(|&x| square(x.into())).sum();
        if right.len() != found.len() || signal == 0.0 {
            return 0.0;
        }
        let noise: f64 = right.iter().zip(found).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
        if (noise / signal).is_finite() { noise / signal } else { 1.0 }
    };
    right.iter().zip(found).map(one).sum::<f64>() / right.len().max(1) as f64
}

/// A model in which group `i` is quantized where element `i` of one more input, a list of bools, is set; and that input.
///
/// ```text
/// before: x -> Q -> DQ -> y
/// after:  x -> Q -> DQ -> Where(Gather(switches, i), _, x) -> y
/// ```
fn switched(quantized: &Model, plan: &Plan, groups: &[Vec<String>]) -> Result<(Model, String)> {
    let mut model = quantized.clone();
    let input = model.graph.fresh_name("switches");
    let mut proto = model.graph.to_proto();
    proto.input.push(bools(&input, groups.len()));
    model = Model::from_proto(ModelProto { graph: Some(proto), ..model.metadata().clone() })?;
    let graph = &mut model.graph;
    for (i, group) in groups.iter().enumerate() {
        let place = graph.add_constant("switch", &Tensor::from_i64(vec![], vec![i as i64]));
        let on = graph.fresh_name("switch");
        let read = NodeProto {
            op_type: Some("Gather".to_owned()),
            input: vec![input.clone(), place],
            output: vec![on.clone()],
            ..Default::default()
        };
        graph.insert(At::Start, read)?;
        for value in group {
            let Some(decision) = plan.values.get(value).filter(|d| d.present.is_none()) else { continue };
            let Some((float, id)) = pair_of(graph, value, decision.at_output) else { continue };
            let quantized = graph.fresh_name(&format!("{value}_on"));
            let mut real = quantized.clone();
            graph.edit(id, |n| std::mem::swap(&mut n.output[0], &mut real))?;
            let choose = NodeProto {
                op_type: Some("Where".to_owned()),
                input: vec![on.clone(), quantized, float],
                output: vec![real],
                ..Default::default()
            };
            graph.insert(At::After(id), choose)?;
        }
    }
    graph.sort()?;
    Ok((model, input))
}

/// The float value that is quantized by the pair of a value, and the DequantizeLinear of the pair. At an output of the graph
/// it is what is dequantized that bears the name.
fn pair_of(graph: &Graph, value: &str, at_output: bool) -> Option<(String, NodeId)> {
    let is = |id: NodeId, kind: fn(&NodeProto) -> bool| graph.node(id).is_some_and(kind);
    let quantize = match graph.producer(value).filter(|_| at_output) {
        Some((id, _)) => graph.producer(graph.node(id)?.input_at(0)?)?.0,
        None => graph.uses(value).iter().find(|u| is(u.node, Linear::quantizes))?.node,
    };
    let quantize = graph.node(quantize)?;
    let dequantize = graph.uses(quantize.output_at(0)?).iter().find(|u| is(u.node, Linear::dequantizes))?;
    Some((quantize.input_at(0)?.to_owned(), dequantize.node))
}

fn bools(name: &str, count: usize) -> ValueInfoProto {
    let dim = Dimension { value: Some(dimension::Value::DimValue(count as i64)), ..Default::default() };
    let tensor =
        type_proto::Tensor { elem_type: Some(DataType::Bool as i32), shape: Some(TensorShapeProto { dim: vec![dim] }) };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}

/// One sample, as many times as there are groups and once more: with each group switched on alone, and with none.
struct Switched<'a> {
    samples: &'a dyn Samples,
    pick: usize,
    groups: usize,
}

impl Samples for Switched<'_> {
    fn len(&self) -> usize {
        self.groups + 1
    }

    fn get(&self, i: usize) -> Result<Sample> {
        let mut sample = self.samples.get(self.pick)?;
        let bytes: Vec<u8> = (0..self.groups).map(|g| u8::from(g == i)).collect();
        sample.inputs.push(Tensor::new(DataType::Bool, vec![self.groups], bytes.into())?);
        Ok(sample)
    }

    fn describe(&self) -> String {
        self.samples.describe()
    }
}
