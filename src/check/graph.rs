//! Graphs: what they declare, the order and names of their nodes, and what nothing uses.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use super::around::Around;
use super::{Checker, DEEPEST, Place, rules};
use crate::model::{
    DataType, GraphProto, NameFault, Names, NodeExt, NodeProto, TensorProto, ValueInfoProto, sparse_name,
};
use crate::proto::tensor_shape_proto::dimension::Value as Dim;
use crate::proto::{TypeProto, type_proto};
use crate::schema::ValueType;

/// What is known of the values at a point of a graph.
pub(super) struct Scope<'s, 'm> {
    outer: Option<&'s Scope<'s, 'm>>,
    pub names: Names<'s, 'm>,
    values: HashMap<&'m str, Known<'m>>,
    /// What the graph states of its values, and of those that its nodes make.
    declared: HashMap<&'m str, &'m TypeProto>,
}

/// What is known of a value.
#[derive(Clone, Copy, Default)]
struct Known<'m> {
    kind: Option<ValueType>,
    constant: Option<&'m TensorProto>,
}

impl<'s, 'm> Scope<'s, 'm> {
    pub fn inside(outer: Option<&'s Scope<'s, 'm>>) -> Scope<'s, 'm> {
        let names = Names::inside(outer.map(|o| &o.names));
        Scope { outer, names, values: HashMap::new(), declared: HashMap::new() }
    }

