//! Targets that users write.

use std::path::Path;

use super::{ORT_CPU, Target};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::number::Format;
use crate::rule::{RULES, Role};

impl Target {
    /// Reads a target from a TOML file, named after the file where the file does not name it. See [`Target::from_toml`].
    pub fn read(path: &Path) -> Result<Target> {
        let place = || format!("`{}`", path.display());
        let text = std::fs::read_to_string(path).map_err(Error::io).at(place)?;
        let name = path.file_stem().map_or_else(Default::default, |s| s.to_string_lossy());
        Target::from_toml(&text, &name).at(place)
    }

    /// A target from TOML: the fields of [`Target`] by their names, and `based_on`, the name of the target of this crate that
    /// fields are taken from which the text leaves out, `ort-cpu` unless it says otherwise. A field that is given is given
    /// whole. `name` is the name of a target that does not say its own.
    ///
    /// Errors when the text is no TOML, when a key is unknown or a value of the wrong kind, and when [`Target::check`] does.
    pub fn from_toml(text: &str, name: &str) -> Result<Target> {
        let malformed = |e: toml::de::Error| {
            let at =
                e.span().map_or(String::new(), |s| format!("line {}: ", 1 + text[..s.start].matches('\n').count()));
            Error::new(ErrorKind::Malformed, format!("{at}{}", e.message())).caused_by(e)
        };
        let mut given: toml::Table = text.parse().map_err(malformed)?;
        let base = match given.remove("based_on") {
            None => &ORT_CPU,
            Some(toml::Value::String(base)) => Target::by_name(&base).ok_or_else(|| {
                let names = Target::all().map(|t| t.name.as_str()).join(", ");
                Error::new(ErrorKind::Usage, format!("`based_on` names `{base}`, which is no target"))
                    .hint(format!("targets are {names}"))
            })?,
            Some(other) => {
                let what = format!("`based_on` takes the name of a target, found {}", other.type_str());
                return Err(Error::new(ErrorKind::Malformed, what));
            }
        };
        let unwritable = |e: toml::ser::Error| Error::new(ErrorKind::Unsupported, e.to_string()).caused_by(e);
        let mut whole = toml::Table::try_from(base).map_err(unwritable)?;
        whole.insert("name".into(), name.into());
        whole.insert("about".into(), format!("a target of the user's, based on `{}`", base.name).into());
        // One field after the other, so that an error can tell which.
        for (key, value) in given {
            if !whole.contains_key(&key) {
                let keys: Vec<&str> = whole.keys().map(String::as_str).collect();
                return Err(Error::new(ErrorKind::Malformed, format!("`{key}` is no key of a target"))
                    .hint(format!("keys are based_on, {}", keys.join(", "))));
            }
            whole.insert(key.clone(), value);
            if let Err(e) = Target::deserialize_table(whole.clone()) {
                return Err(e.at(format!("`{key}`")));
            }
        }
        let target = Target::deserialize_table(whole)?;
        target.check()?;
        Ok(target)
    }

    fn deserialize_table(table: toml::Table) -> Result<Target> {
        table.try_into().map_err(|e: toml::de::Error| Error::new(ErrorKind::Malformed, e.message().to_owned()))
    }

