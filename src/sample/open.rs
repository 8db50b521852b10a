//! From the name of a source to its samples.

use std::collections::BTreeMap;
use std::path::Path;

use super::options::{ImageOptions, SampleOptions};
use super::stack::{open_arrays, stack};
use super::{Sample, Samples, entries, images, named, no_such_sample, onnx_data, random};
use crate::error::{Error, ErrorKind, Result};
use crate::events::Events;
use crate::model::InputSpec;

const SOURCES: &str = "samples come from an .npy, .npz or .safetensors file, a folder of ONNX test data \
    (test_data_set_0/input_0.pb), or a folder of .jpg or .png images";

/// Opens a source of samples for a model with these inputs; the table in [the module](super) says which there are.
///
/// Errors when the source is missing, not of a known kind, damaged, empty, or when its first sample does not fit the
/// inputs. Warns when samples are random, and of what is in the source or the options and not used.
pub fn open(
    source: &str,
    options: &SampleOptions,
    inputs: &[InputSpec],
    events: &dyn Events,
) -> Result<Box<dyn Samples>> {
    if inputs.is_empty() {
        return Err(Error::new(ErrorKind::Data, "the model has no inputs: there is nothing to give samples to"));
    }
    if options.limit == Some(0) {
        return Err(Error::new(ErrorKind::Usage, "0 samples were asked for").hint("leave the number out to use all"));
    }
    let samples = unlimited(source, options, inputs, events)?;
    let Some(limit) = options.limit else { return Ok(samples) };
    if limit > samples.len() {
        events.warn(&format!("{limit} samples were asked for, and `{source}` holds {}: all are used", samples.len()));
    }
    Ok(if limit < samples.len() { Box::new(Spread { all: samples, limit }) } else { samples })
}

fn unlimited(
    source: &str,
    options: &SampleOptions,
    inputs: &[InputSpec],
    events: &dyn Events,
) -> Result<Box<dyn Samples>> {
    let not_images = || {
        if options.image != ImageOptions::default() {
            events.warn(&format!("the options for images are ignored: `{source}` holds none"));
        }
    };
    if let Some(count) = source.strip_prefix("random:") {
        not_images();
        return random::open(count, options.seed, inputs, events);
    }
    let path = Path::new(source);
    let meta = std::fs::metadata(path).map_err(|e| {
        let hint = if source == "random" { "say how much noise: `random:32`" } else { SOURCES };
        Error::io(e).at(named(path)).hint(hint)
    })?;
    if !meta.is_dir() {
        let Some(arrays) = open_arrays(path)? else {
            let e = Error::new(ErrorKind::Usage, "not a known kind of samples").at(format!("`{source}`"));
            return Err(e.hint(SOURCES));
        };
        not_images();
        return stack(arrays, source, inputs, events);
    }
    if let Some(samples) = onnx_data::open(path, source, inputs)? {
        not_images();
        return Ok(samples);
    }
    let names = images::names(path)?;
    if names.is_empty() {
        let what = format!("no samples in this folder: {}", contents(path)?);
        return Err(Error::new(ErrorKind::Data, what).at(format!("`{source}`")).hint(SOURCES));
    }
    images::open(path, names, source, &options.image, inputs)
}

/// What is in a folder, by extension: `it holds 3 .txt, 1 folder`.
fn contents(folder: &Path) -> Result<String> {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for path in entries(folder)? {
        let kind = match path.extension().and_then(|e| e.to_str()) {
            _ if path.is_dir() => "folder".to_owned(),
            Some(extension) => format!(".{extension}"),
            None => "without extension".to_owned(),
        };
        *kinds.entry(kind).or_default() += 1;
    }
    let list: Vec<String> = kinds.iter().take(8).map(|(kind, n)| format!("{n} {kind}")).collect();
    Ok(if list.is_empty() { "it is empty".to_owned() } else { format!("it holds {}", list.join(", ")) })
}

/// A few samples of many, spread evenly.
struct Spread {
    all: Box<dyn Samples>,
    limit: usize,
}

impl Spread {
    fn place(&self, i: usize) -> usize {
        // Wide enough for every product of two sizes.
        (i as u128 * self.all.len() as u128 / self.limit as u128) as usize
    }
}

