//! Where the model goes.

use std::path::Path;

use qdq::error::{Error, ErrorKind, Result};
use qdq::model::folder_of;

/// Finds out before the long run what would keep the output from being written; `needed` says why the given model must
/// stay.
pub fn check(model: Option<&Path>, output: &Path, force: bool, needed: &str) -> Result<()> {
    let usage = |what: String| Error::new(ErrorKind::Usage, what);
    if output.is_dir() {
        return Err(
            usage(format!("`{}` is a directory", output.display())).hint("name a file in it: `-o out/model.onnx`")
        );
    }
    let same = match (model.unwrap_or(Path::new("")).canonicalize(), output.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    };
    if same {
        return Err(usage(format!("`{}` is the given model itself", output.display()))
            .hint(format!("name another file with `-o`: {needed}")));
    }
    if output.exists() && !force {
        return Err(usage(format!("`{}` exists", output.display())).hint("give `--force` to replace it"));
    }
    let folder = folder_of(output);
    if !folder.is_dir() {
        return Err(usage(format!("there is no folder `{}`", folder.display())).hint("make it first"));
    }
    Ok(())
}
