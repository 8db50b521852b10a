//! Every rule, broken once in a model that keeps them all.

use super::*;
use crate::model::attribute::{float, int, ints, string};
use crate::model::{AttributeProto, DataType, GraphProto, NodeProto, Tensor, TensorProto, ValueInfoProto};
use crate::proto::attribute_proto::AttributeType;
use crate::proto::tensor_proto::DataLocation;
use crate::proto::tensor_shape_proto::{Dimension, dimension};
use crate::proto::{
    OperatorSetIdProto, SparseTensorProto, StringStringEntryProto, TensorShapeProto, TypeProto, type_proto,
};

mod cases;
mod sound;

use cases::CASES;
use sound::*;

#[test]
fn a_sound_model_has_no_findings() {
    let found = check(&sound(), None);
    assert_eq!((lines(&found), found.errors, found.warnings), (vec![], 0, 0));
}

#[test]
fn every_rule_is_found_where_it_is_broken() {
    for (i, (change, expected)) in CASES.iter().enumerate() {
        assert_eq!(after(change), *expected, "case {i}");
    }
}

#[test]
fn every_rule_has_a_case_and_a_line_in_the_docs() {
    let docs = include_str!("mod.rs");
    // Those that need files, or long lines, have tests of their own.
    let elsewhere = ["external-data", "link", "nesting"];
    for rule in rules::ALL {
        let found = CASES.iter().flat_map(|(_, lines)| *lines).any(|l| l.starts_with(&format!("{}: ", rule.name)));
        assert!(found || elsewhere.contains(&rule.name), "no case for `{}`", rule.name);
        assert!(docs.contains(&format!("`{}`", rule.name)), "`{}` is not in the docs", rule.name);
    }
    let names: HashSet<_> = rules::ALL.iter().map(|r| r.name).collect();
    assert_eq!(names.len(), rules::ALL.len());
}

#[test]
fn errors_come_first_and_all_of_them() {
    let found = after(|m| {
        graph(m).node.push(node("dead", "Relu", "y", "r", vec![]));
        graph(m).name = None;
        graph(m).initializer[0].dims = vec![-1];
        at(m, "q").domain = Some("none".into());
        m.functions[0].domain = None;
        m.functions[0].output.push("b".into());
    });
    let rules: Vec<&str> = found.iter().filter_map(|l| l.split(':').next()).collect();
    assert_eq!(rules, ["graph-name", "tensor-shape", "domain", "function", "function", "unused-node"]);
}

#[test]
fn graphs_inside_of_graphs_are_bounded() {
    let found = after(|m| nest(inner(m), DEEPEST));
    assert!(found[0].starts_with("nesting: if > then_branch > deep > body > deep > "), "{found:?}");
    assert!(found[0].ends_with(" > body: it is more than 64 subgraphs deep") && found.len() == 2, "{found:?}");
    assert_eq!(after(|m| nest(inner(m), DEEPEST - 1)).len(), 1);
}

