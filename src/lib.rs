//! wip
pub mod calibrate;
pub mod error;
pub mod events;
pub mod exec;
pub mod model;
pub mod number;
pub mod observe;
pub mod pass;
pub mod plan;
#[allow(missing_docs, clippy::all)]
pub mod proto {
    //! wip
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}
pub mod quantize;
pub mod round;
pub mod rule;
pub mod sample;
pub mod target;
pub mod validate;
