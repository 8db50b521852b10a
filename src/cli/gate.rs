//! Quality gates: what was asked for, and what was missed.

use std::process::ExitCode;

use qdq::validate::{Accuracy, OutputDrift};

/// What a quantized model has to reach.
#[derive(Default)]
pub struct Gate {
    /// Of every float output, in dB.
    pub min_sqnr: Option<f64>,
    /// Of every output of class scores: share of samples, 0 to 1, with the same top-1 class.
    pub min_agreement: Option<f64>,
    /// How much top-1 accuracy may be lost, in percentage points.
    pub max_top1_drop: Option<f64>,
}

impl Gate {
    /// A sentence for each gate that was missed.
    pub fn missed(&self, outputs: &[OutputDrift], accuracy: Option<&Accuracy>) -> Vec<String> {
        let mut missed = Vec::new();
        for o in outputs {
            let any = self.min_sqnr.is_some() || self.min_agreement.is_some() || self.max_top1_drop.is_some();
            if o.broken && any {
                missed.push(format!("output `{}` is not finite", o.name));
                continue;
            }
            if o.other_shape > 0 && any {
                missed.push(format!("output `{}` has another shape in {} samples", o.name, o.other_shape));
            }
            if let (Some(min), Some(db)) = (self.min_sqnr, o.sqnr_db)
                && db < min
            {
                missed.push(format!("output `{}` has an SQNR of {db:.1} dB, and {min} were asked for", o.name));
            }
            if let (Some(min), Some(share)) = (self.min_agreement, o.top1_agreement)
                && share < min - 1e-9
            {
                let (share, min) = (share * 100.0, min * 100.0);
                missed.push(format!(
                    "output `{}` keeps {share:.1} % of top-1 classes, and {min:.1} % were asked for",
                    o.name
                ));
            }
        }
        if let (Some(max), Some(a)) = (self.max_top1_drop, accuracy) {
            let drop = (a.float_top1 - a.quantized_top1) * 100.0;
            if drop > max + 1e-9 {
                missed.push(format!("top-1 accuracy drops by {drop:.2} points, and at most {max} were asked for"));
            }
        }
        missed
    }

    /// Says on stderr what was missed; the exit code is 1 then.
    pub fn verdict(missed: &[String]) -> ExitCode {
        for sentence in missed {
            eprintln!("gate missed: {sentence}");
        }
        ExitCode::from(u8::from(!missed.is_empty()))
    }
}
