//! What ONNX says of each operator, as data: in which opset it came, changed and went; its inputs, outputs and
//! attributes; the element types it takes. Of every domain of ONNX, up to the newest opset of `onnx` 1.23.2.
//!
//! The table is the text `operators.txt`, which `proto/operators.py` writes and which is read at its first use:
//!
//! ```text
//! types 3 tensor: bfloat16 double float float16      a set of types, by number
//! domain ai.onnx 28                                  a domain, and its newest opset
//! Conv                                               an operator, and below it its versions
//!  1 X:T W:T B?:T -> Y:T ; group:int pads:ints ; T=0    inputs -> outputs ; attributes ; sets of type variables
//!  11* = ; = ; =                                       `=` is as before, `*` marks a change of form, `-` an end
//! ```
//!
//! A parameter is `x` (one value), `x?` (may be left out), `x&` (an output that is given with the others of its kind or
//! not at all) or `x*N` (the last one: any number of values, at least N); behind the colon stand its type or type
//! variable, or `any` for values that each have their own. An attribute is `a` or, if it must be given, `a!`; `*` allows
//! attributes of any name.

mod value_type;

use std::sync::LazyLock;

use crate::proto::attribute_proto::AttributeType;

pub use value_type::{TypeSet, ValueType};

/// A domain of ONNX.
#[derive(Debug)]
pub struct Domain {
    /// Its name: `ai.onnx`, `ai.onnx.ml`.
    pub name: &'static str,
    /// The newest opset that the table knows.
    pub newest: i64,
    /// Its operators, by name.
    operators: Vec<Operator>,
}

/// An operator.
#[derive(Debug)]
pub struct Operator {
    /// Its name.
    pub name: &'static str,
    /// The opsets that define it anew, the first one first.
    pub versions: Vec<Version>,
}

/// An operator from one opset on.
#[derive(Debug)]
pub struct Version {
    /// The opset.
    pub since: i64,
    /// Whether its form differs from the version before: inputs, outputs, attributes, defaults, or fewer types.
    pub changes: bool,
    /// Whether the opset removed the operator, or took this version of it back.
    pub deprecated: bool,
    /// The inputs in their order.
    pub inputs: Vec<Parameter>,
    /// The outputs in their order.
    pub outputs: Vec<Parameter>,
    /// The attributes, by name.
    pub attributes: Vec<Attribute>,
    /// Whether attributes of other names are allowed too.
    pub open: bool,
    variables: Vec<(&'static str, &'static TypeSet)>,
}

/// An input or an output.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// How many values stand for it.
    pub arity: Arity,
    /// What they are.
    pub kind: Kind,
}

/// How many values stand for a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    /// One.
    One,
    /// One or none.
    Optional,
    /// One or none, and the same for every parameter of this arity.
    Together,
    /// Any number, at least so many. Only the last parameter.
    Many(usize),
}

/// What the values of a parameter are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Of this type.
    Is(ValueType),
    /// Of the type that all parameters with this variable have: a place in [`Version::types`].
    Variable(usize),
    /// Each of its own type.
    Any,
}

/// An attribute.
#[derive(Debug, Clone)]
pub struct Attribute {
    /// Its name.
    pub name: &'static str,
    /// Which of the value fields it has.
    pub kind: AttributeType,
    /// Whether it must be given.
    pub required: bool,
}

/// The domain of that name; the empty name is that of `ai.onnx`. `None` for domains that are not ONNX's.
pub fn domain(name: &str) -> Option<&'static Domain> {
    let name = if name.is_empty() { "ai.onnx" } else { name };
    TABLE.iter().find(|d| d.name == name)
}

/// The operator of that name in ONNX's own domain.
pub fn operator(name: &str) -> Option<&'static Operator> {
    domain("").and_then(|d| d.operator(name))
}

impl Domain {
    /// The operators, by name.
    pub fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// The operator of that name.
    pub fn operator(&self, name: &str) -> Option<&Operator> {
        let at = self.operators.binary_search_by_key(&name, |o| o.name).ok()?;
        self.operators.get(at)
    }
}

impl Operator {
    /// The version that a model of this opset means: the newest that is not newer. `None` before the first.
    pub fn at(&self, opset: i64) -> Option<&Version> {
        self.versions.iter().rfind(|v| v.since <= opset)
    }

    /// The first opset with the operator.
    pub fn since(&self) -> i64 {
        self.versions.first().map_or(0, |v| v.since)
    }

    /// The opset that removed the operator.
    pub fn gone(&self) -> Option<i64> {
        self.versions.last().filter(|v| v.deprecated).map(|v| v.since)
    }

