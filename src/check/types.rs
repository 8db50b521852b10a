//! The types of values: what they are, and whether operators take them.
//!
//! A type is known where the file states it, of constants, and of what a node makes of known types: outputs that share a
//! type variable with an input, and those of one type only. What is not known is not judged.

use super::graph::Scope;
use super::{Checker, Place, rules};
use crate::model::{DataType, NodeExt, NodeProto};
use crate::schema::{self, Kind, ValueType, Version};

impl<'m> Checker<'m> {
    /// Holds the types of a node's inputs against its operator, and notes those of its outputs.
    pub(super) fn types(
        &mut self,
        node: &'m NodeProto,
        version: Option<&Version>,
        place: &Place<'_>,
        scope: &mut Scope<'_, 'm>,
    ) {
        let bound = version.map(|v| self.inputs(node, v, place, scope)).unwrap_or_default();
        for (i, name) in node.output.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
            let declared = scope.declared(name);
            let made = version.and_then(|v| made(node, v, i, &bound));
            if let (Some(declared), Some(made)) = (declared, made)
                && declared != made
            {
                let why = format!("the value `{name}` is stated as {declared}, and the node makes {made}");
                self.add(&rules::TYPE, place, why);
            }
            match NodeExt::tensor(node, "value").filter(|_| node.is("Constant") && i == 0) {
                Some(tensor) => scope.note_constant(name, tensor),
                None => scope.note(name, made.or(declared)),
            }
        }
    }

    /// Checks the types of the inputs; returns what the type variables stand for.
    fn inputs(
        &mut self,
        node: &NodeProto,
        version: &Version,
        place: &Place<'_>,
        scope: &Scope<'_, 'm>,
    ) -> Vec<(usize, ValueType)> {
        let mut bound: Vec<(usize, ValueType)> = Vec::new();
        let op = || format!("`{}` of opset {}", node.operator(), version.since);
        for (i, name) in node.input.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
            let (Some(p), Some(found)) = (schema::parameter(&version.inputs, i), scope.kind(name)) else { continue };
            let why = match p.kind {
                Kind::Any => continue,
                Kind::Is(wanted) if wanted == found => continue,
                Kind::Is(wanted) => format!("takes {wanted}"),
                Kind::Variable(v) => match (bound.iter().find(|(b, _)| *b == v), version.types(v)) {
                    (Some((_, other)), _) if *other == found => continue,
                    (Some((_, other)), Some((variable, _))) => {
                        format!("takes {other}, as other inputs of type {variable} are")
                    }
                    (None, Some((_, types))) if types.has(found) => {
                        bound.push((v, found));
                        continue;
                    }
                    (None, Some((_, types))) => format!("takes {types}"),
                    (_, None) => continue,
                },
            };
            self.add(&rules::TYPE, place, format!("input `{name}` is {found}, and `{}` of {} {why}", p.name, op()));
        }
        bound
    }
}

/// The type of what the node makes in that place, where it follows.
fn made(node: &NodeProto, version: &Version, place: usize, bound: &[(usize, ValueType)]) -> Option<ValueType> {
    match schema::parameter(&version.outputs, place)?.kind {
        Kind::Is(kind) => Some(kind),
        Kind::Any => None,
        Kind::Variable(v) => match bound.iter().find(|(b, _)| *b == v) {
            Some((_, kind)) => Some(*kind),
            None if node.is("Cast") => {
                let to = DataType::try_from(i32::try_from(node.int("to")?).ok()?).ok()?;
                (to != DataType::Undefined).then_some(ValueType::Tensor(to))
            }
            None => version.types(v).and_then(|(_, types)| types.only()),
        },
    }
}
