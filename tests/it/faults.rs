//! Faults while writing: killed, disk full, nowhere to write. The old model or the new one stands there, whole.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::common::{floats, model, node};
use crate::desk::{self, Desk};
use qdq::model::Model;

/// Weights of a megabyte for each of so many MatMul, all of one number.
fn with_weights(matmuls: usize, number: f32) -> Model {
    let value = |i: usize| if i == 0 { "x".to_owned() } else { format!("v{i}") };
    let nodes = (0..matmuls).map(|i| node("MatMul", &format!("{} w{i}", value(i)), &value(i + 1), &[])).collect();
    let weights = (0..matmuls).map(|i| floats(&format!("w{i}"), &[512, 512], &[number; 512 * 512])).collect();
    model(17, &[1, 512], nodes, weights, &[(&value(matmuls), &[1, 512])])
}

/// Where a model stood before another was to replace it.
struct Stand {
    desk: Desk,
    old: Vec<u8>,
    new: Vec<u8>,
    args: Vec<String>,
}

impl Stand {
    fn of(external: &str) -> Stand {
        let desk = Desk::new();
        let source = |name: &str, number: f32| {
            let model = desk.model(name, &with_weights(4, number));
            let out = desk.path("out/out.onnx");
            let args = ["quantize", &model, "--mode", "weights", "--external-data", external, "--force", "-o", &out];
            args.map(str::to_owned).to_vec()
        };
        std::fs::create_dir(desk.path("out")).unwrap();
        let (before, args) = (source("before.onnx", 0.5), source("after.onnx", 1.5));
        let mut stand = Stand { desk, old: vec![], new: vec![], args };
        stand.new = stand.written(&stand.args);
        stand.old = stand.written(&before);
        assert_ne!(stand.old, stand.new);
        stand
    }

    fn written(&self, args: &[String]) -> Vec<u8> {
        assert!(Command::new(env!("CARGO_BIN_EXE_qdq")).args(args).output().unwrap().status.success());
        self.seen()
    }

    /// What stands there, external data put in.
    fn seen(&self) -> Vec<u8> {
        Model::read(Path::new(&self.desk.path("out/out.onnx"))).unwrap().to_bytes().unwrap()
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.desk.path("out")).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Begins to replace the model.
    fn start(&self) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qdq"));
        command.args(&self.args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Replaces the model after this line of shell.
    fn replace_under(&self, line: &str) -> Output {
        let script = format!("{line}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_qdq")]).args(&self.args).output().unwrap()
    }
}

/// Places in the new files at which the disk is full, in blocks of 512 bytes.
const BLOCKS: [usize; 7] = [0, 1, 100, 512, 1000, 2000, 2040];

#[test]
fn on_a_full_disk_the_old_model_stays() {
    for external in ["never", "always"] {
        let stand = Stand::of(external);
        let before = stand.files().len();
        for blocks in BLOCKS {
            let output = stand.replace_under(&format!("trap '' XFSZ; ulimit -f {blocks}"));
            let words = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{external} {blocks}: {words}");
            assert!(words.contains("cannot write") || words.contains("scratch data"), "{words}");
            assert!(stand.seen() == stand.old, "{external} {blocks}");
            assert_eq!(stand.files().len(), before, "{external} {blocks}: {:?}", stand.files());
        }
        assert!(stand.replace_under("ulimit -f 100000").status.success());
        assert!(stand.seen() == stand.new);
        assert_eq!(stand.files().len(), before);
    }
}

#[test]
fn killed_while_writing_it_leaves_the_old_model() {
    for external in ["never", "always"] {
        let stand = Stand::of(external);
        for blocks in BLOCKS {
            let output = stand.replace_under(&format!("ulimit -c 0; ulimit -f {blocks}"));
            assert_eq!(output.status.code(), None, "{external} {blocks}");
            assert!(stand.seen() == stand.old, "{external} {blocks}");
        }
    }
}