    /// The opsets that changed the form of the operator, or removed it.
    pub fn changes(&self) -> impl Iterator<Item = i64> + '_ {
        let gone = self.gone();
        self.versions.iter().filter(move |v| v.changes || Some(v.since) == gone).map(|v| v.since)
    }
}

impl Version {
    /// The attribute of that name.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|a| a.name == name)
    }

    /// The type variable in that place: its name, and the types that it stands for.
    pub fn types(&self, variable: usize) -> Option<(&'static str, &'static TypeSet)> {
        self.variables.get(variable).copied()
    }

    /// How many type variables there are.
    pub fn variables(&self) -> usize {
        self.variables.len()
    }
}

/// The parameter that the value in that place stands for.
pub fn parameter(parameters: &[Parameter], place: usize) -> Option<&Parameter> {
    parameters.get(place).or_else(|| parameters.last().filter(|p| matches!(p.arity, Arity::Many(_))))
}

/// How few and how many values the parameters take; `None` for any number.
pub fn arity(parameters: &[Parameter]) -> (usize, Option<usize>) {
    let (mut least, mut most) = (0, Some(0));
    for (i, p) in parameters.iter().enumerate() {
        match p.arity {
            Arity::One => least = i + 1,
            Arity::Many(n) => least = i + n,
            Arity::Optional | Arity::Together => {}
        }
        most = if matches!(p.arity, Arity::Many(_)) { None } else { Some(i + 1) };
    }
    (least, most)
}

static TYPES: LazyLock<Vec<TypeSet>> = LazyLock::new(|| {
    let lines = include_str!("operators.txt").lines().filter_map(|l| l.strip_prefix("types "));
    lines.map(|l| TypeSet::parse(l.split_once(' ').map_or("", |(_, set)| set))).collect()
});

static TABLE: LazyLock<Vec<Domain>> = LazyLock::new(|| {
    let mut table: Vec<Domain> = Vec::new();
    for line in include_str!("operators.txt").lines() {
        if line.starts_with('#') || line.starts_with("types ") {
            continue;
        }
        if let Some((name, newest)) = line.strip_prefix("domain ").and_then(|l| l.split_once(' ')) {
            table.push(Domain { name, newest: newest.parse().unwrap_or(0), operators: Vec::new() });
            continue;
        }
        let Some(domain) = table.last_mut() else { continue };
        match (line.strip_prefix(' '), domain.operators.last_mut()) {
            (Some(text), Some(operator)) => {
                let version = version(text, operator.versions.last());
                operator.versions.push(version);
            }
            _ => domain.operators.push(Operator { name: line, versions: Vec::new() }),
        }
    }
    table
});

/// Reads the line of a version behind its indent.
fn version(line: &'static str, before: Option<&Version>) -> Version {
    let (head, rest) = line.split_once(' ').unwrap_or((line, ""));
    let mut parts = rest.split(';').map(str::trim);
    let mut part = || parts.next().unwrap_or("");
    let (form, attributes, variables) = (part(), part(), part());
    let variables = match before {
        Some(v) if variables == "=" => v.variables.clone(),
        _ => variables.split_whitespace().filter_map(variable).collect(),
    };
    let (inputs, outputs) = match before {
        Some(v) if form == "=" => (v.inputs.clone(), v.outputs.clone()),
        _ => {
            let (inputs, outputs) = form.split_once("->").unwrap_or((form, ""));
            let parse = |s: &'static str| s.split_whitespace().filter_map(|p| read_parameter(p, &variables)).collect();
            (parse(inputs), parse(outputs))
        }
    };
    let (attributes, open) = match before {
        Some(v) if attributes == "=" => (v.attributes.clone(), v.open),
        _ => (attributes.split_whitespace().filter_map(attribute).collect(), attributes.ends_with('*')),
    };
    let since = head.trim_end_matches(['*', '-']).parse().unwrap_or(0);
    let (changes, deprecated) = (head.contains('*'), head.contains('-'));
    Version { since, changes, deprecated, inputs, outputs, attributes, open, variables }
}

fn variable(text: &'static str) -> Option<(&'static str, &'static TypeSet)> {
    let (name, set) = text.split_once('=')?;
    Some((name, TYPES.get(set.parse::<usize>().ok()?)?))
}

fn read_parameter(text: &'static str, variables: &[(&'static str, &'static TypeSet)]) -> Option<Parameter> {
    let (form, kind) = text.split_once(':')?;
    let end = form.find(['?', '&', '*']).unwrap_or(form.len());
    let (name, mark) = form.split_at(end);
    let arity = match mark {
        "" => Arity::One,
        "?" => Arity::Optional,
        "&" => Arity::Together,
        many => Arity::Many(many.trim_start_matches('*').parse().ok()?),
    };
    let kind = match variables.iter().position(|(name, _)| *name == kind) {
        Some(at) => Kind::Variable(at),
        None if kind == "any" => Kind::Any,
        None => Kind::Is(ValueType::parse(kind)?),
    };
    Some(Parameter { name, arity, kind })
}

