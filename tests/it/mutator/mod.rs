//! Broken models: seeded changes of bytes, of protobuf fields whatever they mean, and of what the schema says.

use prost::Message;
use prost::encoding::{decode_varint, encode_varint};
use qdq::model::{AttributeProto, DataType, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use qdq::proto::attribute_proto::AttributeType;
use qdq::proto::tensor_shape_proto::dimension;
use qdq::proto::type_proto;
use rand::rngs::ChaCha8Rng;
use rand::{Rng, RngExt};

/// A changed copy of one of the seeds.
pub fn mutant(rng: &mut ChaCha8Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[rng.random_range(0..seeds.len())].clone();
    for _ in 0..rng.random_range(1..4) {
        let other = &seeds[rng.random_range(0..seeds.len())];
        bytes = match rng.random_range(0..10) {
            0 => of_bytes(rng, bytes, other),
            1..4 => of_fields(rng, &bytes),
            _ => of_meaning(rng, &bytes),
        };
    }
    bytes
}

/// Numbers at which things break.
const EDGES: &[i64] = &[
    0,
    1,
    -1,
    2,
    7,
    16,
    255,
    65_536,
    1 << 24,
    i32::MAX as i64,
    i32::MIN as i64,
    1 << 32,
    100_000_000_000,
    1 << 62,
    i64::MAX,
    i64::MIN,
];

fn edge(rng: &mut impl Rng) -> i64 {
    EDGES[rng.random_range(0..EDGES.len())]
}

/// Some of `0..len`, `len` included.
fn span(rng: &mut impl Rng, len: usize) -> std::ops::Range<usize> {
    let from = rng.random_range(0..=len);
    let most = if rng.random() { len - from } else { (len - from).min(16) };
    from..from + rng.random_range(0..=most)
}

// ---- bytes ----

fn of_bytes(rng: &mut impl Rng, mut bytes: Vec<u8>, other: &[u8]) -> Vec<u8> {
    if bytes.is_empty() {
        return bytes;
    }
    match rng.random_range(0..6) {
        0 => {
            for _ in 0..rng.random_range(1..9) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
        }
        1 => bytes.truncate(rng.random_range(0..bytes.len())),
        2 => drop(bytes.drain(span(rng, bytes.len()))),
        3 => {
            let copy = bytes[span(rng, bytes.len())].to_vec();
            let at = rng.random_range(0..=bytes.len());
            bytes.splice(at..at, copy);
        }
        4 => {
            let foreign = other[span(rng, other.len())].to_vec();
            let there = span(rng, bytes.len());
            bytes.splice(there, foreign);
        }
        // Varints that do not end, and lengths past the end.
        _ => {
            let there = span(rng, bytes.len());
            bytes[there].iter_mut().take(12).for_each(|b| *b = 0xff);
        }
    }
    bytes
}

// ---- fields ----

struct Field {
    number: u64,
    value: Value,
}

enum Value {
    Varint(u64),
    Fixed(u8, Vec<u8>),
    Bytes(Vec<u8>),
    Message(Vec<Field>),
}

fn of_fields(rng: &mut impl Rng, bytes: &[u8]) -> Vec<u8> {
    let Some(mut tree) = parse(bytes, 0) else { return bytes.to_vec() };
    let count = size(&tree);
    let at = rng.random_range(0..count);
    match rng.random_range(0..7) {
        0 => drop(cut(&mut tree, &mut { at })),
        1 => {
            let copy = cut(&mut tree, &mut { at }).map(|f| encoded(&[f]));
            for _ in 0..rng.random_range(2..40) {
                if let Some(fields) = copy.as_ref().and_then(|c| parse(c, 0)) {
                    fields.into_iter().for_each(|f| put(&mut tree, &mut { at }, f));
                }
            }
        }
        // A field of another message, or a message inside another one of its kind.
        2 => {
            if let Some(field) = cut(&mut tree, &mut { at }) {
                put(&mut tree, &mut rng.random_range(0..count), field);
            }
        }
        3 => visit(&mut tree, &mut { at }, &mut |f| f.number = rng.random_range(1..30)),
        _ => visit(&mut tree, &mut { at }, &mut |f| change(rng, &mut f.value)),
    }
    encoded(&tree)
}

fn change(rng: &mut impl Rng, value: &mut Value) {
    match value {
        Value::Varint(x) => *x = edge(rng) as u64,
        Value::Fixed(_, bytes) => {
            let bits = [0, 1 << 31, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 1, 0x7f7f_ffff][rng.random_range(0..7)];
            let new = u32::to_le_bytes(bits);
            bytes.iter_mut().rev().zip(new.iter().rev()).for_each(|(b, n)| *b = *n);
        }
        Value::Bytes(bytes) => match rng.random_range(0..4) {
            0 => bytes.clear(),
            1 => bytes.truncate(bytes.len() / 2),
            2 => bytes.extend_from_within(..),
            _ => bytes.iter_mut().for_each(|b| *b = rng.random()),
        },
        Value::Message(fields) => {
            if !fields.is_empty() {
                fields.truncate(rng.random_range(0..fields.len()));
            }
        }
    }
}

/// The fields of a message; `None` where the bytes are none.
fn parse(mut bytes: &[u8], depth: usize) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = decode_varint(&mut bytes).ok()?;
        let mut take = |n: usize| {
            let (head, rest) = bytes.split_at_checked(n)?;
            bytes = rest;
            Some(head.to_vec())
        };
        let value = match key & 7 {
            0 => Value::Varint(decode_varint(&mut bytes).ok()?),
            1 => Value::Fixed(1, take(8)?),
            5 => Value::Fixed(5, take(4)?),
            2 => {
                let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
                let (inner, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                match parse(inner, depth + 1).filter(|f| depth < 60 && !f.is_empty()) {
                    Some(fields) => Value::Message(fields),
                    None => Value::Bytes(inner.to_vec()),
                }
            }
            _ => return None,
        };
        (key >> 3 > 0).then_some(())?;
        fields.push(Field { number: key >> 3, value });
    }
    Some(fields)
}

