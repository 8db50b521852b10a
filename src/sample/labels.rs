//! The classes of samples, to count how often a model is right.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Samples, named, read_arrays};
use crate::error::{Error, ErrorKind, Place, Result, listed};
use crate::model::{Tensor, dtype_name};

/// Reads the class of each sample: from an `.npy` of integers `[N]` or `[N, 1]`, or from a `.tsv` with a line
/// `name<TAB>class` for each sample, without a head.
///
/// In a `.tsv`, samples with names (images) find theirs by the path inside the folder, or else by the file name alone;
/// other lines are ignored. Everything else goes by order: there must be one class for each sample of the source, also
/// where a limit chose among them.
///
/// Errors when the file is neither, cut short, holds something else than whole numbers from 0 on, leaves a sample
/// without class or has another number of them.
pub fn labels(path: &Path, samples: &dyn Samples) -> Result<Vec<usize>> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let read = match extension.as_str() {
        "npy" => classes(&read_arrays(path)?).and_then(|classes| in_order(&classes, samples)),
        "tsv" => {
            let text = std::fs::read_to_string(path).map_err(Error::io).at(|| named(path))?;
            lines(&text).and_then(|lines| match samples.name(0) {
                Some(_) => by_name(&lines, samples),
                None => in_order(&lines.iter().map(|(_, class)| *class).collect::<Vec<_>>(), samples),
            })
        }
        _ => Err(Error::new(ErrorKind::Usage, "not a file of labels")
            .hint("labels are an .npy of integers, or a .tsv with a line `name<TAB>class` for each sample")),
    };
    read.at(|| named(path))
}

fn data(message: String) -> Error {
    Error::new(ErrorKind::Data, message)
}

/// The classes in the one array of an `.npy`.
fn classes(arrays: &[(String, Tensor)]) -> Result<Vec<usize>> {
    let refused = |found: String| {
        data(format!("expected integers [N], found {found}"))
            .hint("labels are the numbers of the classes, from 0: `np.save(path, labels.astype(np.int64))`")
    };
    let [(_, array)] = arrays else { return Err(refused("several arrays".to_owned())) };
    let shape = array.shape();
    if !matches!(shape, [_] | [_, 1]) {
        return Err(refused(format!("{} {}", dtype_name(array.dtype()), listed(shape))));
    }
    let classes = array.i64s().map_err(|e| refused(e.to_string()))?;
    classes.into_iter().map(|c| usize::try_from(c).map_err(|_| refused(format!("the class {c}")))).collect()
}

/// The names and classes of a `.tsv`.
fn lines(text: &str) -> Result<Vec<(&str, usize)>> {
    let text = text.trim_start_matches('\u{feff}');
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = lines.map(|(at, line)| {
        let fields = line.split_once('\t').and_then(|(name, class)| Some((name, class.trim().parse().ok()?)));
        fields.ok_or_else(|| {
            Error::new(ErrorKind::Malformed, format!("line {}: expected `name<TAB>class`, found `{line}`", at + 1))
                .hint("classes are the numbers of the model's outputs, from 0, and there is no head")
        })
    });
    read.collect()
}

fn in_order(classes: &[usize], samples: &dyn Samples) -> Result<Vec<usize>> {
    (0..samples.len())
        .map(|i| match samples.position(i) {
            (at, of) if of == classes.len() => Ok(classes[at]),
            (_, of) => Err(data(format!("{} labels for {of} samples", classes.len()))
                .hint("give the class of each sample, in the samples' order")),
        })
        .collect()
}

fn by_name(lines: &[(&str, usize)], samples: &dyn Samples) -> Result<Vec<usize>> {
    let mut classes = BTreeMap::new();
    for (name, class) in lines {
        if classes.insert(*name, *class).is_some_and(|other| other != *class) {
            return Err(data(format!("`{name}` has two classes")));
        }
    }
    (0..samples.len())
        .map(|i| {
            let name = samples.name(i).unwrap_or_default();
            let file = name.rsplit('/').next().unwrap_or_default();
            classes.get(&name[..]).or_else(|| classes.get(file)).copied().ok_or_else(|| {
                data(format!("no label for `{name}`")).hint("name the images by their paths inside the folder")
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::npy::tests::{npy, npy_f32};
    use super::super::{Sample, Samples};
    use super::*;

    /// The second and fourth of four samples.
    struct Named(&'static [&'static str]);

    impl Samples for Named {
        fn len(&self) -> usize {
            2
        }

        fn get(&self, _: usize) -> Result<Sample> {
            Ok(Sample { inputs: Vec::new() })
        }

        fn describe(&self) -> String {
            String::new()
        }

        fn name(&self, i: usize) -> Option<String> {
            self.0.get(i).map(|n| n.to_string())
        }

        fn position(&self, i: usize) -> (usize, usize) {
            (2 * i + 1, 4)
        }
    }

    fn of(file: &str, bytes: &[u8], names: &'static [&'static str]) -> Result<Vec<usize>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        std::fs::write(&path, bytes).unwrap();
        labels(&path, &Named(names))
    }

    #[test]
    fn labels_find_their_samples() {
        let array = |descr: &str, shape: &[usize]| npy(descr, shape, &[5, 0, 6, 0, 7, 0, 8, 0]);
        assert_eq!(of("l.npy", &array("'<i2'", &[4]), &["a"]).unwrap(), [6, 8]);
        assert_eq!(of("l.npy", &array("'<u2'", &[4, 1]), &[]).unwrap(), [6, 8]);
        assert_eq!(of("l.tsv", b"w\t5\r\nx\t6\n\ny\t7\nz\t8", &[]).unwrap(), [6, 8]);
        let names = &["cat/1.png", "dog/2.png"];
        assert_eq!(
            of("l.tsv", "\u{feff}2.png\t0\nx.png\t9\ncat/1.png\t3\n1.png\t4".as_bytes(), names).unwrap(),
            [3, 0]
        );
    }

    #[test]
    fn labels_that_do_not_fit_are_errors() {
        let array = |descr: &str, shape: &[usize]| npy(descr, shape, &[255; 8]);
        let cases: &[(&str, Vec<u8>, &str)] = &[
            ("l.npy", array("'<u2'", &[3]), "3 labels for 4 samples"),
            ("l.npy", array("'<i2'", &[4]), "the class -1"),
            ("l.npy", array("'<u2'", &[2, 2]), "uint16 [2, 2]"),
            ("l.npy", npy_f32(&[4], &[0.0; 4]), "found float32"),
            ("l.npy", vec![1], "cut short"),
            ("l.tsv", b"a\t1\nb\tcat".to_vec(), "line 2"),
            ("l.tsv", b"a 1".to_vec(), "line 1"),
            ("l.tsv", b"a\t-1".to_vec(), "line 1"),
            ("l.tsv", b"a\t1".to_vec(), "1 labels for 4 samples"),
            ("l.tsv", vec![0xff], "utf-8"),
            ("l.csv", b"a,1".to_vec(), "not a file of labels"),
        ];
        for (file, bytes, expected) in cases {
            let e = of(file, bytes, &[]).unwrap_err();
            assert!(e.to_string().contains(expected) && e.to_string().matches(file).count() == 1, "{e}");
        }
        let e = of("l.tsv", b"a.png\t1", &["a.png", "b.png"]).unwrap_err();
        assert!(e.to_string().contains("no label for `b.png`"), "{e}");
        let e = of("l.tsv", b"a.png\t1\na.png\t2", &["a.png", "b.png"]).unwrap_err();
        assert!(e.to_string().contains("two classes"), "{e}");
    }
}
