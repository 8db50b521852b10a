//! The rules of names: every value has one producer, which comes before its readers (docs/IR.md of ONNX, "Graphs" and
//! "Names Within a Graph").
//!
//! [`Names`] knows what can be read at a point of a graph; whoever walks a graph in its order asks it of every name.
//! [`Graph::check`](super::Graph::check) stops at the first broken rule that matters, [`check`](crate::check) lists all.

use std::collections::HashMap;
use std::fmt;

use super::{GraphProto, NodeExt, NodeProto, sparse_name};
use crate::error::{Error, ErrorKind, Place, Result};

/// What can be read at a point of a graph: inputs, initializers, what the nodes before have made, and the names around
/// the graph.
pub struct Names<'s, 'm> {
    around: Option<&'s Names<'s, 'm>>,
    here: HashMap<&'m str, Source>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Input,
    Initializer,
    Node,
}

/// A rule of names that is broken, and for which name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFault<'m> {
    /// Two inputs of the graph have the name.
    InputTwice(&'m str),
    /// Two initializers of the graph have it.
    InitializerTwice(&'m str),
    /// A node makes it, and so does something before in the same graph.
    MadeTwice(&'m str),
    /// A node makes it in a graph that is inside of one where it is known.
    Shadows(&'m str),
    /// It is an initializer in a graph that is inside of one where it is another initializer.
    Hides(&'m str),
    /// It is read, and made further on.
    TooEarly(&'m str),
    /// It is read, and nothing makes it.
    Missing(&'m str),
    /// It is an output of the graph, and nothing makes it.
    OutputMissing(&'m str),
    /// It is an output of the graph, and comes from around it.
    OutputFromAround(&'m str),
}

use NameFault::{
    Hides, InitializerTwice, InputTwice, MadeTwice, Missing, OutputFromAround, OutputMissing, Shadows, TooEarly,
};

impl NameFault<'_> {
    /// Whether the graph still means one thing: the innermost value of a name is the one that is read. Of an initializer
    /// that hides another, ONNX Runtime reads the outer one, and other engines the inner.
    pub fn is_harmless(self) -> bool {
        matches!(self, Shadows(_) | OutputFromAround(_))
    }
}

impl fmt::Display for NameFault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InputTwice(name) => write!(f, "two inputs are named `{name}`"),
            InitializerTwice(name) => write!(f, "two initializers are named `{name}`"),
            MadeTwice(name) => write!(f, "`{name}` is produced twice"),
            Shadows(name) => write!(f, "produces `{name}`, which the graph around it has too"),
            Hides(name) => write!(f, "the initializer `{name}` hides one of the graph around it"),
            TooEarly(name) => write!(f, "reads `{name}`, before it is produced"),
            Missing(name) => write!(f, "reads `{name}`, which nothing produces"),
            OutputMissing(name) => write!(f, "nothing produces the graph output `{name}`"),
            OutputFromAround(name) => write!(f, "the output `{name}` is a value of the graph around it"),
        }
    }
}

impl<'s, 'm> Names<'s, 'm> {
    /// The names at the start of a graph, which is inside of another or not.
    pub fn inside(around: Option<&'s Names<'s, 'm>>) -> Self {
        Names { around, here: HashMap::new() }
    }

    /// Takes in an input of the graph.
    pub fn input(&mut self, name: &'m str) -> Option<NameFault<'m>> {
        let before = self.here.insert(name, Source::Input);
        (before.is_some() && !name.is_empty()).then_some(InputTwice(name))
    }

    /// Takes in an initializer, which may stand for an input.
    pub fn initializer(&mut self, name: &'m str) -> Option<NameFault<'m>> {
        let before = self.here.insert(name, Source::Initializer);
        match before {
            _ if name.is_empty() => None,
            Some(Source::Initializer) => Some(InitializerTwice(name)),
            _ => self.around.filter(|a| a.source(name) == Some(Source::Initializer)).map(|_| Hides(name)),
        }
    }

    /// Whether the graph itself has the name.
    pub fn has(&self, name: &str) -> bool {
        self.here.contains_key(name)
    }

    /// Where the name comes from that is read here.
    fn source(&self, name: &str) -> Option<Source> {
        self.here.get(name).copied().or_else(|| self.around?.source(name))
    }

    /// Whether the name can be read here.
    pub fn knows(&self, name: &str) -> bool {
        self.has(name) || self.around.is_some_and(|a| a.knows(name))
    }

    /// What is wrong with reading the name here; `later` tells whether a node further on in the graph makes it.
    pub fn read(&self, name: &'m str, later: impl FnOnce() -> bool) -> Option<NameFault<'m>> {
        if name.is_empty() || self.knows(name) {
            return None;
        }
        Some(if later() { TooEarly(name) } else { Missing(name) })
    }

    /// Takes in what a node makes.
    pub fn make(&mut self, name: &'m str) -> Option<NameFault<'m>> {
        if name.is_empty() {
            return None;
        }
        if self.here.insert(name, Source::Node).is_some() {
            return Some(MadeTwice(name));
        }
        self.around.is_some_and(|a| a.knows(name)).then_some(Shadows(name))
    }

    /// What is wrong with an output of the graph of that name.
    pub fn output(&self, name: &'m str) -> Option<NameFault<'m>> {
        match (self.has(name), self.knows(name)) {
            (true, _) => None,
            (false, true) => Some(OutputFromAround(name)),
            (false, false) => Some(OutputMissing(name)),
        }
    }
}

/// Holds a graph and its subgraphs to the rules; `frame` has its inputs and outputs. Errors for the first broken rule
/// that is not harmless, and names the nodes it is in.
pub(super) fn hold<'m>(
    around: Option<&Names<'_, 'm>>,
    frame: &'m GraphProto,
    mut initializers: impl Iterator<Item = &'m str>,
    nodes: impl Iterator<Item = &'m NodeProto> + Clone,
) -> Result<()> {
    let mut names = Names::inside(around);
    frame.input.iter().try_for_each(|v| refuse(names.input(v.name())))?;
    initializers.try_for_each(|name| refuse(names.initializer(name)))?;
    for node in nodes.clone() {
        let later = |name: &str| nodes.clone().any(|n| n.output.iter().any(|o| o == name));
        node.input.iter().try_for_each(|name| refuse(names.read(name, || later(name)))).at(|| node.label())?;
        for graph in node.subgraphs() {
            hold_inside(&names, graph).at(|| node.label())?;
        }
        node.output.iter().try_for_each(|name| refuse(names.make(name))).at(|| node.label())?;
    }
    frame.output.iter().try_for_each(|v| refuse(names.output(v.name())))
}

fn hold_inside<'m>(around: &Names<'_, 'm>, graph: &'m GraphProto) -> Result<()> {
    let initializers =
        graph.initializer.iter().map(|t| t.name()).chain(graph.sparse_initializer.iter().map(sparse_name));
    hold(Some(around), graph, initializers, graph.node.iter())
}

fn refuse(fault: Option<NameFault<'_>>) -> Result<()> {
    match fault.filter(|f| !f.is_harmless()) {
        Some(fault) => Err(Error::new(ErrorKind::InvalidModel, fault.to_string())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_from_where_they_are_made() {
        let mut outer = Names::inside(None);
        assert_eq!((outer.input("x"), outer.input("x")), (None, Some(InputTwice("x"))));
        assert_eq!((outer.initializer("x"), outer.initializer("x")), (None, Some(InitializerTwice("x"))));
        assert_eq!(outer.read("", || false), None);
        assert_eq!(outer.read("a", || true), Some(TooEarly("a")));
        assert_eq!(outer.read("a", || false), Some(Missing("a")));
        assert_eq!((outer.make("a"), outer.make("a"), outer.make("")), (None, Some(MadeTwice("a")), None));
        let mut inner = Names::inside(Some(&outer));
        assert_eq!(inner.initializer("x"), Some(Hides("x")));
        let mut inner = Names::inside(Some(&outer));
        assert_eq!((inner.read("a", || false), inner.output("a")), (None, Some(OutputFromAround("a"))));
        assert_eq!((inner.input("x"), inner.make("a")), (None, Some(Shadows("a"))));
        assert_eq!((inner.output("a"), inner.output("b")), (None, Some(OutputMissing("b"))));
    }
}
