//! Writes the plan into the graph. No decision is taken here.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, btree_map::Entry};

use rayon::prelude::*;

use super::gather_codes::gather_codes;
use super::insert_dynamic::insert_dynamic;
use super::look_up::{add_table, look_up};
use super::pack_blocks::{DOMAIN, pack_weights, packs};
use super::store::{Constant, is_plain, store};
use super::{Context, Effect, Pass};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::model::{
    At, DataType, Graph, Linear, Model, NodeExt, NodeId, NodeProto, Scratch, Tensor, TensorProto, Use, attribute,
    of_format, release,
};
use crate::number::{Granularity, QuantParams, Storage, encode, pack};
use crate::plan::{ConstantDecision, Plan, StorageForm, Turned, ValueDecision, Verdict};
use crate::round;

/// Inserts QuantizeLinear and DequantizeLinear as the plan says.
///
/// Does: stores constants as codes behind a DequantizeLinear (one for each use with parameters of its own; equal ones
/// are shared), puts a Q/DQ pair on every value of the plan, lets its readers read the dequantized side, and takes out
/// absorbed nodes. A constant that a table stands for, with rows and columns exchanged, is read through a Transpose of that.
/// Readers of a value that was quantized before read its dequantized side. Names are made from the
/// value's: `x_quantized`, `x_dequantized`, `x_scale`, `x_zero_point`. What is inserted into a branch lies in that branch;
/// only codes of constants that are read elsewhere too lie where those do.
///
/// Where the numbers of a format are those of a table that no element type has, operators in float stand in the place of the pair
/// (file `look_up`).
///
/// Then the forms that the plan says: Gather picks codes (file `gather_codes`), nodes compute in integers by the range of
/// each run (file `insert_dynamic`), MatMul becomes MatMulNBits (file `pack_blocks`).
///
/// ```text
/// before: x -> Conv(W, b) -> y
/// after:  x -> Q -> DQ -> Conv(DQ(W codes), DQ(b codes)) -> y -> Q -> DQ
/// ```
///
/// Source: ONNX QuantizeLinear-10 to -25; the form that ONNX Runtime's QDQ transformers fuse.
#[derive(Debug, Clone, Copy)]
pub struct Insert<'a> {
    /// What to do.
    pub plan: &'a Plan,
}

impl Pass for Insert<'_> {
    fn name(&self) -> &'static str {
        "insert-qdq"
    }

    fn effect(&self) -> Effect {
        Effect::Lossy
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        cx.changed += insert(&mut model.graph, self.plan, cx.scratch.as_ref(), &mut Shelf::default())?;
        if packs(self.plan) {
            model.import(DOMAIN, 1);
        }
        Ok(())
    }
}

/// Writes the plan of a graph and of the bodies in it; returns how many constants and values it changed.
fn insert(graph: &mut Graph, plan: &Plan, scratch: Option<&Scratch>, shelf: &mut Shelf) -> Result<usize> {
    let mut changed = 0;
    let as_stored = |(&at, decision): (&Use, &ConstantDecision)| -> Result<(Use, bool, ConstantDecision)> {
        let none = || Error::new(ErrorKind::InvalidModel, format!("`{}` is stored as no table", decision.initializer));
        Ok((at, decision.twin.as_ref().is_some_and(|t| t.turned), decision.stored(graph).ok_or_else(none)?))
    };
    let constants: Vec<(Use, bool, ConstantDecision)> = plan.constants.iter().map(as_stored).collect::<Result<_>>()?;
    let plain = |d: &ConstantDecision| is_plain(&d.params, plan.storage);
    let missing = |d: &ConstantDecision| {
        (plain(d) && shelf.get(d).is_none()).then(|| encode_constant(graph, d, scratch)).transpose()
    };
    let codes: Vec<Result<Option<Tensor>>> = constants.par_iter().map(|(_, _, decision)| missing(decision)).collect();
    let mut stored = Stored::default();
    for ((at, turned, decision), codes) in constants.iter().zip(codes) {
        let place = || format!("initializer `{}`", decision.initializer);
        let real =
            codes.and_then(|codes| stored.put(graph, *at, decision, codes.as_ref(), plan.storage, shelf)).at(place)?;
        let read = if *turned { turn_matrix(graph, *at, &real)? } else { real };
        graph.set_input(*at, &read)?;
        changed += 1;
    }
    for decision in plan.nodes.iter().filter(|d| d.verdict == Verdict::Absorbed) {
        absorb(graph, decision.node)?;
    }
    let mut params: BTreeMap<(String, &str), ParamNames> = BTreeMap::new();
    let mut values: Vec<(&String, &ValueDecision)> = plan.values.iter().collect();
    // Sources first, so that names of shared parameters are theirs whatever the order of names.
    values.sort_by_key(|(name, d)| *name != &d.source);
    for (name, decision) in values {
        if let Some(quantize) = decision.present {
            join(graph, quantize, name, decision)?;
            changed += 1;
            continue;
        }
        let mut names = |graph: &mut Graph, of: &QuantParams| -> Result<ParamNames> {
            let known = params.entry((decision.source.clone(), of.format().name));
            Ok(match known {
                Entry::Occupied(names) => names.get().clone(),
                Entry::Vacant(new) if of.format().is_looked_up() => {
                    new.insert(add_table(graph, &decision.source, of)).clone()
                }
                Entry::Vacant(new) => new.insert(add_params(graph, &decision.source, of)?).clone(),
            })
        };
        let own = names(graph, &decision.params)?;
        let real = pair(graph, name, decision, &own)?;
        if let Some(turned) = &decision.turned {
            let own = names(graph, &turned.params)?;
            turn(graph, name, &real, turned, &own)?;
        }
        changed += 1;
    }
    gather_codes(graph, plan)?;
    insert_dynamic(graph, plan)?;
    pack_weights(graph, plan, scratch)?;
    graph.sort()?;
    graph.drop_unused_initializers();
    graph.prune_value_info(|_| false);
    for (&id, inner) in plan.bodies.iter().filter(|(_, inner)| !inner.is_idle()) {
        changed += graph.edit_body(id, |body| insert(body, inner, scratch, shelf))?;
    }
    Ok(changed)
}

