//! What a model says of itself.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::walk::Walk;
use super::weights::parameters;
use crate::error::{Result, listed};
use crate::model::{Dim, InputSpec, Model, NodeExt, ValueInfoProto, dtype_name};
use crate::proto::type_proto;

/// The model as a whole.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelFacts {
    /// The version of ONNX's file format.
    pub ir_version: i64,
    /// The operator sets it imports, in the file's order.
    pub opsets: Vec<Opset>,
    /// Who made the file; empty if it does not say.
    pub producer: String,
    /// The maker's version; empty if the file does not say.
    pub producer_version: String,
    /// What it takes, without initializers that are listed among the inputs.
    pub inputs: Vec<ValueFact>,
    /// What it gives.
    pub outputs: Vec<ValueFact>,
    /// Elements of float constants and of codes that stand for floats, scales and zero points left out. Of sparse
    /// tensors those that are stored.
    pub parameters: u64,
    /// Bytes of all constants: weights, scales, shapes and indices, in initializers and in Constant nodes.
    pub constant_bytes: u64,
    /// How many nodes there are, those in subgraphs and functions included.
    pub nodes: usize,
    /// How many nodes of each operator there are, the most frequent first.
    pub operators: Vec<OperatorCount>,
    /// The functions that the model defines, as `domain.name`.
    pub functions: Vec<String>,
    /// The entries of metadata_props that qdq wrote: those whose key begins with `qdq`.
    pub metadata: BTreeMap<String, String>,
}

/// An operator set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Opset {
    /// Its domain, `ai.onnx` for ONNX's own.
    pub domain: String,
    /// Its version.
    pub version: i64,
}

/// How often an operator occurs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OperatorCount {
    /// The operator, with its domain unless that is ONNX's own.
    pub operator: String,
    /// How many nodes there are of it.
    pub count: usize,
}

/// An input or an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ValueFact {
    /// Its name.
    pub name: String,
    /// Its element type, or what it is if it is no dense tensor; `None` where the file does not say.
    pub dtype: Option<String>,
    /// Its dimensions: sizes and symbols, `?` where there is neither; `None` where even their number is open.
    pub shape: Option<Vec<Extent>>,
}

/// One dimension of an input or an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Extent {
    /// Always this size.
    Size(usize),
    /// Any size, under this name.
    Symbol(String),
}

impl fmt::Display for ValueFact {
    /// `input: float32 [batch, 3, 224, 224]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(dtype) = &self.dtype {
            write!(f, ": {dtype}")?;
        }
        let Some(shape) = &self.shape else { return Ok(()) };
        let dims: Vec<String> = shape
            .iter()
            .map(|d| match d {
                Extent::Size(n) => n.to_string(),
                Extent::Symbol(s) => s.clone(),
            })
            .collect();
        write!(f, " {}", listed(&dims))
    }
}

impl ValueFact {
    fn of(info: &ValueInfoProto) -> ValueFact {
        if let Ok(spec) = InputSpec::of(info) {
            let extent = |d: Dim| match d {
                Dim::Fixed(n) => Extent::Size(n),
                Dim::Symbol(s) if s.is_empty() => Extent::Symbol("?".to_owned()),
                Dim::Symbol(s) => Extent::Symbol(s),
            };
            let shape = spec.shape.map(|s| s.into_iter().map(extent).collect());
            return ValueFact { name: spec.name, dtype: Some(dtype_name(spec.dtype).to_owned()), shape };
        }
        let kind = info.r#type.as_ref().and_then(|t| t.value.as_ref()).map(|v| match v {
            type_proto::Value::TensorType(_) => "tensor",
            type_proto::Value::SequenceType(_) => "sequence",
            type_proto::Value::MapType(_) => "map",
            type_proto::Value::OptionalType(_) => "optional",
            type_proto::Value::SparseTensorType(_) => "sparse tensor",
            type_proto::Value::OpaqueType(_) => "opaque",
        });
        ValueFact { name: info.name().to_owned(), dtype: kind.map(str::to_owned), shape: None }
    }
}

/// The facts of a model. Errors when the data of a constant do not fit its shape.
pub(super) fn of(model: &Model, walk: &Walk<'_>) -> Result<ModelFacts> {
    let meta = model.metadata();
    let graph = &model.graph;
    let mut constant_bytes = 0u64;
    for constant in &walk.constants {
        constant_bytes = constant_bytes.saturating_add(constant.bytes()?.unwrap_or(0));
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for site in &walk.sites {
        *counts.entry(site.node.operator()).or_default() += 1;
    }
    let mut operators: Vec<OperatorCount> =
        counts.into_iter().map(|(operator, count)| OperatorCount { operator, count }).collect();
    // Stable: operators of one count stay in alphabetical order.
    operators.sort_by_key(|o| std::cmp::Reverse(o.count));
    let opset = |domain: &str, version| {
        let domain = if domain.is_empty() { "ai.onnx" } else { domain };
        Opset { domain: domain.to_owned(), version }
    };
    Ok(ModelFacts {
        ir_version: meta.ir_version(),
        opsets: meta.opset_import.iter().map(|o| opset(o.domain(), o.version())).collect(),
        producer: meta.producer_name().to_owned(),
        producer_version: meta.producer_version().to_owned(),
        inputs: graph.inputs().iter().filter(|v| !graph.is_constant(v.name())).map(ValueFact::of).collect(),
        outputs: graph.outputs().iter().map(ValueFact::of).collect(),
        parameters: parameters(walk)?,
        constant_bytes,
        nodes: walk.sites.len(),
        operators,
        functions: model.functions().collect(),
        metadata: meta
            .metadata_props
            .iter()
            .filter(|p| p.key().starts_with("qdq"))
            .map(|p| (p.key().to_owned(), p.value().to_owned()))
            .collect(),
    })
}