impl Samples for Spread {
    fn len(&self) -> usize {
        self.limit
    }

    fn get(&self, i: usize) -> Result<Sample> {
        if i >= self.limit {
            return Err(no_such_sample(i, self.limit));
        }
        self.all.get(self.place(i))
    }

    fn describe(&self) -> String {
        format!("{}; {} of them, evenly spread", self.all.describe(), self.limit)
    }

    fn name(&self, i: usize) -> Option<String> {
        self.all.name(self.place(i))
    }

    fn position(&self, i: usize) -> (usize, usize) {
        (self.place(i), self.all.len())
    }
}

#[cfg(test)]
mod tests {
    use super::super::heard::Heard;
    use super::super::{Resize, labels, read_arrays};
    use super::*;
    use crate::model::Model;

    fn fixture(path: &str) -> String {
        format!("{}/fixtures/{path}", env!("CARGO_MANIFEST_DIR"))
    }

    fn inputs(model: &str) -> Vec<InputSpec> {
        InputSpec::all(&Model::read(Path::new(&fixture(model))).unwrap().graph).unwrap()
    }

    fn opened(source: &str, model: &str) -> (Box<dyn Samples>, String) {
        let heard = Heard::default();
        let samples = open(&fixture(source), &SampleOptions::default(), &inputs(model), &heard).unwrap();
        let warnings = heard.text();
        (samples, warnings)
    }

    #[test]
    fn every_source_gives_samples_that_fit() {
        let cases = [
            ("digits/calib.npz", "digits/model.onnx", 100),
            ("ppocr_cls/calib.npz", "ppocr_cls/model.onnx", 48),
            ("small/test_data", "digits/model.onnx", 4),
            ("small/test_data/test_data_set_1", "digits/model.onnx", 1),
            ("small/safetensors/digits.safetensors", "digits/model.onnx", 3),
            ("small/transformer/data.npz", "small/transformer/model.onnx", 16),
            ("small/float16/data.npz", "small/float16/model.onnx", 0),
            ("small/legacy/data.npz", "small/legacy/model.onnx", 0),
        ];
        for (source, model, len) in cases {
            let (samples, warnings) = opened(source, model);
            assert!(len == 0 || samples.len() == len, "{source}");
            assert_eq!(warnings, "", "{source}");
            let arrays = read_arrays(Path::new(&fixture(source))).unwrap_or_default();
            for i in 0..samples.len() {
                let sample = samples.get(i).unwrap();
                for (spec, tensor) in inputs(model).iter().zip(&sample.inputs) {
                    assert_eq!(tensor.dtype(), spec.dtype, "{source}");
                    assert_eq!((tensor.shape().len(), tensor.shape()[0]), (spec.shape.as_ref().unwrap().len(), 1));
                    if let Some((_, whole)) = arrays.iter().find(|(name, _)| *name == spec.name) {
                        let size = tensor.bytes().len();
                        assert_eq!(tensor.bytes()[..], whole.bytes()[i * size..(i + 1) * size], "{source} {i}");
                    }
                }
            }
            assert!(samples.get(samples.len()).is_err());
        }
    }

    #[test]
    fn test_data_holds_the_samples_it_was_made_of() {
        let (pb, _) = opened("small/test_data", "digits/model.onnx");
        let (npz, _) = opened("digits/eval.npz", "digits/model.onnx");
        assert!((0..npz.len()).any(|i| npz.get(i).unwrap() == pb.get(2).unwrap()));
    }

