//! The command line: one file a subcommand.

mod inspect;
mod print;

use std::process::ExitCode;

use clap::Parser;

/// Quantizes ONNX models, and shows what is in them.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
enum Cli {
    Inspect(inspect::InspectArgs),
}

/// Parses the arguments and runs the subcommand. Data go to stdout, words to stderr; failures exit with 2.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse() {
        Cli::Inspect(args) => args.run(),
    };
    outcome.unwrap_or_else(|e| {
        print::error(&e);
        ExitCode::from(2)
    })
}
