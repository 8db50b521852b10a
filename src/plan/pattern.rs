//! Primitives that are one operation together: normalizations, GELU and rotary embeddings that exporters spell out.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Graph, NodeExt, NodeId, NodeProto};
use crate::rule::{OpRule, Role};

/// What primitives are together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `(x - mean(x)) / sqrt(mean((x - mean(x))^2) + e) * scale + bias` (ai.onnx, LayerNormalization-17).
    LayerNormalization,
    /// `x / sqrt(mean(x^2) + e) * scale` (ai.onnx, RMSNormalization-23).
    RmsNormalization,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`, or with tanh (ai.onnx, Gelu-20).
    Gelu,
    /// `x * cos + rotated(x) * sin` (ai.onnx, RotaryEmbedding-23).
    RotaryEmbedding,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Kind::LayerNormalization => "a LayerNormalization",
            Kind::RmsNormalization => "an RMSNormalization",
            Kind::Gelu => "a Gelu",
            Kind::RotaryEmbedding => "a RotaryEmbedding",
        }
    }
}

/// The nodes that are part of something larger, each with the words for it: `part of a Gelu (5 nodes, `/Div` to `/Mul_1`)`.
///
/// No value between them carries Q/DQ: runtimes compute the whole in float, or in one kernel of its own.
pub(super) fn parts(graph: &Graph) -> BTreeMap<NodeId, String> {
    let mut found = BTreeMap::new();
    let places: BTreeMap<NodeId, usize> = graph.nodes().enumerate().map(|(place, (id, _))| (id, place)).collect();
    for (id, node) in graph.nodes() {
        let whole = match node.op_type() {
            "Sqrt" => normalization(graph, id),
            "Erf" | "Tanh" => gelu(graph, id),
            "Add" => rotary(graph, id),
            _ => None,
        };
        let Some((kind, members)) = whole else { continue };
        let mut order: Vec<NodeId> = members.into_iter().collect();
        order.sort_by_key(|id| places.get(id));
        let ends = order.first().zip(order.last());
        let Some((first, last)) = ends.and_then(|(a, b)| graph.node(*a).zip(graph.node(*b))) else { continue };
        let count = order.len();
        let text = format!("part of {} ({count} nodes, `{}` to `{}`)", kind.words(), first.title(), last.title());
        for id in order {
            found.entry(id).or_insert_with(|| text.clone());
        }
    }
    found
}

/// What primitives are together, and which they are.
type Whole = Option<(Kind, BTreeSet<NodeId>)>;

fn made<'a>(graph: &'a Graph, value: &str, op: &str) -> Option<(NodeId, &'a NodeProto)> {
    let (id, _) = graph.producer(value)?;
    graph.node(id).filter(|n| n.is(op)).map(|n| (id, n))
}

/// The number that a constant of one element holds.
fn scalar(graph: &Graph, value: &str) -> Option<f32> {
    let tensor = graph.constant(value).ok()??;
    let x = tensor.f32s().ok()?;
    (x.len() == 1).then(|| x[0])
}

fn near(x: f32, y: f32) -> bool {
    (x - y).abs() <= 1e-3 * y.abs()
}

/// The input of a node that has two, one of which is a constant number; with that number.
fn with_number<'a>(graph: &Graph, node: &'a NodeProto) -> Option<(&'a str, f32)> {
    let (a, b) = (node.input_at(0)?, node.input_at(1)?);
    scalar(graph, b).map(|x| (a, x)).or_else(|| scalar(graph, a).map(|x| (b, x)))
}

/// The one node of an operator that reads the value, of those that do.
fn reader<'a>(graph: &'a Graph, value: &str, op: &str) -> Option<(NodeId, &'a NodeProto)> {
    let mut all = graph.uses(value).iter().filter_map(|u| graph.node(u.node).filter(|n| n.is(op)).map(|n| (u.node, n)));
    all.next()
}

/// The only reader of a value, if it is of that operator and its other input is a constant.
fn constant_behind<'a>(graph: &'a Graph, value: &str, op: &str) -> Option<(NodeId, &'a NodeProto)> {
    let id = graph.only_use(value)?.node;
    let node = graph.node(id).filter(|n| n.is(op))?;
    let constant = (0..2).any(|slot| node.input_at(slot).is_some_and(|n| graph.is_constant(n)));
    constant.then_some((id, node))
}

/// `x^2`: Pow by 2, or Mul of a value with itself.
fn squared<'a>(graph: &'a Graph, value: &str) -> Option<(NodeId, &'a str)> {
    if let Some((id, pow)) = made(graph, value, "Pow") {
        return (scalar(graph, pow.input_at(1)?) == Some(2.0)).then_some((id, pow.input_at(0)?));
    }
    let (id, mul) = made(graph, value, "Mul")?;
    (mul.input_at(0) == mul.input_at(1)).then_some((id, mul.input_at(0)?))
}

/// The normalization around a square root.
fn normalization(graph: &Graph, root: NodeId) -> Whole {
    let sqrt = graph.node(root)?;
    let (shifted, _) = made(graph, sqrt.input_at(0)?, "Add")?;
    let (mean_of_squares, _) = with_number(graph, graph.node(shifted)?)?;
    let (mean, node) = made(graph, mean_of_squares, "ReduceMean")?;
    let (square, x) = squared(graph, node.input_at(0)?)?;
    let mut members = BTreeSet::from([root, shifted, mean, square]);
    let mut kind = Kind::RmsNormalization;
    if let Some((centred, sub)) = made(graph, x, "Sub")
        && let Some((mean, node)) = made(graph, sub.input_at(1)?, "ReduceMean")
        && node.input_at(0) == sub.input_at(0)
    {
        kind = Kind::LayerNormalization;
        members.extend([centred, mean]);
    }
    let (mut last, mut node) = match reader(graph, sqrt.output_at(0)?, "Div") {
        Some((id, div)) if div.input_at(0) == Some(x) => (id, div),
        Some((id, div)) => {
            // 1 / sqrt, and a product.
            members.insert(id);
            scalar(graph, div.input_at(0)?).filter(|&one| one == 1.0)?;
            reader(graph, div.output_at(0)?, "Mul").filter(|(_, mul)| mul.input.iter().any(|i| i == x))?
        }
        None => {
            let (id, inverse) = reader(graph, sqrt.output_at(0)?, "Reciprocal")?;
            members.insert(id);
            reader(graph, inverse.output_at(0)?, "Mul").filter(|(_, mul)| mul.input.iter().any(|i| i == x))?
        }
    };
    members.insert(last);
    for op in ["Mul", "Add"] {
        if let Some((id, behind)) = constant_behind(graph, node.output_at(0)?, op) {
            members.insert(id);
            (last, node) = (id, behind);
        }
    }
    members.insert(last);
    Some((kind, members))
}

/// The GELU around an Erf or a Tanh.
fn gelu(graph: &Graph, curve: NodeId) -> Whole {
    let node = graph.node(curve)?;
    let mut members = BTreeSet::from([curve]);
    let (inner, _) = graph.producer(node.input_at(0)?)?;
    let scaled = graph.node(inner)?;
    let (value, factor) = with_number(graph, scaled)?;
    members.insert(inner);
    let x = if node.is("Erf") {
        let divides = scaled.is("Div") && near(factor, std::f32::consts::SQRT_2);
        let multiplies = scaled.is("Mul") && near(factor, std::f32::consts::FRAC_1_SQRT_2);
        (divides || multiplies).then_some(value)?
    } else {
        // sqrt(2 / pi) * (x + 0.044715 * x^3)
        (scaled.is("Mul") && near(factor, 0.797_884_6)).then_some(())?;
        let (sum, add) = made(graph, value, "Add")?;
        let (cube, x) = (0..2).find_map(|slot| {
            let (id, mul) = made(graph, add.input_at(slot)?, "Mul")?;
            let (cube, _) = with_number(graph, mul).filter(|&(_, c)| near(c, 0.044_715))?;
            Some(((id, cube), add.input_at(1 - slot)?))
        })?;
        members.extend([sum, cube.0]);
        members.extend(cubed(graph, cube.1, x)?);
        x
    };
    let (one_more, add) = reader(graph, node.output_at(0)?, "Add")?;
    (with_number(graph, add)?.1 == 1.0).then_some(())?;
    members.insert(one_more);
    // The product with x and the half, in either order, or the half of x before it.
    let half = |n: &NodeProto| {
        let of = with_number(graph, n).filter(|&(_, c)| n.is("Mul") && c == 0.5 || n.is("Div") && c == 2.0);
        of.map(|(value, _)| value.to_owned())
    };
    let mut value = add.output_at(0)?;
    let (mut halved, mut multiplied) = (false, false);
    while !(halved && multiplied) {
        let (id, next) = reader(graph, value, "Mul").or_else(|| reader(graph, value, "Div"))?;
        if half(next).is_some() && !halved {
            halved = true;
        } else if next.is("Mul") && !multiplied {
            let other = next.input.iter().find(|i| *i != value)?;
            if other != x {
                let (before, scaled) = graph.producer(other).and_then(|(id, _)| Some((id, graph.node(id)?)))?;
                (half(scaled)? == x && !halved).then_some(())?;
                halved = true;
                members.insert(before);
            }
            multiplied = true;
        } else {
            return None;
        }
        members.insert(id);
        value = next.output_at(0)?;
    }
    Some((Kind::Gelu, members))
}

/// The nodes that make `x^3`: Pow by 3, or two products.
fn cubed(graph: &Graph, value: &str, x: &str) -> Option<Vec<NodeId>> {
    if let Some((id, pow)) = made(graph, value, "Pow") {
        return (scalar(graph, pow.input_at(1)?) == Some(3.0) && pow.input_at(0) == Some(x)).then(|| vec![id]);
    }
    let (id, mul) = made(graph, value, "Mul")?;
    let square = mul.input.iter().find(|i| *i != x)?;
    let (inner, base) = squared(graph, square)?;
    (base == x && mul.input.iter().any(|i| i == x)).then(|| vec![id, inner])
}

/// The most nodes that rotate a value.
const MOST_ROTATING: usize = 12;

/// The rotary embedding that ends in an Add of two products: of a value, and of what moves, negates and joins its halves.
fn rotary(graph: &Graph, sum: NodeId) -> Whole {
    let add = graph.node(sum)?;
    let products = [0, 1].map(|slot| add.input_at(slot).and_then(|v| made(graph, v, "Mul")));
    let [Some(one), Some(other)] = products else { return None };
    for (plain, turned) in [(one, other), (other, one)] {
        for x in plain.1.input.iter().filter(|x| !graph.is_constant(x)) {
            for rotated in turned.1.input.iter().filter(|r| *r != x && !graph.is_constant(r)) {
                if let Some(mut members) = rotation(graph, rotated, x) {
                    members.extend([sum, plain.0, turned.0]);
                    return Some((Kind::RotaryEmbedding, members));
                }
            }
        }
    }
    None
}

/// The nodes that make `rotated` of `x` and of nothing else, by moving and negating: one of them joins halves, or multiplies
/// by a constant that moves and negates.
fn rotation(graph: &Graph, rotated: &str, x: &str) -> Option<BTreeSet<NodeId>> {
    let (mut members, mut open) = (BTreeSet::new(), vec![rotated]);
    let (mut joins, mut negates) = (false, false);
    while let Some(value) = open.pop() {
        if value == x {
            continue;
        }
        let (id, _) = graph.producer(value)?;
        if !members.insert(id) {
            continue;
        }
        let node = graph.node(id).filter(|_| members.len() <= MOST_ROTATING)?;
        let moves = OpRule::of(node).is_some_and(|r| r.role == Role::Pass);
        let matrix = node.is("MatMul") && node.input_at(1).is_some_and(|w| turns(graph, w));
        joins |= node.is("Concat") || matrix;
        negates |= node.is("Neg") || matrix;
        let inputs = match node.op_type() {
            "Concat" => node.input.len(),
            _ if moves || matrix || node.is("Neg") => 1,
            _ => return None,
        };
        open.extend(node.input.iter().take(inputs).map(String::as_str));
    }
    (joins && negates).then_some(members)
}

/// Whether a matrix moves and negates: one number other than 0 a column, 1 or -1, and both occur.
fn turns(graph: &Graph, matrix: &str) -> bool {
    let Some(tensor) = graph.constant(matrix).ok().flatten() else { return false };
    let (Ok(x), [rows, columns]) = (tensor.f32s(), tensor.shape()) else { return false };
    let one = |c: usize| {
        let column = || (0..*rows).map(|r| x[r * columns + c]).filter(|&v| v != 0.0);
        column().count() == 1 && column().all(|v| v.abs() == 1.0)
    };
    rows == columns && (0..*columns).all(one) && x.contains(&-1.0) && x.contains(&1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pass::sketch::{floats, graph, node};

    /// What the nodes of a graph, from `x` to `y`, are part of: the kind and how many, for each that is part of something.
    fn found(nodes: &[&str]) -> Vec<String> {
        let number = |name: &str, x: f32| floats(name, &[], &[x]);
        let rot = [0.0, 1.0, -1.0, 0.0];
        let constants = vec![
            number("eps", 1e-5),
            number("one", 1.0),
            number("two", 2.0),
            number("three", 3.0),
            number("half", 0.5),
            number("root", std::f32::consts::SQRT_2),
            number("a", 0.797_884_6),
            number("b", 0.044_715),
            floats("scale", &[2], &[1.0, 2.0]),
            floats("bias", &[2], &[1.0, 2.0]),
            floats("rot", &[2, 2], &rot),
            floats("plain", &[2, 2], &[0.5, 1.0, -1.0, 0.0]),
        ];
        let parsed = |text: &&str| {
            let (left, output) = text.split_once(" -> ").unwrap();
            let (op, inputs) = left.split_once(' ').unwrap();
            node(op, inputs, output, &[])
        };
        let proto = graph("x cos sin", nodes.iter().map(parsed).collect(), constants, "y");
        let graph = Graph::from_proto(proto).unwrap();
        let parts = parts(&graph);
        let kind = |text: &String| text.split(',').next().unwrap().to_owned();
        let mut kinds: Vec<String> = parts.values().map(kind).collect();
        assert!(kinds.iter().all(|k| k.contains(&format!("({} nodes", parts.len()))), "{kinds:?}");
        kinds.dedup();
        kinds
    }

    #[test]
    fn each_form_is_one_operation() {
        let layer = ["ReduceMean x -> m", "Sub x m -> d", "Pow d two -> q", "ReduceMean q -> v", "Add v eps -> e"];
        let cases: [(&[&str], &str); 8] = [
            (&["Sqrt e -> s", "Div d s -> n", "Mul n scale -> g", "Add g bias -> y"], "a LayerNormalization (9 nodes"),
            (
                &["Sqrt e -> s", "Reciprocal s -> i", "Mul i d -> n", "Mul scale n -> y"],
                "a LayerNormalization (9 nodes",
            ),
            (
                &[
                    "Mul x x -> q2",
                    "ReduceMean q2 -> v2",
                    "Add eps v2 -> e2",
                    "Sqrt e2 -> s",
                    "Div one s -> i",
                    "Mul x i -> n",
                    "Mul n scale -> y",
                ],
                "an RMSNormalization (7 nodes",
            ),
            (
                &["Div x root -> u", "Erf u -> t", "Add t one -> p", "Mul x p -> r", "Mul r half -> y"],
                "a Gelu (5 nodes",
            ),
            (
                &["Mul x half -> h", "Div x root -> u", "Erf u -> t", "Add one t -> p", "Mul h p -> y"],
                "a Gelu (5 nodes",
            ),
            (
                &[
                    "Pow x three -> c",
                    "Mul b c -> k",
                    "Add x k -> w",
                    "Mul w a -> u",
                    "Tanh u -> t",
                    "Add t one -> p",
                    "Mul p half -> r",
                    "Mul x r -> y",
                ],
                "a Gelu (8 nodes",
            ),
            (
                &[
                    "Slice x -> f",
                    "Slice x -> l",
                    "Neg l -> o",
                    "Concat o f -> r",
                    "Mul x cos -> c",
                    "Mul r sin -> s",
                    "Add c s -> y",
                ],
                "a RotaryEmbedding (7 nodes",
            ),
            (&["MatMul x rot -> r", "Mul r sin -> s", "Mul x cos -> c", "Add s c -> y"], "a RotaryEmbedding (4 nodes"),
        ];
        for (nodes, want) in cases {
            let centred = if nodes[0] == "Sqrt e -> s" { &layer[..] } else { &[] };
            assert_eq!(found(&[centred, nodes].concat()), [format!("part of {want}")], "{nodes:?}");
        }
    }

    #[test]
    fn what_only_looks_like_it_is_none() {
        let cases: [&[&str]; 5] = [
            &["Div x two -> u", "Erf u -> t", "Add t one -> p", "Mul x p -> r", "Mul r half -> y"],
            &["Div x root -> u", "Erf u -> t", "Add t one -> p", "Mul cos p -> r", "Mul r half -> y"],
            &["Mul x x -> q", "ReduceMean q -> v", "Add v eps -> e", "Sqrt e -> y"],
            &["MatMul x plain -> r", "Mul r sin -> s", "Mul x cos -> c", "Add s c -> y"],
            &["Mul x cos -> c", "Mul sin cos -> s", "Add c s -> y"],
        ];
        for nodes in cases {
            assert_eq!(found(nodes), [] as [String; 0], "{nodes:?}");
        }
    }
}