fn encoded(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for Field { number, value } in fields {
        let kind = match value {
            Value::Varint(_) => 0,
            Value::Fixed(kind, _) => u64::from(*kind),
            _ => 2,
        };
        encode_varint(number << 3 | kind, &mut out);
        let inner = match value {
            Value::Varint(x) => {
                encode_varint(*x, &mut out);
                continue;
            }
            Value::Fixed(_, bytes) => {
                out.extend(bytes);
                continue;
            }
            Value::Bytes(bytes) => bytes.clone(),
            Value::Message(fields) => encoded(fields),
        };
        encode_varint(inner.len() as u64, &mut out);
        out.extend(inner);
    }
    out
}

fn size(fields: &[Field]) -> usize {
    let of = |f: &Field| match &f.value {
        Value::Message(inner) => 1 + size(inner),
        _ => 1,
    };
    fields.iter().map(of).sum::<usize>().max(1)
}

/// Calls with the field of that number, counted through all messages.
fn visit(fields: &mut [Field], at: &mut usize, call: &mut dyn FnMut(&mut Field)) {
    for field in fields {
        if *at == 0 {
            *at = usize::MAX;
            return call(field);
        }
        *at -= 1;
        if let Value::Message(inner) = &mut field.value {
            visit(inner, at, call);
        }
        if *at == usize::MAX {
            return;
        }
    }
}

/// Takes the field of that number out.
fn cut(fields: &mut Vec<Field>, at: &mut usize) -> Option<Field> {
    let mut i = 0;
    while i < fields.len() {
        if *at == 0 {
            return Some(fields.remove(i));
        }
        *at -= 1;
        if let Value::Message(inner) = &mut fields[i].value
            && let Some(found) = cut(inner, at)
        {
            return Some(found);
        }
        i += 1;
    }
    None
}

