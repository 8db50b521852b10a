//! Turns a float ONNX model into a quantized one, shows what it did and why, and proves it by running both.
//!
//! The way of the data, in [`quantize::quantize`]:
//!
//! ```text
//! read -> prepare -> calibrate -> plan -> round -> insert -> write -> validate
//!         exact      ranges       one     weight   Q/DQ     atomic   run both
//!         folds                   table   codes
//! ```
//!
//! # Rooms
//!
//! In the order of layering: a room uses rooms above it only. The test `rooms` holds the order.
//!
//! | room | what it is |
//! |---|---|
//! | [`error`] | the one error type: kind, places, message, the way out |
//! | [`events`] | how the library speaks while it works |
//! | [`number`] | formats, parameters, kernels on slices, ranges, metrics; knows no ONNX |
//! | [`observe`] | what is remembered of a stream of values, and how a range comes out of it |
//! | [`round`] | from float weights to integer codes |
//! | [`report`] | tables and JSON |
//! | [`proto`] | the generated bindings |
//! | [`schema`] | what ONNX says of each operator, as data |
//! | [`model`] | [`Model`](model::Model) (read, write) and [`Graph`](model::Graph) (nodes in slots and a true index) |
//! | [`check`] | what is wrong with a model |
//! | [`rule`] | what quantization knows of each operator, as data |
//! | [`integer`] | operators that compute on codes, as data, and the float operators they stand for |
//! | [`scaling`] | which channels can be scaled, and by whom |
//! | [`target`] | what a runtime wants, as data |
//! | [`sample`] | where samples come from |
//! | [`exec`] | engines that run models; `exec/tract.rs` alone names tract, `exec/onnxruntime.rs` the crate of ONNX Runtime |
//! | [`calibrate`] | samples through the engine, ranges out |
//! | [`plan`] | the decision table |
//! | [`lint`] | what in a quantized graph keeps runtimes from integers, or costs accuracy |
//! | [`pass`] | the rewrites, one file each |
//! | [`inspect`] | what is in a model |
//! | [`validate`] | drift of a quantized model against its float original |
//! | [`quantize`] | the way of the data, top to bottom |
//! | [`explain`] | what becomes of everything in a model, and why |
//! | [`dequantize`] | the way back |
//! | [`convert`] | from QDQ to QOperator form and back; from float32 to float16 and bfloat16 |
//!
//! # Invariants
//!
//! - Reading and writing an untouched model gives the same bytes.
//! - Every value has one producer; the graph's index equals a rebuilt one; new names are unique, captured ones included.
//! - Graph inputs and outputs keep name, type and shape through every pass. (Initializers that old models list as
//!   inputs are constants, and leave the list.)
//! - Whatever passes [`Graph::check`](model::Graph::check) can be written.
//! - Zero is exactly representable in all [`QuantParams`](number::QuantParams).
//! - Same input, same bytes out, whatever the number of threads.
//! - The library prints nothing, reads no environment and never exits.
//!
//! # Example
//!
//! ```no_run
//! use qdq::{events::Silent, exec::Tract, model::{InputSpec, Model}, plan::Policy};
//! use qdq::{quantize::{Recipe, quantize}, sample, target::ORT_CPU};
//!
//! # fn main() -> qdq::error::Result<()> {
//! let model = Model::read("model.onnx".as_ref())?;
//! let samples = sample::open("calib.npz", &Default::default(), &InputSpec::all(&model.graph)?, &Silent)?;
//! let recipe = Recipe { policy: Policy::of(&ORT_CPU) };
//! let quantized = quantize(&model, samples.as_ref(), &recipe, &Tract, &Silent)?;
//! quantized.model.write("model.int8.onnx".as_ref(), &Default::default())?;
//! # Ok(())
//! # }
//! ```

pub mod calibrate;
pub mod check;
pub mod convert;
pub mod dequantize;
pub mod error;
pub mod events;
pub mod exec;
pub mod explain;
pub mod inspect;
pub mod integer;
pub mod lint;
pub mod model;
pub mod number;
pub mod observe;
pub mod pass;
pub mod plan;
pub mod proto;
pub mod quantize;
pub mod report;
pub mod round;
pub mod rule;
pub mod sample;
pub mod scaling;
pub mod schema;
pub mod target;
pub mod validate;