fn attribute(text: &'static str) -> Option<Attribute> {
    let (name, kind) = text.split_once(':')?;
    let kind = AttributeType::from_str_name(&kind.to_uppercase())?;
    Some(Attribute { name: name.trim_end_matches('!'), kind, required: name.ends_with('!') })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::tensor_proto::DataType;

    #[test]
    fn every_line_of_the_table_is_understood() {
        let text = include_str!("operators.txt");
        let versions = || TABLE.iter().flat_map(|d| d.operators()).flat_map(|o| &o.versions);
        assert_eq!(versions().count(), text.lines().filter(|l| l.starts_with(' ')).count());
        assert_eq!(versions().count(), 659);
        let mut lines = versions();
        for line in text.lines().filter(|l| l.starts_with(' ')) {
            let v = lines.next().unwrap();
            let parts: Vec<&str> = line.trim().split(';').collect();
            let stated = |part: usize| parts[part].split_whitespace().filter(|w| w.contains(':')).count();
            let form = v.inputs.len() + v.outputs.len();
            assert!(v.since > 0 && (parts[0].ends_with("= ") || form == stated(0)), "{line}");
            assert!(parts[1].trim() == "=" || v.attributes.len() == stated(1), "{line}");
            let variables = parts.get(2).map_or(0, |p| p.matches('=').count());
            assert!(parts.get(2).is_some_and(|p| p.trim() == "=") || v.variables.len() == variables, "{line}");
        }
        assert!(TYPES.len() > 100 && TYPES.iter().all(|t| !t.is_empty()));
        for d in TABLE.iter() {
            assert!(d.newest > 0 && d.operators.windows(2).all(|w| w[0].name < w[1].name), "{}", d.name);
            assert!(d.operators().iter().all(|o| o.versions.windows(2).all(|w| w[0].since < w[1].since)));
            assert!(d.operators().iter().flat_map(|o| &o.versions).all(|v| v.since <= d.newest));
        }
    }

    #[test]
    fn a_model_means_the_newest_version_that_is_not_newer() {
        let conv = operator("Conv").unwrap();
        let since = |opset| conv.at(opset).map(|v| v.since);
        assert_eq!([since(0), since(1), since(10), since(11), since(99)], [None, Some(1), Some(1), Some(11), Some(22)]);
        let v = conv.at(17).unwrap();
        assert_eq!((arity(&v.inputs), arity(&v.outputs)), ((2, Some(3)), (1, Some(1))));
        assert_eq!(v.attribute("pads").map(|a| (a.kind, a.required)), Some((AttributeType::Ints, false)));
        assert!(!v.open && operator("LayerNormalization").unwrap().at(17).unwrap().open);
        let Kind::Variable(t) = v.inputs[1].kind else { panic!("{:?}", v.inputs) };
        let (name, types) = v.types(t).unwrap();
        assert_eq!(name, "T");
        assert!(types.has(ValueType::Tensor(DataType::Float16)) && !types.has(ValueType::Tensor(DataType::Int64)));
    }

    #[test]
    fn arities_and_ends() {
        let at = |name: &str, opset| operator(name).unwrap().at(opset).unwrap();
        assert_eq!(arity(&at("Concat", 13).inputs), (1, None));
        assert_eq!(arity(&at("Loop", 13).inputs), (2, None));
        assert!(at("GroupNormalization", 18).deprecated && operator("GroupNormalization").unwrap().gone().is_none());
        assert_eq!(arity(&at("Clip", 13).inputs), (1, Some(3)));
        assert_eq!(arity(&at("Constant", 13).inputs), (0, Some(0)));
        assert_eq!(parameter(&at("Concat", 13).inputs, 7).unwrap().name, "inputs");
        assert!(parameter(&at("Clip", 13).inputs, 3).is_none());
        assert_eq!(at("BatchNormalization", 15).outputs[2].arity, Arity::Together);
        assert_eq!(operator("Upsample").unwrap().gone(), Some(10));
        assert_eq!(operator("Upsample").unwrap().changes().collect::<Vec<_>>(), [7, 9, 10]);
        assert_eq!(domain("ai.onnx.ml").unwrap().operator("LinearRegressor").unwrap().since(), 1);
        assert!(domain("com.microsoft").is_none() && domain("ai.onnx").is_some());
    }
}
