//! How the library speaks while it works: it never prints.

/// What a long run tells whoever started it. All methods do nothing unless they are implemented.
pub trait Events: Sync {
    /// A stage of the work begins.
    fn stage(&self, name: &'static str) {
        let _ = name;
    }

    /// `done` of `total` steps of the present stage are finished.
    fn tick(&self, done: usize, total: usize) {
        let _ = (done, total);
    }

    /// Something that the user should know, and that does not stop the work.
    fn warn(&self, message: &str) {
        let _ = message;
    }
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Events for Silent {}
