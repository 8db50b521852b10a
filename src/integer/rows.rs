//! Rows that are picked from a table of codes, and multiplied with scales that are picked beside them.

use super::lift::drop_unread;
use crate::error::Result;
use crate::model::{At, DataType, Graph, NodeExt, NodeId, NodeProto, attribute, format_of};

/// Lets Gather pick rows of what DequantizeLinear makes of a table of codes, in the place of codes, scales and zero points that are
/// picked apart.
///
/// ```text
/// before: y = Mul(Sub(Cast(Gather(table, i)), Unsqueeze(Cast(Gather(zero, i)))), Unsqueeze(Gather(scale, i)))
/// after:  y = Gather(DequantizeLinear(table, scale, zero, axis = 0), i)
/// ```
///
/// Exact: both multiply the same float32 numbers. Without zero points there is no Sub.
pub(super) fn lift_rows(graph: &mut Graph) -> Result<()> {
    for id in graph.node_ids() {
        let Some(rows) = Rows::of(graph, id) else { continue };
        let Some(product) = graph.remove(id) else { continue };
        let table = graph.fresh_name(&format!("{}_dequantized", rows.codes));
        let dequantize = NodeProto {
            name: Some(graph.fresh_name(&format!("{}_DequantizeLinear", rows.codes))),
            op_type: Some("DequantizeLinear".to_owned()),
            input: [rows.codes, rows.scale].into_iter().chain(rows.zero).collect(),
            output: vec![table.clone()],
            attribute: vec![attribute::int("axis", 0)],
            ..Default::default()
        };
        let Some(mut gather) = graph.node(rows.gather).cloned() else { continue };
        gather.name = product.name;
        gather.input[0] = table;
        gather.output = product.output;
        let ahead = graph.insert(At::Before(rows.gather), dequantize)?;
        graph.insert(At::After(ahead), gather)?;
        rows.between.into_iter().for_each(|id| drop_unread(graph, id));
    }
    Ok(())
}

/// What the product of picked codes and picked scales is made of.
struct Rows {
    /// The node that picks codes.
    gather: NodeId,
    codes: String,
    scale: String,
    zero: Option<String>,
    /// What stands between the tables and the product, readers first.
    between: Vec<NodeId>,
}

impl Rows {
    fn of(graph: &Graph, id: NodeId) -> Option<Rows> {
        let product = graph.node(id).filter(|n| n.is("Mul") && n.output_at(0).is_some())?;
        let mut between = Vec::new();
        let (column, scales) = made_by(graph, product.input_at(1)?, "Unsqueeze", &mut between)?;
        last_axis(graph, column)?;
        let (scales, _) = made_by(graph, column.input_at(0)?, "Gather", &mut between).filter(|_| scales != id)?;
        let (mut numbers, mut maker) = made(graph, product.input_at(0)?)?;
        let mut zeros = None;
        if numbers.is("Sub") {
            between.push(maker);
            let (column, _) = made_by(graph, numbers.input_at(1)?, "Unsqueeze", &mut between)?;
            last_axis(graph, column)?;
            let (cast, _) = made_by(graph, column.input_at(0)?, "Cast", &mut between).filter(|(n, _)| floats(n))?;
            zeros = Some(made_by(graph, cast.input_at(0)?, "Gather", &mut between)?.0);
            (numbers, maker) = made(graph, numbers.input_at(0)?)?;
        }
        if !numbers.is("Cast") || !floats(numbers) {
            return None;
        }
        between.push(maker);
        let (gather, picks) = made_by(graph, numbers.input_at(0)?, "Gather", &mut between)?;
        let rows = |n: &NodeProto, rank: usize| {
            let table = n.input_at(0).filter(|name| graph.initializer(name).is_some())?;
            let first = [0, -(rank as i64)].contains(&n.int("axis").unwrap_or(0));
            let fits = first && graph.constant_dims(table)?.len() == rank && n.input_at(1) == gather.input_at(1);
            fits.then(|| table.to_owned())
        };
        let codes = rows(gather, 2).filter(|c| graph.stated_dtype(c).and_then(format_of).is_some())?;
        let scale = rows(scales, 1).filter(|s| graph.stated_dtype(s) == Some(DataType::Float))?;
        let zero = match zeros {
            Some(zeros) => Some(rows(zeros, 1).filter(|z| graph.stated_dtype(z) == graph.stated_dtype(&codes))?),
            None => None,
        };
        Some(Rows { gather: picks, codes, scale, zero, between })
    }
}

fn made<'a>(graph: &'a Graph, value: &str) -> Option<(&'a NodeProto, NodeId)> {
    let (id, _) = graph.producer(value)?;
    Some((graph.node(id)?, id))
}

/// The node of that operator that makes the value, which is noted.
fn made_by<'a>(graph: &'a Graph, value: &str, op: &str, all: &mut Vec<NodeId>) -> Option<(&'a NodeProto, NodeId)> {
    let (node, id) = made(graph, value).filter(|(n, _)| n.is(op))?;
    all.push(id);
    Some((node, id))
}

/// Whether an Unsqueeze adds an axis behind all others.
fn last_axis(graph: &Graph, node: &NodeProto) -> Option<()> {
    let axes = graph.constant(node.input_at(1)?).ok()??;
    axes.i64s().is_ok_and(|axes| axes == [-1]).then_some(())
}

fn floats(cast: &NodeProto) -> bool {
    cast.int("to") == Some(DataType::Float as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Tensor;
    use crate::pass::sketch::{floats, graph, lines, model, node};

    #[test]
    fn rows_are_picked_of_floats_again() {
        let byte = |name: &str, shape: &[usize]| {
            Tensor::new(DataType::Uint8, shape.to_vec(), vec![1; shape.iter().product()].into()).unwrap().to_proto(name)
        };
        let lifted = |zeros: bool, axis: i64, indices: &str| {
            let to = || [attribute::int("to", DataType::Float as i64)];
            let mut nodes = vec![
                node("Gather", "table x", "codes", &[]),
                node("Cast", "codes", "numbers", &to()),
                node("Gather", &format!("s {indices}"), "scales", &[]),
                node("Unsqueeze", "scales axis", "column", &[]),
            ];
            if zeros {
                nodes.extend([
                    node("Gather", "z x", "zeros", &[]),
                    node("Cast", "zeros", "zero_numbers", &to()),
                    node("Unsqueeze", "zero_numbers axis", "zero_column", &[]),
                    node("Sub", "numbers zero_column", "steps", &[]),
                ]);
            }
            nodes.push(node("Mul", if zeros { "steps column" } else { "numbers column" }, "y", &[]));
            let axis = Tensor::from_i64(vec![1], vec![axis]).to_proto("axis");
            let constants = vec![byte("table", &[3, 2]), byte("z", &[3]), floats("s", &[3], &[0.5; 3]), axis];
            let mut m = model(13, graph("x v", nodes, constants, "y"));
            lift_rows(&mut m.graph).unwrap();
            m.graph.check().unwrap();
            lines(&m.graph.to_proto())
        };
        let dequantize = |zero: &str| format!("table_dequantized = DequantizeLinear(table, s{zero}) axis=0");
        let gather = "y = Gather(table_dequantized, x)".to_owned();
        assert_eq!(lifted(false, -1, "x"), [dequantize(""), gather.clone()]);
        assert_eq!(lifted(true, -1, "x"), [dequantize(", z"), gather]);
        assert_eq!(lifted(false, 0, "x").len(), 5);
        assert_eq!(lifted(false, -1, "v").len(), 5);
    }
}
