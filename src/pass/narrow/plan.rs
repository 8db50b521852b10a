//! Which values become narrow, which nodes read and make them, and where both forms are needed.

use std::collections::{HashMap, HashSet};

use super::sites::{Site, Tie, bodies_are_known, ties};
use super::types::{Maker, Types, bound, types};
use super::{Narrow, Narrowing, exact, islands};
use crate::model::{
    DataType, GraphProto, ModelProto, NodeExt, NodeProto, Tensor, TensorProto, captures, dtype_name, is_float, release,
    sparse_name,
};
use crate::rule::{OpRule, Role};
use crate::schema::{self, Kind, ValueType, Version};

/// A float32 value as it was, or in the narrow type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Wide,
    Narrow,
}

/// The forms in which a value is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Demand {
    pub wide: bool,
    pub narrow: bool,
}

impl Demand {
    fn add(&mut self, form: Form) {
        match form {
            Form::Wide => self.wide = true,
            Form::Narrow => self.narrow = true,
        }
    }
}

/// Operators beside those of [`Role::Pass`] that hand on what they read: they are of the form of their neighbours.
const MOVES: &[&str] = &[
    "Compress",
    "Concat",
    "Expand",
    "GatherElements",
    "GatherND",
    "Identity",
    "ReverseSequence",
    "Tile",
    "Trilu",
    "Unsqueeze",
];

/// Whether the operator of the node takes the type where it takes float32.
pub(super) fn takes(site: &Site<'_>, half: ValueType) -> bool {
    let Some(version) = site.version else { return false };
    let floats = (0..version.variables()).filter_map(|n| version.types(n)).filter(|(_, set)| set.has(FLOAT));
    floats.into_iter().any(|(_, set)| set.has(half))
}

/// The first opset after that of the model in which the operator of the node takes the type where it takes float32.
pub(super) fn takes_later(site: &Site<'_>, half: ValueType) -> Option<i64> {
    let now = site.version?.since;
    let operator = schema::domain(site.node.domain())?.operator(site.node.op_type())?;
    let takes = |v: &&Version| {
        let floats = (0..v.variables()).filter_map(|n| v.types(n)).filter(|(_, set)| set.has(FLOAT));
        v.since > now && floats.into_iter().any(|(_, set)| set.has(half))
    };
    operator.versions.iter().find(takes).map(|v| v.since)
}

/// Whether the node only moves values.
pub(super) fn moves(node: &NodeProto) -> bool {
    // A Resize moves values or mixes them, as its mode says.
    let mixes = node.is("Resize") && node.string("mode").is_some_and(|m| m != "nearest");
    let passes = || OpRule::of(node).is_some_and(|r| r.role == Role::Pass);
    !mixes && (MOVES.iter().any(|op| node.is(op)) || passes())
}

/// What makes a value.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// An input of the graph.
    Input,
    /// An initializer.
    Constant,
    /// An output of a node whose type an attribute states.
    Free,
    /// An output of a node: which, and in which place.
    Node(usize, usize),
    /// A value tied to others: which tie.
    Tied(usize),
}

/// The decision.
pub(super) struct Plan<'m> {
    pub sites: Vec<Site<'m>>,
    types: Types,
    half: ValueType,
    sources: HashMap<&'m str, Source>,
    tensors: HashMap<&'m str, &'m TensorProto>,
    /// The values that hold a mask.
    masked: HashSet<&'m str>,
    ties: Vec<(usize, Tie<'m>)>,
    first_tie: Vec<usize>,
    /// Whether each node computes in the narrow type, where its operator takes that.
    narrow: Vec<bool>,
    /// Whether each tie is narrow.
    tied: Vec<bool>,
    demands: HashMap<&'m str, Demand>,
    /// The values whose name must mean a form: outputs of the model, and what sealed bodies read.
    pub kept: HashMap<&'m str, Form>,
    /// Whether inputs and outputs of the model become narrow.
    io: bool,
    /// Why nodes stay float32.
    pub reasons: Vec<(usize, String)>,
}

