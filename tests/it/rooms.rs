//! Holds the order of the rooms: a room uses only rooms that stand above it in the docs of `src/lib.rs`.

use std::path::{Path, PathBuf};

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The rooms in the order of the table in `lib.rs`.
fn order(lib: &str) -> Vec<String> {
    let rows = lib.lines().filter_map(|l| l.strip_prefix("//! | [`"));
    rows.filter_map(|l| l.split('`').next()).map(str::to_owned).collect()
}

/// The rooms that a line of code names: `crate::room` or `crate::{room, ...}`.
fn named<'a>(text: &'a str, rooms: &'a [String]) -> Vec<&'a String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        found.extend(rooms.iter().filter(|r| {
            let room = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next();
            room == Some(r.as_str())
        }));
        if let Some(list) = rest.strip_prefix('{') {
            let list = list.split('}').next().unwrap_or("");
            found.extend(rooms.iter().filter(|r| list.split(',').any(|n| n.trim().starts_with(r.as_str()))));
        }
    }
    found
}

#[test]
fn rooms_only_look_up() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let lib = std::fs::read_to_string(src.join("lib.rs")).unwrap();
    let rooms = order(&lib);
    for module in lib.lines().filter_map(|l| l.strip_prefix("pub mod ")) {
        let room = module.trim_end_matches(';');
        assert!(rooms.iter().any(|r| r == room), "`{room}` is missing in the table of rooms");
    }
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut looked = 0;
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        let room = inside.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
        let Some(place) = rooms.iter().position(|r| *r == room) else {
            assert!(matches!(room.as_str(), "lib" | "main" | "cli"), "`{room}` is no room");
            continue;
        };
        let text = std::fs::read_to_string(&file).unwrap();
        // Tests may look anywhere.
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or("");
        let code: String = code.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        for used in named(&code, &rooms) {
            let other = rooms.iter().position(|r| r == used).unwrap();
            assert!(other <= place, "{} uses `{used}`, which stands below `{room}`", inside.display());
            looked += 1;
        }
    }
    assert!(looked > 50, "found only {looked} uses: the test looks in the wrong place");
}

#[test]
fn one_file_names_each_engine_and_two_are_unsafe() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let inside = file.strip_prefix(&src).unwrap().to_string_lossy().replace('\\', "/");
        assert!(!text.contains("tract_onnx") || inside == "exec/tract.rs", "{inside} names tract");
        let within_a_name = |i: usize| text[..i].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let names_ort = text.match_indices("ort::").any(|(i, _)| !within_a_name(i));
        assert!(!names_ort || inside == "exec/onnxruntime.rs", "{inside} names ONNX Runtime's crate");
        let may_be_unsafe = matches!(&*inside, "model/map.rs" | "cli/memory.rs");
        assert!(!text.contains("unsafe {") || may_be_unsafe, "{inside} is unsafe");
        let prints = ["println!", "print!(", "eprintln!", "std::env::", "process::exit"];
        let speaks = prints.iter().any(|p| text.contains(p));
        assert!(
            !speaks || inside.starts_with("cli/") || inside == "main.rs",
            "{inside} prints, reads the environment or exits"
        );
    }
}
