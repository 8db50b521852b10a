//! What values can reach, as far as the operators that make them tell.

use std::collections::HashMap;

use crate::error::Result;
use crate::model::{Graph, Linear, NodeExt, NodeId, NodeProto};
use crate::number::min_max;
use crate::rule::{OpRule, Role};

/// Everything.
const OPEN: (f32, f32) = (f32::NEG_INFINITY, f32::INFINITY);

/// The lowest and the highest number that values can hold, learned node by node in the graph's order.
#[derive(Default)]
pub(super) struct Bounds {
    known: HashMap<String, (f32, f32)>,
}

impl Bounds {
    /// What the value can reach; infinite where it is not known. Errors when a constant is broken.
    pub fn of(&mut self, graph: &Graph, value: &str) -> Result<(f32, f32)> {
        if let Some(&known) = self.known.get(value) {
            return Ok(known);
        }
        let bounds = match graph.constant(value)?.filter(|t| t.is_float()) {
            Some(constant) => {
                let (low, high, non_finite) = min_max(&constant.f32s()?);
                if non_finite > 0 { OPEN } else { (low, high) }
            }
            None => OPEN,
        };
        self.known.insert(value.to_owned(), bounds);
        Ok(bounds)
    }

    /// Learns what the outputs of a node can reach from what its inputs can.
    pub fn learn(&mut self, graph: &Graph, id: NodeId) -> Result<()> {
        let Some(node) = graph.node(id) else { return Ok(()) };
        let bounds = self.output(graph, node)?;
        if bounds != OPEN {
            self.known.extend(node.output.iter().filter(|o| !o.is_empty()).map(|o| (o.clone(), bounds)));
        }
        Ok(())
    }

    /// Lets a value go by another name.
    pub fn rename(&mut self, old: &str, new: &str) {
        if let Some(&bounds) = self.known.get(old) {
            self.known.insert(new.to_owned(), bounds);
        }
    }

    fn output(&mut self, graph: &Graph, node: &NodeProto) -> Result<(f32, f32)> {
        let mut input = |slot: usize| match node.input_at(slot) {
            Some(name) => self.of(graph, name),
            None => Ok(OPEN),
        };
        let rule = OpRule::of(node);
        if let Some(fixed) = rule.and_then(|r| r.fixed_output()) {
            return Ok((fixed.min(), fixed.max()));
        }
        let zero = |(low, high): (f32, f32)| (low.min(0.0), high.max(0.0));
        let scalar = |slot: usize, open: f32| match node.input_at(slot) {
            None => Some(open),
            Some(name) => graph.constant(name).ok()??.f32s().ok()?.first().copied(),
        };
        Ok(match node.op_type() {
            op if !node.is(op) && !Linear::dequantizes(node) => OPEN,
            "Relu" => {
                let (low, high) = input(0)?;
                (low.max(0.0), high.max(0.0))
            }
            "Clip" => {
                let open = (node.float("min").unwrap_or(OPEN.0), node.float("max").unwrap_or(OPEN.1));
                let (Some(min), Some(max)) = (scalar(1, open.0), scalar(2, open.1)) else { return Ok(OPEN) };
                let (low, high) = input(0)?;
                (low.max(min).min(max), high.min(max).max(min))
            }
            "DequantizeLinear" => match Linear::read(graph, node).and_then(|l| l.params(0)) {
                Ok(params) if params.axis().is_none() => params.reach(0),
                _ => OPEN,
            },
            "Add" => {
                let (a, b) = (input(0)?, input(1)?);
                ordered(&[a.0 + b.0, a.1 + b.1])
            }
            "Mul" => {
                let (a, b) = (input(0)?, input(1)?);
                // An end that is open stands for numbers, and those times zero are zero.
                let times = |a: f32, b: f32| if a == 0.0 || b == 0.0 { 0.0 } else { a * b };
                ordered(&[times(a.0, b.0), times(a.0, b.1), times(a.1, b.0), times(a.1, b.1)])
            }
            // Means and extremes of numbers lie between them; padding counts as zero.
            "AveragePool" => zero(input(0)?),
            "GlobalAveragePool" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "Identity" => input(0)?,
            "Concat" => {
                let mut all = (OPEN.1, OPEN.0);
                for slot in 0..node.input.len() {
                    let (low, high) = input(slot)?;
                    all = (all.0.min(low), all.1.max(high));
                }
                all
            }
            "Pad" => {
                let (low, high) = input(0)?;
                // Until opset 10 an attribute.
                match scalar(2, node.float("value").unwrap_or(0.0)) {
                    Some(fill) => (low.min(fill), high.max(fill)),
                    None => OPEN,
                }
            }
            "Resize" if node.string("mode").unwrap_or("nearest") == "cubic" => OPEN,
            "Resize" if node.string("coordinate_transformation_mode") == Some("tf_crop_and_resize") => OPEN,
            _ if rule.is_some_and(|r| r.role == Role::Pass) => input(0)?,
            _ => OPEN,
        })
    }
}

/// The smallest and the largest of some numbers; everything where one of them is none.
fn ordered(x: &[f32]) -> (f32, f32) {
    match x.iter().any(|x| x.is_nan()) {
        true => OPEN,
        false => x.iter().fold((OPEN.1, OPEN.0), |(low, high), &x| (low.min(x), high.max(x))),
    }
}