    /// The target as TOML: what [`Target::from_toml`] reads.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::new(ErrorKind::Unsupported, e.to_string()).caused_by(e))
    }

    /// Errors when it asks for what cannot be: operators that no rule knows, formats that are not among those it allows, an
    /// opset in which DequantizeLinear has no axis, ranges or scales that are no positive numbers.
    pub fn check(&self) -> Result<()> {
        let wrong = |key: &str, what: String| Err(Error::new(ErrorKind::Usage, what).at(format!("`{key}`")));
        if self.name.is_empty() {
            return wrong("name", "is empty".into());
        }
        if self.opset < 13 {
            return wrong("opset", format!("{} is too low: DequantizeLinear has an axis since 13", self.opset));
        }
        if !(self.minimum_range.is_finite() && self.minimum_range >= 0.0) {
            return wrong("minimum_range", format!("{} is no width of a range", self.minimum_range));
        }
        let lists = [
            ("activation_formats", self.activations, &self.activation_formats, 8..=16),
            ("weight_formats", self.weights, &self.weight_formats, 1..=16),
        ];
        for (key, own, formats, bits) in lists {
            // Numbers of a table of their own are simulated in as many bits as there are.
            let simulated = |f: &Format| key == "activation_formats" && f.is_looked_up() && f.table().is_some();
            if let Some(f) = formats.iter().find(|f| !bits.contains(&f.bits) && !simulated(f)) {
                return wrong(key, format!("`{}` has {} bits, not {} to {}", f.name, f.bits, bits.start(), bits.end()));
            }
            if !formats.contains(&own) {
                let names: Vec<&str> = formats.iter().map(|f| f.name).collect();
                return wrong(key, format!("`{}` is the default and not among {}", own.name, names.join(", ")));
            }
        }
        let fixed: Vec<String> = self.fixed_outputs.iter().map(|f| f.operator.clone()).collect();
        let excluded = self.excluded.iter().flat_map(|s| s.operators.iter().cloned()).collect();
        for (key, operators) in [
            ("operators", &self.operators),
            ("float_output", &self.float_output),
            ("per_tensor_operators", &self.per_tensor_operators),
            ("tied", &self.tied),
            ("fixed_outputs", &fixed),
            ("excluded", &excluded),
        ] {
            let known = |op: &str| RULES.iter().any(|r| r.op == op && !matches!(r.role, Role::Float(_)));
            if let Some(op) = operators.iter().find(|op| !known(op)) {
                let list: Vec<&str> = RULES.iter().filter(|r| known(r.op)).map(|r| r.op).collect();
                return Err(Error::new(ErrorKind::Usage, format!("`{op}` is no operator that can be quantized"))
                    .at(format!("`{key}`"))
                    .hint(format!("operators are written as in ONNX: {}", list.join(", "))));
            }
        }
        for f in &self.fixed_outputs {
            if self.fixed_output(&f.operator, f.format).is_none() {
                let what = format!("scale {} and zero point {} do not fit {}", f.scale, f.zero_point, f.format.name);
                return wrong("fixed_outputs", format!("{}: {what}", f.operator));
            }
        }
        Ok(())
    }

    /// Whether activations may have this format.
    pub fn allows_activations(&self, format: Format) -> bool {
        self.activation_formats.contains(&format)
    }

    /// Whether weights may have this format: one that is allowed, or fewer codes in the same type.
    pub fn allows_weights(&self, format: Format) -> bool {
        let holds = |f: &Format| f.storage == format.storage && f.min <= format.min && format.max <= f.max;
        self.weight_formats.iter().any(holds)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Attention, BiasForm, TENSORRT};
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for target in Target::all() {
            assert_eq!(&Target::from_toml(&target.to_toml().unwrap(), "other").unwrap(), target);
        }
    }

    #[test]
    fn a_file_says_what_is_otherwise() {
        let mine = Target::from_toml("based_on = \"tensorrt\"\nbias = \"int32\"\nexcluded = []\n", "mine").unwrap();
        let about = "a target of the user's, based on `tensorrt`".to_owned();
        let want = Target { name: "mine".into(), about, bias: BiasForm::Int32, excluded: vec![], ..TENSORRT.clone() };
        assert_eq!(mine, want);
        let text = "attention = \"scores\"\n[[fixed_outputs]]\noperator = \"Tanh\"\nformat = \"uint8\"\nscale = 0.0078125\nzero_point = 128\n";
        let mine = Target::from_toml(text, "mine").unwrap();
        assert_eq!((mine.attention, mine.operators), (Attention::Scores, ORT_CPU.operators.clone()));
        assert_eq!(mine.fixed_outputs[0].zero_point, 128);
    }

    #[test]
    fn errors_name_the_key() {
        for (text, want) in [
            ("per_chanel = true", "`per_chanel` is no key of a target"),
            ("per_channel = 1", "`per_channel`: invalid type: integer `1`, expected a boolean"),
            ("bias = \"int16\"", "`bias`: unknown variant `int16`, expected `int32` or `float`"),
            ("weights = \"int9\"", "`weights`: `int9` is no format"),
            ("activations = \"int4\"", "`activation_formats`: `int4` is the default and not among"),
            ("activation_formats = [\"int4\"]", "`activation_formats`: `int4` has 4 bits, not 8 to 16"),
            ("operators = [\"Conv\", \"conv\"]", "`operators`: `conv` is no operator that can be quantized"),
            ("tied = [\"LayerNormalization\"]", "`tied`: `LayerNormalization` is no operator that can be quantized"),
            ("opset = 10", "`opset`: 10 is too low"),
            ("minimum_range = -1.0", "`minimum_range`: -1 is no width of a range"),
            ("minimum_range = inf", "`minimum_range`: inf is no width of a range"),
            ("name = \"\"", "`name`: is empty"),
            ("based_on = \"abacus\"", "`based_on` names `abacus`, which is no target"),
            ("based_on = 3", "`based_on` takes the name of a target, found integer"),
            ("[[excluded]]\noperators = [\"Conv\"]\nrow = 3", "`excluded`: unknown field `row`"),
            (
                "[[fixed_outputs]]\noperator = \"Tanh\"\nformat = \"int8\"\nscale = 0.0\nzero_point = 0",
                "`fixed_outputs`: Tanh: scale 0 and zero point 0 do not fit int8",
            ),
            ("bias = int32", "line 1: "),
            ("\n\nbias = = 1", "line 3: "),
        ] {
            let error = Target::from_toml(text, "mine").unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn fewer_codes_in_the_same_type_are_allowed() {
        let named = |name: &str| Format::by_name(name).unwrap();
        assert!(TENSORRT.allows_weights(named("int4")) && TENSORRT.allows_weights(named("int4").widened()));
        assert!(TENSORRT.allows_weights(named("int3")) && !TENSORRT.allows_weights(named("uint8")));
        let old = Target::by_name("ort-cpu-no-vnni").unwrap();
        assert!(old.allows_weights(named("int7")) && !old.allows_weights(named("int8")));
        assert!(!TENSORRT.allows_activations(named("uint8")));
    }
}
