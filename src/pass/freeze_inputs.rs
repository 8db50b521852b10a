//! Initializers that are also graph inputs become constants.

use super::{Context, Effect, Pass};
use crate::error::Result;
use crate::model::Model;

/// Takes initializers off the graph's inputs.
///
/// - **Does**: drops every graph input that an initializer of the same name gives a default, and states IR version 4
///   where the model's is lower. What is left of the inputs is what a caller must feed.
/// - **Skips**: nothing.
/// - **Before**: inputs `x`, `w`; initializer `w`. **After**: input `x`; initializer `w`, now a constant.
/// - **Source**: docs/IR.md of ONNX, "Graphs": before IR version 4 every initializer had to be a graph input; since
///   then one that is an input may be overridden by the caller, and one that is not is constant.
#[derive(Debug, Clone, Copy)]
pub struct FreezeInputs;

impl Pass for FreezeInputs {
    fn name(&self) -> &'static str {
        "freeze-inputs"
    }

    fn effect(&self) -> Effect {
        Effect::Same
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        cx.changed += model.graph.drop_inputs(|graph, name| !name.is_empty() && graph.is_constant(name));
        if cx.changed > 0 {
            model.allow_constants();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::sketch::{self, floats, graph, model, node};
    use super::*;

    #[test]
    fn only_what_must_be_fed_stays_an_input() {
        let w = floats("w", &[1], &[2.0]);
        let mut m = model(7, graph("x w", vec![node("Mul", "x w", "y", &[])], vec![w], "y"));
        assert_eq!(sketch::run(&FreezeInputs, &mut m).unwrap(), (1, vec![]));
        let inputs: Vec<_> = m.graph.inputs().iter().map(|v| v.name()).collect();
        assert_eq!(inputs, ["x"]);
        assert!(m.graph.initializer("w").is_some());
        assert_eq!(m.metadata().ir_version(), 4);
        assert_eq!(sketch::run(&FreezeInputs, &mut m).unwrap().0, 0);
    }
}
