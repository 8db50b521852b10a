//! Follows channels through the nodes of a graph, in their order.

use std::collections::{BTreeMap, HashMap};

use super::lay::{Lay, MOST};
use super::ties::Ties;
use super::{Blocked, Bound, Group, Member, Part, Scaling, Shapes, Site};
use crate::error::Result;
use crate::model::{Graph, NodeExt, NodeId, NodeProto, Tensor, Use};
use crate::rule::ChannelIndex;

/// A constant whose channels are still numbers of the walk.
struct RawSite {
    at: Use,
    part: Part,
    /// Multiplied by the factors, not divided.
    reads: bool,
    shape: Vec<usize>,
    index: ChannelIndex,
    ids: Vec<u32>,
}

/// Where channels were seen so far.
pub(super) struct Walk<'a> {
    graph: &'a Graph,
    shapes: &'a Shapes,
    lays: HashMap<String, Lay>,
    ties: Ties,
    sites: Vec<RawSite>,
    bounds: Vec<(NodeId, f32, f32, usize)>,
}

impl<'a> Walk<'a> {
    pub fn new(graph: &'a Graph, shapes: &'a Shapes) -> Self {
        let (ties, sites, bounds) = Default::default();
        Walk { graph, shapes, lays: HashMap::new(), ties, sites, bounds }
    }

    pub fn finish(mut self) -> Result<Scaling> {
        for (id, node) in self.graph.nodes() {
            self.visit(id, node)?;
        }
        let mut held: Vec<(String, String)> = Vec::new();
        for (value, _) in self.values() {
            if self.graph.is_output(&value) {
                held.push((value.clone(), format!("`{value}` is a graph output")));
            } else if let Some(&node) = self.graph.captured_by(&value).first() {
                held.push((
                    value.clone(),
                    format!("`{value}` is captured by a subgraph of {}", self.graph.label(node)),
                ));
            }
        }
        for (value, reason) in held {
            self.fix(&value, &reason);
        }
        Ok(Scaling { blocked: self.blocked(), groups: self.groups() })
    }

    // ---- what is known ----

    /// The values with channels, in the graph's order.
    fn values(&self) -> Vec<(String, Lay)> {
        let outputs = self.graph.nodes().flat_map(|(_, n)| n.output.iter());
        outputs.filter_map(|o| Some((o.clone(), self.lays.get(o)?.clone()))).collect()
    }

    fn shape(&self, value: &str) -> Option<Vec<Option<usize>>> {
        if let Some(t) = self.graph.initializer(value) {
            return Some(t.dims.iter().map(|&d| usize::try_from(d).ok()).collect());
        }
        self.shapes.get(value).cloned()
    }

    fn rank(&self, value: &str) -> Option<usize> {
        self.shape(value).map(|s| s.len()).or_else(|| self.graph.stated_rank(value))
    }

    fn is_constant(&self, value: &str) -> bool {
        self.graph.initializer(value).is_some() && !self.graph.is_input(value)
    }

    fn constant(&self, node: &NodeProto, slot: usize) -> Result<Option<Tensor>> {
        match node.input_at(slot).filter(|n| self.is_constant(n)) {
            Some(name) => self.graph.constant(name),
            None => Ok(None),
        }
    }

    fn integers(&self, node: &NodeProto, slot: usize) -> Result<Option<Vec<i64>>> {
        Ok(self.constant(node, slot)?.and_then(|t| t.i64s().ok()))
    }

    fn lay(&self, node: &NodeProto, slot: usize) -> Option<Lay> {
        self.lays.get(node.input_at(slot)?).cloned()
    }

    // ---- what is found ----

    fn fix(&mut self, value: &str, reason: &str) {
        if let Some(lay) = self.lays.get(value) {
            self.ties.fix(&lay.ids, reason);
        }
    }

    /// Keeps what the node reads in these slots from being scaled.
    fn refuse(&mut self, id: NodeId, node: &NodeProto, slots: impl IntoIterator<Item = usize>, why: &str) {
        let reason = format!("{}: {why}", self.graph.label(id));
        slots.into_iter().filter_map(|s| node.input_at(s)).for_each(|value| self.fix(value, &reason));
    }

