//! The way back: from codes to floats.

mod bounds;
mod drop_pairs;
mod expand_integer;
mod float_lstm;
mod fold_codes;

use super::{DropIdentity, FreezeInputs, InlineFunctions, LiftConstants, Pass, UniqueNames};
use crate::integer::handles_codes;
use crate::model::{Model, NodeExt, NodeProto};

pub use drop_pairs::{DropPairs, Ends};
pub use expand_integer::ExpandInteger;
pub use float_lstm::FloatLstm;
pub use fold_codes::FoldCodes;

/// The passes that turn a quantized model back to float, in their order:
///
/// 1. `freeze-inputs`; `inline-functions` and `unique-names` where functions hold codes, and else functions stay;
///    `lift-constants`, `drop-identity`: codes and scales are initializers, and stand next to what reads them;
/// 2. `float-lstm`: has no form with Q and DQ, so it goes before what looks for one;
/// 3. `expand-integer`: afterwards codes are found between Q and DQ only;
/// 4. `fold-codes`: weights are float constants;
/// 5. `drop-pairs`: needs to know which constants there are, to tell what values can reach.
pub fn dequantizing(model: &Model, ends: Ends) -> Vec<Box<dyn Pass>> {
    fn hold(nodes: &[NodeProto]) -> bool {
        nodes.iter().any(|n| handles_codes(n) || n.subgraphs().any(|g| hold(&g.node)))
    }
    let mut passes: Vec<Box<dyn Pass>> = vec![Box::new(FreezeInputs)];
    if model.metadata().functions.iter().any(|f| hold(&f.node)) {
        passes.extend([Box::new(InlineFunctions) as Box<dyn Pass>, Box::new(UniqueNames)]);
    }
    passes.extend([
        Box::new(LiftConstants) as Box<dyn Pass>,
        Box::new(DropIdentity),
        Box::new(FloatLstm),
        Box::new(ExpandInteger),
        Box::new(FoldCodes),
        Box::new(DropPairs { ends }),
    ]);
    passes
}
