//! Operators that compute on codes: which there are, as data, and what they stand for.
//!
//! [`OPERATORS`] is the table. [`expand`] rewrites each of them into the float operator between DequantizeLinear and
//! QuantizeLinear, which computes the same up to the order of rounding: that is how engines run them, and the first
//! step back to float. [`fold`] goes the other way.

mod around;
mod dynamic;
mod expand;
mod fold;
mod form;
mod layer;
mod lift;
mod made;
mod outcome;
mod packed;
mod rows;
mod source;
mod sums;
mod table;
mod wrap;

pub use dynamic::quantize_by_own_range;
pub use expand::{expand, unfold};
pub use fold::fold;
pub use outcome::Outcome;
pub use packed::{Packed, pack_blocks};
pub use source::{Source, code_type, moves, source};
pub use sums::scaling_nodes;
pub use table::{IntegerOp, OPERATORS, Operand, Operands, Output, Style, computes_on_codes, handles_codes};