    /// Says how the channels of an output lie.
    fn put(&mut self, node: &NodeProto, output: usize, lay: Lay) {
        let Some(value) = node.output_at(output) else { return };
        let fits = |dims: &Vec<Option<usize>>| {
            let size = |(&a, &n): (&usize, &usize)| dims.get(a).is_some_and(|d| d.is_none_or(|d| d == n));
            lay.axes.iter().zip(&lay.sizes).all(size)
        };
        if self.shape(value).is_none_or(|dims| fits(&dims)) {
            self.lays.insert(value.to_owned(), lay);
        } else {
            self.ties.fix(&lay.ids, format!("`{value}` is not shaped as expected"));
        }
    }

    /// Hands on an outcome of a lay: where there is none, the channels that went in are fixed.
    fn put_or_refuse(&mut self, id: NodeId, node: &NodeProto, lay: Option<Lay>, why: &str) {
        match lay {
            Some(lay) => self.put(node, 0, lay),
            None => self.refuse(id, node, 0..node.input.len(), why),
        }
    }

    fn site(&mut self, at: Use, part: Part, reads: bool, shape: &[usize], index: ChannelIndex, ids: &[u32]) {
        self.sites.push(RawSite { at, part, reads, shape: shape.to_vec(), index, ids: ids.to_vec() });
    }

