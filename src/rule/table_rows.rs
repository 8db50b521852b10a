//! Tables whose rows Gather picks, such as embeddings, and the constants that hold the same numbers.

use std::collections::BTreeMap;

use super::{OpRule, Role};
use crate::error::Result;
use crate::model::{Graph, NodeExt, NodeProto, Tensor, release, width};

/// A table with fewer numbers is not worth the node that dequantizes what was picked from it.
const SMALL: usize = 4096;

/// How many rows are compared at a time with columns, so that both are read where they lie together.
const TILE: usize = 32;

/// That the node picks rows of a constant matrix that is large enough to be stored as codes, or why not: Gather along axis 0 of
/// `[rows, columns]` (ai.onnx, Gather-13).
pub fn picks_rows(graph: &Graph, node: &NodeProto) -> Result<(), String> {
    let table = node.input_at(0).unwrap_or_default();
    let Some(dims) = graph.constant_dims(table).filter(|_| node.is("Gather")) else {
        return Err("it has no weight".into());
    };
    if dims.len() != 2 || ![0, -2].contains(&node.int("axis").unwrap_or(0)) {
        return Err(format!("it does not pick rows of `{table}`"));
    }
    match dims.iter().try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?)) {
        Some(n) if n < SMALL => Err(format!("its table `{table}` is small")),
        _ => Ok(()),
    }
}

/// A table that holds the numbers of another constant too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin {
    /// The table.
    pub table: String,
    /// Whether its rows are the columns of the other.
    pub turned: bool,
}

/// The constants that hold, element for element, what a table holds whose rows are picked, or that table with rows and columns
/// exchanged, by name: other such tables, and weights of Gemm and MatMul. An embedding that is the weight of the last layer
/// too comes this way out of exporters that turn weights, and of folding the Transpose between the two.
///
/// Constants are compared where they lie, and differ early where they do. Errors when one does not fill its shape.
pub fn twins(graph: &Graph) -> Result<BTreeMap<String, Twin>> {
    let mut tables: Vec<&str> = Vec::new();
    let mut found = BTreeMap::new();
    let picked = graph.nodes().filter(|(_, n)| picks_rows(graph, n).is_ok()).filter_map(|(_, n)| n.input_at(0));
    for name in picked {
        if !tables.contains(&name) && !found.contains_key(name) {
            match twin(graph, &tables, name)? {
                Some(twin) => drop(found.insert(name.to_owned(), twin)),
                None => tables.push(name),
            }
        }
    }
    let layers = graph.nodes().filter(|(_, n)| OpRule::of(n).is_some_and(|r| r.role == Role::Compute));
    for name in layers.filter_map(|(_, n)| n.input_at(1)) {
        if !tables.contains(&name)
            && !found.contains_key(name)
            && let Some(twin) = twin(graph, &tables, name)?
        {
            found.insert(name.to_owned(), twin);
        }
    }
    Ok(found)
}

/// The first of the tables that holds what the constant holds.
fn twin(graph: &Graph, tables: &[&str], name: &str) -> Result<Option<Twin>> {
    let Some(&[rows, columns]) = graph.constant_dims(name) else { return Ok(None) };
    for &table in tables {
        let dims = graph.constant_dims(table);
        let (same, turned) = (dims == Some(&[rows, columns]), dims == Some(&[columns, rows]));
        if !(same || turned) || graph.stated_dtype(table) != graph.stated_dtype(name) {
            continue;
        }
        let (Some(a), Some(b)) = (graph.constant(table)?, graph.constant(name)?) else { continue };
        let equal = same && a.bytes() == b.bytes();
        let turned = !equal && turned && is_turned(&a, &b);
        [&a, &b].iter().for_each(|t| release(t.bytes()));
        if equal || turned {
            return Ok(Some(Twin { table: table.to_owned(), turned }));
        }
    }
    Ok(None)
}

/// Whether the rows of a matrix are the columns of another.
fn is_turned(a: &Tensor, b: &Tensor) -> bool {
    let (&[rows, columns], Some(width)) = (a.shape(), width(a.dtype())) else { return false };
    let (a, b) = (a.bytes(), b.bytes());
    let same = |row: usize, column: usize| {
        let (from, to) = ((row * columns + column) * width, (column * rows + row) * width);
        a[from..from + width] == b[to..to + width]
    };
    let starts = (0..rows).step_by(TILE);
    starts
        .into_iter()
        .all(|start| (0..columns).all(|column| (start..rows.min(start + TILE)).all(|row| same(row, column))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GraphProto, attribute};

    fn node(op: &str, input: &str) -> NodeProto {
        let input = input.split(' ').map(str::to_owned).collect();
        NodeProto { op_type: Some(op.into()), input, output: vec![format!("{op}_y")], ..Default::default() }
    }

    fn found(change: impl FnOnce(&mut GraphProto)) -> Vec<(String, Twin)> {
        let table: Vec<f32> = (0..64 * 72).map(|i| i as f32).collect();
        let turned = (0..72).flat_map(|c| (0..64).map(move |r| (r, c))).map(|(r, c)| table[r * 72 + c]).collect();
        let constant = |name: &str, shape: [usize; 2], x: Vec<f32>| Tensor::from_f32(shape.to_vec(), x).to_proto(name);
        let mut graph = GraphProto {
            node: vec![node("Gather", "table ids"), node("Gemm", "x copy"), node("MatMul", "x turned")],
            initializer: vec![
                constant("copy", [64, 72], table.clone()),
                constant("turned", [72, 64], turned),
                constant("table", [64, 72], table),
            ],
            ..Default::default()
        };
        change(&mut graph);
        twins(&Graph::from_proto(graph).unwrap()).unwrap().into_iter().collect()
    }

    #[test]
    fn the_same_numbers_are_found_as_they_lie_and_turned() {
        let twin = |turned| Twin { table: "table".into(), turned };
        assert_eq!(found(|_| ()), [("copy".to_owned(), twin(false)), ("turned".to_owned(), twin(true))]);
        // One bit of the last element of each.
        let last = |t: &mut crate::model::TensorProto| {
            let mut bytes = t.raw_data().to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            t.raw_data = Some(bytes.into());
        };
        assert_eq!(found(|g| last(&mut g.initializer[0])), [("turned".to_owned(), twin(true))]);
        assert_eq!(found(|g| last(&mut g.initializer[1])), [("copy".to_owned(), twin(false))]);
        assert_eq!(found(|g| g.node[0].set(attribute::int("axis", 1))), []);
    }

    #[test]
    fn large_tables_are_picked_row_by_row() {
        let why = |shape: &[usize], axis: i64| {
            let table = Tensor::from_f32(shape.to_vec(), vec![1.0; shape.iter().product()]).to_proto("t");
            let mut gather = node("Gather", "t ids");
            gather.set(attribute::int("axis", axis));
            let graph = GraphProto { initializer: vec![table], ..Default::default() };
            picks_rows(&Graph::from_proto(graph).unwrap(), &gather).err()
        };
        assert_eq!(why(&[64, 64], 0), None);
        assert_eq!(why(&[64, 64], -2), None);
        assert_eq!(why(&[64, 63], 0).unwrap(), "its table `t` is small");
        assert_eq!(why(&[64, 64], 1).unwrap(), "it does not pick rows of `t`");
        assert_eq!(why(&[4096], 0).unwrap(), "it does not pick rows of `t`");
    }
}
