//! Where samples come from.
//!
//! A [`Sample`] is what a model takes for one run with a batch of one. A source knows how many samples it has and
//! reads each when it is asked for, so that memory does not grow with their number. The one exception: compressed
//! arrays of an `.npz` are decompressed into memory.
//!
//! [`open`] recognises the source by its name:
//!
//! | source | samples |
//! |---|---|
//! | `x.npy` | one array, for a model with one input |
//! | `x.npz` | one array an input, by the input's name |
//! | `x.safetensors` | one tensor an input, by the input's name |
//! | folder with `test_data_set_*/input_*.pb`, or with `input_*.pb` | ONNX test data, a folder a sample |
//! | folder with `.jpg`, `.jpeg` or `.png` files, or with folders of them | images |
//! | `random:N` | `N` samples of seeded noise, only ever by this name |
//!
//! How an array becomes the samples of an input:
//!
//! - Samples lie on the first axis. An array of the input's rank gives `x[i*b .. (i+1)*b]`, where `b` is the input's
//!   first dimension if that is fixed, else 1; an array of one axis more gives `x[i]`.
//! - Fixed dimensions must agree; symbolic ones are free, and folders may differ from sample to sample.
//! - An array that holds a single sample beside arrays that hold more, and an array without axes, is the same for all.
//! - float16, bfloat16, float32 and float64 are converted among each other, integers among each other where every
//!   value fits. Nothing else is converted: integers never become floats.

mod array;
mod fit;
mod images;
mod jpeg;
mod labels;
mod npy;
mod npz;
mod onnx_data;
mod open;
mod options;
mod random;
mod safetensors;
mod share;
mod stack;

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Place, Result};
use crate::model::Tensor;

pub use labels::labels;
pub use open::open;
pub use options::{Channels, ImageOptions, Layout, PerChannel, Resize, SampleOptions, Size};
pub use share::Share;
pub use stack::read_arrays;

/// One run's inputs, in the order of the model's inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// A tensor for each input, batch axis included.
    pub inputs: Vec<Tensor>,
}

/// A source of samples that fit a model.
pub trait Samples: Send + Sync {
    /// How many samples there are; at least one.
    fn len(&self) -> usize;

    /// Reads sample `i`. Errors name the file and, where shapes or types differ, expected and found.
    fn get(&self, i: usize) -> Result<Sample>;

    /// What the samples are, for reports: `images: 100 files, resized to 224x224`.
    fn describe(&self) -> String;

    /// Never: a source without samples is an error when it is opened.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What sample `i` is called, where samples have names: an image's path inside its folder, with `/`.
    fn name(&self, i: usize) -> Option<String> {
        let _ = i;
        None
    }

    /// Where sample `i` stands in its source, and how many the source has: `(i, len)` unless a limit chose among them.
    fn position(&self, i: usize) -> (usize, usize) {
        (i, self.len())
    }
}

/// A sample was asked for that is not there.
fn no_such_sample(i: usize, len: usize) -> Error {
    Error::new(ErrorKind::Usage, format!("there is no sample {i}: they are numbered 0 to {}", len.saturating_sub(1)))
}

/// How messages name a file or folder.
fn named(path: &Path) -> String {
    format!("`{}`", path.display())
}

/// What is in a folder, sorted by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let paths = std::fs::read_dir(folder).and_then(|entries| entries.map(|e| Ok(e?.path())).collect());
    let mut paths: Vec<PathBuf> = paths.map_err(Error::io).at(|| named(folder))?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod heard {
    use std::sync::Mutex;

    /// Remembers every warning.
    #[derive(Default)]
    pub struct Heard(pub Mutex<Vec<String>>);

    impl crate::events::Events for Heard {
        fn warn(&self, message: &str) {
            self.0.lock().unwrap().push(message.to_owned());
        }
    }

    impl Heard {
        /// The warnings, one a line.
        pub fn text(&self) -> String {
            self.0.lock().unwrap().join("\n")
        }
    }
}