    fn known(&self, name: &str) -> Known<'m> {
        match self.values.get(name) {
            Some(&known) => known,
            None => self.outer.map(|o| o.known(name)).unwrap_or_default(),
        }
    }

    /// The type of the value, where it is stated or follows.
    pub fn kind(&self, name: &str) -> Option<ValueType> {
        self.known(name).kind
    }

    /// The value, where it is an initializer or comes from a Constant node.
    pub fn constant(&self, name: &str) -> Option<&'m TensorProto> {
        self.known(name).constant
    }

    /// The type that the graph states for the value.
    pub fn declared(&self, name: &str) -> Option<ValueType> {
        self.declared.get(name).and_then(|t| ValueType::of(t))
    }

    /// Notes the type of a value.
    pub fn note(&mut self, name: &'m str, kind: Option<ValueType>) {
        self.values.insert(name, Known { kind, constant: None });
    }

    /// Notes a constant.
    pub fn note_constant(&mut self, name: &'m str, tensor: &'m TensorProto) {
        let kind = DataType::try_from(tensor.data_type()).ok().filter(|&d| d != DataType::Undefined);
        self.values.insert(name, Known { kind: kind.map(ValueType::Tensor), constant: Some(tensor) });
    }

    /// Takes in the types that a list of values states.
    pub fn declare(&mut self, values: &'m [ValueInfoProto]) {
        self.declared.extend(values.iter().filter_map(|v| Some((v.name(), v.r#type.as_ref()?))));
    }
}

impl<'m> Checker<'m> {
    /// Checks a graph and all that is in it; returns the names that it reads from around it.
    pub(super) fn graph(
        &mut self,
        graph: &'m GraphProto,
        place: Option<&Place<'_>>,
        outer: Option<&Scope<'_, 'm>>,
        around: &Around<'_, 'm>,
    ) -> HashSet<&'m str> {
        let root = Place::new("graph");
        let whole = place.unwrap_or(&root);
        if around.depth > DEEPEST {
            self.add(&rules::NESTING, whole, format!("it is more than {DEEPEST} subgraphs deep"));
            return HashSet::new();
        }
        if graph.name().is_empty() {
            self.add(&rules::GRAPH_NAME, whole, "the graph has no name");
        }
        let mut scope = Scope::inside(outer);
        [&graph.value_info, &graph.output, &graph.input].into_iter().for_each(|list| scope.declare(list));
        let main = around.depth == 0;
        for value in &graph.input {
            let place = Place::inside(place, value.name());
            self.value(value, "input", main, &place);
            self.fault(scope.names.input(value.name()), &place);
            scope.note(value.name(), value.r#type.as_ref().and_then(ValueType::of));
        }
        self.initializers(graph, place, &mut scope);
        let mut captured = self.nodes(&graph.node, place, &mut scope, around);
        let mut outputs = HashSet::new();
        for value in &graph.output {
            let place = Place::inside(place, value.name());
            self.value(value, "output", main, &place);
            captured.faulty |= self.fault(scope.names.output(value.name()), &place);
            if !outputs.insert(value.name()) {
                self.add(&rules::OUTPUT_TWICE, &place, "it is listed twice among the outputs");
            }
        }
        self.unused(&graph.node, place, &captured, outputs.clone());
        let reads = graph.node.iter().flat_map(|n| &n.input).map(String::as_str);
        let used: HashSet<&str> = reads.chain(captured.all()).chain(outputs.iter().copied()).collect();
        let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
        for name in graph.initializer.iter().chain(sparse).map(|t| t.name()).filter(|n| !used.contains(n)) {
            if !name.is_empty() {
                self.add(&rules::UNUSED_INITIALIZER, &Place::inside(place, name), "nothing reads the initializer");
            }
        }
        captured.from_around.extend(outputs.into_iter().filter(|o| !scope.names.has(o)));
        captured.from_around
    }

    /// Tells of a broken rule of names; returns whether there is one.
    pub(super) fn fault(&mut self, fault: Option<NameFault<'_>>, place: &Place<'_>) -> bool {
        let Some(fault) = fault else { return false };
        let rule = match fault {
            NameFault::InputTwice(_) | NameFault::InitializerTwice(_) | NameFault::MadeTwice(_) => &rules::NAME_TWICE,
            NameFault::Shadows(_) => &rules::SHADOWING,
            NameFault::Hides(_) => &rules::HIDDEN_INITIALIZER,
            NameFault::TooEarly(_) => &rules::ORDER,
            NameFault::Missing(_) => &rules::READS_NOTHING,
            NameFault::OutputMissing(_) | NameFault::OutputFromAround(_) => &rules::GRAPH_OUTPUT,
        };
        self.add(rule, place, fault.to_string());
        true
    }

    fn initializers(&mut self, graph: &'m GraphProto, place: Option<&Place<'_>>, scope: &mut Scope<'_, 'm>) {
        for tensor in &graph.initializer {
            let name = tensor.name();
            let place = Place::inside(place, name);
            if name.is_empty() {
                self.add(&rules::INITIALIZER_NAME, &place, "an initializer has no name");
            } else if self.ir <= 3 && !scope.names.has(name) {
                let why = format!("the initializer is no graph input, as IR version {} wants", self.ir);
                self.add(&rules::INITIALIZER_INPUT, &place, why);
            }
            self.fault(scope.names.initializer(name), &place);
            self.tensor(tensor, &place);
            let stated = scope.kind(name);
            scope.note_constant(name, tensor);
            if let (Some(stated), Some(held)) = (stated, scope.kind(name))
                && stated != held
            {
                self.add(
                    &rules::TYPE,
                    &place,
                    format!("the input is stated as {stated}, and its initializer is {held}"),
                );
            }
        }
        for sparse in &graph.sparse_initializer {
            let name = sparse_name(sparse);
            let place = Place::inside(place, name);
            if name.is_empty() {
                self.add(&rules::INITIALIZER_NAME, &place, "a sparse initializer has no name");
            }
            self.fault(scope.names.initializer(name), &place);
            self.sparse_tensor(sparse, &place);
            scope.note(name, None);
        }
    }

    /// Checks nodes in their order.
    pub(super) fn nodes(
        &mut self,
        nodes: &'m [NodeProto],
        place: Option<&Place<'_>>,
        scope: &mut Scope<'_, 'm>,
        around: &Around<'_, 'm>,
    ) -> Captured<'m> {
        let mut captured = Captured::default();
        let made: OnceCell<HashSet<&str>> = OnceCell::new();
        let later = |name: &str| {
            let made = made.get_or_init(|| nodes.iter().flat_map(|n| &n.output).map(String::as_str).collect());
            made.contains(name)
        };
        let mut names = HashSet::new();
        for (i, node) in nodes.iter().enumerate() {
            let place = Place::inside(place, name_of(node));
            if !node.name().is_empty() && !names.insert(node.name()) {
                self.add(&rules::NODE_NAME, &place, "another node has the same name");
            }
            for name in node.input.iter().map(String::as_str) {
                captured.faulty |= self.fault(scope.names.read(name, || later(name)), &place);
                if !name.is_empty() && !scope.names.has(name) {
                    captured.from_around.insert(name);
                }
            }
            let inner = self.node(node, &place, scope, around);
            captured.from_around.extend(inner.iter().filter(|n| !scope.names.has(n)));
            if !inner.is_empty() {
                captured.by_node.insert(i, inner);
            }
            for name in node.output.iter().map(String::as_str) {
                captured.faulty |= self.fault(scope.names.make(name), &place);
            }
        }
        captured
    }

    /// Tells of nodes that nothing needs; `needed` is what is needed behind the last of them.
    pub(super) fn unused(
        &mut self,
        nodes: &'m [NodeProto],
        place: Option<&Place<'_>>,
        captured: &Captured<'m>,
        mut needed: HashSet<&'m str>,
    ) {
        if captured.faulty {
            return;
        }
        let mut unused = Vec::new();
        for (i, node) in nodes.iter().enumerate().rev() {
            if node.output.iter().any(|o| needed.contains(o.as_str())) {
                needed.extend(node.input.iter().map(String::as_str).filter(|n| !n.is_empty()));
                needed.extend(captured.by_node.get(&i).into_iter().flatten());
            } else {
                unused.push(node);
            }
        }
        for node in unused.into_iter().rev() {
            self.add(&rules::UNUSED_NODE, &Place::inside(place, name_of(node)), "nothing needs what the node makes");
        }
    }

    /// Checks what a graph states of an input or output. `main`: of the model's own graph, which must state it.
    fn value(&mut self, value: &ValueInfoProto, what: &str, main: bool, place: &Place<'_>) {
        if value.name().is_empty() {
            self.add(&rules::VALUE_TYPE, place, format!("an {what} of the graph has no name"));
        }
        if !main {
            return;
        }
        let mut miss = |missing: &str| self.add(&rules::VALUE_TYPE, place, format!("the {what} states no {missing}"));
        let Some(kind) = value.r#type.as_ref().and_then(|t| t.value.as_ref()) else { return miss("type") };
        let (element, shape) = match kind {
            type_proto::Value::TensorType(t) => (t.elem_type, Some(&t.shape)),
            type_proto::Value::SparseTensorType(t) => (t.elem_type, Some(&t.shape)),
            type_proto::Value::OptionalType(o) => {
                return if o.elem_type.is_none() {
                    miss("element type")
                };
            }
            type_proto::Value::SequenceType(s) => {
                return if s.elem_type.is_none() {
                    miss("element type")
                };
            }
            type_proto::Value::MapType(m) => {
                if m.key_type.is_none() {
                    miss("key type");
                }
                return if m.value_type.is_none() {
                    miss("value type")
                };
            }
            type_proto::Value::OpaqueType(o) => {
                return if o.name().is_empty() {
                    miss("name of its opaque type")
                };
            }
        };
        if element.is_none_or(|e| e == 0) {
            miss("element type");
        } else if let Some(e) = element.filter(|&e| DataType::try_from(e).is_err()) {
            self.add(&rules::VALUE_TYPE, place, format!("the {what} is of element type {e}, which ONNX does not have"));
        }
        match shape {
            Some(Some(shape)) => {
                for (axis, n) in shape.dim.iter().enumerate() {
                    if let Some(Dim::DimValue(n)) = n.value.as_ref().filter(|v| matches!(v, Dim::DimValue(..0))) {
                        self.add(&rules::DIMENSION, place, format!("dimension {axis} of the {what} is {n}"));
                    }
                }
            }
            _ => self.add(&rules::VALUE_TYPE, place, format!("the {what} states no shape")),
        }
    }
}

/// What the nodes of a graph read from around it.
#[derive(Default)]
pub(super) struct Captured<'m> {
    /// All nodes together.
    pub from_around: HashSet<&'m str>,
    /// What the subgraphs of a node read from this graph and those around it, by the node's place.
    by_node: HashMap<usize, HashSet<&'m str>>,
    /// Whether a rule of names is broken, so that nothing can be said of what is needed.
    pub faulty: bool,
}

impl<'m> Captured<'m> {
    /// What the subgraphs of all nodes read.
    fn all(&self) -> impl Iterator<Item = &'m str> + '_ {
        self.by_node.values().flatten().copied()
    }
}

/// What a node is called in places.
fn name_of(node: &NodeProto) -> &str {
    match (node.name(), node.output_at(0)) {
        ("", Some(output)) => output,
        ("", None) => node.op_type(),
        (name, _) => name,
    }
}
