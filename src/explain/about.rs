//! Everything that is known of one name.

use serde::Serialize;

use super::{ConstantFact, Explanation, ValueFact};
use crate::error::{Error, ErrorKind, Result};
use crate::quantize::NodeRow;

/// How alike a name must be to one that is not there to be proposed for it, from 0 to 1.
const ALIKE: f64 = 0.75;

/// The most names that are proposed.
const MOST: usize = 3;

/// Everything that is known of one name: a value, a constant, a node, or several of these.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct About {
    /// The name.
    pub name: String,
    /// Whether ranges are known.
    pub ranges_known: bool,
    /// The nodes: the one of that name, those that make or read the value, those that read the constant. In the graph's order.
    pub nodes: Vec<NodeRow>,
    /// The values: the one of that name, those that the node of that name makes and reads.
    pub values: Vec<ValueFact>,
    /// The constants: the one of that name at each place where it is read, those that the node of that name reads.
    pub constants: Vec<ConstantFact>,
}

impl Explanation {
    /// Everything that is known of a value, a constant or a node. Nodes go by their names, or their first outputs, behind those
    /// of the nodes around them.
    ///
    /// Errors when there is none of that name, with names that are near.
    pub fn about(&self, name: &str) -> Result<About> {
        let node = self.nodes.iter().any(|n| n.node == name);
        let reads = |v: &ValueFact| v.readers.iter().any(|r| r.node == name);
        let of_node = |v: &&ValueFact| node && (v.node.as_deref() == Some(name) || reads(v));
        let values: Vec<ValueFact> = self.values.iter().filter(|v| v.value == name || of_node(v)).cloned().collect();
        let constants: Vec<ConstantFact> =
            self.constants.iter().filter(|c| c.constant == name || (node && c.node == name)).cloned().collect();
        if !node && values.is_empty() && constants.is_empty() {
            return Err(self.unknown(name));
        }
        let touches = |n: &&NodeRow| {
            let of_value = |v: &ValueFact| {
                v.value == name && (v.node.as_deref() == Some(&n.node) || v.readers.iter().any(|r| r.node == n.node))
            };
            n.node == name
                || values.iter().any(of_value)
                || constants.iter().any(|c| c.constant == name && c.node == n.node)
        };
        let nodes = self.nodes.iter().filter(touches).cloned().collect();
        Ok(About { name: name.to_owned(), ranges_known: self.ranges_known, nodes, values, constants })
    }

    fn unknown(&self, name: &str) -> Error {
        let nodes = self.nodes.iter().map(|n| n.node.as_str());
        let values = self.values.iter().map(|v| v.value.as_str());
        let mut names: Vec<&str> =
            nodes.chain(values).chain(self.constants.iter().map(|c| c.constant.as_str())).collect();
        names.sort_unstable();
        names.dedup();
        let mut near: Vec<(f64, &str)> = names.into_iter().map(|n| (strsim::jaro_winkler(n, name), n)).collect();
        near.retain(|(alike, _)| *alike >= ALIKE);
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        let near: Vec<String> = near.iter().take(MOST).map(|(_, n)| format!("`{n}`")).collect();
        let error = Error::new(ErrorKind::Usage, format!("no value, weight or node is called `{name}`"));
        match near.is_empty() {
            true => error.hint("`qdq explain MODEL` lists all of them"),
            false => error.hint(format!("near it are {}", near.join(", "))),
        }
    }
}