    #[test]
    fn a_limit_spreads_over_the_source_and_labels_follow() {
        let heard = Heard::default();
        let options = SampleOptions { limit: Some(7), ..Default::default() };
        let model = inputs("digits/model.onnx");
        let all = open(&fixture("digits/eval.npz"), &SampleOptions::default(), &model, &heard).unwrap();
        let few = open(&fixture("digits/eval.npz"), &options, &model, &heard).unwrap();
        let path = fixture("digits/eval_labels.npy");
        let (of_all, of_few) = (labels(Path::new(&path), &*all).unwrap(), labels(Path::new(&path), &*few).unwrap());
        assert_eq!((few.len(), of_all.len(), of_few.len()), (7, 500, 7));
        for (i, class) in of_few.into_iter().enumerate() {
            let at = i * 500 / 7;
            assert_eq!(few.get(i).unwrap(), all.get(at).unwrap());
            assert_eq!((few.position(i), class), ((at, 500), of_all[at]));
        }
        assert_eq!(few.describe(), format!("`{}`: 500 samples; 7 of them, evenly spread", fixture("digits/eval.npz")));
        assert_eq!(heard.text(), "");
        let many = SampleOptions { limit: Some(501), ..Default::default() };
        assert_eq!(open(&fixture("digits/eval.npz"), &many, &model, &heard).unwrap().len(), 500);
        assert!(heard.text().contains("501 samples were asked for"));
        let none = SampleOptions { limit: Some(0), ..Default::default() };
        assert_eq!(open("random:3", &none, &model, &heard).err().unwrap().kind(), ErrorKind::Usage);
    }

    #[test]
    fn images_become_samples_with_names_and_labels() {
        let heard = Heard::default();
        let image = ImageOptions { resize: Some("8x8".parse().unwrap()), ..Default::default() };
        let options = SampleOptions { image, limit: Some(3), ..Default::default() };
        let samples = open(&fixture("small/images"), &options, &inputs("digits/model.onnx"), &heard).unwrap();
        assert_eq!(samples.get(2).unwrap().inputs[0].shape(), [1, 1, 8, 8]);
        let names: Vec<_> = (0..3).filter_map(|i| samples.name(i)).collect();
        assert_eq!(names, ["five.jpg", "one.png", "three.png"]);
        assert_eq!(labels(Path::new(&fixture("small/images/labels.tsv")), &*samples).unwrap(), [5, 1, 3]);
        assert_eq!(heard.text(), "");
        let arrays = open(&fixture("digits/eval.npz"), &options, &inputs("digits/model.onnx"), &heard).unwrap();
        assert_eq!(arrays.len(), 3);
        assert!(heard.text().contains("options for images are ignored"));
        assert_eq!(options.image.resize, Some(Resize::Exact("8".parse().unwrap())));
    }

    #[test]
    fn noise_must_be_asked_for_by_name() {
        let heard = Heard::default();
        let model = inputs("digits/model.onnx");
        let samples = open("random:3", &SampleOptions::default(), &model, &heard).unwrap();
        assert_eq!((samples.len(), samples.get(0).unwrap().inputs[0].shape()), (3, &[1, 1, 8, 8][..]));
        assert!(heard.text().contains("random noise"));
    }

    #[test]
    fn what_is_no_source_says_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let model = inputs("digits/model.onnx");
        let of = |path: &Path| {
            open(path.to_str().unwrap(), &SampleOptions::default(), &model, &Heard::default()).err().unwrap()
        };
        assert!(of(folder.path()).to_string().contains("it is empty"));
        let missing = of(&folder.path().join("none"));
        assert_eq!((missing.kind(), missing.way_out()), (ErrorKind::Io, Some(SOURCES)));
        for name in ["a.txt", "b.txt", "c"] {
            std::fs::write(folder.path().join(name), b"x").unwrap();
        }
        std::fs::create_dir(folder.path().join("d")).unwrap();
        let e = of(folder.path());
        assert!(e.to_string().contains("it holds 2 .txt, 1 folder, 1 without extension"), "{e}");
        assert_eq!(of(&folder.path().join("a.txt")).kind(), ErrorKind::Usage);
        assert!(open("x", &SampleOptions::default(), &[], &Heard::default()).is_err());
    }

    #[test]
    fn a_file_cut_short_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        let header = b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1, 8, 8), }";
        let mut whole = header.to_vec();
        whole.resize(10 + 0x45, b' ');
        whole.push(b'\n');
        whole.extend([0; 512]);
        let model = inputs("digits/model.onnx");
        for end in (0..=whole.len()).rev() {
            std::fs::write(&path, &whole[..end]).unwrap();
            let read = open(path.to_str().unwrap(), &SampleOptions::default(), &model, &Heard::default());
            match read {
                Ok(samples) => assert!(end == whole.len() && samples.len() == 2 && samples.get(1).is_ok()),
                Err(e) => assert!(end < whole.len() && e.to_string().matches("x.npy").count() == 1, "{end}: {e}"),
            }
        }
    }
}
