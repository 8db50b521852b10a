//! Attributes: that each holds one value, of the type it states.

use std::collections::HashSet;

use super::around::Around;
use super::graph::Scope;
use super::node::name_of;
use super::{Checker, Place, rules};
use crate::model::{AttributeProto, NodeProto};
use crate::proto::attribute_proto::AttributeType;

impl<'m> Checker<'m> {
    /// Checks the attributes of a node with the tensors and graphs in them; returns the names that the graphs read
    /// from around them.
    pub(super) fn attributes(
        &mut self,
        node: &'m NodeProto,
        place: &Place<'_>,
        scope: &Scope<'_, 'm>,
        around: &Around<'_, 'm>,
    ) -> HashSet<&'m str> {
        let mut captured = HashSet::new();
        let mut seen = HashSet::new();
        for a in &node.attribute {
            if a.name().is_empty() {
                self.add(&rules::ATTRIBUTE, place, "an attribute has no name");
            } else if !seen.insert(a.name()) {
                self.add(&rules::ATTRIBUTE_TWICE, place, format!("attribute `{}` stands twice", a.name()));
            }
            self.value_of(a, place);
            self.reference(a, place, around);
            let inside = Place::inside(Some(place), a.name());
            for tensor in a.t.iter().chain(&a.tensors) {
                self.tensor(tensor, &inside);
            }
            for tensor in a.sparse_tensor.iter().chain(&a.sparse_tensors) {
                self.sparse_tensor(tensor, &inside);
            }
            let inner = Around { depth: around.depth + 1, ..*around };
            for graph in a.g.iter().chain(&a.graphs) {
                captured.extend(self.graph(graph, Some(&inside), Some(scope), &inner));
            }
        }
        captured
    }

    /// Holds the type of an attribute against the fields that it fills.
    fn value_of(&mut self, a: &AttributeProto, place: &Place<'_>) {
        let name = a.name();
        let stated = match a.r#type.map(AttributeType::try_from) {
            Some(Ok(kind)) => Some(kind),
            None if self.ir < 2 => None,
            None => {
                self.add(&rules::ATTRIBUTE, place, format!("attribute `{name}` states no type"));
                None
            }
            Some(Err(_)) => {
                let number = a.r#type.unwrap_or_default();
                self.add(&rules::ATTRIBUTE, place, format!("{number}, the type of attribute `{name}`, is unknown"));
                None
            }
        };
        let filled = filled(a);
        if let [first, second, ..] = filled[..] {
            let (first, second) = (name_of(first), name_of(second));
            self.add(&rules::ATTRIBUTE, place, format!("attribute `{name}` holds {first} and {second}"));
        } else if let (Some(stated), [held]) = (stated, &filled[..])
            && stated != *held
        {
            let (stated, held) = (name_of(stated), name_of(*held));
            self.add(&rules::ATTRIBUTE, place, format!("attribute `{name}` states {stated} and holds {held}"));
        }
    }

    /// Checks an attribute that stands for one of the function around it.
    fn reference(&mut self, a: &AttributeProto, place: &Place<'_>, around: &Around<'_, 'm>) {
        let (name, meant) = (a.name(), a.ref_attr_name());
        if meant.is_empty() {
            return;
        }
        if !filled(a).is_empty() {
            let why = format!("attribute `{name}` stands for `{meant}` of the function, and holds a value too");
            self.add(&rules::ATTRIBUTE_REFERENCE, place, why);
        }
        let why = match around.function {
            None => "of a function, and is in none",
            Some(f)
                if f.attribute.iter().all(|a| a != meant) && f.attribute_proto.iter().all(|a| a.name() != meant) =>
            {
                "of the function, which has no such attribute"
            }
            Some(_) => return,
        };
        self.add(&rules::ATTRIBUTE_REFERENCE, place, format!("attribute `{name}` stands for `{meant}` {why}"));
    }
}

/// The types of the fields that hold something.
fn filled(a: &AttributeProto) -> Vec<AttributeType> {
    let fields = [
        (a.f.is_some(), AttributeType::Float),
        (a.i.is_some(), AttributeType::Int),
        (a.s.is_some(), AttributeType::String),
        (a.t.is_some(), AttributeType::Tensor),
        (a.g.is_some(), AttributeType::Graph),
        (a.tp.is_some(), AttributeType::TypeProto),
        (a.sparse_tensor.is_some(), AttributeType::SparseTensor),
        (!a.floats.is_empty(), AttributeType::Floats),
        (!a.ints.is_empty(), AttributeType::Ints),
        (!a.strings.is_empty(), AttributeType::Strings),
        (!a.tensors.is_empty(), AttributeType::Tensors),
        (!a.graphs.is_empty(), AttributeType::Graphs),
        (!a.sparse_tensors.is_empty(), AttributeType::SparseTensors),
        (!a.type_protos.is_empty(), AttributeType::TypeProtos),
    ];
    fields.into_iter().filter(|(holds, _)| *holds).map(|(_, kind)| kind).collect()
}
