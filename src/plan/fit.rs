//! Scales and zero points for what was placed.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::place::{Places, absorbable, passed_from};
use super::select::Selection;
use super::tie::Ties;
use super::weights::{Mode, fit as fit_weight};
use super::width::Widths;
use super::{
    ConstantDecision, NodeDecision, Origin, Part, Plan, Policy, Present, Reconstructed, Turned, ValueDecision, Verdict,
    bounds,
};
use crate::calibrate::{Ranges, Stats};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::model::{Graph, NodeExt, NodeId, Tensor, Use};
use crate::number::{
    Format, Granularity, Levels, QuantParams, Range, Scheme, Storage, each_channel, extremes, gather, min_max,
};
use crate::observe::{Method, Profile};
use crate::rule::{OpRule, Role};
use crate::target::BiasForm;

/// The largest code of a bias. The other half of int32 is for the products that kernels add to it: 33,000 of them at
/// the ends of both 8-bit formats.
const LARGEST_BIAS: f64 = (1u32 << 30) as f64;

/// Makes the plan: parameters of every value and constant, and every node's verdict.
pub(super) fn fit(
    graph: &Graph,
    ranges: &Chosen,
    policy: &Policy,
    present: &Present,
    selection: Selection,
    mut places: Places,
    weights: &Reconstructed,
) -> Result<Plan> {
    let widths = Widths::of(graph, &selection, policy);
    let mut plan = Plan::default();
    let mut absorbed = BTreeMap::new();
    let ties = Ties::of(graph, ranges, policy, present, &selection, &places);
    for (id, node) in graph.nodes() {
        if selection.chosen.get(&id).is_none_or(|r| r.role != Role::Bound) {
            continue;
        }
        let (Some(input), Some(output)) = (node.input_at(0), node.output_at(0)) else { continue };
        // A range that others share is not cut off for one of them.
        if absorbable(graph, &places, present, input) != Some(id) || ties.range(input).is_some() {
            continue;
        }
        let Some((low, high)) = bounds(graph, id) else { continue };
        let params = match present.quantized.get(output) {
            Some((_, params)) => params.clone(),
            None => {
                let own = value_range(graph, ranges, output).map(|r| r.clamp(low, high));
                let scheme = policy.activation_scheme(widths.of_node(id));
                ties.range(output).or(own).map(|range| policy.params(&scheme, &[range])).transpose()?
            }
        };
        let takes_its_place = params.is_some_and(|p| saturates_within(&p, low, high));
        if takes_its_place {
            absorbed.insert(id, output.to_owned());
        } else if policy.target.fused_bounds {
            // One before it whose work that pair was to do stays too.
            absorbed.retain(|_, pair| pair != input);
        } else {
            continue;
        }
        places.pairs.remove(input);
    }
    fit_values(graph, ranges, policy, present, &selection, &places, &ties, &widths, &mut plan)?;
    fit_operands(graph, policy, &places, &widths, &mut plan)?;
    fit_weights(graph, policy, present, &selection, &places, weights, &mut plan)?;
    let tables = fit_tables(graph, policy, &selection, &mut plan)?;
    for (id, _) in graph.nodes() {
        let (verdict, reason) = if let Some(output) = absorbed.get(&id) {
            (Verdict::Absorbed, format!("the quantized range of `{output}` cuts off where it does"))
        } else if let Some((verdict, reason)) = tables.get(&id) {
            (*verdict, reason.clone())
        } else if let Some(rule) = selection.chosen.get(&id) {
            let apart = selection.tied.apart(graph, id, &plan.constants);
            (Verdict::Quantized, quantized_because(rule, policy) + &apart.unwrap_or_default())
        } else if let Some(&reason) = present.nodes.get(&id) {
            (Verdict::Already, reason.to_owned())
        } else {
            (Verdict::Float, selection.float.get(&id).cloned().unwrap_or_default())
        };
        plan.nodes.push(NodeDecision { node: id, verdict, reason });
    }
    Ok(plan)
}

