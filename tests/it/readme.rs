//! The README's output is the program's real output: every `$ qdq` line in it is run, and what it prints is compared.

use assert_cmd::Command;

/// Lines that differ from run to run.
const VARYING: [&str; 2] = ["time  ", "peak memory  "];

fn masked(text: &str) -> Vec<Vec<&str>> {
    let varies = |line: &str| VARYING.iter().any(|v| line.starts_with(v));
    text.trim_end().lines().filter(|l| !varies(l)).map(|l| l.split_whitespace().collect()).collect()
}

/// Whether two words are the same, or numbers as far apart as another processor's order of summation may bring them.
fn alike(a: &str, b: &str) -> bool {
    let number = |s: &str| s.trim_end_matches(',').parse::<f64>().ok();
    match (number(a), number(b)) {
        (Some(a), Some(b)) => (a - b).abs() <= 0.05 * a.abs().max(b.abs()) + 1e-3,
        _ => a == b || (a.starts_with('─') && b.starts_with('─')),
    }
}

#[test]
fn the_readme_shows_what_the_program_prints() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let fixtures = folder.path().join("fixtures");
    for entry in ["digits", "ppocr_cls", "small/transformer"] {
        std::fs::create_dir_all(fixtures.join(entry)).unwrap();
        for file in std::fs::read_dir(root.join("fixtures").join(entry)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), fixtures.join(entry).join(file.file_name())).unwrap();
        }
    }
    let mut shown = 0;
    for block in readme.split("```console\n$ qdq ").skip(1) {
        let (command, rest) = block.split_once('\n').unwrap();
        let expected = rest.split("```").next().unwrap();
        let run = Command::new(env!("CARGO_BIN_EXE_qdq"))
            .current_dir(folder.path())
            .args(command.split(' '))
            .output()
            .unwrap();
        assert!(run.status.success(), "{command}: {}", String::from_utf8_lossy(&run.stderr));
        let stdout = String::from_utf8(run.stdout).unwrap();
        let (shows, prints) = (masked(expected), masked(&stdout));
        let same = |a: &Vec<&str>, b: &Vec<&str>| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b));
        assert!(
            shows.len() == prints.len() && shows.iter().zip(&prints).all(|(a, b)| same(a, b)),
            "{command} prints:\n{stdout}"
        );
        shown += 1;
    }
    assert_eq!(shown, 14);
}
