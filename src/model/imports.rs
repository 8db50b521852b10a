//! The operator sets that models and functions import.

use crate::proto::OperatorSetIdProto;

/// A domain by its one name: `ai.onnx` is the empty one.
pub fn domain_of(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// The version of an operator set in a list of imports: the highest one, where several are stated; `None` if there is
/// none. ONNX binds nodes to the highest (onnx.proto, `ModelProto.opset_import`).
pub fn imported(imports: &[OperatorSetIdProto], domain: &str) -> Option<i64> {
    imports.iter().filter(|o| domain_of(o.domain()) == domain_of(domain)).map(|o| o.version()).max()
}

/// States the version of an operator set, once.
pub(crate) fn state_import(imports: &mut Vec<OperatorSetIdProto>, domain: &str, version: i64) {
    let mut stated = false;
    imports.retain_mut(|o| {
        let own = domain_of(o.domain()) == domain_of(domain);
        if own && !stated {
            o.version = Some(version);
        }
        let keep = !own || !stated;
        stated |= own;
        keep
    });
    if !stated {
        imports.push(OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn import(domain: &str, version: i64) -> OperatorSetIdProto {
        OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) }
    }

    #[test]
    fn the_highest_version_counts_and_one_is_left() {
        let mut imports = vec![import("my", 1), import("", 11), import("ai.onnx", 13), import("", 12)];
        assert_eq!([imported(&imports, ""), imported(&imports, "ai.onnx")], [Some(13); 2]);
        assert_eq!((imported(&imports, "my"), imported(&imports, "your")), (Some(1), None));
        state_import(&mut imports, "", 17);
        state_import(&mut imports, "your", 3);
        assert_eq!(imports, [import("my", 1), import("", 17), import("your", 3)]);
    }
}
