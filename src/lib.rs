//! wip
pub mod error;
pub mod events;
pub mod number;
#[allow(missing_docs, clippy::all)]
pub mod proto {
    //! wip
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}
pub mod exec;
pub mod inspect;
pub mod model;
pub mod pass;
pub mod report;
pub mod rule;
pub mod sample;
