//! Calibration for its own sake: what it learned, to be kept.

use std::collections::BTreeSet;

use super::prepare;
use crate::calibrate::{Keep, RangesFile, calibrate};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::events::Events;
use crate::exec::{Executor, Runner};
use crate::model::{Model, fingerprint};
use crate::pass::Context;
use crate::plan::{Policy, watch_list};
use crate::sample::{Samples, Share};

/// Runs a share of the samples and keeps all that methods may ask about every value that a plan may need. `model` is not
/// changed.
///
/// Files of all shares, merged, are the file of all samples. Errors when the share holds no sample, and as
/// [`quantize`](super::quantize()) does up to the plan.
pub fn learn_ranges(
    model: &Model,
    samples: &dyn Samples,
    share: Share,
    policy: &Policy,
    executor: &dyn Executor,
    events: &dyn Events,
) -> Result<RangesFile> {
    let picks = share.picks(samples.len());
    if picks.is_empty() {
        let what = format!("the share holds none of the {} samples", samples.len());
        return Err(Error::new(ErrorKind::Usage, what).hint("make fewer shares than there are samples"));
    }
    events.stage("prepare");
    let mut prepared = model.clone();
    prepare(&mut prepared, policy.opset(), &mut Context::new(Some(executor), events))?;
    events.stage("calibrate");
    let watch = watch_list(&prepared.graph)?;
    let runner = Runner::new(executor, &prepared, watch)?;
    let ranges = calibrate(&runner, samples, &picks, Keep::Profile, events).at(|| "calibration".to_owned())?;
    let others: BTreeSet<String> = runner.watch().iter().filter(|v| ranges.get(v).is_none()).cloned().collect();
    Ok(RangesFile { model: fingerprint(model), samples: picks.len() as u64, ranges, others })
}