/// Whether codes at the ends of the format stand for nothing outside `[low, high]` that a code further in would not
/// round to: then saturation does what the cut did, to within half a step.
fn saturates_within(params: &QuantParams, low: f32, high: f32) -> bool {
    let (reach_low, reach_high) = params.reach(0);
    let half = 0.5 * params.scales()[0];
    reach_low >= low - half && reach_high <= high + half
}

fn quantized_because(rule: &OpRule, policy: &Policy) -> String {
    match rule.role {
        Role::Compute if policy.activations.is_looked_up() => "multiplies numbers of tables, in float",
        Role::Compute => "multiplies and accumulates in integers",
        Role::Pass => "passes quantized values on unchanged",
        _ => "stands between quantized nodes",
    }
    .to_owned()
}

/// The range of every value that was seen.
pub(super) type Chosen = BTreeMap<String, Range>;

/// Lets the policy's method choose a range for every value, on all threads.
pub(super) fn choose(ranges: &Ranges, policy: &Policy) -> Result<Chosen> {
    let all: Vec<_> = ranges.iter().collect();
    let fit = |(name, stats): &(&str, &Stats)| {
        let format = policy.kept.get(*name).and_then(|k| k.format).unwrap_or(policy.activations);
        stats.fit(policy.calibration, &policy.activation_scheme(format)).at(|| format!("`{name}`"))
    };
    let fitted: Vec<Result<Option<Range>>> = all.par_iter().map(fit).collect();
    let mut chosen = Chosen::new();
    for ((name, _), range) in all.into_iter().zip(fitted) {
        chosen.extend(range?.map(|r| (name.to_owned(), r)));
    }
    Ok(chosen)
}

fn value_range(graph: &Graph, chosen: &Chosen, value: &str) -> Option<Range> {
    chosen.get(super::seen_as(graph, value)).copied()
}

/// The range a value has by itself: that of its operator, or what was seen.
pub(super) fn own_range(graph: &Graph, ranges: &Chosen, selection: &Selection, value: &str) -> Option<Range> {
    let rule = graph.producer(value).and_then(|(id, _)| selection.chosen.get(&id));
    rule.and_then(|r| r.fixed_output()).or_else(|| value_range(graph, ranges, value))
}

/// The parameters that the target prescribes for a value.
pub(super) fn prescribed(
    graph: &Graph,
    selection: &Selection,
    policy: &Policy,
    value: &str,
    format: Format,
) -> Option<QuantParams> {
    let (id, _) = graph.producer(value).filter(|(id, _)| selection.chosen.contains_key(id))?;
    policy.target.fixed_output(graph.node(id)?.op_type(), format)
}

/// The range that parameters reach.
fn reach(params: &QuantParams) -> Range {
    let (low, high) = params.reach(0);
    Range::new(low, high).unwrap_or(Range::ZERO)
}

