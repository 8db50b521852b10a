//! What the values of a model are, its bodies included.

use std::collections::HashMap;

use crate::model::{DataType, GraphProto, NodeExt, NodeProto, TensorProto, ValueInfoProto, sparse_name};
use crate::schema::{self, Kind, ValueType, Version};

use super::sites::{Site, ties};

/// The types of values by their names, each of which means one value.
pub(super) type Types = HashMap<String, ValueType>;

/// The types of all values of a graph: as the file states them, of constants, and what follows from what operators take
/// and make. Values of which nothing tells are left out.
pub(super) fn types(graph: &GraphProto, sites: &[Site<'_>]) -> Types {
    let mut types = Types::new();
    stated(graph, &mut types);
    // What is made may be known by what reads it: there and back, until that tells nothing new.
    let mut news = true;
    while news {
        news = false;
        for site in sites.iter().chain(sites.iter().rev()) {
            news |= unify(site, &mut types);
        }
    }
    types
}

fn stated(graph: &GraphProto, types: &mut Types) {
    let kind = |v: &ValueInfoProto| Some((v.name().to_owned(), ValueType::of(v.r#type.as_ref()?)?));
    types.extend(graph.input.iter().chain(&graph.output).chain(&graph.value_info).filter_map(kind));
    let tensor = |name: &str, t: &TensorProto| {
        let dtype = DataType::try_from(t.data_type()).ok()?;
        Some((name.to_owned(), ValueType::Tensor(dtype)))
    };
    types.extend(graph.initializer.iter().filter_map(|t| tensor(t.name(), t)));
    types.extend(graph.sparse_initializer.iter().filter_map(|t| tensor(sparse_name(t), t.values.as_ref()?)));
    graph.node.iter().flat_map(|n| n.subgraphs()).for_each(|g| stated(g, types));
}

/// Gives the values of a node that must be of one type the type that is known of any; returns whether that was news.
fn unify(site: &Site<'_>, types: &mut Types) -> bool {
    let mut news = false;
    let mut tell = |name: &str, kind: ValueType, types: &mut Types| {
        if !name.is_empty() && !types.contains_key(name) {
            types.insert(name.to_owned(), kind);
            news = true;
        }
    };
    for tie in ties(site.node) {
        let all = || tie.sources.iter().chain(&tie.sinks);
        if let Some(kind) = all().find_map(|name| types.get(*name).copied()) {
            all().for_each(|name| tell(name, kind, types));
        }
    }
    let Some(version) = site.version else { return news };
    for variable in 0..version.variables() {
        let Some(kind) = bound(site.node, version, variable, types) else { continue };
        for name in with_variable(site.node, version, variable) {
            tell(name, kind, types);
        }
    }
    for (slot, name) in site.node.output.iter().enumerate() {
        if let Some(Kind::Is(kind)) = schema::parameter(&version.outputs, slot).map(|p| &p.kind) {
            tell(name, *kind, types);
        }
    }
    news
}

/// What a type variable of the node stands for.
pub(super) fn bound(node: &NodeProto, version: &Version, variable: usize, types: &Types) -> Option<ValueType> {
    let known = || with_variable(node, version, variable).find_map(|name| types.get(name).copied());
    let only = || version.types(variable).and_then(|(_, set)| set.only());
    known().or_else(|| made(node, version, variable, types)).or_else(only)
}

/// The values of the node that have the type variable, inputs first.
fn with_variable<'n>(node: &'n NodeProto, version: &Version, variable: usize) -> impl Iterator<Item = &'n str> {
    let of = move |values: &'n [String], parameters: &[schema::Parameter]| {
        let has = |i: usize| schema::parameter(parameters, i).is_some_and(|p| p.kind == Kind::Variable(variable));
        let names = values.iter().enumerate().filter(|(i, name)| !name.is_empty() && has(*i));
        names.map(|(_, name)| name.as_str()).collect::<Vec<_>>()
    };
    of(&node.input, &version.inputs).into_iter().chain(of(&node.output, &version.outputs))
}

/// The type of an output that an attribute states.
fn made(node: &NodeProto, version: &Version, variable: usize, types: &Types) -> Option<ValueType> {
    let of_output = version.outputs.first().is_some_and(|p| p.kind == Kind::Variable(variable));
    if !of_output || node.domain() != "" {
        return None;
    }
    let tensor = |t: i64| DataType::try_from(i32::try_from(t).ok()?).ok().map(ValueType::Tensor);
    let float = Some(ValueType::Tensor(DataType::Float));
    if let Some(attribute) = Maker::of(node) {
        return match attribute {
            Maker::Number { name, default } => match (node.int(name), default) {
                (Some(t), _) if t != 0 => tensor(t),
                (_, Unstated::Float) => float,
                (_, Unstated::Input(slot)) => types.get(node.input_at(slot)?).copied(),
            },
            Maker::Value => {
                let sparse = || NodeExt::attribute(node, "sparse_value")?.sparse_tensor.as_ref()?.values.as_ref();
                match node.tensor("value").or_else(sparse) {
                    Some(t) => tensor(t.data_type().into()),
                    None if node.is("ConstantOfShape") => float,
                    None if node.float("value_float").is_some() || node.floats("value_floats").is_some() => float,
                    None => None,
                }
            }
        };
    }
    None
}

/// How an operator is told the type of what it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    /// An integer attribute names it.
    Number {
        /// The attribute.
        name: &'static str,
        /// What is made without it.
        default: Unstated,
    },
    /// It is that of the tensor in an attribute: Constant and ConstantOfShape.
    Value,
}

/// What is made where nothing is stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unstated {
    /// float32.
    Float,
    /// The type of this input.
    Input(usize),
}

impl Maker {
    /// How the node is told it; `None` for operators whose outputs follow from their inputs.
    pub fn of(node: &NodeProto) -> Option<Maker> {
        let number = |name, default| Some(Maker::Number { name, default });
        if !node.is(node.op_type()) {
            return None;
        }
        match node.op_type() {
            "Constant" | "ConstantOfShape" => Some(Maker::Value),
            "Cast" => number("to", Unstated::Float),
            "RandomNormal" | "RandomUniform" => number("dtype", Unstated::Float),
            "RandomNormalLike" | "RandomUniformLike" | "EyeLike" | "Bernoulli" => number("dtype", Unstated::Input(0)),
            "BlackmanWindow" | "HammingWindow" | "HannWindow" | "MelWeightMatrix" => {
                number("output_datatype", Unstated::Float)
            }
            "DequantizeLinear" => number("output_dtype", Unstated::Input(1)),
            _ => None,
        }
    }
}
