//! The model around its graph: versions, imports, metadata.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use super::around::{Around, Imports, id_of};
use super::{Checker, Place, rules};
use crate::model::{ModelProto, domain_of};
use crate::proto::Version;
use crate::schema;

/// The opsets of ONNX's own domain that ONNX Runtime 1.31 reads: it promises nothing below 7, and refuses those above
/// 26.
const RUNTIME_OPSETS: RangeInclusive<i64> = 7..=26;
/// The newest IR version that ONNX Runtime 1.31 reads.
const RUNTIME_IR: i64 = 13;

impl<'m> Checker<'m> {
    /// Checks all of a model.
    pub(super) fn model(&mut self, model: &'m ModelProto) {
        let place = Place::new("model");
        self.ir_version(&place);
        self.opset_imports(model, &place);
        let mut keys = HashSet::new();
        for key in model.metadata_props.iter().map(|p| p.key()).filter(|k| !keys.insert(*k)) {
            self.add(&rules::METADATA, &place, format!("two entries of its metadata have the key `{key}`"));
        }
        let mut imports = Imports::of(&model.opset_import);
        if self.ir < 3 && imports.0.is_empty() {
            imports.0.insert("", 1);
        }
        self.functions = model.functions.iter().map(|f| (id_of(f), f)).collect();
        match &model.graph {
            Some(graph) => drop(self.graph(graph, None, None, &Around::model(&imports))),
            None => self.add(&rules::NO_GRAPH, &place, "it has no graph"),
        }
        self.model_functions(model, imports);
    }

    fn ir_version(&mut self, place: &Place<'_>) {
        let newest = Version::IrVersion as i64;
        match self.ir {
            0 => self.add(&rules::IR_VERSION, place, "it states no IR version"),
            ..0 => self.add(&rules::IR_VERSION, place, format!("{} is no IR version", self.ir)),
            ir if ir > newest => {
                let why = format!("IR version {ir} is newer than {newest}, the newest that is known");
                self.add_with_hint(&rules::IR_VERSION, place, why, rules::NEWER.hint);
            }
            ir if ir > RUNTIME_IR => {
                let why =
                    format!("IR version {ir} is newer than {RUNTIME_IR}, the newest that ONNX Runtime 1.31 reads");
                self.add(&rules::RUNTIME, place, why);
            }
            _ => {}
        }
    }

    fn opset_imports(&mut self, model: &ModelProto, place: &Place<'_>) {
        let imports = &model.opset_import;
        match (self.ir, imports.is_empty()) {
            (3.., true) => self.add(&rules::OPSET_IMPORT, place, "it imports no operator set"),
            (..3, false) => {
                let why = format!("it imports operator sets, which IR version {} does not know", self.ir);
                self.add(&rules::OPSET_IMPORT, place, why);
            }
            _ => {}
        }
        let mut versions = HashMap::new();
        for import in imports {
            let (domain, version) = (domain_of(import.domain()), import.version());
            let name = if domain.is_empty() { "ai.onnx" } else { domain };
            if !(1..=i64::from(i32::MAX)).contains(&version) {
                self.add(&rules::OPSET_IMPORT, place, format!("{version} is no version of domain `{name}`"));
                continue;
            }
            if versions.insert(domain, version).is_some_and(|before| before != version) {
                let why = format!("it imports two versions of domain `{name}`; the higher one is checked");
                self.add(&rules::IMPORT_TWICE, place, why);
            }
            let Some(known) = schema::domain(domain) else { continue };
            if version > known.newest {
                let newest = known.newest;
                let why = format!("it imports version {version} of domain `{name}`, and {newest} is the newest known");
                self.add(&rules::NEWER, place, why);
            } else if domain.is_empty() && !RUNTIME_OPSETS.contains(&version) {
                let (oldest, newest) = (RUNTIME_OPSETS.start(), RUNTIME_OPSETS.end());
                let why = format!("ONNX Runtime 1.31 reads opset {oldest} to {newest}, and the model states {version}");
                self.add(&rules::RUNTIME, place, why);
            }
        }
    }
}