#[expect(clippy::too_many_arguments, reason = "all that is known at this point decides")]
fn fit_values(
    graph: &Graph,
    ranges: &Chosen,
    policy: &Policy,
    present: &Present,
    selection: &Selection,
    places: &Places,
    ties: &Ties,
    widths: &Widths,
    plan: &mut Plan,
) -> Result<()> {
    // In the graph's order, so that what passes parameters on finds those of its input.
    let inputs = graph.inputs().iter().map(|v| v.name()).chain(graph.captured_values());
    let outputs = graph.nodes().flat_map(|(_, n)| n.output.iter().map(String::as_str));
    for value in inputs.chain(outputs) {
        let Some(pair) = places.pairs.get(value) else { continue };
        let (readers, at_output) = (pair.readers.clone(), pair.at_output);
        if let (Some(_), Some((_, Some(params)))) = (pair.present, present.quantized.get(value)) {
            let (range, source) = (reach(params), value.to_owned());
            let (params, reason) = (params.clone(), "quantized already".to_owned());
            let (present, origin, turned) = (pair.present, Origin::Present, None);
            let decision = ValueDecision { params, range, origin, source, readers, at_output, turned, present, reason };
            plan.values.insert(value.to_owned(), decision);
            continue;
        }
        let format = widths.written(graph, selection, value, &readers);
        let scheme = &policy.activation_scheme(format);
        let shared = match passed_from(graph, selection, places, policy, present, value) {
            Some(input) => match (plan.values.get(input), present.dequantized.get(input)) {
                (Some(decision), _) => {
                    // As codes of the width in which they are moved.
                    let params = Some(&decision.params).filter(|p| p.format() == format);
                    let params = params.or(decision.turned.as_ref().map(|t| &t.params)).unwrap_or(&decision.params);
                    Some((params.clone(), decision.range, decision.source.clone()))
                }
                (None, Some(Some(params))) => Some((params.clone(), reach(params), input.to_owned())),
                (None, _) => match graph.constant(input)? {
                    Some(table) => {
                        let range = constant_range(&table)?;
                        Some((policy.params(scheme, &[range])?, range, input.to_owned()))
                    }
                    None => None,
                },
            },
            None => None,
        };
        let (params, range, origin, source, reason) = match shared {
            Some((params, range, source)) => {
                let reason = format!("passes on `{source}` unchanged");
                (params, range, Origin::Passed, source, reason)
            }
            None => {
                let (params, range, origin, reason) = own(graph, ranges, policy, selection, ties, value, format)?;
                (params, range, origin, value.to_owned(), reason)
            }
        };
        let reason = match policy.kept.get(value) {
            Some(kept) if kept.format == Some(format) => format!("{reason}; {}: {}", format.name, kept.reason),
            _ => reason,
        };
        let turned = match widths.turned(selection, &readers, format) {
            Some((other, readers)) => {
                Some(Turned { params: policy.params(&policy.activation_scheme(other), &[range])?, readers })
            }
            None => None,
        };
        let present = None;
        let decision = ValueDecision { params, range, origin, source, readers, at_output, turned, present, reason };
        plan.values.insert(value.to_owned(), decision);
    }
    Ok(())
}

/// Parameters of a value that passes on no other's, the range they cover, and where that is from.
fn own(
    graph: &Graph,
    ranges: &Chosen,
    policy: &Policy,
    selection: &Selection,
    ties: &Ties,
    value: &str,
    format: Format,
) -> Result<(QuantParams, Range, Origin, String)> {
    if let Some(params) = prescribed(graph, selection, policy, value, format) {
        let range = reach(&params);
        return Ok((params, range, Origin::Fixed, "the target prescribes scale and zero point".to_owned()));
    }
    let rule = graph.producer(value).and_then(|(id, _)| selection.chosen.get(&id));
    let seen = super::seen_as(graph, value);
    let (range, origin, reason) = match (ties.range(value), rule.and_then(|r| r.fixed_output())) {
        (Some(range), _) => {
            (Some(range), Origin::Seen(seen.to_owned()), "the range of all that share a scale with it".to_owned())
        }
        (None, Some(fixed)) => (Some(fixed), Origin::Fixed, "the operator's range is fixed".to_owned()),
        (None, None) => {
            let reason = match seen == value {
                true => "range seen in calibration".to_owned(),
                false => format!("range of `{seen}` behind it"),
            };
            (value_range(graph, ranges, value), Origin::Seen(seen.to_owned()), reason)
        }
    };
    let missing = || Error::new(ErrorKind::Data, format!("`{value}` was not seen in calibration"));
    let range = range.ok_or_else(missing)?;
    Ok((policy.params(&policy.activation_scheme(format), &[range])?, range, origin, reason))
}

fn constant_range(tensor: &Tensor) -> Result<Range> {
    finite_range(&tensor.f32s()?)
}

