//! Ranges without samples.

use std::collections::BTreeMap;

use crate::calibrate::{Ranges, Statistics, data_free_ranges, propagate};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Graph, InputSpec, Model};
use crate::number::Range;
use crate::pass::Context;
use crate::plan::Plan;

/// The ranges of the values in `watch`, from statistics. Says which inputs stay float for want of a range.
///
/// A value of which nothing is known gets the range of nothing but zero, so that everything is planned as if it were known;
/// [`check`] then says which of them matters.
pub(super) fn ranges(
    prepared: &Model,
    watch: &[String],
    given: &BTreeMap<String, Range>,
    cx: &mut Context<'_>,
) -> Result<Ranges> {
    let inputs = InputSpec::all(&prepared.graph)?;
    if let Some(wrong) = given.keys().find(|name| !inputs.iter().any(|i| i.name == **name)) {
        let names = inputs.iter().map(|i| format!("`{}`", i.name)).collect::<Vec<_>>().join(", ");
        return Err(Error::new(ErrorKind::Usage, format!("the model has no input `{wrong}`"))
            .hint(format!("its inputs are {names}")));
    }
    let shapes = cx.executor.and_then(|e| e.shapes(prepared).ok()).unwrap_or_default();
    propagate(&prepared.graph, &shapes, &mut cx.statistics)?;
    for input in watch.iter().filter(|v| prepared.graph.is_input(v) && !given.contains_key(*v)) {
        cx.events.warn(&format!(
            "nothing tells the range of the input `{input}`: what reads it stays float (`--input-range` gives one)"
        ));
    }
    let mut filled = given.clone();
    for value in watch {
        if cx.statistics.get(value).is_none() && !prepared.graph.is_input(value) {
            filled.entry(value.clone()).or_insert(Range::ZERO);
        }
    }
    Ok(data_free_ranges(watch, &cx.statistics, &filled))
}

/// Errors, naming the first value in the graph's order, when one is to be quantized of whose range nothing is known.
pub(super) fn check(
    graph: &Graph,
    plan: &Plan,
    given: &BTreeMap<String, Range>,
    statistics: &Statistics,
) -> Result<()> {
    for (id, node) in graph.nodes() {
        for output in node.output.iter() {
            let Some(decision) = plan.values.get(output) else { continue };
            let guessed = decision.range == Range::ZERO && decision.source == *output;
            if guessed && !given.contains_key(output) && statistics.get(output).is_none() {
                let name = if node.name().is_empty() { output } else { node.name() };
                return Err(Error::new(ErrorKind::Unsupported, format!("nothing tells the range of `{output}`"))
                    .at(graph.label(id))
                    .hint(format!(
                        "statistics come from batch normalizations: give samples with `--data`, or leave the node float with \
                         `--exclude '{name}'`"
                    )));
            }
        }
    }
    Ok(())
}