/// The names of a scale and a zero point, or of what a table is made of.
type ParamNames = (String, String);

/// Adds scale and zero point of a value: rank 0 for a whole tensor, rank 1 along an axis, that of the value in blocks. The scale has the type of the
/// value where that is a constant; everything else is float32 once prepared.
fn add_params(graph: &mut Graph, base: &str, params: &QuantParams) -> Result<ParamNames> {
    let missing = || Error::new(ErrorKind::InvalidModel, format!("`{base}` is not a constant"));
    let shape = match params.granularity() {
        Granularity::Tensor => vec![],
        Granularity::Channel { .. } => vec![params.scales().len()],
        Granularity::Block { axis, size } => {
            let mut shape = graph.constant(base)?.ok_or_else(missing)?.shape().to_vec();
            shape[axis] = shape[axis].div_ceil(size);
            shape
        }
    };
    let dtype = graph.stated_dtype(base).filter(|_| graph.is_constant(base)).unwrap_or(DataType::Float);
    let scale = match dtype {
        DataType::Float16 | DataType::Bfloat16 => {
            Tensor::from_f64(dtype, shape.clone(), &params.scales().iter().map(|&s| s.into()).collect::<Vec<f64>>())?
        }
        _ => Tensor::from_f32(shape.clone(), params.scales().to_vec()),
    };
    let zero = match params.format().storage {
        // The zero of floats is their zero, whose bits are zeros.
        Storage::Float(_) => vec![0; params.zero_points().len()],
        _ => pack(params.format(), params.zero_points()),
    };
    let zero = Tensor::new(of_format(params.format()), shape, zero.into())?;
    let scale = graph.add_constant_beside(base, &format!("{base}_scale"), &scale);
    Ok((scale, graph.add_constant_beside(base, &format!("{base}_zero_point"), &zero)))
}

fn linear_node(
    graph: &mut Graph,
    op: &str,
    base: &str,
    inputs: [&str; 3],
    output: &str,
    params: &QuantParams,
) -> NodeProto {
    let block = match params.granularity() {
        Granularity::Block { size, .. } => Some(attribute::int("block_size", size as i64)),
        _ => None,
    };
    let attribute = params.axis().map(|a| attribute::int("axis", a as i64)).into_iter().chain(block).collect();
    NodeProto {
        name: Some(graph.fresh_name(&format!("{base}_{op}"))),
        op_type: Some(op.to_owned()),
        input: inputs.map(str::to_owned).to_vec(),
        output: vec![output.to_owned()],
        attribute,
        ..Default::default()
    }
}

/// A constant, and its codes: those that were chosen, or the nearest.
fn codes_of<'d>(graph: &Graph, decision: &'d ConstantDecision) -> Result<(Tensor, Cow<'d, [i32]>)> {
    let missing = || Error::new(ErrorKind::InvalidModel, "it is not there");
    let tensor = graph.constant(&decision.initializer)?.ok_or_else(missing)?;
    let codes = match &decision.chosen {
        Some(chosen) => Cow::Borrowed(&*chosen.codes),
        None => Cow::Owned(round::nearest(&tensor.f32s()?, tensor.shape(), &decision.params)?),
    };
    release(tensor.bytes());
    Ok((tensor, codes))
}