fn finite_range(x: &[f32]) -> Result<Range> {
    let (min, max, non_finite) = min_max(x);
    if non_finite > 0 {
        return Err(not_finite(non_finite));
    }
    Ok(Range::new(min, max).unwrap_or(Range::ZERO))
}

fn not_finite(count: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidModel, format!("{count} of its numbers are not finite"))
}

fn constant(graph: &Graph, at: Use) -> Result<(String, Tensor)> {
    let name = graph.node(at.node).and_then(|n| n.input_at(at.slot)).unwrap_or_default().to_owned();
    let tensor = graph.constant(&name)?;
    let missing = || Error::new(ErrorKind::InvalidModel, format!("`{name}` is not a constant"));
    Ok((name.clone(), tensor.ok_or_else(missing)?))
}

fn fit_operands(graph: &Graph, policy: &Policy, places: &Places, widths: &Widths, plan: &mut Plan) -> Result<()> {
    for &at in &places.operands {
        let scheme = &policy.activation_scheme(widths.of_node(at.node));
        let (initializer, tensor) = constant(graph, at)?;
        let range = constant_range(&tensor).at(|| format!("initializer `{initializer}`"))?;
        let mut params = policy.params(scheme, &[range])?;
        if scheme.format.is_looked_up() {
            // As bytes, which all opsets have that the lookups need.
            params = params.stored_as(Format { storage: Storage::U8, opset: 13, ..scheme.format });
        }
        plan.constants
            .insert(at, ConstantDecision { initializer, params, part: Part::Operand, chosen: None, twin: None });
    }
    Ok(())
}

fn fit_weights(
    graph: &Graph,
    policy: &Policy,
    present: &Present,
    selection: &Selection,
    places: &Places,
    weights: &Reconstructed,
    plan: &mut Plan,
) -> Result<()> {
    for &at in &places.weights {
        let (Some(node), Some(rule)) = (graph.node(at.node), selection.chosen.get(&at.node)) else { continue };
        let (initializer, tensor) = constant(graph, at)?;
        let operand = selection.tied.operand(&initializer, &plan.constants);
        let tied = operand.is_none() && selection.tied.layer(&initializer).is_some();
        let scheme = match tied {
            true => policy.tied_scheme(rule, node, tensor.shape()),
            false => policy.weight_scheme(rule, node, tensor.shape(), true),
        };
        let given = operand.map(|d| d.params.clone()).filter(|p| takes_operand(policy, &scheme, p));
        let twin = selection.tied.twin(&initializer).filter(|_| tied || given.is_some()).cloned();
        let place = || format!("initializer `{initializer}`");
        if !policy.linear_weights() && !tied {
            let known = weights.get(&initializer).map(|(params, codes)| (params.clone(), Some(codes.clone())));
            let (params, chosen) = match known {
                Some(known) => known,
                None => (policy.weight_params(&tensor, &scheme).at(place)?, None),
            };
            // Products are summed up in float, and so is the bias.
            plan.constants.insert(at, ConstantDecision { initializer, params, part: Part::Weight, chosen, twin });
            continue;
        }
        let mut ranges = weight_ranges(&tensor, &scheme, policy.weight_clip).at(place)?;
        let params_of = |x: &str| match (plan.values.get(x), present.dequantized.get(x)) {
            (Some(value), _) => Some(value.params_at(Use { node: at.node, slot: 0 }).scales()[0]),
            (None, Some(Some(params))) => Some(params.scales()[0]),
            _ => None,
        };
        let input = node.input_at(0).and_then(params_of);
        // Codes of a table add up to none of int32.
        let whole = policy.target.bias == BiasForm::Int32 && policy.activations.levels == Levels::Linear;
        let slot = rule.bias.filter(|_| whole);
        let bias = slot.and_then(|slot| node.input_at(slot).map(|name| (slot, name.to_owned())));
        let bias = match bias {
            Some((slot, name)) => graph.constant(&name)?.map(|b| (slot, name, b)),
            None => None,
        };
        let fits = bias.filter(|(_, _, b)| bias_axis(b, tensor_channels(graph, at.node, &tensor)).is_some());
        let (mut params, mut chosen) = match (given, weights.get(&initializer)) {
            (Some(params), _) => (params, None),
            (None, Some((params, codes))) => (params.clone(), Some(codes.clone())),
            (None, None) => (policy.params(&scheme, &ranges)?, None),
        };
        // A sum over blocks has no one scale that its bias could be at.
        let blocks = matches!(scheme.granularity, Granularity::Block { .. });
        if let (Some(scale), Some((slot, name, b)), false) = (input, fits, blocks) {
            let values = b.f32s()?.into_owned();
            if make_room(&scheme, &mut ranges, &params, scale, &values) {
                (params, chosen) = (policy.params(&scheme, &ranges)?, None);
            }
            let bias = bias_params(scale, &params, &b)?;
            let at = Use { node: at.node, slot };
            plan.constants.insert(
                at,
                ConstantDecision { initializer: name, params: bias, part: Part::Bias, chosen: None, twin: None },
            );
        }
        plan.constants.insert(at, ConstantDecision { initializer, params, part: Part::Weight, chosen, twin });
    }
    Ok(())
}