#[test]
fn killed_at_any_moment_it_leaves_the_old_model_or_the_new() {
    for external in ["never", "always"] {
        let stand = Stand::of(external);
        let mut ended = 0;
        for wait in (0..).map(|i| Duration::from_micros(i * 4000)) {
            let mut child = stand.start();
            std::thread::sleep(wait);
            child.kill().unwrap();
            ended += usize::from(child.wait().unwrap().success());
            let seen = stand.seen();
            assert!(seen == stand.old || seen == stand.new, "{external} {wait:?}");
            if ended > 2 {
                break;
            }
        }
        assert!(stand.seen() == stand.new);
    }
}

#[test]
fn where_nothing_can_be_written_it_says_so() {
    let stand = Stand::of("never");
    let model = stand.args[1].clone();
    for (out, text) in [("/proc/out.onnx", "cannot write"), ("/no/such/folder/out.onnx", "there is no folder")] {
        desk::run(&["quantize", &model, "--mode", "weights", "-o", out]).is_error(text);
        assert!(!Path::new(out).exists());
    }
}

/// A memory disk, where there is one, is another file system than the one for temporary files.
#[test]
fn the_new_model_may_go_to_another_file_system() {
    if !Path::new("/dev/shm").is_dir() {
        return eprintln!("skipped: no /dev/shm");
    }
    let stand = Stand::of("never");
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let real = elsewhere.path().join("real.onnx");
    std::fs::write(&real, b"old").unwrap();
    let link = stand.desk.path("link.onnx");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    for out in [real.to_str().unwrap(), &link] {
        let mut args: Vec<&str> = stand.args.iter().map(String::as_str).collect();
        *args.last_mut().unwrap() = out;
        assert_eq!(desk::run(&args).code, 0);
        assert!(std::fs::read(&real).unwrap() == stand.new);
    }
    assert!(Path::new(&link).is_symlink());
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 1);
}

/// However its path is written.
#[test]
fn data_of_a_model_that_is_replaced_go() {
    let (desk, elsewhere) = (Desk::new(), Desk::new());
    let [one, other] = [0.5, 1.5].map(|number| elsewhere.model(&format!("{number}.onnx"), &with_weights(1, number)));
    for out in ["m.onnx", "./m.onnx", &desk.path("m.onnx")] {
        for model in [&one, &other, &other] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_qdq"));
            command.args(["quantize", model, "--mode", "weights", "--external-data", "always", "--force", "-o", out]);
            assert!(command.current_dir(desk.path("")).output().unwrap().status.success());
            assert_eq!(desk.names().len(), 2, "{out}: {:?}", desk.names());
            Model::read(Path::new(&desk.path("m.onnx"))).unwrap();
        }
    }
}

fn interrupt(child: &mut Child) -> Option<i32> {
    let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).stderr(Stdio::null()).status();
    child.wait().unwrap().code()
}

/// Interrupted while there is a temporary file, it takes that along.
#[test]
fn interrupted_it_leaves_no_temporary_file() {
    let stand = Stand::of("always");
    let before = stand.files().len();
    let temporary = || stand.files().iter().any(|f| f.ends_with(".tmp"));
    let mut interrupted = 0;
    // A process may be done before it is seen to write.
    for _ in 0..200 {
        let mut child = stand.start();
        while !temporary() && child.try_wait().unwrap().is_none() {}
        let code = interrupt(&mut child);
        assert!(matches!(code, Some(0 | 130)), "{code:?}");
        assert_eq!(stand.files().len(), before, "{:?}", stand.files());
        interrupted += usize::from(code == Some(130));
        if interrupted == 3 {
            break;
        }
    }
    assert!(interrupted > 0);
}

/// Interrupted when some of its files have their names and others not, it leaves those of one model.
#[test]
fn interrupted_at_any_moment_it_leaves_the_old_model_or_the_new() {
    let stand = Stand::of("always");
    let before = stand.files().len();
    let mut ended = 0;
    for wait in (0..).map(|i| Duration::from_micros(i * 2000)) {
        let mut child = stand.start();
        std::thread::sleep(wait);
        // Before the handler stands, it is the system that ends the process.
        ended += usize::from(interrupt(&mut child) == Some(0));
        let seen = stand.seen();
        assert!(seen == stand.old || seen == stand.new, "{wait:?}");
        assert_eq!(stand.files().len(), before, "{wait:?}: {:?}", stand.files());
        if ended > 2 {
            break;
        }
    }
    assert!(stand.seen() == stand.new);
}
