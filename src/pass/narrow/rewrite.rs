//! Writes a model anew as planned.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Narrow;
use super::constants::{Rounded, narrowed, narrowed_sparse};
use super::plan::{Form, Plan};
use super::sites::{bodies_are_known, ties};
use super::types::{Maker, Unstated};
use crate::error::{Place, Result};
use crate::model::{
    AttributeExt, DataType, Graph, GraphProto, NodeExt, NodeProto, Scratch, Tensor, ValueInfoProto, attribute,
    dtype_name, sparse_name,
};
use crate::proto::type_proto;

/// The names of a value in each form, and how deep the graph lies that has it.
#[derive(Debug, Clone, Default)]
struct Names {
    wide: Option<String>,
    narrow: Option<String>,
    depth: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// What was lost of constants.
    pub rounded: Vec<Rounded>,
    /// Casts put in.
    pub casts: usize,
    /// Casts taken out, since they would change nothing any more.
    pub dropped: usize,
    /// Nodes that compute in the narrow type, by operator.
    pub converted: BTreeMap<String, usize>,
}

pub(super) struct Rewriter<'p, 'm> {
    plan: &'p Plan<'m>,
    to: Narrow,
    /// Gives names.
    names: &'p mut Graph,
    scratch: Option<&'p Scratch>,
    values: HashMap<String, Names>,
    /// The nodes written so far, of the graph and of the bodies around the present node.
    written: Vec<Vec<NodeProto>>,
    /// The next node.
    next: usize,
    /// Values whose producers must stay: outputs of graphs.
    ends: HashSet<String>,
    /// Values of the narrow type whose Cast went, and what they are now.
    renamed: HashMap<String, String>,
    /// float32 values that Casts made of float32 values, and which.
    same: HashMap<String, String>,
    pub done: Done,
}

impl<'p, 'm> Rewriter<'p, 'm> {
    pub fn new(plan: &'p Plan<'m>, to: Narrow, names: &'p mut Graph, scratch: Option<&'p Scratch>) -> Self {
        Rewriter {
            plan,
            to,
            names,
            scratch,
            values: HashMap::new(),
            written: Vec::new(),
            next: 0,
            ends: HashSet::new(),
            renamed: HashMap::new(),
            same: HashMap::new(),
            done: Done::default(),
        }
    }

    /// The graph of the model, its outputs in the forms that are kept.
    pub fn model(&mut self, graph: &GraphProto) -> Result<GraphProto> {
        for input in &graph.input {
            self.given(input.name(), self.plan.made(input.name()), 0);
        }
        let outputs: Vec<Form> = graph.output.iter().map(|o| self.plan.kept_form(o.name())).collect();
        self.graph(graph, &outputs)
    }

