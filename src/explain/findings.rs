//! What [`lint`](crate::lint) finds in a model, or in what would be made of it.

use serde::Serialize;

use crate::error::Result;
use crate::events::Events;
use crate::lint::{Cost, Finding, RULES, lint};
use crate::model::Model;
use crate::pass::{self, Context, LiftConstants};
use crate::plan::{Plan, Policy};
use crate::quantize::Decision;
use crate::report::{Cell, Column, Table};

/// What was found in a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Whether it was looked for in what would be made of a float model, rather than in a quantized one.
    pub planned: bool,
    /// Whether ranges are known. Without them nothing is found that hangs on scales of activations.
    pub ranges_known: bool,
    /// What was found, in the graph's order.
    pub findings: Vec<Finding>,
}

impl Findings {
    /// Looks at what a decision would write. Errors as [`Decision::carried_out`].
    pub fn of_decision(decision: &Decision, events: &dyn Events) -> Result<Findings> {
        let written = decision.carried_out(events)?;
        Ok(Findings {
            planned: true,
            ranges_known: !decision.plan.has_unseen(),
            findings: lint(&written.graph, written.opset(), &decision.plan, true)?,
        })
    }

    /// Looks at a quantized model as it is; the policy says which nodes could be quantized that are not. Errors as [`lint`].
    pub fn of_model(model: &Model, policy: &Policy, events: &dyn Events) -> Result<Findings> {
        // Scales are read where they are initializers.
        let mut model = model.clone();
        pass::run(&LiftConstants, &mut model, &mut Context::new(None, events))?;
        let plan = Plan::unseen(&model.graph, policy)?;
        let findings = lint(&model.graph, model.opset(), &plan, false)?;
        Ok(Findings { planned: false, ranges_known: true, findings })
    }

    /// The findings as a table, and below it what each rule means.
    pub fn tables(&self) -> Vec<Table> {
        let columns = vec![
            Column::left("node"),
            Column::left("operator").spare(1),
            Column::left("costs"),
            Column::left("finding"),
            Column::left("what"),
        ];
        let subject = if self.planned { "in what would be written" } else { "in the model" };
        let mut all = Table::new(format!("Findings {subject} ({})", self.findings.len()), columns);
        let text = |s: &str| Cell::Text(s.to_owned());
        let row = |f: &Finding| {
            vec![Cell::Name(f.node.clone()), text(&f.operator), text(cost(f.costs)), text(f.rule), text(&f.what)]
        };
        all.rows = self.findings.iter().map(row).collect();
        if self.findings.is_empty() {
            all.notes.push("Nothing was found.".to_owned());
        }
        if !self.ranges_known {
            all.notes.push("Ranges are not known: what hangs on scales of activations was not looked for.".to_owned());
        }
        let found = RULES.iter().filter(|r| self.findings.iter().any(|f| f.rule == r.name));
        all.notes.extend(found.map(|r| format!("{}: {}. To do: {}.", r.name, r.why, r.way_out)));
        vec![all]
    }
}

fn cost(cost: Cost) -> &'static str {
    match cost {
        Cost::Speed => "speed",
        Cost::Accuracy => "accuracy",
        Cost::Portability => "portability",
    }
}
