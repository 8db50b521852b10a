"""Prints src/schema/operators.txt from the schemas of the `onnx` package (made with onnx 1.23.2):

    python proto/operators.py > src/schema/operators.txt

The form is described in src/schema/mod.rs. A `*` marks a version that changes the form of the operator: inputs (their
number, or whether they may be left out), outputs, attributes or their defaults differ from the version before, or a type
is no longer allowed. What changes in the text alone is not seen here: it was read, and what it means for models stands in
src/pass/raise_opset/steps.rs.

Two facts that the package does not give away are asked of its checker: numbers of outputs that are not allowed although
fewer and more are, and operators that take attributes of any name.
"""

from collections import defaultdict

from onnx import checker, defs, helper

OPTION = defs.OpSchema.FormalParameterOption
DOMAINS = {"": "ai.onnx"}


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


def complaint(schema, outputs, attributes):
    """What the checker says of a node of the operator with as few inputs as can be."""
    node = helper.make_node(schema.name, ["x"] * schema.min_input, ["y"] * outputs, domain=schema.domain, **attributes)
    context = checker.C.CheckerContext()
    context.ir_version, context.opset_imports = 3, {schema.domain: schema.since_version}
    try:
        checker.check_node(node, context)
    except checker.ValidationError as e:
        return str(e)
    return ""


def parameter(p, together):
    mark = {OPTION.Single: "", OPTION.Optional: "?", OPTION.Variadic: f"*{p.min_arity}"}[p.option]
    mark = "&" if together and mark == "?" else mark
    return f"{p.name}{mark}:{p.type_str if p.is_homogeneous else 'any'}"


def least(parameters):
    """How few values the parameters take, as src/schema/mod.rs counts them."""
    needed = {OPTION.Single: lambda p: 1, OPTION.Variadic: lambda p: p.min_arity}
    return max((i + needed[p.option](p) for i, p in enumerate(parameters) if p.option in needed), default=0)


def parameters(schema):
    assert (least(schema.inputs), least(schema.outputs)) == (schema.min_input, schema.min_output), schema
    counts = range(schema.min_output, min(schema.max_output, 9) + 1)
    refused = [n for n in counts if not schema.deprecated and "not in allowed output" in complaint(schema, n, {})]
    assert refused in ([], [*counts][1:-1]), schema
    inputs = [parameter(i, False) for i in schema.inputs]
    outputs = [parameter(o, refused) for o in schema.outputs]
    return " ".join([*inputs, "->", *outputs])


def attributes(schema):
    rows = [f"{n}{'!' * a.required}:{a.type.name.lower()}" for n, a in sorted(schema.attributes.items())]
    if not schema.deprecated and "Unrecognized" not in complaint(schema, schema.min_output, {"unheard_of": 1}):
        rows.append("*")
    return " ".join(rows)


def kinds(types):
    """A set of types, those of a kind together: `tensor: double float | optional seq: float`."""
    groups = defaultdict(list)
    for written in types:
        # optional(seq(tensor(float))), seq(map(string, float)), ...
        *outer, element = written.replace(", ", ",").rstrip(")").split("(")
        groups[" ".join(outer).removesuffix(" tensor")].append(element)
    return " | ".join(f"{kind}: {' '.join(sorted(groups[kind]))}" for kind in sorted(groups))


sets = {}


def constraints(schema):
    names = [(c.type_param_str, kinds(c.allowed_type_strs)) for c in schema.type_constraints]
    return " ".join(f"{n}={sets.setdefault(types, len(sets))}" for n, types in names)


history = defaultdict(list)
for schema in sorted(defs.get_all_schemas_with_history(), key=lambda s: s.since_version):
    history[DOMAINS.get(schema.domain, schema.domain), schema.name].append(schema)

lines = []
newest = {DOMAINS.get(d, d): last for d, (_, last) in defs.C.schema_version_map().items()}
for domain in sorted(newest):
    lines.append(f"domain {domain} {newest[domain]}")
    for name in sorted(n for d, n in history if d == domain):
        lines.append(name)
        before = None
        for schema in history[domain, name]:
            now = [parameters(schema), attributes(schema), constraints(schema)]
            shown = ["=" if before and a == b else a for a, b in zip(now, before[1] if before else now)]
            changes = before and (form(before[0]) != form(schema) or loses_a_type(before[0], schema))
            since = f"{schema.since_version}{'*' * bool(changes)}{'-' * schema.deprecated}"
            lines.append(f" {since} {' ; '.join(shown)}".rstrip())
            before = schema, now

print("# Every operator of ONNX in every version, as src/schema/mod.rs says. Written by proto/operators.py: do not edit.")
for types, number in sets.items():
    print(f"types {number} {types}")
print("\n".join(lines))