/// Puts a field before that of that number.
fn put(fields: &mut Vec<Field>, at: &mut usize, new: Field) {
    let mut new = Some(new);
    fn go(fields: &mut Vec<Field>, at: &mut usize, new: &mut Option<Field>) {
        let mut i = 0;
        while i < fields.len() && new.is_some() {
            if *at == 0 {
                fields.insert(i, new.take().unwrap());
                return;
            }
            *at -= 1;
            if let Value::Message(inner) = &mut fields[i].value {
                go(inner, at, new);
            }
            i += 1;
        }
    }
    go(fields, at, &mut new);
}

// ---- meaning ----

fn of_meaning(rng: &mut impl Rng, bytes: &[u8]) -> Vec<u8> {
    let Ok(mut model) = ModelProto::decode(bytes) else { return bytes.to_vec() };
    if rng.random_range(0..12) == 0 {
        for import in &mut model.opset_import {
            import.version = Some(if rng.random() { edge(rng) } else { rng.random_range(1..28) });
        }
        return model.encode_to_vec();
    }
    let Some(graph) = &mut model.graph else { return bytes.to_vec() };
    if rng.random_range(0..10) == 0 {
        wrap(rng, graph);
    } else if rng.random_range(0..4) == 0 {
        let values = graph.input.len() + graph.output.len() + graph.value_info.len();
        let nth = rng.random_range(0..values.max(1));
        let all = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
        all.skip(nth).take(1).for_each(|v| of_value(rng, v));
    } else if rng.random_range(0..3) == 0 && !graph.initializer.is_empty() {
        let nth = rng.random_range(0..graph.initializer.len());
        of_tensor(rng, &mut graph.initializer[nth]);
    } else {
        of_nodes(rng, graph);
    }
    model.encode_to_vec()
}

fn of_value(rng: &mut impl Rng, v: &mut ValueInfoProto) {
    let Some(type_proto::Value::TensorType(t)) = v.r#type.as_mut().and_then(|t| t.value.as_mut()) else { return };
    match (rng.random_range(0..5), &mut t.shape) {
        (0, _) => t.elem_type = Some(dtype(rng)),
        (1, shape) => *shape = None,
        (2, _) => v.r#type = None,
        (_, Some(shape)) if !shape.dim.is_empty() => {
            let nth = rng.random_range(0..shape.dim.len());
            match rng.random_range(0..4) {
                0 => drop(shape.dim.remove(nth)),
                1 => shape.dim[nth].value = Some(dimension::Value::DimParam("\u{1b}[2J".into())),
                2 => shape.dim[nth].value = None,
                _ => shape.dim[nth].value = Some(dimension::Value::DimValue(edge(rng))),
            }
        }
        _ => v.name = Some(String::new()),
    }
}

/// An element type: known, unknown or undefined.
fn dtype(rng: &mut impl Rng) -> i32 {
    let some = [DataType::Float, DataType::Float16, DataType::Double, DataType::Int8, DataType::Uint8, DataType::Int64];
    match rng.random_range(0..3) {
        0 => some[rng.random_range(0..some.len())] as i32,
        1 => rng.random_range(-1..40),
        _ => edge(rng) as i32,
    }
}

fn of_tensor(rng: &mut impl Rng, t: &mut TensorProto) {
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, f32::MAX, 1e-45, -1.0];
    match rng.random_range(0..8) {
        0 => t.data_type = Some(dtype(rng)),
        1 => t.dims.push(edge(rng)),
        2 => t.dims = vec![edge(rng); rng.random_range(0..4)],
        3 if !t.dims.is_empty() => {
            let nth = rng.random_range(0..t.dims.len());
            t.dims[nth] = edge(rng);
        }
        4 => t.dims.reverse(),
        // All numbers alike, or one of them.
        5 | 6 => {
            let x = special[rng.random_range(0..special.len())].to_le_bytes();
            let mut raw = t.raw_data.take().unwrap_or_default().to_vec();
            let one = rng.random_range(0..raw.len().max(1)) / 4;
            let all = rng.random();
            for (i, chunk) in raw.chunks_mut(4).enumerate() {
                if all || i == one {
                    chunk.iter_mut().zip(x).for_each(|(b, x)| *b = x);
                }
            }
            t.raw_data = Some(raw.into());
        }
        _ => {
            t.raw_data = None;
            t.dims = vec![rng.random_range(0..4)];
            t.float_data = vec![0.5; 2];
            t.int64_data = vec![edge(rng); 2];
            t.int32_data = vec![edge(rng) as i32; 2];
        }
    }
}