/// Stores a constant whose format takes more than one DequantizeLinear; returns the floats.
fn store_nodes(graph: &mut Graph, at: Use, decision: &ConstantDecision, form: StorageForm) -> Result<String> {
    let (tensor, codes) = codes_of(graph, decision)?;
    let (base, params) = (&decision.initializer[..], &decision.params);
    store(graph, at.node, &Constant { base, dtype: tensor.dtype(), shape: tensor.shape(), codes: &codes, params }, form)
}

/// The codes of a constant, on disk if there is scratch space.
fn encode_constant(graph: &Graph, decision: &ConstantDecision, scratch: Option<&Scratch>) -> Result<Tensor> {
    let missing = || Error::new(ErrorKind::InvalidModel, "it is not there");
    let tensor = graph.constant(&decision.initializer)?.ok_or_else(missing)?;
    let params = &decision.params;
    let bytes = match &decision.chosen {
        Some(chosen) => pack(params.format(), &chosen.codes),
        None => encode(&tensor.f32s()?, tensor.shape(), params)?,
    };
    release(tensor.bytes());
    let codes = Tensor::new(of_format(params.format()), tensor.shape().to_vec(), bytes.into())?;
    scratch.map_or(Ok(codes.clone()), |s| s.keep(codes))
}

/// Codes, scale and zero point of constants that more than one graph reads, by the constant's name: the graphs share them.
#[derive(Default)]
struct Shelf {
    known: HashMap<String, Vec<(QuantParams, [TensorProto; 3])>>,
}

impl Shelf {
    fn get(&self, decision: &ConstantDecision) -> Option<&[TensorProto; 3]> {
        let known = self.known.get(&decision.initializer)?;
        known.iter().find(|(p, _)| *p == decision.params).map(|(_, parts)| parts)
    }
}

/// Constants that were stored already, to be shared by uses that want the same.
#[derive(Default)]
struct Stored<'a> {
    known: HashMap<&'a str, Vec<(&'a ConstantDecision, String)>>,
}

impl<'a> Stored<'a> {
    /// Stores a constant that is read at that place, and returns the floats that stand for it.
    fn put(
        &mut self,
        graph: &mut Graph,
        at: Use,
        decision: &'a ConstantDecision,
        codes: Option<&Tensor>,
        form: StorageForm,
        shelf: &mut Shelf,
    ) -> Result<String> {
        let base = &decision.initializer;
        let known = self.known.entry(base).or_default();
        if let Some((_, name)) = known.iter().find(|(d, _)| d.params == decision.params && d.chosen == decision.chosen)
        {
            return Ok(name.clone());
        }
        let params = &decision.params;
        if !is_plain(params, form) {
            let real = store_nodes(graph, at, decision, form)?;
            known.push((decision, real.clone()));
            return Ok(real);
        }
        let parts = match (shelf.get(decision), codes) {
            (Some(parts), _) => {
                parts.iter().for_each(|t| graph.capture_constant(t));
                parts.each_ref().map(|t| t.name().to_owned())
            }
            (None, Some(codes)) => {
                let codes = graph.add_constant_beside(base, &format!("{base}_quantized"), codes);
                let (scale, zero) = add_params(graph, base, params)?;
                let names = [codes, scale, zero];
                if graph.is_shared(base) || !graph.captured_by(base).is_empty() {
                    let parts = names.each_ref().map(|n| graph.initializer(n).cloned().unwrap_or_default());
                    shelf.known.entry(base.clone()).or_default().push((params.clone(), parts));
                }
                names
            }
            (None, None) => return Err(Error::new(ErrorKind::InvalidModel, "it has no codes")),
        };
        let real = graph.fresh_name(&format!("{base}_dequantized"));
        let node = linear_node(graph, "DequantizeLinear", base, parts.each_ref().map(String::as_str), &real, params);
        graph.insert(At::Before(at.node), node)?;
        known.push((decision, real.clone()));
        Ok(real)
    }
}

/// Adds a Transpose ahead of the reader of a table that stands for the matrix with rows and columns exchanged; returns its output.
fn turn_matrix(graph: &mut Graph, at: Use, table: &str) -> Result<String> {
    let turned = graph.fresh_name(&format!("{table}_transposed"));
    let node = NodeProto {
        name: Some(graph.fresh_name(&format!("{table}_Transpose"))),
        op_type: Some("Transpose".to_owned()),
        input: vec![table.to_owned()],
        output: vec![turned.clone()],
        attribute: vec![attribute::ints("perm", &[1, 0])],
        ..Default::default()
    };
    graph.insert(At::Before(at.node), node)?;
    Ok(turned)
}

