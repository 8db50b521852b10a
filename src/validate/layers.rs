//! Where the drift comes from: layer by layer.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use crate::error::{Error, ErrorKind, Place, Result};
use crate::events::Events;
use crate::exec::{Executor, Runner, spread};
use crate::integer::expand;
use crate::model::{DataType, Graph, Linear, Model, NodeExt, Tensor, ValueInfoProto};
use crate::number::{Drift, fake_quantize};
use crate::proto::{TypeProto, type_proto};
use crate::rule::{OpRule, Role};
use crate::sample::Samples;

/// Drift of one layer's output, over all samples.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerDrift {
    /// The node, by its name or that of its first output.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// The value it makes, which both models have.
    pub value: String,
    /// This layer's quantization alone, in dB: its inputs are the float model's, rounded as the quantized model rounds
    /// them, its weights are the quantized ones, and its output is rounded. `None` when nothing differs.
    pub local_sqnr_db: Option<f64>,
    /// Everything up to and with this layer, in dB. `None` when nothing differs.
    pub accumulated_sqnr_db: Option<f64>,
}

/// A value that both models have, and how the quantized one shows it.
struct Shared {
    value: String,
    /// What the quantized model makes of it when it runs alone.
    dequantized: String,
    /// The value of the float model that it stands beside.
    reference: String,
    /// The name of what the layer made, in the model that is cut at every shared value.
    local: String,
    /// The rounding that follows.
    rounding: Option<Linear>,
    node: String,
    operator: String,
}

/// Compares every float value that both models have, by name.
///
/// The float model runs once, watched. The quantized model runs twice: as it is, for the accumulated error, and cut at
/// every shared value, so that each layer gets the float model's values, for the error of its own.
/// Values are whole, padding too ([`Executor::unmasked`]): layers get them as inputs. Errors as running the models does.
pub fn compare_layers(
    float: &Model,
    quantized: &Model,
    samples: &dyn Samples,
    picks: &[usize],
    executor: &dyn Executor,
    events: &dyn Events,
) -> Result<Vec<LayerDrift>> {
    // Operators on codes have no value in common with the float model; the float operators that they stand for have.
    let executor = executor.unmasked().unwrap_or(executor);
    let mut quantized = quantized.clone();
    expand(&mut quantized, &mut |_, _, _| {})?;
    let quantized = &quantized;
    let mut shared = shared_values(float, quantized)?;
    // Only values that the engine calls float come back: a first sample tells which.
    let names: Vec<String> = shared.iter().map(|s| s.reference.clone()).collect();
    let reference = Runner::new(executor, float, names)?;
    let mut float_values = HashSet::new();
    if let Some(&first) = picks.first() {
        let see = &mut |seen: crate::exec::Seen<'_>| {
            float_values.insert(seen.value);
        };
        reference.worker().run(&samples.get(first)?, see)?;
    }
    let mut place = 0..;
    shared.retain(|_| place.next().is_some_and(|i: usize| float_values.contains(&i)));

    let cut = cut(quantized, &mut shared)?;
    let names: Vec<String> = shared.iter().map(|s| s.reference.clone()).collect();
    let reference = Runner::new(executor, float, names)?;
    let whole = Runner::new(executor, quantized, shared.iter().map(|s| s.dequantized.clone()).collect())?;
    let alone = Runner::new(executor, &cut, shared.iter().map(|s| s.local.clone()).collect())?;
    let make = || Ok((reference.worker(), whole.worker(), alone.worker()));
    let (_, drifts) = spread(picks.len(), events, make, |(reference, whole, alone), i| {
        let at = || format!("sample {}", picks[i]);
        let mut sample = samples.get(picks[i]).at(at)?;
        let mut right: Vec<Option<Tensor>> = vec![None; shared.len()];
        reference
            .run(&sample, &mut |s| right[s.value] = Some(Tensor::from_f32(s.shape.to_vec(), s.numbers.to_vec())))
            .at(at)?;
        let mut drift = vec![(Drift::default(), Drift::default()); shared.len()];
        whole
            .run(&sample, &mut |s| {
                if let Some(Ok(r)) = right[s.value].as_ref().filter(|r| r.shape() == s.shape).map(Tensor::f32s) {
                    drift[s.value].1.add(&r, s.numbers);
                }
            })
            .at(at)?;
        for (value, shared) in right.iter().zip(&shared) {
            let missing = || Error::new(ErrorKind::Engine, format!("`{}` was not seen", shared.value)).at(at());
            sample.inputs.push(value.clone().ok_or_else(missing)?);
        }
        let mut rounded = Vec::new();
        alone
            .run(&sample, &mut |s| {
                let Some(Ok(r)) = right[s.value].as_ref().filter(|r| r.shape() == s.shape).map(Tensor::f32s) else {
                    return;
                };
                rounded.clear();
                rounded.extend_from_slice(s.numbers);
                if let Some(Ok(params)) = shared[s.value].rounding.as_ref().map(|l| l.params(s.shape.len())) {
                    // Axis and shape fit: the same node just ran on this value.
                    let _ = fake_quantize(&mut rounded, s.shape, &params);
                }
                drift[s.value].0.add(&r, &rounded);
            })
            .at(at)?;
        Ok(drift)
    })?;
    let mut totals = vec![(Drift::default(), Drift::default()); shared.len()];
    for drift in &drifts {
        for (total, one) in totals.iter_mut().zip(drift) {
            total.0.merge(&one.0);
            total.1.merge(&one.1);
        }
    }
    let finite = |d: &Drift| Some(d.sqnr()).filter(|x| x.is_finite());
    Ok(shared
        .into_iter()
        .zip(totals)
        .filter(|(_, (local, accumulated))| local.count() > 0 && accumulated.count() > 0)
        .map(|(s, (local, accumulated))| LayerDrift {
            node: s.node,
            operator: s.operator,
            value: s.value,
            local_sqnr_db: finite(&local),
            accumulated_sqnr_db: finite(&accumulated),
        })
        .collect())
}

