//! Runs samples through a model, each along the branches that it takes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::straight::{Seat, Straight};
use super::{Executor, Seen};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::model::{
    Graph, GraphProto, Model, ModelProto, NodeExt, NodeId, NodeProto, Renamed, Tensor, ValueInfoProto, captures,
    first_value, sparse_name,
};
use crate::proto::{TypeProto, type_proto};
use crate::sample::Sample;

/// How many forms of a model are kept ready to run at a time: those without branches, which hold its weights anew, and
/// those that compute conditions.
const READY: (usize, usize) = (4, 16);

/// How many outcomes of a fork are remembered at a time.
const OUTCOMES: usize = 64;

/// A model and an engine, ready for samples of whatever shape comes, with branches (operator If) or without.
///
/// No If reaches the engine. The conditions of those whose conditions need no other If are computed first, by a model that
/// holds no more than that; then the branches a sample takes stand in their place, and so on, until no If is left. Each
/// form that a model takes so is made once, for all threads. Ifs in the bodies of Loop and Scan are left to the engine.
pub struct Runner<'a> {
    executor: &'a dyn Executor,
    outputs: Vec<String>,
    watch: Vec<String>,
    first: Arc<Stage<'a>>,
    /// The forms without branches that were run last, and those that compute conditions; the latest at the end.
    ready: Mutex<(Forms<'a>, Forms<'a>)>,
    taken: Mutex<BTreeSet<String>>,
}

type Forms<'a> = Vec<Arc<Straight<'a>>>;

/// A model on its way to one without branches.
enum Stage<'a> {
    /// There is no branch left.
    Straight(Arc<Straight<'a>>),
    /// There are.
    Fork(Box<Fork<'a>>),
}

/// A model with branches.
struct Fork<'a> {
    model: Cow<'a, Model>,
    /// What the values of the runner's model are called here, where they go by another name.
    renamed: Renamed,
    /// The Ifs that are decided now.
    choices: Vec<NodeId>,
    conditions: Conditions<'a>,
    /// By what was decided: a bool for each of `choices`.
    next: Mutex<BTreeMap<Vec<bool>, Arc<Stage<'a>>>>,
}