    fn graph(&mut self, graph: &GraphProto, outputs: &[Form]) -> Result<GraphProto> {
        self.written.push(Vec::new());
        self.ends.extend(graph.output.iter().map(|o| o.name().to_owned()));
        let mut new = GraphProto { node: Vec::new(), ..graph.clone() };
        new.initializer.clear();
        for t in &graph.initializer {
            if !self.plan.is_float(t.name()) {
                new.initializer.push(t.clone());
                continue;
            }
            let (wide, narrow) = self.constant(t.name());
            new.initializer.extend(wide.map(|_| t.clone()));
            if let Some(name) = narrow {
                let (t, lost) = narrowed(t, &name, self.to, self.scratch).at(|| format!("tensor `{}`", t.name()))?;
                new.initializer.push(t);
                self.done.rounded.push(lost);
            }
        }
        new.sparse_initializer.clear();
        for t in &graph.sparse_initializer {
            if !self.plan.is_float(sparse_name(t)) {
                new.sparse_initializer.push(t.clone());
                continue;
            }
            let (wide, narrow) = self.constant(sparse_name(t));
            new.sparse_initializer.extend(wide.map(|_| t.clone()));
            if let Some(name) = narrow {
                let (t, lost) = narrowed_sparse(t, &name, self.to).at(|| format!("tensor `{}`", sparse_name(t)))?;
                new.sparse_initializer.push(t);
                self.done.rounded.push(lost);
            }
        }
        for node in &graph.node {
            self.node(node)?;
        }
        for (value, form) in new.output.iter_mut().zip(outputs) {
            if self.plan.is_float(value.name()) {
                let name = self.read(value.name(), *form);
                value.name = Some(name);
                self.state(value, *form);
            }
        }
        for value in new.input.iter_mut().filter(|v| self.plan.is_float(v.name())) {
            let form = self.plan.made(value.name());
            self.state(value, form);
        }
        new.node = self.written.pop().unwrap_or_default();
        let made: HashSet<&str> = new.node.iter().flat_map(|n| &n.output).map(String::as_str).collect();
        let mut told = Vec::new();
        for mut value in std::mem::take(&mut new.value_info) {
            if self.plan.is_float(value.name()) {
                let form = self.plan.made(value.name());
                let Some(names) = self.values.get(value.name()) else { continue };
                let own = if form == Form::Narrow { &names.narrow } else { &names.wide };
                // A Cast that went has no value of its own any more.
                let here = |name: &&String| made.contains(name.as_str()) || self.plan.is_constant(value.name());
                let Some(own) = own.as_ref().filter(here) else { continue };
                value.name = Some(own.clone());
                self.state(&mut value, form);
            } else if self.renamed.contains_key(value.name()) {
                continue;
            }
            told.push(value);
        }
        new.value_info = told;
        Ok(new)
    }

