//! The integration tests: one program, so that the library and its engine are linked once for all of them.

mod common;
mod desk;
mod gauntlet;
mod mutator;

mod branches;
mod check;
mod claims;
mod cli;
mod cli_calibrate;
mod cli_convert;
mod cli_dequantize;
mod cli_errors;
mod cli_explain;
mod cli_formats;
mod cli_inspect;
mod cli_targets;
mod convert;
mod data_free;
mod determinism;
mod dynamic;
mod encodings;
mod explain;
#[cfg(target_os = "linux")]
mod faults;
mod float16;
mod formats;
#[cfg(target_os = "linux")]
mod hostile;
mod invariants;
mod kept;
mod lint;
mod matmulnbits;
mod mutants;
mod narrow;
mod numbers;
#[cfg(feature = "ort")]
mod onnxruntime;
mod padding;
mod portable;
mod quantized;
mod readme;
mod reference;
mod rooms;
mod rounding;
mod rules;
mod scaling;
mod smoothing;
mod suite;
mod targets;
mod tied;
mod traps;
