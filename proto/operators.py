"""Prints src/pass/raise_opset/schema.rs from the schemas of the `onnx` package (made with onnx 1.23.2):

    python proto/operators.py > src/pass/raise_opset/schema.rs

A form counts as changed where inputs (their number, or whether they may be left out), outputs, attributes or their
defaults differ from the version before, or where a type is no longer allowed. What changes in the text alone is not seen
here: it was read, and what it means for models stands in src/pass/raise_opset/steps.rs.
"""

from collections import defaultdict

from onnx import defs, helper

NEWEST = 28


def default(attribute):
    return helper.get_attribute_value(attribute.default_value) if attribute.default_value.type else None


def form(schema):
    inputs = [i.option for i in schema.inputs]
    outputs = [o.option for o in schema.outputs]
    attributes = {n: (a.type, a.required, default(a)) for n, a in schema.attributes.items()}
    return inputs, outputs, attributes


def loses_a_type(old, new):
    types = {v.name: set(v.types) for v in [*new.inputs, *new.outputs]}
    return any(set(v.types) - types.get(v.name, set(v.types)) for v in [*old.inputs, *old.outputs])


history = defaultdict(list)
for schema in sorted(defs.get_all_schemas_with_history(), key=lambda s: s.since_version):
    if schema.domain == "" and schema.since_version <= NEWEST:
        history[schema.name].append(schema)

print("//! When the operators of ONNX's own domain came, changed and went. Written by proto/operators.py: do not edit.\n")
print("use super::steps::{Operator, gone, op};\n")
print("/// The newest opset the tables know.")
print(f"pub(super) const NEWEST: i64 = {NEWEST};\n")
print("/// Every operator, sorted by name: the opsets that define it, and those among them that change its form.")
print("#[rustfmt::skip]\npub(super) const OPERATORS: &[Operator] = &[")
for name, versions in sorted(history.items()):
    end = versions.pop().since_version if versions[-1].deprecated else None
    since = [v.since_version for v in versions]
    changed = [
        b.since_version
        for a, b in zip(versions, versions[1:])
        if form(a) != form(b) or loses_a_type(a, b)
    ]
    row = f'"{name}", &{since}, &{changed}'
    if versions:
        print(f"    gone({row}, {end})," if end else f"    op({row}),")
print("];")