/// Operators that passes and rules look at.
const OPERATORS: &[&str] = &[
    "",
    "Add",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "ConvTranspose",
    "DFT",
    "DequantizeLinear",
    "Dropout",
    "DynamicQuantizeLinear",
    "Erf",
    "Flatten",
    "Gather",
    "Gemm",
    "GroupNormalization",
    "Identity",
    "If",
    "LSTM",
    "LogSoftmax",
    "Loop",
    "MatMul",
    "MatMulInteger",
    "Nonsense",
    "Pad",
    "QLinearConv",
    "QuantizeLinear",
    "ReduceMean",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Resize",
    "Scan",
    "Scatter",
    "Shape",
    "Slice",
    "Softmax",
    "Split",
    "Squeeze",
    "TopK",
    "Transpose",
    "Unsqueeze",
    "Upsample",
    "Where",
];

/// Attributes that they read.
const ATTRIBUTES: &[&str] = &[
    "alpha",
    "axes",
    "axis",
    "beta",
    "block_size",
    "coordinate_transformation_mode",
    "dtype",
    "ends",
    "epsilon",
    "group",
    "is_test",
    "k",
    "kernel_shape",
    "keepdims",
    "max",
    "min",
    "mode",
    "nearest_mode",
    "num_groups",
    "output_dtype",
    "pads",
    "perm",
    "ratio",
    "scales",
    "spatial",
    "split",
    "start",
    "starts",
    "strides",
    "to",
    "training_mode",
    "transB",
    "value",
    "value_floats",
    "value_ints",
];

fn of_nodes(rng: &mut impl Rng, graph: &mut GraphProto) {
    if graph.node.is_empty() {
        return;
    }
    let names: Vec<String> = graph
        .node
        .iter()
        .flat_map(|n| n.input.iter().chain(&n.output))
        .chain(graph.initializer.iter().filter_map(|t| t.name.as_ref()))
        .cloned()
        .chain([String::new(), "nowhere".to_owned()])
        .collect();
    let name = |rng: &mut dyn Rng| names[rng.random_range(0..names.len())].clone();
    let (nth, other) = (rng.random_range(0..graph.node.len()), rng.random_range(0..graph.node.len()));
    match rng.random_range(0..12) {
        0 => graph.node.swap(nth, other),
        1 => drop(graph.node.remove(nth)),
        2 => graph.node.insert(other, graph.node[nth].clone()),
        3 => {
            (graph.node[nth].attribute, graph.node[other].attribute) =
                (graph.node[other].attribute.clone(), graph.node[nth].attribute.clone())
        }
        4 => graph.node[nth].op_type = Some(OPERATORS[rng.random_range(0..OPERATORS.len())].to_owned()),
        5 => graph.node[nth].domain = Some(["", "ai.onnx", "com.microsoft", "x"][rng.random_range(0..4)].to_owned()),
        6 => {
            let inputs = &mut graph.node[nth].input;
            match (rng.random_range(0..3), inputs.is_empty()) {
                (0, false) => drop(inputs.pop()),
                (1, false) => {
                    let slot = rng.random_range(0..inputs.len());
                    inputs[slot] = name(rng);
                }
                _ => inputs.push(name(rng)),
            }
        }
        7 => {
            let outputs = &mut graph.node[nth].output;
            match (rng.random_range(0..3), outputs.is_empty()) {
                (0, false) => drop(outputs.pop()),
                (1, false) => outputs[0] = name(rng),
                _ => outputs.push(format!("more_{}", rng.random_range(0..3))),
            }
        }
        8 => graph.node[nth].name = Some(["", "same", "a\u{7}b"][rng.random_range(0..3)].to_owned()),
        // A node between a value and the one that reads it.
        9 => {
            let node = &mut graph.node[nth];
            if let Some(input) = node.input.first_mut() {
                let between = format!("between_{}", rng.random_range(0..1000));
                let new = NodeProto {
                    op_type: Some(OPERATORS[rng.random_range(0..OPERATORS.len())].to_owned()),
                    input: vec![std::mem::replace(input, between.clone()), name(rng)],
                    output: vec![between],
                    attribute: vec![attribute(rng)],
                    ..Default::default()
                };
                graph.node.insert(nth, new);
            }
        }
        _ => {
            let attributes = &mut graph.node[nth].attribute;
            let new = attribute(rng);
            match attributes.len() {
                n if n > 0 && rng.random() => {
                    let place = rng.random_range(0..n);
                    let name = attributes[place].name.clone();
                    attributes[place] = AttributeProto { name, ..new };
                }
                _ => attributes.push(new),
            }
        }
    }
}

