//! A folder to work in, and the `qdq` binary run from the top of the repository.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use prost::Message;
use qdq::model::{ModelProto, Tensor};

pub const DIGITS: &str = "fixtures/digits/model.onnx";
pub const CALIB: &str = "fixtures/digits/calib.npz";

/// What a run left: its exit code, stdout and stderr.
pub struct Outcome {
    pub code: i32,
    pub data: String,
    pub words: String,
}

/// A folder of its own for each test.
pub struct Desk(tempfile::TempDir);

impl Desk {
    pub fn new() -> Desk {
        Desk(tempfile::tempdir().unwrap())
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// Writes a file into the folder, and the folders above it.
    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Writes a model into the folder.
    pub fn model(&self, name: &str, model: &qdq::model::Model) -> String {
        self.file(name, &model.to_bytes().unwrap())
    }

    /// Writes a model of the fixtures into the folder, changed.
    pub fn changed(&self, name: &str, fixture: &str, change: impl FnOnce(&mut ModelProto)) -> String {
        let mut proto = ModelProto::decode(bytes_of(fixture).as_slice()).unwrap();
        change(&mut proto);
        self.file(name, &proto.encode_to_vec())
    }

    /// Writes arrays of float32 into an .npz in the folder.
    pub fn npz(&self, name: &str, arrays: &[(&str, &[usize], Vec<f32>)]) -> String {
        let path = self.path(name);
        let mut npz = ndarray_npy::NpzWriter::new(std::fs::File::create(&path).unwrap());
        for (name, shape, x) in arrays {
            npz.add_array(*name, &ndarray::ArrayD::from_shape_vec(shape.to_vec(), x.clone()).unwrap()).unwrap();
        }
        npz.finish().unwrap();
        path
    }

    /// Writes sample `i` of a folder of ONNX test data.
    pub fn test_data(&self, folder: &str, i: usize, inputs: &[Tensor]) {
        for (k, x) in inputs.iter().enumerate() {
            self.file(&format!("{folder}/test_data_set_{i}/input_{k}.pb"), &x.to_proto("").encode_to_vec());
        }
    }

    /// The names of all files and folders in the folder, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Quantizes digits into `out.onnx` of the folder.
    pub fn quantize_digits(&self, more: &[&str]) -> Outcome {
        self.quantize(DIGITS, CALIB, more)
    }

    /// Quantizes a model into `out.onnx` of the folder.
    pub fn quantize(&self, model: &str, data: &str, more: &[&str]) -> Outcome {
        let out = self.path("out.onnx");
        run(&[&["quantize", model, "--data", data, "-o", &out], more].concat())
    }

    /// The same as facts; fails unless it exits with 0.
    pub fn report(&self, model: &str, data: &str, more: &[&str]) -> serde_json::Value {
        let outcome = self.quantize(model, data, &[more, &["--json", "--force"]].concat());
        assert_eq!(outcome.code, 0, "{data} {more:?}: {}", outcome.words);
        serde_json::from_str(&outcome.data).unwrap()
    }
}

/// The bytes of a file, by its path from the top of the repository.
pub fn bytes_of(path: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The binary, to be run from the top of the repository with these arguments.
pub fn qdq(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qdq"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(args);
    command
}

/// What it prints where all is well, and says nothing.
pub fn stdout(args: &[&str]) -> String {
    let assert = qdq(args).assert().success().stderr("");
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

/// Runs `qdq`. Whatever it was given, it does not panic and exits with 0, 1 or 2.
pub fn run(args: &[&str]) -> Outcome {
    let output = qdq(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (data, words) = (text(output.stdout), text(output.stderr));
    let code = output.status.code().unwrap_or_else(|| panic!("{args:?} was killed: {words}"));
    assert!(matches!(code, 0..=2), "{args:?}: {code}: {words}");
    for word in ["panicked at", "RUST_BACKTRACE", "called `Option", "called `Result"] {
        assert!(!words.contains(word), "{args:?}: {words}");
    }
    Outcome { code, data, words }
}

impl Outcome {
    /// Fails unless this is an error as documented: exit code 2, nothing on stdout, one line `error:` with this text in
    /// it, and at most a line `hint:` after it.
    pub fn is_error(&self, text: &str) {
        let words = &self.words;
        assert_eq!((self.code, self.data.as_str()), (2, ""), "{text}: {words}");
        let lines: Vec<&str> = words.lines().filter(|l| !l.starts_with("warning: ")).collect();
        assert!(lines[0].starts_with("error: ") && lines[0].contains(text), "expected `{text}`: {words}");
        assert!(lines.len() == 1 || lines.len() == 2 && lines[1].starts_with("hint: "), "{words}");
    }

    /// Fails unless the arguments were refused.
    pub fn is_usage(&self) {
        assert_eq!((self.code, self.data.as_str()), (2, ""), "{}", self.words);
        assert!(self.words.starts_with("error: ") && self.words.contains("--help"), "{}", self.words);
    }

    /// The same, and the way out is named.
    pub fn is_error_with_hint(&self, text: &str) {
        self.is_error(text);
        assert!(self.words.lines().any(|l| l.starts_with("hint: ")), "{}", self.words);
    }
}