/// Writes the model beside a file `w` with the weights, a link to it, and one to a file elsewhere.
#[cfg(unix)]
#[test]
fn files_beside_the_model() {
    use prost::Message;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("w"), [0; 48]).unwrap();
    std::fs::write(folder.path().join("nan"), [0xff; 48]).unwrap();
    std::os::unix::fs::symlink("w", folder.path().join("link")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.path().join("out")).unwrap();
    std::fs::hard_link(folder.path().join("nan"), folder.path().join("second")).unwrap();
    let path = folder.path().join("m.onnx");
    let found = |location: &str, dims: &[i64]| {
        let mut model = sound();
        *tensor(&mut model, "w") = TensorProto { dims: dims.to_vec(), ..external(location) };
        std::fs::write(&path, model.encode_to_vec()).unwrap();
        lines(&check_file(&path).unwrap())
    };
    assert_eq!(found("w", &[3, 4]), [""; 0]);
    assert_eq!(found("link", &[3, 4]), ["link: w: `link` is a symbolic link, which not all tools take"]);
    assert_eq!(
        found("second", &[3, 4]),
        [
            "link: w: `second` is a hard link, one of 2, which not all tools take",
            "not-finite: w: of the elements of the tensor are 12 NaN"
        ]
    );
    let mut tied = sound();
    let nan = |name: &str| TensorProto { name: Some(name.into()), ..external("nan") };
    *tensor(&mut tied, "w") = nan("w");
    graph(&mut tied).initializer.push(nan("v"));
    at(&mut tied, "mm").op_type = Some("Gemm".into());
    at(&mut tied, "mm").input.push("v".into());
    std::fs::write(&path, tied.encode_to_vec()).unwrap();
    let told = lines(&check_file(&path).unwrap());
    assert_eq!(told.iter().filter(|l| l.starts_with("not-finite: ")).count(), 2, "{told:?}");
    assert_eq!(
        found("w", &[3, 5]),
        ["tensor-size: w: the tensor has 48 bytes in another file, and float32 of shape [3, 5] needs 60"]
    );
    let mut model = sound();
    for (name, offset) in [("w", "0"), ("v", "8")] {
        let mut part = TensorProto { name: Some(name.into()), dims: vec![4], ..external("w") };
        let entry = |k: &str, v: &str| StringStringEntryProto { key: Some(k.into()), value: Some(v.into()) };
        part.external_data.extend([entry("offset", offset), entry("length", "16")]);
        graph(&mut model).initializer.retain(|t| t.name() != name);
        graph(&mut model).initializer.push(part);
    }
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    let overlap = lines(&check_file(&path).unwrap());
    assert!(overlap[0].starts_with("external-data: model: tensors `w` and `v` overlap"), "{overlap:?}");
    for (location, why) in [("gone", "no such file"), ("../w", "leaves the model's folder"), ("out", "links out of")] {
        let found = found(location, &[3, 4]);
        assert!(found.len() == 1 && found[0].starts_with("external-data: w: ") && found[0].contains(why), "{found:?}");
    }
}

/// Every byte of the model, changed in several ways: what can be decoded is checked, in bounded time.
#[test]
fn no_bytes_make_it_fail() {
    use prost::Message;
    let bytes = sound().encode_to_vec();
    let mut checked = 0;
    for at in 0..bytes.len() {
        for change in [0x01, 0x7f, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] ^= change;
            if let Ok(model) = ModelProto::decode(&bytes[..]) {
                let found = check(&model, None);
                assert_eq!(found.errors + found.warnings, found.findings.len());
                checked += 1;
            }
        }
    }
    assert!(checked > bytes.len());
}

#[test]
fn findings_are_bounded_and_can_be_shown() {
    let name = "n\u{1b}[2J".to_owned() + &"x".repeat(2_000);
    let found = check(
        &{
            let mut m = sound();
            let dead = node(&name, "Relu", "y", "r", vec![]);
            graph(&mut m)
                .node
                .extend((0..KEPT + 5).map(|i| NodeProto { output: vec![format!("o{i}")], ..dead.clone() }));
            m
        },
        None,
    );
    assert_eq!((found.errors, found.warnings, found.findings.len()), (0, 2 * (KEPT + 5) - 1, KEPT));
    assert!(found.findings.iter().all(|f| f.place.len() < 2 * LONGEST && !f.place.contains('\u{1b}')));
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let on = |n: usize| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    let mut model = sound();
    graph(&mut model).initializer.extend((0..20).map(|i| {
        let x = [f32::NAN, 0.0, f32::INFINITY].repeat(i * 50_000);
        Tensor::from_f32(vec![x.len()], x).to_proto(&format!("t{i}"))
    }));
    let [one, three] = [1, 3].map(|n| on(n).install(|| check(&model, None)));
    assert_eq!(one, three);
    let last = one.findings.last().unwrap();
    assert_eq!(last.message, "of the elements of the tensor are 950000 NaN and 950000 infinite");
}

/// What [`crate::model::Graph::check`] refuses is what is found of names here, but for what is harmless.
#[test]
fn the_graph_refuses_what_is_found_of_names() {
    let harmless = ["produces `h`, which the graph around it has too", "is a value of the graph"];
    let mut refused = 0;
    for (change, lines) in CASES {
        let mut model = sound();
        change(&mut model);
        let Some(graph) = model.graph else { continue };
        let outcome = crate::model::Graph::from_proto(graph).and_then(|g| g.check());
        let names = ["name-twice: ", "hidden-initializer: ", "order: ", "reads-nothing: ", "graph-output: "];
        let broken = lines.iter().any(|l| {
            names.iter().any(|n| l.starts_with(n)) && !l.contains(": my.F") && !harmless.iter().any(|h| l.contains(h))
        });
        assert_eq!(outcome.is_err(), broken, "{lines:?}: {outcome:?}");
        refused += usize::from(broken);
    }
    assert!(refused > 6, "{refused}");
}