/// The values that nodes of both models produce, in the quantized model's order.
fn shared_values(float: &Model, quantized: &Model) -> Result<Vec<Shared>> {
    let graph = &quantized.graph;
    let mut found = Vec::new();
    for (_, node) in graph.nodes() {
        if Linear::quantizes(node) || Linear::dequantizes(node) {
            continue;
        }
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            let pair = graph.uses(output).iter().find_map(|u| graph.node(u.node).filter(|n| Linear::quantizes(n)));
            let real = pair
                .and_then(|q| graph.uses(q.output_at(0)?).iter().find_map(|u| graph.node(u.node)))
                .filter(|n| Linear::dequantizes(n))
                .and_then(|n| n.output_at(0));
            // A graph output keeps its name behind the pair, and the value in front of it got another.
            let known = |name: &str| float.graph.producer(name).is_some();
            let value = match real {
                Some(real) if !known(output) && known(real) => real,
                _ if known(output) => output.as_str(),
                _ => continue,
            };
            let rounding = match pair {
                Some(q) if value == output.as_str() => Some(Linear::read(graph, q)?),
                _ => None,
            };
            let name = if node.name().is_empty() { output } else { node.name() };
            found.push(Shared {
                value: value.to_owned(),
                reference: behind_bounds(&float.graph, graph, value).to_owned(),
                dequantized: real.unwrap_or(output).to_owned(),
                local: String::new(),
                rounding,
                node: name.to_owned(),
                operator: node.operator(),
            });
        }
    }
    Ok(found)
}

/// What comes out of the ReLU and Clip behind a value of the float model that the quantized one has in its ranges only.
fn behind_bounds<'a>(float: &'a Graph, quantized: &Graph, value: &'a str) -> &'a str {
    let mut value = value;
    loop {
        let bound = float.only_use(value).filter(|u| u.slot == 0).and_then(|u| float.node(u.node));
        let bound = bound.filter(|n| OpRule::of(n).is_some_and(|r| r.role == Role::Bound));
        match bound.and_then(|n| n.output_at(0)) {
            Some(output) if quantized.producer(output).is_none() => value = output,
            _ => return value,
        }
    }
}

/// The quantized model cut at every shared value: readers get it as an input of the model, and what the layer makes
/// of it goes by another name.
fn cut(quantized: &Model, shared: &mut [Shared]) -> Result<Model> {
    let mut model = quantized.clone();
    let mut moved = BTreeMap::new();
    for s in shared.iter_mut() {
        let Some((producer, place)) = model.graph.producer(&s.value) else { continue };
        s.local = model.graph.fresh_name(&format!("{}_local", s.value));
        moved.insert(s.value.clone(), s.local.clone());
        model.graph.edit(producer, |n| n.output[place] = s.local.clone())?;
    }
    let mut proto = model.to_proto();
    if let Some(graph) = &mut proto.graph {
        graph.output.retain(|v| !moved.contains_key(v.name()));
        graph.value_info.clear();
        // Every model needs an output; the watched values are added by the engine's own means.
        graph.output.extend(moved.values().take(1).map(|name| float_value(name)));
        let specs: HashSet<String> = graph.input.iter().map(|v| v.name().to_owned()).collect();
        graph.input.extend(shared.iter().filter(|s| !specs.contains(&s.value)).map(|s| float_value(&s.value)));
    }
    Model::from_proto(proto)
}

fn float_value(name: &str) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(DataType::Float as i32), shape: None };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}
