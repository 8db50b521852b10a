//! Scan: has no batch axis and no sequence lengths since opset 9.

use super::scope::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::model::NodeId;

/// Opset 9: refuses the form of opset 8.
pub(super) fn refuse_batched(_: &mut Scope, _: NodeId) -> Result<()> {
    Err(Error::new(ErrorKind::Unsupported, "the `Scan` of opset 8 has a batch axis, which later ones do not have")
        .hint("export the model again with opset 9 or later"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{raised, refused};
    use crate::pass::sketch::node;

    #[test]
    fn only_the_form_of_opset_8_is_refused() {
        assert!(refused(8, 9, vec![node("Scan", "_ x", "y", &[])]).contains("batch axis"));
        assert!(raised(9, 21, vec![node("Scan", "x", "y", &[])]).is_ok());
    }
}
