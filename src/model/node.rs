//! Reading and making attributes of nodes.

use super::{AttributeProto, GraphProto, NodeProto, TensorProto, domain_of};
use crate::error::shortened;
use crate::proto::attribute_proto::AttributeType;

/// What is read off a node, without its graph.
pub trait NodeExt {
    /// The attribute of that name.
    fn attribute(&self, name: &str) -> Option<&AttributeProto>;
    /// The integer attribute of that name.
    fn int(&self, name: &str) -> Option<i64>;
    /// The float attribute of that name.
    fn float(&self, name: &str) -> Option<f32>;
    /// The list of integers of that name.
    fn ints(&self, name: &str) -> Option<&[i64]>;
    /// The list of floats of that name.
    fn floats(&self, name: &str) -> Option<&[f32]>;
    /// The string attribute of that name; bytes that are not UTF-8 count as absent.
    fn string(&self, name: &str) -> Option<&str>;
    /// The tensor attribute of that name.
    fn tensor(&self, name: &str) -> Option<&TensorProto>;
    /// Adds the attribute, or replaces the one of its name.
    fn set(&mut self, attribute: AttributeProto);
    /// Removes and returns the attribute of that name.
    fn take(&mut self, name: &str) -> Option<AttributeProto>;
    /// The input in that place; `None` where it is absent or left empty.
    fn input_at(&self, slot: usize) -> Option<&str>;
    /// The output in that place; `None` where it is absent or left empty.
    fn output_at(&self, slot: usize) -> Option<&str>;
    /// The operator with its domain unless that is ONNX's own: `Conv`, `com.microsoft.Gelu`.
    fn operator(&self) -> String;
    /// Whether the operator is this one of ONNX's own domain.
    fn is(&self, op_type: &str) -> bool;
    /// The subgraphs of the node.
    fn subgraphs(&self) -> impl Iterator<Item = &GraphProto>;
    /// Its name, or its first output where it has none.
    fn title(&self) -> &str;
    /// How messages name it: node `n` (Op), or by its first output where it has no name. What is longer than 120
    /// characters loses its middle: many reasons may name one node.
    fn label(&self) -> String;
}

impl NodeExt for NodeProto {
    fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.attribute.iter().find(|a| a.name() == name)
    }

    fn int(&self, name: &str) -> Option<i64> {
        NodeExt::attribute(self, name).and_then(|a| a.i)
    }

    fn float(&self, name: &str) -> Option<f32> {
        NodeExt::attribute(self, name).and_then(|a| a.f)
    }

    fn ints(&self, name: &str) -> Option<&[i64]> {
        NodeExt::attribute(self, name).map(|a| &a.ints[..])
    }

    fn floats(&self, name: &str) -> Option<&[f32]> {
        NodeExt::attribute(self, name).map(|a| &a.floats[..])
    }

    fn string(&self, name: &str) -> Option<&str> {
        NodeExt::attribute(self, name).and_then(|a| std::str::from_utf8(a.s.as_deref()?).ok())
    }

    fn tensor(&self, name: &str) -> Option<&TensorProto> {
        NodeExt::attribute(self, name).and_then(|a| a.t.as_ref())
    }

    fn set(&mut self, attribute: AttributeProto) {
        match self.attribute.iter_mut().find(|a| a.name() == attribute.name()) {
            Some(old) => *old = attribute,
            None => self.attribute.push(attribute),
        }
    }

    fn take(&mut self, name: &str) -> Option<AttributeProto> {
        let at = self.attribute.iter().position(|a| a.name() == name)?;
        Some(self.attribute.remove(at))
    }

    fn input_at(&self, slot: usize) -> Option<&str> {
        self.input.get(slot).map(String::as_str).filter(|s| !s.is_empty())
    }

    fn output_at(&self, slot: usize) -> Option<&str> {
        self.output.get(slot).map(String::as_str).filter(|s| !s.is_empty())
    }

    fn operator(&self) -> String {
        match domain_of(self.domain()) {
            "" => self.op_type().to_owned(),
            domain => format!("{domain}.{}", self.op_type()),
        }
    }

    fn is(&self, op_type: &str) -> bool {
        self.op_type() == op_type && domain_of(self.domain()).is_empty()
    }

    fn subgraphs(&self) -> impl Iterator<Item = &GraphProto> {
        self.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs))
    }

    fn title(&self) -> &str {
        if self.name().is_empty() { self.output_at(0).unwrap_or("") } else { self.name() }
    }

    fn label(&self) -> String {
        let short = |text: &str| shortened(text, 120).into_owned();
        let name = if self.name().is_empty() {
            format!("of `{}`", short(self.output.first().map_or("", String::as_str)))
        } else {
            format!("`{}`", short(self.name()))
        };
        format!("node {name} ({})", short(&self.operator()))
    }
}

/// Makes attributes.
pub mod attribute {
    use super::{AttributeProto, AttributeType, TensorProto};

    fn of(name: &str, kind: AttributeType) -> AttributeProto {
        AttributeProto { name: Some(name.to_owned()), r#type: Some(kind as i32), ..Default::default() }
    }

    /// An integer.
    pub fn int(name: &str, value: i64) -> AttributeProto {
        AttributeProto { i: Some(value), ..of(name, AttributeType::Int) }
    }

    /// A float.
    pub fn float(name: &str, value: f32) -> AttributeProto {
        AttributeProto { f: Some(value), ..of(name, AttributeType::Float) }
    }

    /// A list of integers.
    pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
        AttributeProto { ints: values.to_vec(), ..of(name, AttributeType::Ints) }
    }

    /// A list of floats.
    pub fn floats(name: &str, values: &[f32]) -> AttributeProto {
        AttributeProto { floats: values.to_vec(), ..of(name, AttributeType::Floats) }
    }

    /// A string.
    pub fn string(name: &str, value: &str) -> AttributeProto {
        AttributeProto { s: Some(value.as_bytes().to_vec()), ..of(name, AttributeType::String) }
    }

    /// A tensor.
    pub fn tensor(name: &str, value: TensorProto) -> AttributeProto {
        AttributeProto { t: Some(value), ..of(name, AttributeType::Tensor) }
    }
}

/// What is read off an attribute.
pub trait AttributeExt {
    /// The subgraphs it holds, to change them.
    fn subgraphs_mut(&mut self) -> impl Iterator<Item = &mut GraphProto>;
}

impl AttributeExt for AttributeProto {
    fn subgraphs_mut(&mut self) -> impl Iterator<Item = &mut GraphProto> {
        self.g.iter_mut().chain(&mut self.graphs)
    }
}
