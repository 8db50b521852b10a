//! GroupNormalization: scale and bias are for each channel, not for each group, since opset 21.

use super::scope::Scope;
use crate::error::Result;
use crate::model::{NodeExt, NodeId, Tensor, attribute};

/// Opset 21: repeats scale and bias, `[num_groups]`, for every channel of their group, which gives `[C]`.
///
/// The number of channels is read off the input at run time: `channels = Shape(x)[1:2]`, `C / num_groups`, and
/// `Reshape(Expand(Reshape(scale, [num_groups, 1]), [num_groups, C / num_groups]), [-1])`.
pub(super) fn scale_each_channel(scope: &mut Scope, id: NodeId) -> Result<()> {
    let node = scope.node(id)?;
    let (Some(x), Some(y)) = (node.input_at(0), node.output_at(0)) else { return Ok(()) };
    let (x, y, groups) = (x.to_owned(), y.to_owned(), node.int("num_groups").unwrap_or(1));
    let name = |ending: &str| format!("{y}_{ending}");
    let ints = |values: &[i64]| Tensor::from_i64(vec![values.len()], values.to_vec());
    let number = scope.add_constant(id, "groups", &ints(&[groups]))?;
    let column = scope.add_constant(id, "column", &ints(&[groups, 1]))?;
    let flat = scope.add_constant(id, "flat", &ints(&[-1]))?;
    let range = vec![attribute::int("start", 1), attribute::int("end", 2)];
    let channels = scope.compute_before(id, "Shape", &[&x], &name("channels"), range)?;
    let size = scope.compute_before(id, "Div", &[&channels, &number], &name("group_size"), vec![])?;
    let axis = vec![attribute::int("axis", 0)];
    let table = scope.compute_before(id, "Concat", &[&number, &size], &name("table"), axis)?;
    for (slot, ending) in [(1, "scale"), (2, "bias")] {
        let Some(old) = scope.node(id)?.input_at(slot).map(str::to_owned) else { continue };
        let standing = scope.compute_before(id, "Reshape", &[&old, &column], &name(ending), vec![])?;
        let repeated = scope.compute_before(id, "Expand", &[&standing, &table], &name(ending), vec![])?;
        let new = scope.compute_before(id, "Reshape", &[&repeated, &flat], &name(ending), vec![])?;
        scope.set_input(id, slot, &new)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::raised;
    use crate::model::attribute::int;
    use crate::pass::sketch::node;

    #[test]
    fn scale_and_bias_are_repeated() {
        let n = || node("GroupNormalization", "x s b", "y", &[int("num_groups", 4)]);
        assert_eq!(raised(18, 20, vec![n()]).unwrap(), ["y = GroupNormalization(x, s, b) num_groups=4"]);
        let new = raised(18, 21, vec![n()]).unwrap();
        assert_eq!(
            new[..6],
            [
                "y_channels = Shape(x) start=1 end=2",
                "y_group_size = Div(y_channels, [4])",
                "y_table = Concat([4], y_group_size) axis=0",
                "y_scale = Reshape(s, [4, 1])",
                "y_scale_2 = Expand(y_scale, y_table)",
                "y_scale_3 = Reshape(y_scale_2, [-1])",
            ]
        );
        assert_eq!(new[9..], ["y = GroupNormalization(x, y_scale_3, y_bias_3) num_groups=4"]);
    }
}
