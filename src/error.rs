//! The one error type of the library.

use std::borrow::Cow;
use std::fmt;

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file or folder could not be read or written.
    Io,
    /// The bytes are not what they claim to be (not ONNX, truncated, not an image).
    Malformed,
    /// The model breaks a rule of the ONNX specification.
    InvalidModel,
    /// Valid, but not something this version can do.
    Unsupported,
    /// Samples and model do not fit together.
    Data,
    /// The engine that runs models refused or failed.
    Engine,
    /// Options that contradict each other or name what is not there.
    Usage,
}

/// An error: its kind, what happened, where, and, where there is one, the way out.
///
/// `Display` prints `place: message`, places from the outside in; [`Error::hint`] is for the
/// command line to print on a line of its own.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    places: Vec<String>,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error with a message: lower case, no final stop, names in backticks.
    ///
    /// Messages, places and hints may hold text from files: control characters are written as escapes, and what is
    /// longer than 400 characters loses its middle.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, places: Vec::new(), message: fit(message.into()), hint: None, source: None }))
    }

    /// The system's error, in its own words without its number.
    pub fn io(source: std::io::Error) -> Self {
        let text = source.to_string().to_lowercase();
        let words = text.split(" (os error").next().unwrap_or(&text);
        Error::new(ErrorKind::Io, words).caused_by(source)
    }

    /// Says where it happened; later calls add places further out.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.0.places.push(fit(place.into()));
        self
    }

    /// Says how the user gets out of it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(fit(hint.into()));
        self
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The way out, without the word `hint`.
    pub fn way_out(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in self.0.places.iter().rev() {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

/// The longest text of a message, in characters.
const LONGEST: usize = 400;

/// The text as a terminal can show it, short enough to be read.
fn fit(text: String) -> String {
    if text.len() <= LONGEST && !text.contains(char::is_control) {
        return text;
    }
    let escaped =
        |s: &str| s.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.into() }).collect();
    escaped(&shortened(&text, LONGEST))
}

/// The text without its middle where it has more than `most` characters: its beginning and its end, `…` between them.
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    // So many bytes are at most so many characters.
    if text.len() <= most || text.chars().nth(most).is_none() {
        return Cow::Borrowed(text);
    }
    let tail = most.saturating_sub(1) / 2;
    let head = most.saturating_sub(1 + tail);
    let from = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(i, _)| i);
    let end = text.char_indices().rev().take(tail).last().map_or(text.len(), |(i, _)| i);
    Cow::Owned(format!("{}…{}", &text[..from(head)], &text[end..]))
}

/// Why a rewrite does not happen.
#[derive(Debug)]
pub enum Refusal {
    /// The node does not fit the rewrite; the reason is for the report.
    Skip(String),
    /// The model is broken; the run stops.
    Fail(Error),
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Self {
        Refusal::Fail(e)
    }
}

/// That the node does not fit, for this reason.
pub fn no<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Skip(reason.into()))
}

/// Adds a place to the error of a result.
pub trait Place<T> {
    /// Says where the error happened.
    fn at(self, place: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Place<T> for Result<T> {
    fn at(self, place: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| e.at(place()))
    }
}

/// A list as messages and tables show it, in brackets: whole where it is short, else its first entries and how many
/// there are.
pub fn listed<T: fmt::Display>(list: &[T]) -> String {
    const SHOWN: usize = 12;
    let text = list.iter().take(SHOWN).map(T::to_string).collect::<Vec<_>>().join(", ");
    if list.len() <= SHOWN { format!("[{text}]") } else { format!("[{text}, ... {} in all]", list.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(listed::<u8>(&[]), "[]");
        assert_eq!(listed(&[2, 3]), "[2, 3]");
        assert_eq!(listed(&[1; 10_000_000]), "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, ... 10000000 in all]");
    }

    #[test]
    fn prints_places_from_the_outside_in() {
        let e = Error::new(ErrorKind::InvalidModel, "no weight").at("node `a` (Conv)").at("model.onnx").hint("fold it");
        assert_eq!(e.to_string(), "model.onnx: node `a` (Conv): no weight");
        assert_eq!(e.way_out(), Some("fold it"));
    }

    #[test]
    fn text_from_files_stays_readable() {
        let long = "ä".repeat(1_000_000);
        let e = Error::new(ErrorKind::InvalidModel, format!("first {long} last")).at("a\u{1b}[2Jb\n").hint(long);
        let text = e.to_string();
        assert!(text.starts_with("a\\u{1b}[2Jb\\n: first ä") && text.ends_with("ä last"), "{text}");
        assert!(text.contains('…') && text.chars().count() < 450);
        assert_eq!(e.way_out().map(|h| h.chars().count()), Some(LONGEST));
        for (most, cut) in
            [(9, "abcdefgh"), (8, "abcdefgh"), (7, "abc…fgh"), (4, "ab…h"), (2, "a…"), (1, "…"), (0, "…")]
        {
            assert_eq!(shortened("abcdefgh", most), cut);
        }
    }
}