/// How the conditions of a fork come about.
enum Conditions<'a> {
    /// They are constants.
    Known(Vec<bool>),
    /// They are the outputs of this model.
    Computed(Arc<Straight<'a>>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Runner<'a> {
    /// A runner that watches the given values, those in branches too. Errors when an input of the model is no tensor.
    pub fn new(executor: &'a dyn Executor, model: &'a Model, watch: Vec<String>) -> Result<Self> {
        let outputs = model.graph.outputs().iter().map(|v| v.name().to_owned()).collect();
        let first = Arc::new(Stage::of(executor, Cow::Borrowed(model), Renamed::new(), &watch)?);
        let (ready, taken) = Default::default();
        Ok(Runner { executor, outputs, watch, first, ready, taken })
    }

    /// As [`Runner::new`], of the part of the model alone that the watched values need: it has no outputs but those of them that
    /// the others do not need.
    pub fn up_to(executor: &'a dyn Executor, model: &'a Model, watch: Vec<String>) -> Result<Self> {
        let graph = &model.graph;
        let made: Vec<(&str, NodeId)> =
            watch.iter().filter_map(|name| Some((name.as_str(), graph.producer(name)?.0))).collect();
        let cone = cone(graph, made.iter().map(|(_, id)| *id).collect());
        let last = |name: &str| {
            let reads = graph.uses(name).iter().map(|at| &at.node).chain(graph.captured_by(name));
            !reads.into_iter().any(|id| cone.contains(id))
        };
        let outputs: Vec<&str> = made.iter().map(|(name, _)| *name).filter(|name| last(name)).collect();
        if outputs.is_empty() {
            return Runner::new(executor, model, watch);
        }
        let part = Cow::Owned(cut(model, &cone, &outputs)?);
        let outputs = outputs.into_iter().map(str::to_owned).collect();
        let first = Arc::new(Stage::of(executor, part, Renamed::new(), &watch)?);
        let (ready, taken) = Default::default();
        Ok(Runner { executor, outputs, watch, first, ready, taken })
    }

    /// The values that were asked to be watched; [`Seen::value`] is a place in this list.
    pub fn watch(&self) -> &[String] {
        &self.watch
    }

    /// The names of the model's outputs, in their order.
    pub fn output_names(&self) -> Vec<String> {
        self.outputs.clone()
    }

    /// The branches that samples took so far, each by its [`first_value`].
    pub fn taken(&self) -> BTreeSet<String> {
        lock(&self.taken).clone()
    }

    /// A worker for one thread.
    pub fn worker(&self) -> Worker<'_, 'a> {
        Worker { runner: self, seats: Vec::new() }
    }

    /// Makes ready what will run this sample. A failure is not told: it comes again when the sample is run.
    fn warm_up(&self, sample: &Sample) {
        let mut worker = self.worker();
        if let Ok(straight) = worker.straighten(sample) {
            worker.seat(&straight, true).warm_up(sample);
        }
    }

    /// Notes that a form is run now, and lets go of what was prepared for the one that was not run for longest.
    fn note(&self, straight: &Arc<Straight<'a>>, whole: bool) {
        let mut ready = lock(&self.ready);
        let (forms, most) = if whole { (&mut ready.0, READY.0) } else { (&mut ready.1, READY.1) };
        forms.retain(|s| !Arc::ptr_eq(s, straight));
        forms.push(straight.clone());
        if forms.len() > most {
            forms.remove(0).forget();
        }
    }

    /// What comes behind a fork once this was decided.
    fn behind(&self, fork: &Fork<'a>, decided: Vec<bool>) -> Result<Arc<Stage<'a>>> {
        let mut next = lock(&fork.next);
        if let Some(stage) = next.get(&decided) {
            return Ok(stage.clone());
        }
        let mut model = Model::clone(&fork.model);
        let mut renamed = fork.renamed.clone();
        for (&id, &yes) in fork.choices.iter().zip(&decided) {
            let label = model.graph.label(id);
            let branch = branch(&model.graph, id, yes).cloned().at(|| label.clone())?;
            lock(&self.taken).extend(first_value(&branch).map(str::to_owned));
            let inlined = model.graph.inline(id, branch).at(|| label)?;
            for present in renamed.values_mut() {
                if let Some(new) = inlined.renamed.get(present) {
                    present.clone_from(new);
                }
            }
            renamed.extend(inlined.renamed);
        }
        model.graph.check()?;
        let stage = Arc::new(Stage::of(self.executor, Cow::Owned(model), renamed, &self.watch)?);
        if next.len() == OUTCOMES {
            next.clear();
        }
        next.insert(decided, stage.clone());
        Ok(stage)
    }
}

/// The body of an If. Errors where it is missing.
fn branch(graph: &Graph, id: NodeId, yes: bool) -> Result<&GraphProto> {
    let name = if yes { "then_branch" } else { "else_branch" };
    let found = graph.node(id).and_then(|n| NodeExt::attribute(n, name)).and_then(|a| a.g.as_ref());
    found.ok_or_else(|| Error::new(ErrorKind::InvalidModel, format!("it has no `{name}`")))
}

impl<'a> Stage<'a> {
    fn of(executor: &'a dyn Executor, model: Cow<'a, Model>, renamed: Renamed, watch: &[String]) -> Result<Stage<'a>> {
        let (choices, cone) = choices(&model.graph);
        if choices.is_empty() {
            let watch = watch.iter().map(|w| renamed.get(w).unwrap_or(w).clone()).collect();
            return Ok(Stage::Straight(Arc::new(Straight::new(executor, model, watch)?)));
        }
        let names: Vec<&str> = choices.iter().filter_map(|&id| model.graph.node(id)?.input_at(0)).collect();
        if names.len() != choices.len() {
            return Err(Error::new(ErrorKind::InvalidModel, "an If has no condition"));
        }
        let conditions = match names.iter().map(|n| constant(&model.graph, n)).collect::<Result<Option<Vec<bool>>>>()? {
            Some(known) => Conditions::Known(known),
            None => {
                let part = Cow::Owned(cut(&model, &cone, &names)?);
                Conditions::Computed(Arc::new(Straight::new(executor, part, Vec::new())?))
            }
        };
        Ok(Stage::Fork(Box::new(Fork { model, renamed, choices, conditions, next: Mutex::default() })))
    }
}

/// The Ifs of a graph whose conditions need no other If, and the nodes that those conditions need.
fn choices(graph: &Graph) -> (Vec<NodeId>, HashSet<NodeId>) {
    // Nodes that an If, or something behind one, hands a value to.
    let mut behind: HashSet<NodeId> = HashSet::new();
    let mut found = Vec::new();
    for (id, node) in graph.nodes() {
        let read = node.input.iter().map(String::as_str).chain(captures(node));
        let held_up = |name: &str| graph.producer(name).is_some_and(|(p, _)| behind.contains(&p));
        let choice = node.is("If");
        if choice && !node.input_at(0).is_some_and(held_up) {
            found.push(id);
        }
        if choice || read.into_iter().any(held_up) {
            behind.insert(id);
        }
    }
    let condition = |id: &NodeId| graph.node(*id).and_then(|n| n.input_at(0)).and_then(|c| graph.producer(c));
    let cone = cone(graph, found.iter().filter_map(condition).map(|(id, _)| id).collect());
    (found, cone)
}

/// These nodes, and all that they need.
fn cone(graph: &Graph, mut open: Vec<NodeId>) -> HashSet<NodeId> {
    let mut cone = HashSet::new();
    while let Some(id) = open.pop() {
        let Some(node) = graph.node(id).filter(|_| cone.insert(id)) else { continue };
        let read = node.input.iter().map(String::as_str).chain(captures(node));
        open.extend(read.filter_map(|name| graph.producer(name)).map(|(id, _)| id));
    }
    cone
}

/// What a condition is whatever the sample; `None` where that has to be computed.
fn constant(graph: &Graph, name: &str) -> Result<Option<bool>> {
    let constant = |node: &NodeProto| node.tensor("value").filter(|_| node.is("Constant")).map(Tensor::from_proto);
    let value = match graph.constant(name)? {
        Some(tensor) => Some(tensor).filter(|_| !graph.is_input(name)),
        None => graph.producer(name).and_then(|(id, _)| constant(graph.node(id)?)).transpose()?,
    };
    value.map(|t| truth(&t)).transpose()
}

fn truth(condition: &Tensor) -> Result<bool> {
    let first = condition.i64s()?.first().map(|&x| x != 0);
    first.ok_or_else(|| Error::new(ErrorKind::InvalidModel, "the condition of an If is empty"))
}

/// The model cut down to some of its nodes, which make the named outputs. It takes the same inputs.
fn cut(model: &Model, nodes: &HashSet<NodeId>, outputs: &[&str]) -> Result<Model> {
    let graph = &model.graph;
    let kept: Vec<NodeProto> = graph.nodes().filter(|(id, _)| nodes.contains(id)).map(|(_, n)| n.clone()).collect();
    let mut read: HashSet<&str> = outputs.iter().copied().collect();
    for node in &kept {
        read.extend(node.input.iter().map(String::as_str).chain(captures(node)));
    }
    // The element types of the outputs are what the engine finds; UNDEFINED asks it to say.
    let any = |name: &&str| ValueInfoProto {
        name: Some((*name).to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor { elem_type: Some(0), shape: None })),
            ..Default::default()
        }),
        ..Default::default()
    };
    let part = GraphProto {
        name: Some("part".to_owned()),
        input: graph.inputs().iter().filter(|v| !graph.is_constant(v.name())).cloned().collect(),
        initializer: graph.initializers().filter(|t| read.contains(t.name())).cloned().collect(),
        sparse_initializer: graph.sparse_initializers().filter(|t| read.contains(sparse_name(t))).cloned().collect(),
        output: outputs.iter().map(any).collect(),
        node: kept.clone(),
        ..Default::default()
    };
    Model::from_proto(ModelProto { graph: Some(part), ..model.metadata().clone() })
}

