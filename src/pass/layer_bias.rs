//! The bias of a layer, to be shifted.

use crate::error::Result;
use crate::model::{Graph, NodeExt, NodeId, Tensor, Use};
use crate::rule::ChannelIndex;

/// Whether the outputs of a layer have a bias, or can have one.
pub(crate) fn has_bias(graph: &Graph, layer: NodeId, weight: &Tensor) -> Result<bool> {
    let channels = graph.node(layer).and_then(|n| ChannelIndex::outputs(n, weight.shape()));
    channels.map_or(Ok(false), |c| Ok(LayerBias::of(graph, layer, c.channels(), weight)?.is_ok()))
}

/// Where a layer has its bias, or would have one, and its value.
pub(super) struct LayerBias {
    at: Use,
    value: Tensor,
    /// What of a shift of the output must be added to the bias: 1, or what undoes Gemm's `beta`.
    share: f64,
}

impl LayerBias {
    /// The bias of a Conv, ConvTranspose or Gemm with so many output channels, zeros where there is none, or the constant of
    /// an Add behind a MatMul. Or else why it cannot be shifted.
    pub fn of(graph: &Graph, layer: NodeId, channels: usize, weight: &Tensor) -> Result<Result<LayerBias, String>> {
        let Some(node) = graph.node(layer) else { return Ok(Err("it was removed".into())) };
        let beta = if node.is("Gemm") { node.float("beta").unwrap_or(1.0) } else { 1.0 };
        if beta == 0.0 {
            return Ok(Err("its bias counts nothing".into()));
        }
        let at = match node.is("MatMul") {
            false => Use { node: layer, slot: 2 },
            true => {
                let output = node.output_at(0).unwrap_or_default();
                let Some(only) = graph.only_use(output) else {
                    return Ok(Err(format!("`{output}` is read elsewhere too")));
                };
                if !graph.node(only.node).is_some_and(|n| n.is("Add") && only.slot < 2) {
                    return Ok(Err("nothing is added behind it".into()));
                }
                Use { node: only.node, slot: 1 - only.slot }
            }
        };
        let share = 1.0 / f64::from(beta);
        let Some(name) = graph.node(at.node).and_then(|n| n.input_at(at.slot)) else {
            let value = Tensor::from_f64(weight.dtype(), vec![channels], &vec![0.0; channels])?;
            return Ok(Ok(LayerBias { at, value, share }));
        };
        let constant = match graph.is_input(name) {
            true => None,
            false => graph.constant(name)?.filter(Tensor::is_float),
        };
        let Some(value) = constant else { return Ok(Err(format!("its bias `{name}` is not constant"))) };
        if value.len() != 1 && value.shape().last() != Some(&channels) {
            return Ok(Err(format!("its bias `{name}` has no element a channel")));
        }
        Ok(Ok(LayerBias { at, value, share }))
    }

    /// Moves each output channel of the layer by what stands for it in `by`.
    pub fn shift(&self, graph: &mut Graph, by: &[f64]) -> Result<()> {
        let x = self.value.f64s()?;
        let (shape, x) = match x[..] {
            [only] => (vec![by.len()], vec![only; by.len()]),
            _ => (self.value.shape().to_vec(), x),
        };
        let moved: Vec<f64> = x.iter().enumerate().map(|(i, b)| b + self.share * by[i % by.len()]).collect();
        let node = graph.node(self.at.node);
        let present = node.and_then(|n| n.input_at(self.at.slot)).map(str::to_owned);
        let output = node.and_then(|n| n.output_at(0)).unwrap_or("layer");
        let name = present.unwrap_or_else(|| format!("{output}_bias"));
        graph.give_constant(self.at, &name, &Tensor::from_f64(self.value.dtype(), shape, &moved)?).map(drop)
    }
}