    /// States the type of a value.
    fn state(&self, value: &mut ValueInfoProto, form: Form) {
        if let Some(type_proto::Value::TensorType(t)) = value.r#type.as_mut().and_then(|t| t.value.as_mut()) {
            t.elem_type = Some(self.dtype(form) as i32);
        }
    }

    fn dtype(&self, form: Form) -> DataType {
        match form {
            Form::Wide => DataType::Float,
            Form::Narrow => self.to.dtype(),
        }
    }

    /// Notes a value that comes from outside, and in which form.
    fn given(&mut self, name: &str, form: Form, depth: usize) {
        let own = Some(name.to_owned());
        let (wide, narrow) = if form == Form::Wide { (own, None) } else { (None, own) };
        self.values.insert(name.to_owned(), Names { wide, narrow, depth });
    }

    /// The names under which a constant is kept in each form.
    fn constant(&mut self, name: &str) -> (Option<String>, Option<String>) {
        let mut demand = self.plan.demand(name);
        let own = || Some(name.to_owned());
        if self.plan.kept.get(name) == Some(&Form::Narrow) {
            demand.wide = false;
        }
        let (wide, narrow) = match (demand.wide, demand.narrow) {
            (false, true) => (None, own()),
            (true, true) => (own(), Some(self.fresh(name, Form::Narrow))),
            _ => (own(), None),
        };
        let depth = self.written.len() - 1;
        self.values.insert(name.to_owned(), Names { wide: wide.clone(), narrow: narrow.clone(), depth });
        (wide, narrow)
    }

    fn fresh(&mut self, name: &str, form: Form) -> String {
        let dtype = dtype_name(self.dtype(form));
        self.names.fresh_name(&format!("{name}_{dtype}"))
    }

    /// The name under which a float32 value is read in a form; puts in a Cast where it has none yet.
    fn read(&mut self, name: &str, form: Form) -> String {
        let same = self.same.get(name).cloned();
        let name = same.as_deref().unwrap_or(name);
        let names = self
            .values
            .entry(name.to_owned())
            .or_insert_with(|| Names { wide: Some(name.to_owned()), ..Names::default() });
        let (own, other, depth) = match form {
            Form::Wide => (names.wide.clone(), names.narrow.clone(), names.depth),
            Form::Narrow => (names.narrow.clone(), names.wide.clone(), names.depth),
        };
        if let Some(own) = own {
            return own;
        }
        let new = self.fresh(name, form);
        self.cast(&other.unwrap_or_default(), &new, form, depth);
        if let Some(names) = self.values.get_mut(name) {
            *(if form == Form::Wide { &mut names.wide } else { &mut names.narrow }) = Some(new.clone());
        }
        new
    }

    fn cast(&mut self, from: &str, to: &str, form: Form, depth: usize) {
        let node = NodeProto {
            name: Some(self.names.fresh_name(&format!("{to}_cast"))),
            op_type: Some("Cast".into()),
            input: vec![from.to_owned()],
            output: vec![to.to_owned()],
            attribute: vec![attribute::int("to", self.dtype(form) as i64)],
            ..Default::default()
        };
        self.done.casts += 1;
        self.written[depth].push(node);
    }

    fn node(&mut self, node: &NodeProto) -> Result<()> {
        let i = self.next;
        self.next += 1;
        let mut new = node.clone();
        let groups = ties(node);
        let mut narrow = false;
        for (slot, name) in node.input.iter().enumerate() {
            if let Some(now) = self.renamed.get(name) {
                new.input[slot] = now.clone();
            }
            if !self.plan.is_float(name) {
                continue;
            }
            let tied = groups.iter().position(|t| t.sources.contains(&name.as_str()));
            let form = tied.map(|place| self.plan.tie(i, place)).or_else(|| self.plan.reads(i, slot));
            // What reads either form reads the one that is made.
            let form = form.unwrap_or(self.plan.made(name));
            narrow |= form == Form::Narrow;
            new.input[slot] = self.read(name, form);
        }
        if bodies_are_known(node) {
            self.bodies(i, &mut new)?;
        } else {
            self.next += self.plan.sites[i].inside;
        }
        if self.drop_cast(node) {
            self.done.dropped += 1;
            return Ok(());
        }
        narrow |= node.output.iter().any(|name| self.plan.is_float(name) && self.plan.made(name) == Form::Narrow);
        if narrow {
            *self.done.converted.entry(node.operator()).or_default() += 1;
        }
        // What was of the narrow type before it was cast need not be cast back.
        let source = node.is("Cast") && node.input_at(0).is_some_and(|x| self.plan.is_half(x));
        let source = new.input_at(0).filter(|_| source).map(str::to_owned);
        self.make(node, new)?;
        if let Some(names) = node.output_at(0).and_then(|o| self.values.get_mut(o)).filter(|_| source.is_some()) {
            names.narrow = names.narrow.take().or(source);
        }
        Ok(())
    }

    /// Leaves out a Cast whose value is there without it.
    fn drop_cast(&mut self, node: &NodeProto) -> bool {
        let (Some(input), Some(output)) = (node.input_at(0), node.output_at(0)) else { return false };
        if !node.is("Cast") || self.ends.contains(output) || self.plan.kept.contains_key(output) {
            return false;
        }
        let now = || self.renamed.get(input).cloned().unwrap_or_else(|| input.to_owned());
        match (self.plan.is_float(input), self.plan.is_float(output)) {
            (true, true) => {
                let root = self.same.get(input).cloned().unwrap_or_else(|| input.to_owned());
                self.same.insert(output.to_owned(), root);
            }
            (true, false) if self.plan.is_half(output) => {
                let own = self.read(input, Form::Narrow);
                self.renamed.insert(output.to_owned(), own);
            }
            (false, true) if self.plan.is_half(input) && self.plan.made(output) == Form::Narrow => {
                let (narrow, depth) = (Some(now()), self.written.len() - 1);
                self.values.insert(output.to_owned(), Names { wide: None, narrow, depth });
            }
            (false, false) if self.plan.is_half(input) && self.plan.is_half(output) => {
                let own = now();
                self.renamed.insert(output.to_owned(), own);
            }
            _ => return false,
        }
        true
    }

    /// Writes a node: its outputs under the names that they keep or get, and the types that it is told.
    fn make(&mut self, old: &NodeProto, mut new: NodeProto) -> Result<()> {
        let depth = self.written.len() - 1;
        let mut casts = Vec::new();
        for (place, name) in old.output.iter().enumerate().filter(|(_, n)| self.plan.is_float(n)) {
            let form = self.plan.made(name);
            let kept = self.plan.kept.get(name.as_str()).copied().unwrap_or(form);
            let own = if kept == form { name.clone() } else { self.fresh(name, form) };
            let other = (kept != form).then(|| name.clone());
            casts.extend(other.clone().map(|to| (own.clone(), to, kept)));
            let (wide, narrow) =
                if form == Form::Wide { (Some(own.clone()), other) } else { (other, Some(own.clone())) };
            self.values.insert(name.clone(), Names { wide, narrow, depth });
            new.output[place] = own;
            self.tell(old, &mut new, form)?;
        }
        self.written[depth].push(new);
        for (from, to, form) in casts {
            self.cast(&from, &to, form, depth);
        }
        Ok(())
    }

    /// States in the attributes of a node which type it makes.
    fn tell(&mut self, old: &NodeProto, new: &mut NodeProto, form: Form) -> Result<()> {
        let dtype = self.dtype(form);
        match Maker::of(old) {
            Some(Maker::Number { name, default }) => {
                let stated = old.int(name).is_some_and(|t| t != 0);
                let follows = old.is("DequantizeLinear") || default == Unstated::Float && form == Form::Wide;
                if stated || !follows {
                    new.set(attribute::int(name, dtype as i64));
                }
            }
            Some(Maker::Value) if form == Form::Narrow => self.tell_value(old, new)?,
            _ => {}
        }
        Ok(())
    }

    /// Rounds the number of a Constant or a ConstantOfShape.
    fn tell_value(&mut self, old: &NodeProto, new: &mut NodeProto) -> Result<()> {
        let label = || old.label();
        if let Some(sparse) = NodeExt::attribute(old, "sparse_value").and_then(|a| a.sparse_tensor.as_ref()) {
            let (sparse, lost) = narrowed_sparse(sparse, sparse_name(sparse), self.to).at(label)?;
            self.done.rounded.push(Rounded { name: old.title().to_owned(), ..lost });
            new.attribute.iter_mut().for_each(|a| a.sparse_tensor = Some(sparse.clone()));
            return Ok(());
        }
        let many = || old.floats("value_floats").map(|x| Tensor::from_f32(vec![x.len()], x.to_vec()));
        let one = || old.float("value_float").map(|x| Tensor::from_f32(vec![], vec![x]));
        let zero = || Tensor::from_f32(vec![1], vec![0.0]).to_proto("");
        let tensor = old.tensor("value").cloned().or_else(|| many().or_else(one).map(|t| t.to_proto("")));
        let tensor = tensor.unwrap_or_else(zero);
        let (tensor, lost) = narrowed(&tensor, tensor.name(), self.to, self.scratch).at(label)?;
        self.done.rounded.push(Rounded { name: old.title().to_owned(), ..lost });
        new.attribute.retain(|a| !matches!(a.name(), "value_float" | "value_floats"));
        new.set(attribute::tensor("value", tensor));
        Ok(())
    }

    /// Writes the bodies of a node.
    fn bodies(&mut self, i: usize, new: &mut NodeProto) -> Result<()> {
        let old = self.plan.sites[i].node;
        let groups = ties(old);
        let tied = |name: &str| groups.iter().position(|t| t.sources.contains(&name));
        let form = |name: &str| tied(name).map_or(Form::Wide, |place| self.plan.tie(i, place));
        let ends = |g: &GraphProto| g.output.iter().map(|v| form(v.name())).collect::<Vec<_>>();
        let ends: Vec<Vec<Form>> = old.subgraphs().map(ends).collect();
        let depth = self.written.len();
        for input in old.subgraphs().flat_map(|g| &g.input).filter(|v| self.plan.is_float(v.name())) {
            self.given(input.name(), self.plan.made(input.name()), depth);
        }
        let bodies = new.attribute.iter_mut().flat_map(AttributeExt::subgraphs_mut);
        for (body, ends) in bodies.zip(&ends) {
            *body = self.graph(body, ends)?;
        }
        Ok(())
    }
}
