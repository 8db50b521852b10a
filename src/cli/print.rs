//! What reaches the terminal.

use std::io::{ErrorKind as Io, Write};
use std::path::Path;

use clap::Args;
use qdq::error::{Error, Result};
use qdq::report::{self, Table};
use serde::Serialize;
use terminal_size::{Width, terminal_size_of};

/// Writes data to stdout. A reader that has seen enough (`| head`) is no error.
pub fn data(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != Io::BrokenPipe => Err(Error::io(e).at("cannot write to stdout")),
        _ => Ok(()),
    }
}

/// In which form facts are printed.
#[derive(Args)]
#[command(next_help_heading = "Output")]
pub struct FormArgs {
    /// Print JSON; what is infinite or unknown is null
    #[arg(long, conflicts_with = "markdown")]
    json: bool,

    /// Print Markdown
    #[arg(long)]
    markdown: bool,

    /// No progress; warnings only
    #[arg(short, long)]
    pub quiet: bool,
}

impl FormArgs {
    /// Prints facts: as JSON, as Markdown or as text.
    pub fn print(&self, facts: &impl Serialize, tables: impl FnOnce() -> Vec<Table>) -> Result<()> {
        data(&self.text(facts, tables)?)
    }

    /// Prints facts of what was written to `output`: to stderr if that is no file, since it may be stdout.
    pub fn print_beside(
        &self,
        output: &Path,
        facts: &impl Serialize,
        tables: impl FnOnce() -> Vec<Table>,
    ) -> Result<()> {
        let text = self.text(facts, tables)?;
        if output.metadata().is_ok_and(|m| !m.is_file()) {
            let _ = std::io::stderr().write_all(text.as_bytes());
            return Ok(());
        }
        data(&text)
    }

    fn text(&self, facts: &impl Serialize, tables: impl FnOnce() -> Vec<Table>) -> Result<String> {
        Ok(if self.json {
            report::json(facts)?
        } else if self.markdown {
            report::markdown(&tables())
        } else {
            report::text(&tables(), width())
        })
    }
}

/// The columns of the terminal that stdout is; `None` if it is a file or a pipe.
fn width() -> Option<usize> {
    terminal_size_of(std::io::stdout()).map(|(Width(columns), _)| usize::from(columns))
}

/// Says on stderr what went wrong, and the way out on a line of its own. A closed stderr is no error.
pub fn error(e: &Error) {
    let mut err = std::io::stderr().lock();
    let _ = writeln!(err, "error: {e}");
    if let Some(way_out) = e.way_out() {
        let _ = writeln!(err, "hint: {way_out}");
    }
}
