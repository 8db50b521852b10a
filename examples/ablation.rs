//! What each step toward accuracy is worth on a model: quantizes it without any, with one after the other, and with the
//! correction of biases alone, and compares each with the float model on other samples.
//!
//! ```text
//! cargo run --release --example ablation -- MODEL CALIB EVAL [--labels FILE] [--per-tensor]
//! ```
//!
//! The rows are those of Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias Correction*, 2019, table
//! 1 and 2.

use std::time::Instant;

use qdq::error::{Error, ErrorKind, Place, Result};
use qdq::events::Silent;
use qdq::exec::{Executor, Tract};
use qdq::model::{InputSpec, Model};
use qdq::pass::{self, AbsorbBias, Bounds, Context, CorrectBias, Equalize};
use qdq::plan::{Plan, Policy, Steps, Switch, watch_list};
use qdq::quantize::{Recipe, prepare, quantize};
use qdq::report::{Cell, Column, Table};
use qdq::sample::{self, Samples};
use qdq::target::ORT_CPU;
use qdq::validate::{Questions, validate};

/// The rows: which steps are on.
const ROWS: [(&str, Steps); 6] = {
    const NONE: Steps = Steps::NONE;
    const EQUALIZED: Steps = Steps { equalize: Switch::On, ..NONE };
    const ABSORBED: Steps = Steps { absorb_bias: Switch::On, ..EQUALIZED };
    [
        ("nothing", NONE),
        ("equalize", EQUALIZED),
        ("+ absorb bias", ABSORBED),
        ("+ correct bias", Steps { correct_bias: Switch::On, ..ABSORBED }),
        ("correct bias alone", Steps { correct_bias: Switch::On, ..NONE }),
        ("as measured", Steps::all(Switch::Auto)),
    ]
};

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(text) => {
            print!("{text}");
            std::process::ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("error: {e}");
            std::process::ExitCode::from(2)
        }
    }
}

fn run(arguments: &[String]) -> Result<String> {
    let (mut files, mut labels, mut per_channel) = (Vec::new(), None, true);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--per-tensor" => per_channel = false,
            "--labels" => labels = rest.next(),
            file => files.push(file),
        }
    }
    let [model, calib, eval] = files[..] else {
        return Err(Error::new(ErrorKind::Usage, "expected MODEL CALIB EVAL [--labels FILE] [--per-tensor]"));
    };
    let float = Model::read(model.as_ref())?;
    let inputs = InputSpec::all(&float.graph)?;
    let open = |source: &str| sample::open(source, &Default::default(), &inputs, &Silent);
    let (calib, eval) = (open(calib)?, open(eval)?);
    let labels = labels.map(|file| sample::labels(file.as_ref(), eval.as_ref())).transpose()?;

    let columns =
        [Column::left("steps"), Column::right("SQNR dB"), Column::right("same top-1"), Column::right("top-1")];
    let mut table = Table::new("Steps toward accuracy", columns.to_vec());
    for (name, steps) in ROWS {
        let policy = Policy { per_channel, steps, ..Policy::of(&ORT_CPU) };
        let made = quantize(&float, calib.as_ref(), &Recipe { policy }, &Tract, &Silent).at(|| name.to_owned())?;
        let questions = Questions { labels: labels.clone(), ..Default::default() };
        let found = validate(&float, &made.model, eval.as_ref(), &questions, &Tract, &Silent)?;
        let share = |x: Option<f64>| x.map_or(Cell::None, |x| Cell::Text(format!("{:.1} %", 100.0 * x)));
        let worst = found.outputs.iter().filter_map(|o| o.sqnr_db).reduce(f64::min);
        table.rows.push(vec![
            Cell::Text(name.to_owned()),
            worst.map_or(Cell::None, |db| Cell::Text(format!("{db:.1}"))),
            share(found.outputs.iter().filter_map(|o| o.top1_agreement).reduce(f64::min)),
            share(found.accuracy.map(|a| a.quantized_top1)),
        ]);
    }
    Ok(format!("{}\n{}", table.text(None), times(&float, calib.as_ref(), per_channel)?.text(None)))
}

/// How long the steps take by themselves, without a trial; the best of five.
fn times(float: &Model, samples: &dyn Samples, per_channel: bool) -> Result<Table> {
    let mut prepared = float.clone();
    let mut cx = Context::new(Some(&Tract), &Silent);
    let policy = Policy { per_channel, ..Policy::of(&ORT_CPU) };
    prepare(&mut prepared, policy.opset(), &mut cx)?;
    let learned = std::mem::take(&mut cx.statistics);
    let names = ["shapes and statistics", "equalize", "absorb bias", "correct bias"];
    let mut best = [f64::INFINITY; 4];
    for _ in 0..5 {
        let (mut model, mut cx) = (prepared.clone(), Context::new(Some(&Tract), &Silent));
        cx.statistics = learned.clone();
        let mut clock = Instant::now();
        let mut lap = |place: usize| {
            best[place] = best[place].min(clock.elapsed().as_secs_f64());
            clock = Instant::now();
        };
        let shapes = Tract.shapes(&model)?;
        qdq::calibrate::propagate(&model.graph, &shapes, &mut cx.statistics)?;
        lap(0);
        pass::run(&Equalize { shapes: &shapes, per_channel, bounds: Bounds::Loose }, &mut model, &mut cx)?;
        lap(1);
        pass::run(&AbsorbBias, &mut model, &mut cx)?;
        lap(2);
        let runner = qdq::exec::Runner::new(&Tract, &model, watch_list(&model.graph)?)?;
        let ranges = qdq::calibrate::calibrate(&runner, samples, &[0], Default::default(), &Silent)?;
        let plan = Plan::decide(&model.graph, &ranges, &policy)?;
        clock = Instant::now();
        pass::run(&CorrectBias { plan: &plan }, &mut model, &mut cx)?;
        best[3] = best[3].min(clock.elapsed().as_secs_f64());
    }
    let mut table = Table::facts("Time of the steps alone");
    let all: f64 = best.iter().sum();
    for (name, seconds) in names.into_iter().zip(best).chain([("together", all)]) {
        table.fact(name, format!("{:.1} ms", 1e3 * seconds));
    }
    Ok(table)
}
