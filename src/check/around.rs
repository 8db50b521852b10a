//! What is around a graph: the operator sets that it is in, and the function.

use std::collections::HashMap;

use crate::model::{domain_of, imported};
use crate::proto::{FunctionProto, OperatorSetIdProto};

/// What is around a graph.
#[derive(Clone, Copy)]
pub(super) struct Around<'a, 'm> {
    /// The operator sets that its nodes are of.
    pub imports: &'a Imports<'m>,
    /// The function that it is in, or whose body it is.
    pub function: Option<&'m FunctionProto>,
    /// How many subgraphs deep it is.
    pub depth: usize,
}

impl<'a, 'm> Around<'a, 'm> {
    /// Around the graph of a model.
    pub fn model(imports: &'a Imports<'m>) -> Around<'a, 'm> {
        Around { imports, function: None, depth: 0 }
    }

    /// Around the body of a function.
    pub fn function(imports: &'a Imports<'m>, function: &'m FunctionProto) -> Around<'a, 'm> {
        Around { imports, function: Some(function), depth: 0 }
    }
}

/// The versions of operator sets that a model or function imports, by domain; that of ONNX is the empty one.
#[derive(Default)]
pub(super) struct Imports<'m>(pub HashMap<&'m str, i64>);

impl<'m> Imports<'m> {
    pub fn of(list: &'m [OperatorSetIdProto]) -> Imports<'m> {
        let domains = list.iter().map(|o| domain_of(o.domain()));
        Imports(domains.filter_map(|d| Some((d, imported(list, d)?))).collect())
    }

    pub fn version(&self, domain: &str) -> Option<i64> {
        self.0.get(domain_of(domain)).copied()
    }
}

/// What makes a function one: domain, name and overload.
pub(super) type Id<'m> = (&'m str, &'m str, &'m str);

/// The identity of a function.
pub(super) fn id_of(f: &FunctionProto) -> Id<'_> {
    (domain_of(f.domain()), f.name(), f.overload())
}
