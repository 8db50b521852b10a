//! Model-local functions and the nodes that call them.

use std::collections::{HashMap, HashSet};

use super::around::{Around, Id, Imports, id_of};
use super::graph::Scope;
use super::{Checker, Place, count, rules};
use crate::model::{ModelProto, NodeExt, NodeProto, domain_of};
use crate::proto::FunctionProto;
use crate::schema;

/// The identity of the function that a node would call.
pub(super) fn called(node: &NodeProto) -> Id<'_> {
    (domain_of(node.domain()), node.op_type(), node.overload())
}

/// Chains of calls that are longer than this are refused, as the checker of ONNX does (`kMaxFunctionCallDepth`).
const LONGEST_CHAIN: usize = 100;

impl<'m> Checker<'m> {
    /// Checks the functions of a model, which has these imports.
    pub(super) fn model_functions(&mut self, model: &'m ModelProto, mut imports: Imports<'m>) {
        if model.functions.is_empty() {
            return;
        }
        if self.ir < 8 {
            let why = format!("IR version {} knows no functions, and the model has {}", self.ir, model.functions.len());
            return self.add(&rules::UNUSED_FUNCTIONS, &Place::new("model"), why);
        }
        // A domain that only functions import has the version of the first that does.
        for import in model.functions.iter().flat_map(|f| &f.opset_import) {
            imports.0.entry(domain_of(import.domain())).or_insert(import.version());
        }
        let mut seen = HashSet::new();
        for f in &model.functions {
            let name = name_of(f);
            let place = Place::new(&name);
            if !seen.insert(id_of(f)) {
                self.add(&rules::FUNCTION, &place, "two functions have this domain, name and overload");
            }
            self.function(f, &place, &imports);
        }
        self.cycles(model);
    }

    fn function(&mut self, f: &'m FunctionProto, place: &Place<'_>, model_imports: &Imports<'m>) {
        if f.name().is_empty() {
            self.add(&rules::FUNCTION, place, "the function has no name");
        }
        if f.domain.is_none() {
            self.add(&rules::FUNCTION, place, "the function states no domain");
        }
        let mut scope = Scope::inside(None);
        scope.declare(&f.value_info);
        for input in &f.input {
            self.fault(scope.names.input(input), place);
            scope.note(input, scope.declared(input));
        }
        let attributes = f.attribute.iter().map(String::as_str).chain(f.attribute_proto.iter().map(|a| a.name()));
        for (what, twice) in
            [("output", repeated(f.output.iter().map(String::as_str))), ("attribute", repeated(attributes))]
        {
            for name in twice {
                self.add(&rules::FUNCTION, place, format!("{what} `{name}` of the function stands twice"));
            }
        }
        if f.opset_import.iter().any(|i| i.domain() == "ai.onnx") {
            self.add(
                &rules::SPELLING,
                place,
                "the function imports a domain that is written `ai.onnx`, which not all tools read",
            );
        }
        let imports = Imports::of(&f.opset_import);
        let mut told = HashSet::new();
        for node in &f.node {
            if let Some(why) = differs(node, &imports, model_imports).filter(|_| told.insert(node.operator())) {
                self.add(&rules::FUNCTION_OPSET, place, why);
            }
        }
        let mut captured = self.nodes(&f.node, Some(place), &mut scope, &Around::function(&imports, f));
        for output in f.output.iter().filter(|o| !scope.names.has(o)) {
            captured.faulty = true;
            self.add(&rules::FUNCTION, place, format!("nothing produces the output `{output}` of the function"));
        }
        self.unused(&f.node, Some(place), &captured, f.output.iter().map(String::as_str).collect());
    }

    /// Holds a node against the function that it calls.
    pub(super) fn call(&mut self, node: &NodeProto, f: &FunctionProto, place: &Place<'_>) {
        let op = node.operator();
        for (what, given, declared) in
            [("input", node.input.len(), f.input.len()), ("output", node.output.len(), f.output.len())]
        {
            if given > declared {
                let why = format!("the function `{op}` has {}, and the node {given}", count(declared, what));
                self.add(&rules::CALL, place, why);
            }
        }
    }

    /// Finds functions that call themselves, and chains of calls that are too long.
    fn cycles(&mut self, model: &'m ModelProto) {
        let mut calls: HashMap<Id<'_>, Vec<Id<'_>>> = HashMap::new();
        for f in &model.functions {
            let called = calls.entry(id_of(f)).or_default();
            callees(&f.node, &mut |id| called.push(id));
            called.retain(|id| self.functions.contains_key(id));
        }
        // How long the longest chain of calls from a function on is, with itself.
        let mut length: HashMap<Id<'_>, usize> = HashMap::new();
        for root in model.functions.iter().map(id_of) {
            // Depth first without recursion: the functions on the way, and how many of their callees were visited.
            let mut way = vec![(root, 0)];
            let mut on_way = HashSet::from([root]);
            while let Some((id, visited)) = way.last_mut() {
                let (id, callees) = (*id, calls.get(id).map_or(&[][..], Vec::as_slice));
                let next = callees.get(*visited).filter(|_| !length.contains_key(&id)).copied();
                *visited += 1;
                match next {
                    Some(callee) if on_way.contains(&callee) => {
                        let (name, callee) = (name_of_id(id), name_of_id(callee));
                        let why = format!("the function calls `{callee}`, which calls it");
                        self.add(&rules::FUNCTION_CYCLE, &Place::new(&name), why);
                    }
                    Some(callee) if length.contains_key(&callee) => {}
                    Some(callee) => {
                        on_way.insert(callee);
                        way.push((callee, 0));
                    }
                    None => {
                        on_way.remove(&id);
                        way.pop();
                        let longest = callees.iter().filter_map(|c| length.get(c)).max().map_or(1, |n| n + 1);
                        if length.insert(id, longest).is_none() && longest == LONGEST_CHAIN + 1 {
                            let name = name_of_id(id);
                            let why = format!("a chain of more than {LONGEST_CHAIN} calls begins at the function");
                            self.add(&rules::FUNCTION_CYCLE, &Place::new(&name), why);
                        }
                    }
                }
            }
        }
    }
}

/// What a node of a function is bound to differs between the imports of the function and those of the model.
fn differs(node: &NodeProto, function: &Imports<'_>, model: &Imports<'_>) -> Option<String> {
    let (here, there) = (function.version(node.domain())?, model.version(node.domain())?);
    let operator = schema::domain(domain_of(node.domain()))?.operator(node.op_type())?;
    let since = |opset| operator.at(opset).map(|v| v.since);
    (here != there && since(here) != since(there)).then(|| {
        let op = node.operator();
        format!("the function imports version {here} of `{op}`, and the model {there}, which is another operator")
    })
}

/// Hands over what nodes, and those in their subgraphs, may call.
fn callees<'m>(nodes: &'m [NodeProto], found: &mut impl FnMut(Id<'m>)) {
    for node in nodes {
        found(called(node));
        node.subgraphs().for_each(|g| callees(&g.node, found));
    }
}

fn repeated<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    names.filter(|n| !seen.insert(*n)).collect()
}

fn name_of(f: &FunctionProto) -> String {
    name_of_id((f.domain(), f.name(), f.overload()))
}

fn name_of_id((domain, name, overload): Id<'_>) -> String {
    let name = if domain.is_empty() { name.to_owned() } else { format!("{domain}.{name}") };
    if overload.is_empty() { name } else { format!("{name}:{overload}") }
}
