//! The command line: one file a subcommand.

mod calibrate;
mod check;
mod convert;
mod data;
mod dequantize;
mod engine;
mod explain;
mod formats;
mod gate;
mod inspect;
mod memory;
mod output;
mod policy;
mod print;
mod progress;
mod quantize;
mod target;
mod validate;
mod write;

use std::process::ExitCode;

use clap::Parser;

/// Quantizes ONNX models, shows what is in them, and proves the result by running it beside the float original.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
enum Cli {
    Quantize(Box<quantize::QuantizeArgs>),
    Calibrate(Box<calibrate::CalibrateArgs>),
    Dequantize(dequantize::DequantizeArgs),
    Convert(convert::ConvertArgs),
    Inspect(inspect::InspectArgs),
    Explain(Box<explain::ExplainArgs>),
    Check(check::CheckArgs),
    Validate(Box<validate::ValidateArgs>),
    Targets(target::TargetsArgs),
    Formats(formats::FormatsArgs),
}

/// The exit code of a process that was interrupted, as shells give it.
const INTERRUPTED: i32 = 130;

/// Parses the arguments and runs the subcommand. Data go to stdout, words to stderr; failures exit with 2.
pub fn main() -> ExitCode {
    memory::bound();
    // Without a handler a process that is interrupted leaves its temporary files behind.
    let _ = ctrlc::set_handler(|| {
        qdq::model::remove_unfinished();
        std::process::exit(INTERRUPTED);
    });
    // The engine's panics on unusual models come back as errors, and are told as such.
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !qdq::exec::guards_panics() {
            loud(panic);
        }
    }));
    let outcome = match Cli::parse() {
        Cli::Quantize(args) => args.run(),
        Cli::Calibrate(args) => args.run(),
        Cli::Dequantize(args) => args.run(),
        Cli::Convert(args) => args.run(),
        Cli::Inspect(args) => args.run(),
        Cli::Explain(args) => args.run(),
        Cli::Check(args) => args.run(),
        Cli::Validate(args) => args.run(),
        Cli::Targets(args) => args.run(),
        Cli::Formats(args) => args.run(),
    };
    outcome.unwrap_or_else(|e| {
        print::error(&e);
        ExitCode::from(2)
    })
}
