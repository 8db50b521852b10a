mod common;
use common::*;
use prost::Message;
use qdq::events::Silent;
use qdq::model::*;
use qdq::pass::{self, Context};
use std::time::Instant;
fn time<T>(what: &str, f: impl FnOnce() -> T) -> T {
    let cpu = || {
        std::fs::read_to_string("/proc/thread-self/schedstat")
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .parse::<f64>()
            .unwrap()
            / 1e9
    };
    let t = cpu();
    let r = f();
    eprintln!("   {what}: {:.2}s", cpu() - t);
    r
}
fn go(name: &str, bytes: Vec<u8>) {
    eprintln!("{name}: {} bytes", bytes.len());
    let m = time("read", || Model::from_bytes(bytes.into()));
    let m = match m {
        Ok(m) => m,
        Err(e) => {
            eprintln!("  {e}");
            return;
        }
    };
    let i = time("inspect", || qdq::inspect::inspect(&m));
    match i {
        Ok(i) => {
            time("tables", || qdq::report::text(&i.tables(), None).len());
            time("json", || qdq::report::json(&i).unwrap().len());
        }
        Err(e) => eprintln!("  {e}"),
    }
    let mut p = m.clone();
    for pass in pass::exact(21) {
        time(pass.name(), || {
            if let Err(e) = pass::run(pass.as_ref(), &mut p, &mut Context::new(None, &Silent)) {
                eprintln!("  {e}")
            }
        });
    }
    time("lower", || {
        if let Err(e) = qdq::exec::lower(&m) {
            eprintln!("  {e}")
        }
    });
    time("write", || p.to_bytes().unwrap().len());
}
fn proto(opset: i64, nodes: Vec<NodeProto>, inits: Vec<TensorProto>, out: &str) -> Vec<u8> {
    let mut p = model(17, &[2, 4], vec![node("Relu", "x", "y", &[])], vec![], &[("y", &[2, 4])]).to_proto();
    let g = p.graph.as_mut().unwrap();
    g.node = nodes;
    g.initializer = inits;
    g.output[0].name = Some(out.into());
    p.opset_import[0].version = Some(opset);
    p.encode_to_vec()
}
#[test]
fn scratch() {
    let n: usize = std::env::var("N").unwrap().parse().unwrap();
    let v = |i: usize| if i == 0 { "x".to_owned() } else { format!("v{i}") };
    let only = std::env::var("ONLY").unwrap_or_default();
    let run = |name: &str, f: &dyn Fn() -> Vec<u8>| {
        if only.is_empty() || name.contains(&only) {
            go(name, f())
        }
    };
    run("chain relu", &|| proto(7, (0..n).map(|i| node("Relu", &v(i), &v(i + 1), &[])).collect(), vec![], &v(n)));
    run("reversed", &|| proto(7, (0..n).rev().map(|i| node("Relu", &v(i), &v(i + 1), &[])).collect(), vec![], &v(n)));
    run("identity chain", &|| {
        proto(7, (0..n).map(|i| node("Identity", &v(i), &v(i + 1), &[])).collect(), vec![], &v(n))
    });
    run("identities of x", &|| {
        proto(
            7,
            (0..n)
                .map(|i| node("Identity", "x", &v(i + 1), &[]))
                .chain((0..n).map(|i| node("Relu", &v(i + 1), &format!("r{i}"), &[])))
                .chain([node("Relu", "r0", "y", &[])])
                .collect(),
            vec![],
            "y",
        )
    });
    run("constants", &|| {
        proto(
            7,
            (0..n)
                .map(|i| node("Constant", "", &v(i + 1), &[attribute::float("value_float", 1.0)]))
                .chain((0..n).map(|i| node("Add", &format!("x {}", v(i + 1)), &format!("r{i}"), &[])))
                .collect(),
            vec![],
            "r0",
        )
    });
    run("clips", &|| {
        proto(
            7,
            (0..n).map(|i| node("Clip", &v(i), &v(i + 1), &[attribute::float("max", 1.0)])).collect(),
            vec![],
            &v(n),
        )
    });
    run("softmaxes", &|| proto(7, (0..n).map(|i| node("Softmax", &v(i), &v(i + 1), &[])).collect(), vec![], &v(n)));
    run("dropouts", &|| {
        proto(
            7,
            (0..n).map(|i| node("Dropout", &v(i), &v(i + 1), &[attribute::float("ratio", 1.0)])).collect(),
            vec![],
            &v(n),
        )
    });
    run("same name", &|| {
        proto(
            7,
            (0..n).map(|i| NodeProto { name: Some("x".into()), ..node("Relu", &v(i), &v(i + 1), &[]) }).collect(),
            vec![],
            &v(n),
        )
    });
    run("one reads x n times", &|| {
        proto(7, vec![node("Identity", "x", "a", &[]), node("Sum", &vec!["a"; n].join(" "), "y", &[])], vec![], "y")
    });
    run("initializers", &|| {
        proto(
            7,
            vec![node("Sum", &(0..n).map(|i| format!("w{i}")).collect::<Vec<_>>().join(" "), "y", &[])],
            (0..n).map(|i| floats(&format!("w{i}"), &[4, 4], &[1.0; 16])).collect(),
            "y",
        )
    });
    let body = |i: usize| GraphProto {
        node: vec![node("Relu", "x", &format!("b{i}"), &[])],
        output: vec![value(&format!("b{i}"), None)],
        ..Default::default()
    };
    let branch = |g: GraphProto| AttributeProto {
        name: Some("then_branch".into()),
        g: Some(g),
        r#type: Some(5),
        ..Default::default()
    };
    run("branches", &|| {
        proto(7, (0..n).map(|i| node("If", "x", &v(i + 1), &[branch(body(i))])).collect(), vec![], "v1")
    });
    run("branches in a branch", &|| {
        let inner = GraphProto {
            node: (0..n).map(|i| node("If", "x", &v(i + 1), &[branch(body(i))])).collect(),
            output: vec![value("v1", None)],
            ..Default::default()
        };
        proto(7, vec![node("If", "x", "y", &[branch(inner)])], vec![], "y")
    });
    run("bn", &|| {
        proto(
            9,
            (0..n).map(|i| node("BatchNormalization", &format!("{} s s s s", v(i)), &v(i + 1), &[])).collect(),
            vec![floats("s", &[4], &[1.0; 4])],
            &v(n),
        )
    });
    run("value infos", &|| {
        let b = proto(
            7,
            (0..n).map(|i| node("Cast", &v(i), &v(i + 1), &[attribute::int("to", 1)])).collect(),
            vec![],
            &v(n),
        );
        let mut p = ModelProto::decode(&b[..]).unwrap();
        p.graph.as_mut().unwrap().value_info = (1..n).map(|i| value(&v(i), Some(&[2, 4]))).collect();
        p.encode_to_vec()
    });
    run("legacy inputs", &|| {
        let b = proto(
            7,
            (0..n).map(|i| node("Add", &format!("x w{i}"), &v(i + 1), &[])).collect(),
            (0..n).map(|i| floats(&format!("w{i}"), &[1], &[1.0])).collect(),
            "v1",
        );
        let mut p = ModelProto::decode(&b[..]).unwrap();
        p.graph.as_mut().unwrap().input.extend((0..n).map(|i| value(&format!("w{i}"), Some(&[1]))));
        p.encode_to_vec()
    });
    run("imports", &|| {
        let b = proto(
            7,
            (0..n)
                .map(|i| NodeProto { domain: Some(format!("d{i}")), ..node("Relu", &v(i), &v(i + 1), &[]) })
                .collect(),
            vec![],
            &v(n),
        );
        let mut p = ModelProto::decode(&b[..]).unwrap();
        p.opset_import
            .extend((0..n).map(|i| qdq::proto::OperatorSetIdProto { domain: Some(format!("d{i}")), version: Some(1) }));
        p.encode_to_vec()
    });
    run("qdq", &|| {
        proto(
            13,
            (0..n)
                .flat_map(|i| {
                    [
                        node("QuantizeLinear", &format!("{} s", v(i)), &format!("q{i}"), &[]),
                        node("DequantizeLinear", &format!("q{i} s"), &v(i + 1), &[]),
                    ]
                })
                .collect(),
            vec![floats("s", &[], &[1.0])],
            &v(n),
        )
    });
    run("halves", &|| {
        proto(
            13,
            (0..n).map(|i| node("Add", &format!("{} h{i}", v(i)), &v(i + 1), &[])).collect(),
            (0..n)
                .map(|i| Tensor::from_f64(DataType::Float16, vec![1], &[1.0]).unwrap().to_proto(&format!("h{i}")))
                .collect(),
            &v(n),
        )
    });
}