/// Whether a weight of this scheme can be the codes that its table is as an operand: of as many bits, with one scale, in a format
/// that the target takes weights in, where the user asked for no other.
fn takes_operand(policy: &Policy, scheme: &Scheme, operand: &QuantParams) -> bool {
    let format = operand.format();
    let alike = scheme.granularity == Granularity::Tensor && scheme.format.bits == format.bits;
    alike && policy.symmetric_weights.is_none() && policy.target.allows_weights(format)
}

/// Decides how tables are stored whose rows are picked as floats; returns what becomes of the nodes that pick them.
fn fit_tables(
    graph: &Graph,
    policy: &Policy,
    selection: &Selection,
    plan: &mut Plan,
) -> Result<BTreeMap<NodeId, (Verdict, String)>> {
    let tied = &selection.tied;
    let mut found = BTreeMap::new();
    for &id in &selection.tables {
        let at = Use { node: id, slot: 0 };
        let decision = match tied.leads(graph, id, at) {
            Some(_) => tied.follow(graph, id, at, &plan.constants),
            None => fit_weight(graph, policy, Mode::Weights, tied, id, at)
                .at(|| graph.label(id))?
                .map(|decision| (decision, "its table is stored as codes".to_owned())),
        };
        let verdict = match decision {
            Ok((decision, reason)) => {
                plan.constants.insert(at, decision);
                (Verdict::WeightOnly, reason)
            }
            Err(reason) => (Verdict::Float, reason),
        };
        found.insert(id, verdict);
    }
    Ok(found)
}

/// How many output channels a weighted node has.
fn tensor_channels(graph: &Graph, node: NodeId, weight: &Tensor) -> usize {
    let Some(node) = graph.node(node) else { return 0 };
    let axis = OpRule::of(node).and_then(|r| r.channel_axis(node, weight.shape().len()));
    let groups = if node.is("ConvTranspose") { node.int("group").unwrap_or(1).max(1) as usize } else { 1 };
    axis.map_or(0, |a| weight.shape()[a] * groups)
}

/// The axis of a bias that runs along the output channels: its last, if it holds nothing but one number a channel.
fn bias_axis(bias: &Tensor, channels: usize) -> Option<usize> {
    let last = bias.shape().len().checked_sub(1)?;
    (channels > 0 && bias.len() == channels && bias.shape()[last] == channels).then_some(last)
}

