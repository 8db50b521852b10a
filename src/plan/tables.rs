//! Tables whose rows Gather picks, and the layers that they are the weights of too: one tensor is stored for both.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ChosenCodes, ConstantDecision, Part};
use crate::error;
use crate::model::{Graph, NodeExt, NodeId, Use};
use crate::rule::{Twin, twins};

/// Which of the constants that are to become codes are stored as one.
#[derive(Default)]
pub(super) struct Tied {
    twins: BTreeMap<String, Twin>,
    /// The first layer whose weight is a table that is picked from, by the table's name.
    layers: BTreeMap<String, (NodeId, Use)>,
}

impl Tied {
    /// Those among the constants that these nodes read as codes, each with the place where its constant is read.
    pub fn of(graph: &Graph, nodes: &[(NodeId, Use)]) -> error::Result<Tied> {
        let picks = |id: &NodeId| graph.node(*id).is_some_and(|n| n.is("Gather"));
        let read = |at: &Use| graph.node(at.node).and_then(|n| n.input_at(at.slot));
        if !nodes.iter().any(|(id, _)| picks(id)) {
            return Ok(Tied::default());
        }
        let mut twins = twins(graph)?;
        let homes = |picked: bool| {
            let of_kind = nodes.iter().filter(move |(id, _)| picks(id) == picked);
            of_kind.filter_map(|&(id, at)| Some((read(&at)?, id, at)))
        };
        let home = |name: &str| twins.get(name).map_or(name, |twin| &twin.table).to_owned();
        let tables: Vec<String> = homes(true).map(|(name, ..)| home(name)).collect();
        let mut layers = BTreeMap::new();
        for (name, id, at) in homes(false) {
            if tables.contains(&home(name)) {
                layers.entry(home(name)).or_insert((id, at));
            }
        }
        // A table that stays float is not stored for anyone.
        twins.retain(|_, twin| tables.contains(&twin.table));
        Ok(Tied { twins, layers })
    }

    /// The table that is stored in the place of a constant.
    pub fn twin(&self, constant: &str) -> Option<&Twin> {
        self.twins.get(constant)
    }

    /// The layer with whose weight a constant is stored.
    pub fn layer(&self, constant: &str) -> Option<(NodeId, Use)> {
        self.layers.get(self.home(constant)).copied()
    }

    /// The decision for a table with which a constant is stored, where rows are picked from it as codes.
    pub fn operand<'p>(
        &self,
        constant: &str,
        constants: &'p BTreeMap<Use, ConstantDecision>,
    ) -> Option<&'p ConstantDecision> {
        self.layer(constant)?;
        let home = self.home(constant);
        constants.values().find(|d| d.part == Part::Operand && self.home(&d.initializer) == home)
    }

    /// That the table from which a node picks rows as codes is stored apart from the weight that it is too, if it is.
    pub fn apart(&self, graph: &Graph, id: NodeId, constants: &BTreeMap<Use, ConstantDecision>) -> Option<String> {
        let at = Use { node: id, slot: 0 };
        let (layer, place) = self.leads(graph, id, at)?;
        let stored = |at: &Use| constants.get(at).and_then(|d| d.stored(graph)).map(|d| (d.initializer, d.params));
        let label = graph.label(layer);
        (stored(&at) != stored(&place))
            .then(|| format!("; its table is stored apart from the weight of {label}, which has scales of its own"))
    }

    /// The name under which a constant is stored.
    fn home<'n>(&'n self, constant: &'n str) -> &'n str {
        self.twins.get(constant).map_or(constant, |twin| &twin.table)
    }

    /// The layer that decides how the table that a node picks rows from is stored.
    pub fn leads(&self, graph: &Graph, id: NodeId, at: Use) -> Option<(NodeId, Use)> {
        let node = graph.node(id).filter(|n| n.is("Gather"))?;
        self.layer(node.input_at(at.slot)?)
    }

    /// How the table that a node picks rows from is stored with the weight of the layer that leads, and that in words; or why it
    /// stays float.
    pub fn follow(
        &self,
        graph: &Graph,
        id: NodeId,
        at: Use,
        layers: &BTreeMap<Use, impl Borrow<ConstantDecision>>,
    ) -> Result<(ConstantDecision, String), String> {
        let name = graph.node(id).and_then(|n| n.input_at(at.slot)).unwrap_or_default();
        let (layer, place) = self.leads(graph, id, at).ok_or("no layer reads its table")?;
        let label = graph.label(layer);
        let decision =
            layers.get(&place).ok_or_else(|| format!("its table is the weight of {label}, which stays float"))?;
        let decision = ConstantDecision::for_table(graph, decision.borrow(), name, self.twin(name));
        let decision = decision.ok_or_else(|| format!("{label} has the codes of its table in blocks"))?;
        Ok((decision, format!("its table is stored once, as the codes of the weight of {label}")))
    }
}

impl ConstantDecision {
    /// As what it is stored: itself, or the table that holds the same numbers. `None` where its parameters lie in blocks, which
    /// are not turned with it.
    pub(crate) fn stored(&self, graph: &Graph) -> Option<ConstantDecision> {
        let Some(twin) = &self.twin else { return Some(self.clone()) };
        let decision = match twin.turned {
            true => self.turned(graph.constant_dims(&self.initializer)?)?,
            false => self.clone(),
        };
        Some(ConstantDecision { initializer: twin.table.clone(), twin: None, ..decision })
    }

    /// The decision for a table that is read at another place, by that for the layer which it is stored with.
    pub(super) fn for_table(graph: &Graph, layer: &ConstantDecision, name: &str, twin: Option<&Twin>) -> Option<Self> {
        let home = layer.stored(graph)?;
        let decision = match twin {
            Some(twin) if twin.turned => home.turned(graph.constant_dims(&twin.table)?)?,
            _ => home,
        };
        Some(ConstantDecision { initializer: name.to_owned(), twin: twin.cloned(), part: Part::Weight, ..decision })
    }

    /// That for a matrix of this shape, for the one with its axes exchanged.
    fn turned(&self, dims: &[i64]) -> Option<ConstantDecision> {
        let &[rows, columns] = dims else { return None };
        let (rows, columns) = (usize::try_from(rows).ok()?, usize::try_from(columns).ok()?);
        let turn =
            |codes: &Arc<[i32]>| (0..columns).flat_map(|c| (0..rows).map(move |r| codes[r * columns + c])).collect();
        let chosen = self.chosen.as_ref().map(|c| ChosenCodes { codes: turn(&c.codes), shift: c.shift.clone() });
        Some(ConstantDecision { params: self.params.transposed()?, chosen, ..self.clone() })
    }
}

/// Lets tables, and what else is stored as one with the weights of layers for which something else was decided, follow these.
pub(super) fn follow(graph: &Graph, layers: &[ConstantDecision], constants: &mut BTreeMap<Use, ConstantDecision>) {
    let home = |d: &ConstantDecision| d.twin.as_ref().map_or(&d.initializer, |twin| &twin.table).clone();
    let homes: BTreeMap<String, &ConstantDecision> = layers.iter().rev().map(|layer| (home(layer), layer)).collect();
    for decision in constants.values_mut().filter(|d| d.part == Part::Weight) {
        let layer = homes.get(&home(decision)).filter(|layer| layer.initializer != decision.initializer);
        let led =
            layer.and_then(|l| ConstantDecision::for_table(graph, l, &decision.initializer, decision.twin.as_ref()));
        if let Some(led) = led {
            *decision = led;
        }
    }
}
