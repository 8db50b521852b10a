//! Targets as people read them.

use super::{Attention, BiasForm, Placement, ResidualAdd, Target};
use crate::report::{Cell, Column, Table};

impl Target {
    /// All that the target wants.
    pub fn tables(&self) -> Vec<Table> {
        let mut t = Table::facts(format!("Target {}", self.name));
        let listed = |list: &[String]| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
        let others = |own: &str, formats: Vec<&str>| {
            let others: Vec<&str> = formats.into_iter().filter(|&f| f != own).collect();
            if others.is_empty() { String::new() } else { format!("; also {}", others.join(", ")) }
        };
        t.fact("about", self.about.as_str());
        t.fact("opset", format!("{} or later", self.opset));
        let also = others(self.activations.name, self.activation_formats.iter().map(|f| f.name).collect());
        t.fact("activations", format!("{}{also}", self.activations()));
        let wide = self.wide_activations(self.activations).map_or("float", |f| f.name);
        t.fact("what loses too much", format!("{wide}, with `--activations auto`"));
        t.fact(
            "minimum range",
            if self.minimum_range > 0.0 { format!("{:e}", self.minimum_range) } else { "none".into() },
        );
        let also = others(self.weights.name, self.weight_formats.iter().map(|f| f.name).collect());
        t.fact("weights", format!("{}{also}", self.weights()));
        t.fact("one scale for weights of", listed(&self.per_tensor_operators));
        t.fact("lowest code of weights", if self.narrow_weights { "unused" } else { "used" });
        t.fact("biases", self.bias.words());
        t.fact("Q/DQ", self.placement.words());
        t.fact("operators", listed(&self.operators));
        t.fact("can write float", listed(&self.float_output));
        t.fact("tables of Gather", if self.tables { "codes, 8 bits" } else { "float" });
        let between = if self.everywhere { "too, wherever it stands" } else { "only between quantized neighbours" };
        t.fact("what has no weight", between);
        let fused = if self.fused_bounds { "no" } else { "yes" };
        t.fact("Q/DQ before ReLU, Clip", fused);
        t.fact("residual Add", self.residual_add.words());
        t.fact("attention", self.attention.words());
        t.fact("tied scales", listed(&self.tied));
        for f in &self.fixed_outputs {
            let params = format!("scale {}, zero point {}", f.scale, f.zero_point);
            t.fact("fixed output", format!("{} in {}: {params}", f.operator, f.format.name));
        }
        for small in &self.excluded {
            let least = [(small.rows, "rows"), (small.inputs, "inputs"), (small.outputs, "outputs")];
            let least: Vec<String> =
                least.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("fewer than {n} {what}")).collect();
            let unless: Vec<String> = small.unless.iter().map(|u| u.words()).collect();
            let unless = if unless.is_empty() { String::new() } else { format!(", unless {}", unless.join("; or ")) };
            t.fact("stays float", format!("{} with {}{unless}", small.operators.join(", "), least.join(" or ")));
        }
        vec![t]
    }

    fn activations(&self) -> String {
        format!("{} {}", self.activations.name, if self.symmetric_activations { "symmetric" } else { "affine" })
    }

    fn weights(&self) -> String {
        let form = if self.weights.signed() { "symmetric" } else { "affine" };
        format!("{} {form}, {}", self.weights.name, if self.per_channel { "per channel" } else { "per tensor" })
    }
}

impl Placement {
    fn words(self) -> &'static str {
        match self {
            Placement::Around => "on what quantized operators read and write",
            Placement::Inputs => "on what quantized operators read",
        }
    }
}

impl BiasForm {
    fn words(self) -> &'static str {
        match self {
            BiasForm::Int32 => "int32 at the scale of the accumulator",
            BiasForm::Float => "float",
        }
    }
}

impl ResidualAdd {
    fn words(self) -> &'static str {
        match self {
            ResidualAdd::Both => "both inputs",
            ResidualAdd::ResidualSide => "the residual alone",
        }
    }
}

impl Attention {
    fn words(self) -> &'static str {
        match self {
            Attention::All => "both products",
            Attention::Scores => "scores, not their product with the values",
            Attention::None => "float",
        }
    }
}

impl super::Unless {
    fn words(&self) -> String {
        let mut words = Vec::new();
        words.extend(self.grouped.map(|g| if g { "grouped".to_owned() } else { "one group".to_owned() }));
        let mut say = |n: usize, text: String| words.extend((n > 0).then_some(text));
        say(self.multiple_of, format!("inputs or outputs a multiple of {}", self.multiple_of));
        say(self.outputs_multiple_of, format!("outputs a multiple of {}", self.outputs_multiple_of));
        say(self.either, format!("inputs or outputs at least {}", self.either));
        say(self.first.into(), "reads an input of the graph".to_owned());
        say(self.square.into(), "square kernel".to_owned());
        say(self.kernel, format!("kernel at least {}", self.kernel));
        words.join(" and ")
    }
}

/// The targets, a row each.
pub fn list(targets: &[&Target]) -> Vec<Table> {
    let columns = ["target", "activations", "weights", "biases", "Q/DQ", "residual Add", "tied scales"];
    let mut t = Table::new("Targets", columns.map(Column::left).to_vec());
    for target in targets {
        let tied = if target.tied.is_empty() { Cell::None } else { Cell::Text(target.tied.join(", ")) };
        let short = match target.placement {
            Placement::Around => "inputs and outputs",
            Placement::Inputs => "inputs",
        };
        let bias = match target.bias {
            BiasForm::Int32 => "int32",
            BiasForm::Float => "float",
        };
        t.rows.push(vec![
            Cell::Name(target.name.clone()),
            Cell::Text(target.activations()),
            Cell::Text(target.weights()),
            Cell::Text(bias.into()),
            Cell::Text(short.into()),
            Cell::Text(target.residual_add.words().into()),
            tied,
        ]);
    }
    t.notes.push("`qdq targets NAME` shows all that a target wants; `--target NAME` quantizes for it.".into());
    vec![t]
}
