//! What `convert` found, as plain facts.

use serde::Serialize;

use crate::dequantize::Verified;
use crate::inspect::StyleCount;
use crate::pass::Skipped;
use crate::quantize::{Reformed, Stage};

/// What `convert` found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of this library.
    pub qdq: &'static str,
    /// The form that was asked for.
    pub to: &'static str,
    /// The styles that the model was in before and after, and how much of it.
    pub styles: (Vec<StyleCount>, Vec<StyleCount>),
    /// The opset, which stays.
    pub opset: i64,
    /// Bytes of the model before and after.
    pub size: (usize, usize),
    /// Nodes before and after.
    pub nodes: (usize, usize),
    /// How many nodes became what.
    pub converted: Vec<Reformed>,
    /// What stays in its form, and why.
    pub left: Vec<Skipped>,
    /// The drift of the converted model against the given one, where samples were given.
    pub verified: Option<Verified>,
    /// Time of each stage, in seconds.
    pub stages: Vec<Stage>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// The most memory the process had, in bytes, where the system tells.
    pub peak_memory: Option<u64>,
}