    fn visit(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let all = 0..node.input.len();
        match node.op_type() {
            op if !node.is(op) => self.refuse(id, node, all, "an operator that is not known"),
            "Conv" | "ConvTranspose" | "Gemm" | "MatMul" => self.weighted(id, node)?,
            "Relu" | "LeakyRelu" | "Dropout" | "Identity" | "Abs" | "Neg" => self.pass_on(node),
            "PRelu" => match self.constant(node, 1)? {
                Some(_) => self.pass_on(node),
                None => self.refuse(id, node, all, "its slope is not constant"),
            },
            "Clip" => self.clip(id, node)?,
            "MaxPool" | "AveragePool" | "LpPool" | "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => {
                let lay = self.lay(node, 0).filter(|l| l.axes.iter().all(|&a| a < 2));
                self.put_or_refuse(id, node, lay, "pools along its channels");
            }
            "Pad" => self.pad(id, node)?,
            "Resize" | "Upsample" => self.resize(id, node),
            "Transpose" => self.transpose(id, node),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.reshape(id, node),
            "Split" => self.split(id, node)?,
            "Slice" => self.slice(id, node)?,
            "Gather" => self.gather(id, node)?,
            "Concat" => self.concat(id, node),
            "DepthToSpace" => self.depth_to_space(id, node),
            "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" => self.reduce(id, node)?,
            "Add" | "Sub" => self.add(id, node)?,
            "Mul" => self.multiply(id, node)?,
            "Div" => {
                self.refuse(id, node, [1], "divides by it");
                self.pass_on(node);
            }
            "LayerNormalization" | "BatchNormalization" => self.normalize(id, node)?,
            "Shape" | "Size" => {}
            _ => self.refuse(id, node, all, "scaling its input does not scale its output alike"),
        }
        Ok(())
    }

    /// The first output has the channels of the first input.
    fn pass_on(&mut self, node: &NodeProto) {
        if let Some(lay) = self.lay(node, 0) {
            self.put(node, 0, lay);
        }
    }

    fn weighted(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let matrix = matches!(node.op_type(), "Gemm" | "MatMul");
        let Some(weight) = self.constant(node, 1)?.filter(Tensor::is_float) else {
            return self.product(id, node);
        };
        let shape = weight.shape();
        let (inputs, outputs) = (ChannelIndex::inputs(node, shape), ChannelIndex::outputs(node, shape));
        let (Some(inputs), Some(outputs)) = (inputs, outputs) else {
            self.refuse(id, node, [0], "its weight has an unusual shape");
            return Ok(());
        };
        let name = node.input_at(1).unwrap_or_default();
        let shared = self.graph.only_use(name).is_none();
        let at = Use { node: id, slot: 1 };
        let axis = match node.op_type() {
            "MatMul" => node.input_at(0).and_then(|x| self.rank(x)).and_then(|r| r.checked_sub(1)),
            "Gemm" if node.int("transA").unwrap_or(0) != 0 => None,
            _ => Some(1),
        };
        if let Some(lay) = self.lay(node, 0) {
            let ids = axis.and_then(|a| lay.only_along(a)).filter(|ids| ids.len() == inputs.channels());
            match ids {
                _ if shared => self.refuse(id, node, [0], &format!("its weight `{name}` is read elsewhere too")),
                Some(ids) => self.site(at, Part::Weight, true, shape, inputs, ids),
                None => self.refuse(id, node, [0], "reads its channels along another axis"),
            }
        }
        let Some(axis) = axis else { return Ok(()) };
        let ids = self.ties.fresh(outputs.channels());
        if shared {
            self.ties.fix(&ids, format!("the weight `{name}` is read elsewhere too"));
        }
        self.site(at, Part::Weight, false, shape, outputs, &ids);
        self.put(node, 0, Lay::along(axis, ids.clone()));
        if let Some(bias) = node.input_at(2) {
            self.refuse(id, node, [2], "reads it as a bias");
            let rank = if matrix { 2 } else { 1 };
            if !self.shift(Use { node: id, slot: 2 }, rank, rank - 1, &ids)? {
                self.ties.fix(&ids, format!("the bias `{bias}` has no element a channel"));
            }
        }
        Ok(())
    }

    /// A product of two activations keeps the columns of the second: each is a sum of numbers of that column.
    fn product(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let ranks = [0, 1].map(|s| node.input_at(s).and_then(|x| self.rank(x)));
        self.refuse(id, node, (0..node.input.len()).filter(|&s| s != 1), "multiplies it with another value");
        match (node.is("MatMul"), ranks, self.lay(node, 1)) {
            (true, [Some(a), Some(b)], Some(lay)) if a == b && b >= 2 && lay.place(b - 2).is_none() => {
                self.put(node, 0, lay);
            }
            _ => self.refuse(id, node, [1], "multiplies it with another value"),
        }
        Ok(())
    }

    /// Notes a constant that is added to channels along `axis` of a value of this rank; false where it is no constant, or
    /// has neither one element nor one a channel.
    fn shift(&mut self, at: Use, rank: usize, axis: usize, ids: &[u32]) -> Result<bool> {
        let Some(node) = self.graph.node(at.node) else { return Ok(false) };
        let Some(tensor) = self.constant(node, at.slot)?.filter(Tensor::is_float) else { return Ok(false) };
        let whole: Vec<usize> = match (tensor.len(), tensor.shape().len() + axis) {
            (1, _) => std::iter::once(ids.len()).chain(std::iter::repeat_n(1, rank - 1 - axis)).collect(),
            (_, place) if place >= rank && tensor.shape().get(place - rank) == Some(&ids.len()) => {
                tensor.shape().to_vec()
            }
            _ => return Ok(false),
        };
        let place = whole.len() + axis - rank;
        let Some(index) = ChannelIndex::along(&whole, place) else { return Ok(false) };
        self.site(at, Part::Shift, false, &whole, index, ids);
        Ok(true)
    }

    fn clip(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let Some(lay) = self.lay(node, 0) else { return Ok(()) };
        let mut bounds = [f32::NEG_INFINITY, f32::INFINITY];
        for (slot, bound) in bounds.iter_mut().enumerate() {
            if node.input_at(slot + 1).is_none() {
                continue;
            }
            let value = self.constant(node, slot + 1)?.filter(Tensor::is_float);
            match value.as_ref().map(Tensor::f32s).transpose()?.and_then(|x| x.first().copied()) {
                Some(x) => *bound = x,
                None => {
                    self.refuse(id, node, [0], "its bounds are not constant");
                    return Ok(());
                }
            }
        }
        let [low, high] = bounds;
        if !(low <= 0.0 && 0.0 <= high) {
            self.refuse(id, node, [0], "cuts off zero");
            return Ok(());
        }
        if (low.is_finite() && low != 0.0) || high.is_finite() {
            let rank = node.input_at(0).and_then(|x| self.rank(x));
            let (Some(rank), 1) = (rank, lay.axes.len()) else {
                self.refuse(id, node, [0], "where its channels lie is not known");
                return Ok(());
            };
            self.bounds.push((id, low, high, rank));
        }
        self.put(node, 0, lay);
        Ok(())
    }

    fn pad(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let Some(mut lay) = self.lay(node, 0) else { return Ok(()) };
        let constant = node.string("mode").unwrap_or("constant") == "constant";
        let zero = match node.input_at(2) {
            None => true,
            Some(_) => self.constant(node, 2)?.is_some_and(|t| t.f32s().is_ok_and(|x| x.iter().all(|&x| x == 0.0))),
        };
        let rank = node.input_at(0).and_then(|x| self.rank(x));
        let pads = self.integers(node, 1)?.zip(rank).filter(|(p, r)| p.len() == 2 * r && node.input_at(3).is_none());
        let Some((pads, rank)) = pads.filter(|_| zero || !constant) else {
            self.refuse(id, node, [0], "pads with something other than 0, or not by constants");
            return Ok(());
        };
        for (place, axis) in lay.axes.clone().into_iter().enumerate() {
            let (before, after) = (pads[axis], pads[axis + rank]);
            if (before, after) == (0, 0) {
                continue;
            }
            let (Ok(before), Ok(after), true) = (usize::try_from(before), usize::try_from(after), constant) else {
                self.refuse(id, node, [0], "pads or cuts along its channels");
                return Ok(());
            };
            let others: usize = lay.sizes.iter().enumerate().filter(|(i, _)| *i != place).map(|(_, n)| n).product();
            let whole = before.checked_add(after).and_then(|n| n.checked_add(lay.sizes[place]));
            if whole.and_then(|n| n.checked_mul(others)).is_none_or(|n| n > MOST) {
                self.refuse(id, node, [0], "pads too much along its channels");
                return Ok(());
            }
            // New channels of zeros, which any factor leaves as they are.
            let mut zeros = |count: usize| {
                let mut sizes = lay.sizes.clone();
                sizes[place] = count;
                let ids = self.ties.fresh(sizes.iter().product());
                Lay { axes: lay.axes.clone(), sizes, ids }
            };
            let (first, last) = (zeros(before), zeros(after));
            match Lay::joined(&[&first, &lay, &last], axis) {
                Some(wider) => lay = wider,
                None => return Ok(()),
            }
        }
        self.put(node, 0, lay);
        Ok(())
    }

    fn resize(&mut self, id: NodeId, node: &NodeProto) {
        let Some(lay) = self.lay(node, 0) else { return };
        let dims = node.output_at(0).and_then(|o| self.shape(o));
        let same =
            |dims: &Vec<Option<usize>>| lay.axes.iter().zip(&lay.sizes).all(|(&a, &n)| dims.get(a) == Some(&Some(n)));
        let fills = node.string("coordinate_transformation_mode") == Some("tf_crop_and_resize");
        let lay = Some(lay.clone()).filter(|_| !fills && dims.as_ref().is_some_and(same));
        self.put_or_refuse(id, node, lay, "may mix channels");
    }

    fn transpose(&mut self, id: NodeId, node: &NodeProto) {
        let Some(lay) = self.lay(node, 0) else { return };
        let perm: Option<Vec<usize>> = match node.ints("perm") {
            Some(perm) => perm.iter().map(|&p| usize::try_from(p).ok()).collect(),
            None => node.input_at(0).and_then(|x| self.rank(x)).map(|r| (0..r).rev().collect()),
        };
        let moved = perm.and_then(|p| lay.transposed(&p));
        self.put_or_refuse(id, node, moved, "where its channels go is not known");
    }

    fn reshape(&mut self, id: NodeId, node: &NodeProto) {
        let Some(lay) = self.lay(node, 0) else { return };
        let shape = |name: Option<&str>| name.and_then(|n| self.shape(n));
        let moved = match (shape(node.input_at(0)), shape(node.output_at(0))) {
            (Some(from), Some(to)) => lay.reshaped(&from, &to),
            _ => None,
        };
        self.put_or_refuse(id, node, moved, "where its channels go depends on shapes that are not known");
    }

    fn axis(&self, node: &NodeProto, axis: i64) -> Option<usize> {
        let rank = self.rank(node.input_at(0)?)?;
        usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok().filter(|&a| a < rank)
    }

    fn split(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let Some(lay) = self.lay(node, 0) else { return Ok(()) };
        let axis = self.axis(node, node.int("axis").unwrap_or(0));
        let Some(place) = axis.map(|a| lay.place(a)) else {
            self.refuse(id, node, [0], "where its channels go is not known");
            return Ok(());
        };
        let (Some(place), Some(axis)) = (place, axis) else {
            (0..node.output.len()).for_each(|o| self.put(node, o, lay.clone()));
            return Ok(());
        };
        let (whole, parts) = (lay.sizes[place], node.output.len().max(1));
        let sizes: Option<Vec<usize>> = match node.input_at(1) {
            Some(_) => self.integers(node, 1)?.map(|s| s.iter().filter_map(|&n| usize::try_from(n).ok()).collect()),
            None => {
                let each = whole.div_ceil(parts);
                Some((0..parts).map(|i| each.min(whole.saturating_sub(i * each))).collect())
            }
        };
        let Some(sizes) = sizes.filter(|s| s.len() == parts && s.iter().sum::<usize>() == whole) else {
            self.refuse(id, node, [0], "splits its channels by sizes that are not constant");
            return Ok(());
        };
        let mut start = 0;
        for (output, size) in sizes.into_iter().enumerate() {
            let picks: Vec<usize> = (start..start + size).collect();
            if let Some(part) = lay.picked(axis, &picks) {
                self.put(node, output, part);
            }
            start += size;
        }
        Ok(())
    }

    fn slice(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let Some(mut lay) = self.lay(node, 0) else { return Ok(()) };
        let (starts, ends) = (self.integers(node, 1)?, self.integers(node, 2)?);
        let axes = match node.input_at(3) {
            Some(_) => self.integers(node, 3)?,
            None => starts.as_ref().map(|s| (0..s.len() as i64).collect()),
        };
        let steps = match node.input_at(4) {
            Some(_) => self.integers(node, 4)?,
            None => starts.as_ref().map(|s| vec![1; s.len()]),
        };
        let (Some(starts), Some(ends), Some(axes), Some(steps)) = (starts, ends, axes, steps) else {
            self.refuse(id, node, [0], "cuts by numbers that are not constant");
            return Ok(());
        };
        for (((start, end), axis), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
            let Some(axis) = self.axis(node, axis) else { return Ok(()) };
            let Some(place) = lay.place(axis) else { continue };
            let size = lay.sizes[place] as i64;
            let from_end = |x: i64| if x < 0 { x.saturating_add(size) } else { x };
            let picked = (step > 0).then(|| {
                let (start, end) = (from_end(start).clamp(0, size), from_end(end).clamp(0, size));
                (start..end).step_by(step as usize).map(|i| i as usize).collect::<Vec<_>>()
            });
            match picked.and_then(|p| lay.picked(axis, &p)) {
                Some(part) => lay = part,
                None => {
                    self.refuse(id, node, [0], "cuts its channels backwards");
                    return Ok(());
                }
            }
        }
        self.put(node, 0, lay);
        Ok(())
    }

    fn gather(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let Some(lay) = self.lay(node, 0) else { return Ok(()) };
        let axis = self.axis(node, node.int("axis").unwrap_or(0));
        let indices = self.constant(node, 1)?.filter(|t| t.shape().len() == 1);
        let picked = axis.zip(indices).and_then(|(axis, indices)| {
            let Some(place) = lay.place(axis) else { return Some(lay.clone()) };
            let size = lay.sizes[place] as i64;
            let at = |i: i64| usize::try_from(if i < 0 { i + size } else { i }).ok();
            lay.picked(axis, &indices.i64s().ok()?.into_iter().map(at).collect::<Option<Vec<_>>>()?)
        });
        self.put_or_refuse(id, node, picked, "picks by indices that are not a constant list");
        Ok(())
    }

    fn concat(&mut self, id: NodeId, node: &NodeProto) {
        let names: Vec<&str> = node.input.iter().map(String::as_str).filter(|n| !n.is_empty()).collect();
        let Some(known) = names.iter().find_map(|n| self.lays.get(*n)).cloned() else { return };
        let rank = names.iter().find_map(|n| self.rank(n));
        let axis =
            node.int("axis").zip(rank).and_then(|(a, r)| usize::try_from(if a < 0 { a + r as i64 } else { a }).ok());
        let whole = axis.and_then(|axis| {
            let parts: Option<Vec<Lay>> = names.iter().map(|n| self.part(n, &known, axis)).collect();
            let parts = parts?;
            if known.place(axis).is_some() {
                return Lay::joined(&parts.iter().collect::<Vec<_>>(), axis);
            }
            parts[1..].iter().all(|p| self.tie(&parts[0], p)).then(|| parts[0].clone())
        });
        self.put_or_refuse(id, node, whole, "joins values whose channels lie differently");
    }

    /// The channels of a value that is joined with others that lie like `like`. One that has none gets channels that stay
    /// as they are.
    fn part(&mut self, value: &str, like: &Lay, axis: usize) -> Option<Lay> {
        if let Some(lay) = self.lays.get(value) {
            return Some(lay.clone());
        }
        let mut sizes = like.sizes.clone();
        if let Some(place) = like.place(axis) {
            sizes[place] = (*self.shape(value)?.get(axis)?)?;
        }
        let ids = self.ties.fresh(sizes.iter().product());
        self.ties.fix(&ids, format!("joined with `{value}`, which cannot be scaled"));
        Some(Lay { axes: like.axes.clone(), sizes, ids })
    }

    /// Ties two values channel by channel; false, and nothing is tied, where they lie differently.
    fn tie(&mut self, a: &Lay, b: &Lay) -> bool {
        if a.axes != b.axes || a.sizes != b.sizes {
            return false;
        }
        a.ids.iter().zip(&b.ids).for_each(|(&a, &b)| self.ties.tie(a, b));
        true
    }

    /// DepthToSpace puts `b * b` channels side by side: those must be scaled alike.
    fn depth_to_space(&mut self, id: NodeId, node: &NodeProto) {
        let Some(lay) = self.lay(node, 0) else { return };
        let square = node.int("blocksize").and_then(|b| usize::try_from(b.checked_mul(b)?).ok()).filter(|&b| b > 0);
        let outcome = lay.only_along(1).zip(square).filter(|(ids, b)| ids.len() % b == 0).map(|(ids, b)| {
            let count = ids.len() / b;
            let rows = node.string("mode") != Some("CRD");
            let from = |c: usize, i: usize| ids[if rows { i * count + c } else { c * b + i }];
            for c in 0..count {
                (1..b).for_each(|i| self.ties.tie(from(c, 0), from(c, i)));
            }
            Lay::along(1, (0..count).map(|c| from(c, 0)).collect())
        });
        self.put_or_refuse(id, node, outcome, "moves its channels in an unusual way");
    }

    fn reduce(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let Some(lay) = self.lay(node, 0) else { return Ok(()) };
        let axes = match node.input_at(1) {
            Some(_) => self.integers(node, 1)?,
            None => node.ints("axes").map(<[i64]>::to_vec),
        };
        let axes: Option<Vec<usize>> =
            axes.and_then(|axes| axes.into_iter().map(|a| self.axis(node, a)).collect::<Option<_>>());
        let kept = axes.filter(|axes| lay.axes.iter().all(|a| !axes.contains(a))).map(|axes| {
            let gone = |a: usize| axes.iter().filter(|&&x| x < a).count();
            let shifted = node.int("keepdims").unwrap_or(1) == 0;
            let axes = lay.axes.iter().map(|&a| if shifted { a - gone(a) } else { a }).collect();
            Lay { axes, ..lay.clone() }
        });
        self.put_or_refuse(id, node, kept, "reduces along its channels");
        Ok(())
    }

    /// Add and Sub: of a constant, or of two values.
    fn add(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        for (slot, other) in [(1, 0), (0, 1)] {
            let (Some(constant), Some(value)) = (node.input_at(slot), node.input_at(other)) else { return Ok(()) };
            if !self.is_constant(constant) {
                continue;
            }
            let Some(lay) = self.lays.get(value).cloned() else { return Ok(()) };
            let place = (self.rank(value), self.rank(constant));
            let added = match (&lay.axes[..], place) {
                (&[axis], (Some(rank), Some(own))) if own <= rank => {
                    self.shift(Use { node: id, slot }, rank, axis, &lay.ids)?
                }
                _ => false,
            };
            match added {
                true => self.put(node, 0, lay),
                false => self.refuse(id, node, [other], "adds a constant that has no element a channel"),
            }
            return Ok(());
        }
        let (a, b) = (self.lay(node, 0), self.lay(node, 1));
        let ranks = [0, 1].map(|s| node.input_at(s).and_then(|x| self.rank(x)));
        match (a, b) {
            (Some(a), Some(b)) if ranks[0] == ranks[1] && self.tie(&a, &b) => self.put(node, 0, a),
            (None, None) => {}
            _ => self.refuse(id, node, [0, 1], "adds values that cannot be scaled alike"),
        }
        Ok(())
    }

    /// Mul by what is not scaled, a constant or a gate, hands channels on. Where nothing can be scaled in front of it, a
    /// constant with an element a channel makes new ones.
    fn multiply(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let Some(output) = node.output_at(0) else { return Ok(()) };
        if let (Some(a), Some(_)) = (self.lay(node, 0), self.lay(node, 1)) {
            self.refuse(id, node, [1], "multiplies two values that could both be scaled");
            self.put(node, 0, a);
            return Ok(());
        }
        for (slot, other) in [(0, 1), (1, 0)] {
            let (Some(value), Some(factor)) = (node.input_at(slot), node.input_at(other)) else { return Ok(()) };
            if let Some(lay) = self.lays.get(value).cloned() {
                let same = self.rank(value).zip(self.rank(factor)).is_some_and(|(a, b)| b <= a);
                self.put_or_refuse(id, node, same.then_some(lay), "multiplies by a value of higher rank");
                return Ok(());
            }
        }
        for slot in [0, 1] {
            let Some(gain) = self.constant(node, slot)?.filter(|t| t.is_float() && t.len() > 1) else { continue };
            let wide = gain.shape().iter().position(|&d| d == gain.len());
            let (Some(place), Some(rank)) = (wide, self.rank(output)) else { continue };
            let Some(axis) = (rank + place).checked_sub(gain.shape().len()) else { continue };
            let Some(index) = ChannelIndex::along(gain.shape(), place) else { continue };
            let ids = self.ties.fresh(gain.len());
            self.site(Use { node: id, slot }, Part::Gain, false, gain.shape(), index, &ids);
            self.put(node, 0, Lay::along(axis, ids));
            return Ok(());
        }
        Ok(())
    }

    /// Scale and bias of a normalization make new channels.
    fn normalize(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        self.refuse(id, node, 0..node.input.len(), "normalizes it");
        let axis = match node.op_type() {
            "BatchNormalization" => Some(1),
            _ => self.axis(node, node.int("axis").unwrap_or(-1)),
        };
        let Some(gain) = self.constant(node, 1)?.filter(|t| t.is_float() && t.shape().len() == 1) else {
            return Ok(());
        };
        let last = node.is("BatchNormalization")
            || axis.zip(node.input_at(0).and_then(|x| self.rank(x))).is_some_and(|(a, r)| a + 1 == r);
        let (Some(axis), Some(index), true) = (axis, ChannelIndex::along(gain.shape(), 0), last) else { return Ok(()) };
        let ids = self.ties.fresh(gain.len());
        self.site(Use { node: id, slot: 1 }, Part::Gain, false, gain.shape(), index, &ids);
        if node.input_at(2).is_some() && !self.shift(Use { node: id, slot: 2 }, 1, 0, &ids)? {
            self.ties.fix(&ids, format!("the bias of {} has no element a channel", self.graph.label(id)));
        }
        self.put(node, 0, Lay::along(axis, ids));
        Ok(())
    }

    // ---- what came out ----

    fn blocked(&mut self) -> Vec<Blocked> {
        let mut blocked: Vec<Blocked> = Vec::new();
        for i in 0..self.sites.len() {
            let site = &self.sites[i];
            if site.part == Part::Shift || site.reads {
                continue;
            }
            let (node, ids) = (self.graph.label(site.at.node), site.ids.clone());
            for &id in &ids {
                let Some(reason) = self.ties.reason(id).map(str::to_owned) else { continue };
                match blocked.iter_mut().rev().find(|b| b.node == node && b.reason == reason) {
                    Some(b) => b.channels += 1,
                    None => blocked.push(Blocked { node: node.clone(), channels: 1, of: ids.len(), reason }),
                }
            }
        }
        blocked
    }

    /// The classes that may be scaled, among these channels.
    fn free(&mut self, ids: &[u32]) -> Vec<Option<u32>> {
        ids.iter().map(|&id| self.ties.reason(id).is_none().then(|| self.ties.class(id))).collect()
    }

    fn groups(&mut self) -> Vec<Group> {
        let sites = std::mem::take(&mut self.sites);
        let values = self.values();
        let site_classes: Vec<Vec<Option<u32>>> = sites.iter().map(|s| self.free(&s.ids)).collect();
        let value_classes: Vec<Vec<Option<u32>>> = values.iter().map(|(_, l)| self.free(&l.ids)).collect();
        // Classes that stand in one constant or one value are one group.
        let mut together = Ties::default();
        let count = self.ties.fresh(1)[0] as usize;
        together.fresh(count);
        for classes in site_classes.iter().chain(&value_classes) {
            let mut classes = classes.iter().flatten();
            if let Some(&first) = classes.next() {
                classes.for_each(|&c| together.tie(first, c));
            }
        }
        // Numbers of groups and of channels in them, in the order in which they are made.
        let mut numbers: BTreeMap<u32, usize> = BTreeMap::new();
        let mut channel: HashMap<u32, usize> = HashMap::new();
        let mut groups: Vec<Group> = Vec::new();
        for &class in site_classes.iter().flatten().flatten() {
            if channel.contains_key(&class) {
                continue;
            }
            let number = *numbers.entry(together.class(class)).or_insert_with(|| {
                groups.push(Group {
                    channels: 0,
                    producers: Vec::new(),
                    shifts: Vec::new(),
                    consumers: Vec::new(),
                    values: Vec::new(),
                    bounds: Vec::new(),
                });
                groups.len() - 1
            });
            channel.insert(class, groups[number].channels);
            groups[number].channels += 1;
        }
        let own = |classes: &[Option<u32>]| -> Vec<Option<usize>> {
            classes.iter().map(|c| channel.get(c.as_ref()?).copied()).collect()
        };
        let mut group_of = |classes: &[Option<u32>]| -> Option<usize> {
            let class = classes.iter().flatten().find(|c| channel.contains_key(c))?;
            numbers.get(&together.class(*class)).copied()
        };
        for (site, classes) in sites.into_iter().zip(&site_classes) {
            let Some(number) = group_of(classes) else { continue };
            let RawSite { at, part, reads, shape, index, .. } = site;
            let site = Site { at, part, shape, index, channels: own(classes) };
            let group = &mut groups[number];
            match (reads, part) {
                (true, _) => group.consumers.push(site),
                (false, Part::Shift) => group.shifts.push(site),
                (false, _) => group.producers.push(site),
            }
        }
        for ((value, lay), classes) in values.into_iter().zip(&value_classes) {
            let Some(number) = group_of(classes) else { continue };
            let axis = if let [axis] = lay.axes[..] { Some(axis) } else { None };
            let member = Member { value, axis, channels: own(classes) };
            let bound = self
                .bounds
                .iter()
                .find(|(id, ..)| self.graph.node(*id).is_some_and(|n| n.output_at(0) == Some(&member.value)));
            if let (Some(&(node, low, high, rank)), Some(axis)) = (bound, member.axis) {
                groups[number].bounds.push(Bound { node, low, high, rank, axis, channels: member.channels.clone() });
            }
            groups[number].values.push(member);
        }
        groups.retain(|g| !g.producers.is_empty() && !g.consumers.is_empty());
        groups
    }
}
