//! What came of a node whose form was to change.

/// What came of a node whose form was to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The node, as messages name it.
    pub node: String,
    /// Its operator, with its domain unless that is ONNX's own; `MaxPool on codes` where it moved codes.
    pub operator: String,
    /// The operator that it became, as above, or why it stays.
    pub became: Result<String, String>,
}

/// The name of an operator that moves codes.
pub(super) fn on_codes(operator: &str) -> String {
    format!("{operator} on codes")
}
