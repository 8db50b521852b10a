//! Panics of an engine, as errors.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, ErrorKind, Result};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread would become an error: for a program's panic hook, which need not print it then.
pub fn guards_panics() -> bool {
    GUARDED.get()
}

/// Runs a step of an engine; errs with what it says where it panics, as engines do on unusual models.
pub(super) fn caught<T>(step: impl FnOnce() -> T) -> Result<T, String> {
    GUARDED.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(step));
    GUARDED.set(false);
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message").to_owned()
    })
}

/// The error of a step that panicked: `what` the engine could not do, and at which node where that is known.
pub(super) fn panicked(what: &str, node: Option<String>, text: &str) -> Error {
    let place = node.map_or(String::new(), |node| format!("{node}: "));
    Error::new(ErrorKind::Engine, format!("{what}: {place}the engine panicked: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_guarded_only_while_it_may_come() {
        assert!(!guards_panics());
        assert!(caught(guards_panics).unwrap());
        let text = caught(|| assert!(!guards_panics(), "node `n`")).unwrap_err();
        assert!(text.contains("node `n`"), "{text}");
        assert!(!guards_panics());
        let e = panicked("x cannot run", Some("node `n` (Op)".into()), "index out of bounds").to_string();
        assert_eq!(e, "x cannot run: node `n` (Op): the engine panicked: index out of bounds");
    }
}