const FLOAT: ValueType = ValueType::Tensor(DataType::Float);

impl<'m> Plan<'m> {
    pub fn decide(model: &'m ModelProto, sites: Vec<Site<'m>>, wish: &Narrowing) -> Plan<'m> {
        let graph = model.graph.as_ref();
        let types = graph.map(|g| types(g, &sites)).unwrap_or_default();
        let count = sites.len();
        let mut plan = Plan {
            types,
            half: ValueType::Tensor(wish.to.dtype()),
            sources: HashMap::new(),
            tensors: HashMap::new(),
            masked: HashSet::new(),
            ties: Vec::new(),
            first_tie: Vec::new(),
            narrow: vec![false; count],
            tied: Vec::new(),
            demands: HashMap::new(),
            kept: HashMap::new(),
            io: wish.io,
            reasons: Vec::new(),
            sites,
        };
        plan.find_sources(graph);
        plan.keep(graph);
        if !wish.seen.is_empty() {
            plan.find_masks(wish.to);
        }
        plan.refuse(wish);
        exact::apply(&mut plan, wish.to);
        islands::apply(&mut plan);
        plan.settle();
        plan
    }

    fn find_sources(&mut self, graph: Option<&'m GraphProto>) {
        fn initializers<'m>(g: &'m GraphProto, plan: &mut Plan<'m>) {
            let names = g.initializer.iter().map(|t| t.name()).chain(g.sparse_initializer.iter().map(sparse_name));
            plan.sources.extend(names.map(|name| (name, Source::Constant)));
            plan.tensors.extend(g.initializer.iter().map(|t| (t.name(), t)));
            g.node.iter().flat_map(|n| n.subgraphs()).for_each(|g| initializers(g, plan));
        }
        if let Some(graph) = graph {
            self.sources.extend(graph.input.iter().map(|v| (v.name(), Source::Input)));
            initializers(graph, self);
        }
        for (i, site) in self.sites.iter().enumerate() {
            self.first_tie.push(self.ties.len());
            let free = Maker::of(site.node).is_some() && !site.node.is("DequantizeLinear") && !site.sealed;
            for (place, name) in site.node.output.iter().enumerate() {
                self.sources.insert(name, if free { Source::Free } else { Source::Node(i, place) });
            }
            if !site.sealed {
                for tie in ties(site.node) {
                    self.sources.extend(tie.sinks.iter().map(|name| (*name, Source::Tied(self.ties.len()))));
                    self.ties.push((i, tie));
                }
            }
        }
        self.sources.remove("");
    }

    /// Outputs of the model keep their names, and so does what sealed bodies read.
    fn keep(&mut self, graph: Option<&'m GraphProto>) {
        let form = if self.io { Form::Narrow } else { Form::Wide };
        for output in graph.iter().flat_map(|g| &g.output) {
            self.kept.insert(output.name(), form);
        }
        for site in self.sites.iter().filter(|s| !s.sealed && !bodies_are_known(s.node)) {
            self.kept.extend(captures(site.node).into_iter().map(|name| (name, Form::Wide)));
        }
        self.kept.retain(|name, _| self.types.get(*name) == Some(&FLOAT));
    }

    /// Notes for each node that has to do with float32 whether it may become narrow, and else why not.
    fn refuse(&mut self, wish: &Narrowing) {
        for i in 0..self.sites.len() {
            if self.sites[i].sealed || !self.touches(i) {
                continue;
            }
            match self.refusal(i, wish) {
                None => self.narrow[i] = true,
                Some(reason) => self.reasons.push((i, reason)),
            }
        }
        for t in 0..self.ties.len() {
            let i = self.ties[t].0;
            self.tied.push(self.narrow[i]);
        }
    }

    /// Whether a float32 value goes in or out; not where only an attribute says so.
    fn touches(&self, i: usize) -> bool {
        let node = self.sites[i].node;
        let free = Maker::of(node).is_some();
        let mut values = node.input.iter().chain(node.output.iter().filter(|_| !free));
        values.any(|name| self.is_float(name)) || ties(node).iter().flat_map(|t| &t.sources).any(|n| self.is_float(n))
    }

    fn refusal(&self, i: usize, wish: &Narrowing) -> Option<String> {
        let site = &self.sites[i];
        let name = dtype_name(wish.to.dtype());
        if wish.exclude.means(site.node.title(), &site.path)
            || wish.exclude_ops.iter().any(|op| *op == site.node.operator())
        {
            return Some("excluded by the user".into());
        }
        if !site.node.is(site.node.op_type()) && site.version.is_some() {
            return Some(format!("its attributes are {}", dtype_name(DataType::Float)));
        }
        if site.node.is("MeanVarianceNormalization") {
            return Some("ONNX defines it by a function whose constants are float32".into());
        }
        let Some(version) = site.version else {
            return Some("of which types the operator takes nothing is known".into());
        };
        if !bodies_are_known(site.node) && site.node.subgraphs().next().is_some() {
            return Some("what goes into its subgraph and comes out of it is not known".into());
        }
        if !ties(site.node).is_empty() {
            // Values of any type go through If, Loop and Scan, as far as the set `V` says.
            let takes = (0..version.variables()).filter_map(|v| version.types(v)).any(|(_, set)| set.has(self.half));
            return (!takes).then(|| format!("it takes no {name} in opset {}", version.since));
        }
        let of_float = |v: &usize| bound(site.node, version, *v, &self.types) == Some(FLOAT);
        let kinds: Vec<usize> = (0..version.variables()).filter(of_float).collect();
        let takes = |set: &schema::TypeSet| set.has(self.half);
        if kinds.iter().any(|&v| version.types(v).is_some_and(|(_, set)| takes(set))) {
            let of_tensors = |v| match bound(site.node, version, v, &self.types) {
                Some(kind) => matches!(kind, ValueType::Tensor(_)),
                None => version.types(v).is_some_and(|(_, set)| set.has_tensors()),
            };
            if !(0..version.variables()).all(of_tensors) {
                return Some("sequences and optional values stay float32".into());
            }
            let unfit = self.unfit_scale(i, wish).or_else(|| self.unfit_constant(i, wish));
            return unfit.or_else(|| self.too_large(i, wish));
        }
        let later = takes_later(site, self.half);
        Some(match later {
            Some(opset) => format!("it takes {name} from opset {opset} on"),
            None => format!("it takes no {name} in any opset"),
        })
    }

    /// Why the constant scale of a Q or DQ cannot be narrow.
    fn unfit_scale(&self, i: usize, wish: &Narrowing) -> Option<String> {
        let node = self.sites[i].node;
        if !node.is("QuantizeLinear") && !node.is("DequantizeLinear") {
            return None;
        }
        let scale = node.input_at(1)?;
        let range = self.magnitudes(scale)?;
        let small = range.0 < wish.to.smallest_normal();
        (small || range.1 > wish.to.largest()).then(|| {
            format!(
                "its scale `{scale}` would lose precision: {:e} is not in the normal range",
                if small { range.0 } else { range.1 }
            )
        })
    }

    /// Why a constant of the node cannot be narrow.
    fn unfit_constant(&self, i: usize, wish: &Narrowing) -> Option<String> {
        let node = self.sites[i].node;
        let bounds = ["Clip", "Max", "Min"].iter().any(|op| node.is(op)) || moves(node);
        let masks = ["Add", "Mul", "Sub", "Where"].iter().any(|op| node.is(op));
        let past = |name: &&String| {
            let (low, high) = self.extremes(name).unwrap_or_default();
            !bounds && (wish.to.is_infinite(high) || !masks && wish.to.is_infinite(low))
        };
        let name = node.input.iter().filter(|name| self.is_float(name)).find(past)?;
        Some(format!("its constant `{name}` is past the range of {}", dtype_name(wish.to.dtype())))
    }

    /// The least and the greatest of the finite numbers in a constant; `None` where it holds none.
    fn extremes(&self, name: &str) -> Option<(f32, f32)> {
        let tensor = Tensor::from_proto(self.tensors.get(name)?).ok()?;
        let numbers = tensor.f32s().ok()?;
        let finite = numbers.iter().copied().filter(|x| x.is_finite());
        let found = finite.map(|x| (x, x)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        release(tensor.bytes());
        found
    }

    /// Why a node would overflow, by what was seen on samples.
    fn too_large(&self, i: usize, wish: &Narrowing) -> Option<String> {
        let node = self.sites[i].node;
        let (most, shape) = (wish.to.largest() / 2.0, ["Shape", "Size"].iter().any(|op| node.is(op)));
        let past = |name: &&String| {
            let (low, high) = wish.seen.get(name.as_str()).copied().unwrap_or_default();
            high > most || low < -most && !self.masked.contains(name.as_str())
        };
        let name = node.input.iter().chain(&node.output).find(past).filter(|_| !shape)?;
        let (low, high) = wish.seen.get(name.as_str())?;
        let reached = if *high > most { high } else { low };
        Some(format!("`{name}` reached {reached:.0} on the samples, and {} is the end of the range", wish.to.largest()))
    }

    /// Finds the values into which a mask was put: large negative constants, and what comes of them by sums, choices and
    /// moves.
    fn find_masks(&mut self, to: Narrow) {
        for i in 0..self.sites.len() {
            let node: &'m NodeProto = self.sites[i].node;
            let hands_on = moves(node) || ["Add", "Cast", "Mul", "Sub", "Where"].iter().any(|op| node.is(op));
            let mask = |name: &String| {
                let low = || self.extremes(name).is_some_and(|(low, _)| to.is_infinite(low));
                self.masked.contains(name.as_str()) || self.is_float(name) && self.is_constant(name) && low()
            };
            if hands_on && node.input.iter().any(mask) {
                self.masked.extend(node.output.iter().map(String::as_str));
            }
        }
    }

    /// Keeps a node float32.
    pub fn veto(&mut self, i: usize, reason: impl Into<String>) {
        if std::mem::replace(&mut self.narrow[i], false) {
            self.reasons.push((i, reason.into()));
        }
    }

    pub fn is_float(&self, name: &str) -> bool {
        self.types.get(name) == Some(&FLOAT)
    }

    /// Whether the value is of the narrow type already.
    pub fn is_half(&self, name: &str) -> bool {
        self.types.get(name) == Some(&self.half)
    }

    /// Whether the value is of an integer type, or boolean.
    pub fn is_integer(&self, name: &str) -> bool {
        matches!(self.types.get(name), Some(&ValueType::Tensor(d)) if !is_float(d) && d != DataType::String)
    }

    /// The smallest and the largest magnitude in a constant; `None` where it holds no number but zero.
    pub fn magnitudes(&self, name: &str) -> Option<(f32, f32)> {
        let tensor = Tensor::from_proto(self.tensors.get(name)?).ok()?;
        let numbers = tensor.f32s().ok()?;
        let (least, most) = numbers
            .iter()
            .map(|x| x.abs())
            .filter(|&x| x > 0.0 && x.is_finite())
            .fold((f32::INFINITY, 0f32), |(a, b), x| (a.min(x), b.max(x)));
        (most > 0.0).then_some((least, most))
    }

    /// What goes into the bodies of If, Loop and Scan, and what comes out of them.
    pub fn tied_sources(&self) -> impl Iterator<Item = &'m str> {
        self.ties.iter().flat_map(|(_, tie)| tie.sources.iter().copied())
    }

    /// The form that the name of an output of the model means.
    pub fn kept_form(&self, name: &str) -> Form {
        self.kept.get(name).copied().unwrap_or(Form::Wide)
    }

    pub fn is_narrow(&self, i: usize) -> bool {
        self.narrow[i]
    }

    pub fn demand(&self, name: &str) -> Demand {
        self.demands.get(name).copied().unwrap_or_default()
    }

    pub fn is_constant(&self, name: &str) -> bool {
        matches!(self.sources.get(name), Some(Source::Constant))
    }

    /// The node that makes the value itself.
    pub fn maker(&self, name: &str) -> Option<usize> {
        match self.sources.get(name) {
            Some(Source::Node(i, _)) => Some(*i),
            _ => None,
        }
    }

    /// The form of a tie of a node: those of [`ties`] in their order.
    pub fn tie(&self, i: usize, place: usize) -> Form {
        if self.tied.get(self.first_tie[i] + place) == Some(&true) { Form::Narrow } else { Form::Wide }
    }

    /// The form that a parameter of the node has where it is float32.
    fn form(&self, i: usize, kind: &Kind) -> Form {
        let takes =
            |v: usize| self.sites[i].version.and_then(|s| s.types(v)).is_some_and(|(_, set)| set.has(self.half));
        match kind {
            Kind::Variable(v) if self.narrow[i] && takes(*v) => Form::Narrow,
            _ => Form::Wide,
        }
    }

    /// The form in which the node reads a float32 value; `None` for either.
    pub fn reads(&self, i: usize, slot: usize) -> Option<Form> {
        let site = &self.sites[i];
        if site.sealed || !self.narrow[i] {
            return Some(Form::Wide);
        }
        if self.is_indifferent(i) {
            return None;
        }
        let kind = site.version.and_then(|v| schema::parameter(&v.inputs, slot)).map(|p| &p.kind);
        Some(kind.map_or(Form::Wide, |k| self.form(i, k)))
    }

    /// Whether the node has one float32 input whose type nothing else has to have: Cast, Shape, IsNaN.
    fn is_indifferent(&self, i: usize) -> bool {
        let site = &self.sites[i];
        let Some(version) = site.version.filter(|_| !site.sealed) else { return false };
        if site.node.is("DequantizeLinear") || !ties(site.node).is_empty() {
            return false;
        }
        let mut floats = (0..site.node.input.len()).filter(|&s| self.is_float(&site.node.input[s]));
        let (Some(slot), None) = (floats.next(), floats.next()) else { return false };
        let Some(Kind::Variable(v)) = schema::parameter(&version.inputs, slot).map(|p| &p.kind) else { return false };
        let takes = version.types(*v).is_some_and(|(_, set)| set.has(self.half));
        takes && !version.outputs.iter().any(|p| p.kind == Kind::Variable(*v))
    }

    /// The form in which a float32 value is made.
    pub fn made(&self, name: &str) -> Form {
        match self.sources.get(name) {
            Some(Source::Input) => self.kept_input(),
            Some(Source::Constant | Source::Free) => {
                let demand = self.demand(name);
                if demand.narrow && !demand.wide { Form::Narrow } else { Form::Wide }
            }
            Some(&Source::Tied(t)) if self.tied[t] => Form::Narrow,
            Some(&Source::Node(i, place)) => {
                let site = &self.sites[i];
                let Some(version) = site.version.filter(|_| !site.sealed) else { return Form::Wide };
                let kind = schema::parameter(&version.outputs, place).map(|p| &p.kind);
                // What no input shares the type of (Mean of LayerNormalization) stays, but for what a scale tells.
                let shared = |k: &&Kind| version.inputs.iter().any(|p| p.kind == **k);
                kind.filter(|k| shared(k) || site.node.is("DequantizeLinear")).map_or(Form::Wide, |k| self.form(i, k))
            }
            _ => Form::Wide,
        }
    }

    fn kept_input(&self) -> Form {
        if self.io { Form::Narrow } else { Form::Wide }
    }

    /// Lets what only moves values take the form of its neighbours, and ties that of their readers.
    fn settle(&mut self) {
        let follows: Vec<bool> = (0..self.sites.len()).map(|i| self.follows(i)).collect();
        let able = self.narrow.clone();
        loop {
            self.narrow.clone_from(&able);
            self.follow(&follows);
            self.count();
            let lone = |t: &usize| {
                let sinks = || self.ties[*t].1.sinks.iter().map(|name| self.demand(name));
                self.tied[*t] && !sinks().any(|d| d.narrow) && sinks().any(|d| d.wide)
            };
            let wide: Vec<usize> = (0..self.ties.len()).filter(lone).collect();
            if wide.is_empty() {
                return;
            }
            wide.into_iter().for_each(|t| self.tied[t] = false);
        }
    }

    fn follows(&self, i: usize) -> bool {
        let node = self.sites[i].node;
        let pair = node.is("QuantizeLinear") || node.is("DequantizeLinear");
        let ends = !node.output.iter().any(|o| self.is_float(o));
        let able = self.narrow[i] && ties(node).is_empty() && !self.is_indifferent(i);
        able && (moves(node) || pair || ends)
    }

    /// Keeps those wide that read wide values only, and whose outputs nothing reads in narrow form.
    fn follow(&mut self, follows: &[bool]) {
        let mut from_wide = vec![false; self.sites.len()];
        for i in (0..self.sites.len()).filter(|&i| follows[i]) {
            let node = self.sites[i].node;
            let wide = |name: &String| match self.sources.get(name.as_str()) {
                Some(Source::Constant | Source::Free) => true,
                Some(&Source::Node(p, _)) if follows[p] => from_wide[p],
                _ => self.made(name) == Form::Wide,
            };
            from_wide[i] = node.input.iter().filter(|name| self.is_float(name)).all(wide);
        }
        let mut wanted: HashSet<&str> = HashSet::new();
        for (t, (_, tie)) in self.ties.iter().enumerate() {
            wanted.extend(tie.sources.iter().filter(|_| self.tied[t]));
        }
        wanted.extend(self.kept.iter().filter(|(_, f)| **f == Form::Narrow).map(|(name, _)| *name));
        for i in (0..self.sites.len()).rev() {
            let node = self.sites[i].node;
            let idle = follows[i] && !node.output.iter().any(|o| wanted.contains(o.as_str()));
            if idle && from_wide[i] {
                self.narrow[i] = false;
                continue;
            }
            // A node that follows wants narrow values only where its own are wanted so.
            for (slot, name) in node.input.iter().enumerate().filter(|_| !idle) {
                if self.is_float(name) && self.reads(i, slot) == Some(Form::Narrow) {
                    wanted.insert(name);
                }
            }
        }
    }

    /// Counts in which forms values are read.
    fn count(&mut self) {
        let mut demands: HashMap<&'m str, Demand> = HashMap::new();
        let mut add = |name: &'m str, form: Form| demands.entry(name).or_default().add(form);
        for i in 0..self.sites.len() {
            let node: &'m NodeProto = self.sites[i].node;
            let through = if self.sites[i].sealed { 0 } else { ties(node).len() };
            for (slot, name) in node.input.iter().enumerate().filter(|(_, n)| self.is_float(n)) {
                if through == 0
                    && let Some(form) = self.reads(i, slot)
                {
                    add(name, form);
                }
            }
        }
        for (t, (_, tie)) in self.ties.iter().enumerate() {
            let form = if self.tied[t] { Form::Narrow } else { Form::Wide };
            tie.sources.iter().filter(|n| self.is_float(n)).for_each(|name| add(name, form));
        }
        self.kept.iter().for_each(|(name, form)| add(name, *form));
        self.demands = demands;
    }

    /// The float32 values that the node reads.
    pub fn floats_of(&self, i: usize) -> Vec<&'m str> {
        let node: &'m NodeProto = self.sites[i].node;
        node.input.iter().map(String::as_str).filter(|n| self.is_float(n)).collect()
    }
}