/// The range of a weight, or of each of its channels, as the method chooses it for those that are joined together. Channels of
/// zeros keep what they have from extreme to extreme.
pub(super) fn weight_ranges(tensor: &Tensor, scheme: &Scheme, clip: Method) -> Result<Vec<Range>> {
    let mut ranges = extreme_ranges(tensor, scheme)?;
    if clip.needs_extremes_only() {
        return Ok(ranges);
    }
    let x = tensor.f32s()?;
    let mut places = ranges.chunks_mut(scheme.joined.get());
    let mut fit = |x: &[f32]| {
        if let (Some(group), true) = (places.next(), x.iter().any(|&x| x != 0.0)) {
            group.fill(clip.range(&Profile::of(x), scheme).unwrap_or(group[0]));
        }
        Ok(())
    };
    match scheme.granularity {
        Granularity::Tensor => fit(&x)?,
        Granularity::Channel { axis } => each_channel(&x, tensor.shape(), axis, scheme.joined.get(), fit)?,
        Granularity::Block { .. } => {
            gather(&x, tensor.shape(), scheme.granularity)?.iter().try_for_each(|x| fit(x))?;
        }
    }
    Ok(ranges)
}

/// The ranges from extreme to extreme. A channel of zeros gets the smallest range of the others, so that the scale of its
/// bias stays as fine as theirs.
fn extreme_ranges(tensor: &Tensor, scheme: &Scheme) -> Result<Vec<Range>> {
    let x = tensor.f32s()?;
    let (found, finite) = extremes(&x, tensor.shape(), scheme.granularity)?;
    if !finite {
        return Err(not_finite(min_max(&x).2));
    }
    let mut ranges: Vec<Range> =
        found.into_iter().map(|(low, high)| Range::new(low, high).unwrap_or(Range::ZERO)).collect();
    for group in ranges.chunks_mut(scheme.joined.get()) {
        group.fill(group.iter().fold(group[0], |all, &r| all.hull(r)));
    }
    if let Granularity::Channel { .. } = scheme.granularity {
        let smallest = ranges.iter().map(|r| r.magnitude()).filter(|&m| m > 0.0).fold(f32::INFINITY, f32::min);
        if let Some(range) = Range::new(-smallest, smallest) {
            ranges.iter_mut().filter(|r| r.magnitude() == 0.0).for_each(|r| *r = range);
        }
    }
    Ok(ranges)
}

/// Widens the ranges of weights whose bias would not fit the accumulator at its scale, with room for the products.
///
/// onnxruntime issue 21000 tells what happens otherwise: the bias is cut off, silently.
fn make_room(scheme: &Scheme, ranges: &mut [Range], params: &QuantParams, input: f32, bias: &[f32]) -> bool {
    let mut changed = false;
    for (i, &b) in bias.iter().enumerate() {
        let channel = i % ranges.len();
        let (scale, _) = params.channel(channel);
        let least = f64::from(b.abs()) / LARGEST_BIAS;
        let product = f64::from(input) * f64::from(scale);
        if product < least {
            let (min, max) = (f64::from(scheme.format.min), f64::from(scheme.format.max));
            let codes = if scheme.symmetric { max - f64::from(scheme.format.middle()) } else { 0.5 * (max - min) };
            let magnitude = (least / f64::from(input) * codes) as f32;
            let wide = ranges[channel];
            let range = Range::new(wide.min().min(-magnitude), wide.max().max(magnitude));
            ranges[channel] = range.unwrap_or(wide);
            changed = true;
        }
    }
    changed
}

/// Parameters of a bias: the scale of the accumulator, `input scale * weight scale`, zero point 0.
fn bias_params(input: f32, weight: &QuantParams, bias: &Tensor) -> Result<QuantParams> {
    let accumulator = |s: f32| (input * s).max(f32::MIN_POSITIVE);
    if weight.axis().is_none() {
        return QuantParams::per_tensor(Format::INT32, accumulator(weight.scales()[0]), 0);
    }
    let scales: Vec<f32> = (0..bias.len()).map(|i| accumulator(weight.scales()[i % weight.scales().len()])).collect();
    let axis = bias.shape().len() - 1;
    let zero_points = vec![0; scales.len()];
    QuantParams::per_channel(Format::INT32, axis, scales, zero_points)
}
