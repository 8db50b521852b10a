//! Shapes that are not worth integers.

use serde::{Deserialize, Serialize};

/// Operators that stay float where they are small: a runtime has no integer kernel for the shape, or a slower one.
///
/// The extents are those of the product: `rows` by `inputs` times `inputs` by `outputs`. For a convolution `inputs` and
/// `outputs` are the dimensions 1 and 0 of its weight.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Small {
    /// The operators.
    pub operators: Vec<String>,
    /// With fewer rows than this, where the model states them.
    pub rows: usize,
    /// With fewer inputs than this.
    pub inputs: usize,
    /// With fewer outputs than this.
    pub outputs: usize,
    /// Not so where one of these holds.
    pub unless: Vec<Unless>,
}

/// Where a small shape is worth integers all the same. All that is said must hold; 0 and false say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Unless {
    /// The convolution has more than one group, or has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grouped: Option<bool>,
    /// The inputs or the outputs are a multiple of this.
    #[serde(skip_serializing_if = "none")]
    pub multiple_of: usize,
    /// The outputs are a multiple of this.
    #[serde(skip_serializing_if = "none")]
    pub outputs_multiple_of: usize,
    /// The inputs or the outputs are at least this many.
    #[serde(skip_serializing_if = "none")]
    pub either: usize,
    /// It reads an input of the graph.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub first: bool,
    /// The kernel is as wide as it is high.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub square: bool,
    /// The kernel is at least this wide and high.
    #[serde(skip_serializing_if = "none")]
    pub kernel: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn none(n: &usize) -> bool {
    *n == 0
}

/// The extents of a node that multiplies.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Extents {
    /// Rows of the first operand; `None` where the model does not state them.
    pub rows: Option<usize>,
    /// Products in a sum, of one group and of one place of the kernel.
    pub inputs: Option<usize>,
    /// Output channels.
    pub outputs: Option<usize>,
    /// The kernel, empty for a product of matrices.
    pub kernel: Vec<usize>,
    /// More than one group.
    pub grouped: bool,
    /// It reads an input of the graph.
    pub first: bool,
}

impl Small {
    /// What of a node of one of the operators is too small, in words. What is not known is large enough.
    pub fn refuses(&self, node: &Extents) -> Option<String> {
        let few = [
            (node.rows, self.rows, "rows"),
            (node.inputs, self.inputs, "inputs"),
            (node.outputs, self.outputs, "outputs"),
        ];
        let (n, least, what) =
            few.into_iter().find_map(|(n, least, what)| Some((n.filter(|&n| n < least)?, least, what)))?;
        let saved = self.unless.iter().any(|u| u.holds(node));
        (!saved).then(|| format!("{n} {what}, and fewer than {least} are not worth integers"))
    }
}

impl Unless {
    fn holds(&self, node: &Extents) -> bool {
        let multiple = |n: Option<usize>, of: usize| of == 0 || n.is_some_and(|n| n % of == 0);
        let (inputs, outputs) = (node.inputs, node.outputs);
        self.grouped.is_none_or(|g| g == node.grouped)
            && (multiple(inputs, self.multiple_of) || multiple(outputs, self.multiple_of))
            && multiple(outputs, self.outputs_multiple_of)
            && (self.either == 0 || inputs.max(outputs) >= Some(self.either))
            && (!self.first || node.first)
            && (!self.square || node.kernel.windows(2).all(|w| w[0] == w[1]))
            && node.kernel.iter().all(|&k| k >= self.kernel)
    }
}

#[cfg(test)]
mod tests {
    use super::super::TENSORRT;
    use super::*;

    fn conv(inputs: usize, outputs: usize, kernel: [usize; 2], grouped: bool, first: bool) -> Extents {
        let kernel = kernel.to_vec();
        Extents { rows: None, inputs: Some(inputs), outputs: Some(outputs), kernel, grouped, first }
    }

    #[test]
    fn convolutions_of_few_channels_stay_float_but_for_those_with_kernels() {
        let rule = TENSORRT.excluded.iter().find(|s| s.operators == ["Conv"]).unwrap();
        for (node, float) in [
            (conv(16, 16, [3, 3], false, false), false),
            (conv(3, 32, [3, 3], false, true), false),
            (conv(3, 32, [3, 3], false, false), false),
            (conv(3, 8, [3, 3], false, true), false),
            (conv(3, 8, [3, 3], false, false), true),
            (conv(3, 32, [1, 3], false, true), true),
            (conv(3, 6, [3, 3], false, true), true),
            (conv(1, 32, [3, 3], true, false), false),
            (conv(1, 32, [1, 1], true, false), true),
            (conv(1, 36, [3, 3], true, false), true),
        ] {
            assert_eq!(rule.refuses(&node).is_some(), float, "{node:?}");
        }
    }

    #[test]
    fn products_of_vectors_and_thin_matrices_stay_float() {
        let rule = TENSORRT.excluded.iter().find(|s| s.operators.contains(&"MatMul".to_owned())).unwrap();
        let product = |rows, inputs, outputs| Extents { rows, inputs: Some(inputs), outputs, ..Extents::default() };
        assert_eq!(rule.refuses(&product(Some(2), 16, Some(16))), None);
        assert_eq!(rule.refuses(&product(None, 16, None)), None);
        let reason = |p| rule.refuses(&p).unwrap();
        assert_eq!(reason(product(Some(1), 64, Some(64))), "1 rows, and fewer than 2 are not worth integers");
        assert!(reason(product(None, 15, Some(64))).starts_with("15 inputs"));
        assert!(reason(product(None, 64, Some(10))).starts_with("10 outputs"));
    }
}