/// Makes two models ready for a sample, side by side: an engine prepares a model on one thread.
pub fn warm_up(one: &Runner<'_>, other: &Runner<'_>, sample: &Sample) {
    rayon::join(|| one.warm_up(sample), || other.warm_up(sample));
}

/// One thread's sessions.
pub struct Worker<'r, 'a> {
    runner: &'r Runner<'a>,
    /// The latest at the end.
    seats: Vec<Seat<'a>>,
}

impl<'a> Worker<'_, 'a> {
    /// Runs a sample, calling back with every watched value, and returns the outputs.
    pub fn run(&mut self, sample: &Sample, see: &mut dyn FnMut(Seen<'_>)) -> Result<Vec<Tensor>> {
        let straight = self.straighten(sample)?;
        self.seat(&straight, true).run(sample, see)
    }

    /// Runs a sample for its outputs alone.
    pub fn outputs(&mut self, sample: &Sample) -> Result<Vec<Tensor>> {
        let straight = self.straighten(sample)?;
        self.seat(&straight, true).outputs(sample)
    }

    /// The model along the branches that the sample takes.
    fn straighten(&mut self, sample: &Sample) -> Result<Arc<Straight<'a>>> {
        let mut stage = self.runner.first.clone();
        loop {
            stage = match &*stage {
                Stage::Straight(straight) => return Ok(straight.clone()),
                Stage::Fork(fork) => {
                    let decided = match &fork.conditions {
                        Conditions::Known(known) => known.clone(),
                        Conditions::Computed(straight) => {
                            let values = self.seat(straight, false).outputs(sample).at(|| "conditions".to_owned())?;
                            values.iter().map(truth).collect::<Result<_>>()?
                        }
                    };
                    self.runner.behind(fork, decided)?
                }
            };
        }
    }

    /// This thread's seat at a form of the model: at one without branches, or at one that computes conditions.
    fn seat(&mut self, straight: &Arc<Straight<'a>>, whole: bool) -> &mut Seat<'a> {
        self.runner.note(straight, whole);
        let known = self.seats.iter().position(|s| s.is_at(straight)).map(|i| self.seats.remove(i));
        if self.seats.len() == READY.0 + READY.1 {
            self.seats.remove(0);
        }
        self.seats.push(known.unwrap_or_else(|| Seat::new(straight.clone())));
        let last = self.seats.len() - 1;
        &mut self.seats[last]
    }
}