/// Takes out a node whose work the quantized range of its output does; its producer writes that output instead.
fn absorb(graph: &mut Graph, id: NodeId) -> Result<()> {
    let Some(node) = graph.node(id) else { return Ok(()) };
    let (input, output) = (node.input[0].clone(), node.output[0].clone());
    let Some((producer, place)) = graph.producer(&input) else { return Ok(()) };
    graph.remove(id);
    graph.edit(producer, |n| n.output[place] = output)
}

/// Lets readers of a value that is quantized already read its dequantized side: through the DequantizeLinear that is
/// there, or a new one.
fn join(graph: &mut Graph, quantize: NodeId, value: &str, decision: &ValueDecision) -> Result<()> {
    let Some(q) = graph.node(quantize).cloned() else { return Ok(()) };
    let (Some(codes), params) = (q.output_at(0), q.input.get(1..).unwrap_or_default()) else { return Ok(()) };
    let mut readers = graph.uses(codes).iter().filter_map(|u| graph.node(u.node));
    let there = readers.find(|n| Linear::dequantizes(n) && n.input.get(1..) == Some(params));
    let real = match there.and_then(|n| n.output_at(0)) {
        Some(real) => real.to_owned(),
        None => {
            let real = graph.fresh_name(&format!("{value}_dequantized"));
            let dq = NodeProto {
                name: Some(graph.fresh_name(&format!("{value}_DequantizeLinear"))),
                op_type: Some("DequantizeLinear".to_owned()),
                domain: q.domain.clone(),
                input: [&[codes.to_owned()], params].concat(),
                output: vec![real.clone()],
                ..Default::default()
            };
            graph.insert(At::After(quantize), dq)?;
            real
        }
    };
    for &at in &decision.readers {
        if graph.node(at.node).is_some_and(|n| n.input_at(at.slot) == Some(value)) {
            graph.set_input(at, &real)?;
        }
    }
    Ok(())
}

/// Adds what rounds `float` to the numbers of a format, as `real`: a Q/DQ pair, or a lookup.
fn add_pair(
    graph: &mut Graph,
    at: At,
    value: &str,
    [float, codes, real]: [&str; 3],
    params: &QuantParams,
    (scale, zero): &ParamNames,
) -> Result<()> {
    if params.format().is_looked_up() {
        return look_up(graph, at, value, [float, real], (scale, zero));
    }
    let codes = graph.fresh_name(&format!("{value}_{codes}"));
    let q = linear_node(graph, "QuantizeLinear", value, [float, scale, zero], &codes, params);
    let dq = linear_node(graph, "DequantizeLinear", value, [&codes, scale, zero], real, params);
    let q = graph.insert(at, q)?;
    graph.insert(At::After(q), dq)?;
    Ok(())
}

/// Puts a Q/DQ pair on a value; returns the name of the dequantized value.
fn pair(graph: &mut Graph, value: &str, decision: &ValueDecision, names: &ParamNames) -> Result<String> {
    let mut float = value.to_owned();
    let mut real = graph.fresh_name(&format!("{value}_dequantized"));
    let producer = graph.producer(value);
    if decision.at_output
        && let Some((producer, place)) = producer
    {
        float = graph.fresh_name(&format!("{value}_float"));
        real = value.to_owned();
        let others: Vec<Use> = graph.uses(value).iter().filter(|u| !decision.readers.contains(u)).copied().collect();
        graph.edit(producer, |n| n.output[place] = float.clone())?;
        for at in others {
            graph.set_input(at, &float)?;
        }
    }
    let at = producer.map_or(At::Start, |(id, _)| At::After(id));
    add_pair(graph, at, value, [&float, "quantized", &real], &decision.params, names)?;
    if real != value {
        for &at in &decision.readers {
            // A reader that was absorbed is gone.
            if graph.node(at.node).is_some_and(|n| n.input_at(at.slot) == Some(value)) {
                graph.set_input(at, &real)?;
            }
        }
    }
    Ok(real)
}

/// Puts a second pair behind the first, of which `real` is what comes out, for readers of another width.
fn turn(graph: &mut Graph, value: &str, real: &str, turned: &Turned, names: &ParamNames) -> Result<()> {
    let Some((first, _)) = graph.producer(real) else { return Ok(()) };
    let other = graph.fresh_name(&format!("{value}_turned"));
    add_pair(graph, At::After(first), value, [real, "requantized", &other], &turned.params, names)?;
    for &at in &turned.readers {
        if graph.node(at.node).is_some_and(|n| n.input_at(at.slot) == Some(real)) {
            graph.set_input(at, &other)?;
        }
    }
    Ok(())
}
