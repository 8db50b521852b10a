//! What the user sees while the library works: stages, a bar, warnings. All of it on stderr.

use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qdq::events::Events;

/// Shows a bar for the present stage, on a terminal; warnings always.
pub struct Progress {
    bar: ProgressBar,
    stage: Mutex<&'static str>,
}

impl Progress {
    /// A progress without a stage yet; `quiet` shows warnings only.
    pub fn new(quiet: bool) -> Progress {
        let bar = ProgressBar::no_length();
        bar.set_draw_target(if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(10) });
        Progress { bar, stage: Mutex::new("") }
    }

    /// Takes the bar off the screen.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Events for Progress {
    fn stage(&self, name: &'static str) {
        if let Ok(mut stage) = self.stage.lock() {
            *stage = name;
        }
        self.bar.reset();
        self.bar.unset_length();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            self.bar.set_style(style);
        }
        self.bar.set_message(name);
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    fn tick(&self, done: usize, total: usize) {
        if self.bar.length() != Some(total as u64) {
            self.bar.disable_steady_tick();
            let template = "{msg} [{bar:30}] {pos}/{len} samples, {per_sec}, {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.bar.set_style(style.progress_chars("=> "));
            }
            self.bar.set_length(total as u64);
        }
        self.bar.set_position(done as u64);
    }

    fn warn(&self, message: &str) {
        self.bar.suspend(|| eprintln!("warning: {message}"));
    }
}