fn attribute(rng: &mut impl Rng) -> AttributeProto {
    let name = Some(ATTRIBUTES[rng.random_range(0..ATTRIBUTES.len())].to_owned());
    let with = |kind: AttributeType| AttributeProto { name, r#type: Some(kind as i32), ..Default::default() };
    let few = rng.random_range(0..6);
    match rng.random_range(0..7) {
        0 => AttributeProto { i: Some(edge(rng)), ..with(AttributeType::Int) },
        1 => AttributeProto { ints: (0..few).map(|_| edge(rng)).collect(), ..with(AttributeType::Ints) },
        2 => AttributeProto { f: Some(f32::from_bits(rng.random())), ..with(AttributeType::Float) },
        3 => AttributeProto { floats: vec![f32::NAN; few], ..with(AttributeType::Floats) },
        4 => AttributeProto { s: Some(vec![0xff; few]), ..with(AttributeType::String) },
        5 => {
            let mut t =
                TensorProto { data_type: Some(1), dims: vec![2], float_data: vec![1.0, 2.0], ..Default::default() };
            of_tensor(rng, &mut t);
            AttributeProto { t: Some(t), ..with(AttributeType::Tensor) }
        }
        _ => AttributeProto { r#type: Some(rng.random_range(-1..30)), i: Some(1), ..with(AttributeType::Undefined) },
    }
}

/// Puts some of the nodes into the branch of an If, which captures what they read.
fn wrap(rng: &mut impl Rng, graph: &mut GraphProto) {
    if graph.node.is_empty() {
        return;
    }
    let from = rng.random_range(0..graph.node.len());
    let to = rng.random_range(from..graph.node.len()) + 1;
    let inside: Vec<NodeProto> = graph.node.drain(from..to).collect();
    let outputs: Vec<String> = inside.last().map(|n| n.output.clone()).unwrap_or_default();
    let named = |n: &String| ValueInfoProto { name: Some(n.clone()), ..Default::default() };
    let body = GraphProto { node: inside, output: outputs.iter().map(named).collect(), ..Default::default() };
    let branch = |name: &str| AttributeProto {
        name: Some(name.to_owned()),
        g: Some(body.clone()),
        r#type: Some(AttributeType::Graph as i32),
        ..Default::default()
    };
    let node = NodeProto {
        op_type: Some("If".into()),
        input: graph.node.first().map(|n| n.output.clone()).unwrap_or_default(),
        output: outputs,
        attribute: vec![branch("then_branch"), branch("else_branch")],
        ..Default::default()
    };
    graph.node.insert(from, node);
}
