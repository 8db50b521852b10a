"""Holds `qdq check` against `onnx.checker`: on every model of ONNX's backend tests, and on mutants of them.

    python .ci/agreement.py QDQ SUITE [--mutants N] [--older PYTHON]

QDQ is the program, SUITE a folder of .onnx files. Both judge every model; where one has errors and the other has none, the
difference must be one that the docs of src/check/mod.rs name (DIFFERENCES below), or the script fails. A mutant is a model
of the suite, or one of a few made here (functions, sparse tensors, external data), with one thing broken, or two; the seed
is fixed. PYTHON is an interpreter with an older `onnx`, whose verdicts must follow from what it does not know (OLDER).
"""

import argparse
import collections
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

# What qdq refuses and the checker lets pass: rule, and what its message says.
REFUSED_HERE = {
    "types of values": ("type", ""),
    "numbers of Q/DQ": ("scale|quantization-parameters|zero-point", ""),
    "values through subgraphs": ("subgraph", ""),
    "calls of functions": ("call", ""),
    "more data than the shape wants": ("tensor-size", "MORE"),
    "packed types in int32_data": ("tensor-size", r"in `int32_data`, and (?i:u?int|float)[24]"),
    "`..` inside of the folder": ("external-data", "leaves the model's folder"),
    "length of external data": ("tensor-size|external-data", r"in another file, and|were asked for|not a whole number"),
    "element type that does not exist": ("tensor-type", "which ONNX does not have"),
    "element type of a value": ("value-type", "states no element type|which ONNX does not have"),
    "reference to an attribute": ("attribute-reference", ""),
    "output of a function": ("function", "nothing produces the output"),
    "versions that are none": ("opset-import", "is no version of"),
    "operators of preview domains": ("operator", "no operator `ai.onnx.preview"),
}
# What the checker refuses and qdq lets pass: what the checker says, and the rule by which qdq warns.
REFUSED_THERE = {
    "domain written ai.onnx": (r"domain '?ai\.onnx|No Op registered|No Opset registered", "domain-spelling"),
    "links": ("symbolic link|hard link", "link"),
}
# What an older checker lets pass: what the newer says of it.
NOT_CHECKED_BEFORE = (
    "too small for the declared|Negative dimension|dimension product overflow|too large to validate|same implementation id"
    "|Cycle detected|call chain depth|out of supported range|FLOAT6|hard link|symbolic link|Field 'name' of 'type'"
    "|outside model directory|Data size mismatch"
)
# What an older checker refuses: what it says.
UNKNOWN_BEFORE = (
    "is higher than the checker's|No Op registered|No opset import for domain ''|Unrecognized data_type|Unrecognized attribute"
    "|is deprecated in domain_version|not in range|more inputs|more outputs"
)


# ---- verdicts ----


def judge():
    """Reads paths, one a line; answers with what the checker says of each, or `null` where it is content."""
    for line in sys.stdin:
        try:
            onnx.checker.check_model(line.strip())
            verdict = None
        except Exception as e:  # noqa: BLE001: every way to refuse counts
            verdict = f"{type(e).__name__}: {e}"
        sys.stdout.write(json.dumps(verdict) + "\n")
        sys.stdout.flush()


def verdicts(python, paths):
    """The verdicts of the checker that this interpreter has. A checker that crashes has refused."""
    found, worker = [], None
    for path in paths:
        if worker is None:
            worker = subprocess.Popen(
                [python, __file__, "--judge"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        worker.stdin.write(f"{path}\n")
        worker.stdin.flush()
        # The checker prints warnings of its own to the same stream.
        line = worker.stdout.readline()
        while line and not line.startswith(("null", '"')):
            line = worker.stdout.readline()
        if line:
            found.append(json.loads(line))
        else:
            found.append(f"crashed with {worker.wait()}")
            worker = None
    return found


def findings(qdq, path):
    run = subprocess.run([qdq, "check", "--json", str(path)], capture_output=True, text=True, timeout=60)
    if run.returncode == 2:
        return [{"severity": "error", "rule": "decode", "message": run.stderr.strip(), "place": "file"}]
    found = json.loads(run.stdout)
    assert run.returncode == (found["errors"] > 0), (path, run)
    return found["findings"]


def more_than_wanted(message):
    numbers = re.search(r"has (\d+) (?:bytes|numbers).* needs (\d+)", message)
    return numbers and int(numbers[1]) > int(numbers[2])


def explained_here(finding):
    for reason, (rule, message) in REFUSED_HERE.items():
        if re.fullmatch(rule, finding["rule"]):
            if more_than_wanted(finding["message"]) if message == "MORE" else re.search(message, finding["message"]):
                return reason
    return None


def reason_for(verdict, found):
    """Why checker and qdq differ; `None` where no difference that is known explains it."""
    rules = {f["rule"] for f in found}
    if "import-twice" in rules:
        return "two versions of a domain"
    if verdict is None:
        reasons = [explained_here(f) for f in found if f["severity"] == "error"]
        return None if None in reasons else reasons[0]
    return next((r for r, (says, rule) in REFUSED_THERE.items() if re.search(says, verdict) and rule in rules), None)


# ---- mutants ----


def graphs(model):
    """Every graph with the list of graphs around it."""

    def inside(graph, around):
        yield graph, around
        for node in graph.node:
            for a in node.attribute:
                for g in [a.g] if a.HasField("g") else a.graphs:
                    yield from inside(g, [*around, graph])

    yield from inside(model.graph, [])


def bodies(model):
    return [*[g for g, _ in graphs(model)], *model.functions]


def nodes(model):
    return [n for body in bodies(model) for n in body.node]


def tensors(model):
    found = [t for g, _ in graphs(model) for t in g.initializer]
    return found + [a.t for n in nodes(model) for a in n.attribute if a.HasField("t")]


class Impossible(Exception):
    """The model has nothing that could be broken this way."""


def pick(rng, items):
    items = [*items]
    if not items:
        raise Impossible
    return rng.choice(items)


def a_node(rng, model, having=lambda n: True):
    return pick(rng, (n for n in nodes(model) if having(n)))


def a_tensor(rng, model):
    return pick(rng, tensors(model))


def an_attribute(rng, model, having=lambda a: True):
    return pick(rng, (a for n in nodes(model) for a in n.attribute if having(a)))


def a_value(rng, model):
    return pick(rng, [*model.graph.input, *model.graph.output])


def drop_from(rng, items):
    if not len(items):
        raise Impossible
    del items[rng.randrange(len(items))]


MUTATIONS = []


def mutation(change):
    MUTATIONS.append(change)
    return change


@mutation
def drop_node_input(rng, m):
    drop_from(rng, a_node(rng, m, lambda n: n.input).input)


@mutation
def add_node_input(rng, m):
    node = a_node(rng, m, lambda n: n.input)
    node.input.extend([node.input[0]] * rng.choice([1, 3]))


@mutation
def empty_node_input(rng, m):
    node = a_node(rng, m, lambda n: n.input)
    node.input[rng.randrange(len(node.input))] = ""


@mutation
def read_nothing(rng, m):
    node = a_node(rng, m, lambda n: n.input)
    node.input[rng.randrange(len(node.input))] = "nobody_makes_this"


@mutation
def read_own_output(rng, m):
    node = a_node(rng, m, lambda n: n.input and n.output)
    node.input[0] = node.output[0]


@mutation
def read_from_inside(rng, m):
    inner = pick(rng, (g for g, around in graphs(m) if around and g.node))
    node = pick(rng, (n for n in m.graph.node if n.input))
    node.input[0] = pick(rng, (o for n in inner.node for o in n.output))


@mutation
def drop_node_output(rng, m):
    drop_from(rng, a_node(rng, m, lambda n: n.output).output)


@mutation
def add_node_output(rng, m):
    a_node(rng, m).output.extend(rng.choice([["more"], ["more", "and_more"]]))


@mutation
def empty_node_output(rng, m):
    node = a_node(rng, m, lambda n: n.output)
    node.output[rng.randrange(len(node.output))] = ""


@mutation
def make_twice(rng, m):
    body = pick(rng, (b for b in bodies(m) if len(b.node) > 1))
    first, second = rng.sample([*body.node], 2)
    second.output[0] = pick(rng, first.output)


@mutation
def make_an_input(rng, m):
    graph = pick(rng, (g for g, _ in graphs(m) if g.input and g.node))
    pick(rng, graph.node).output[0] = pick(rng, graph.input).name


@mutation
def shadow(rng, m):
    graph, around = pick(rng, ((g, a) for g, a in graphs(m) if a and g.node))
    before = [o for g in around for n in g.node[: len(g.node) // 2] for o in n.output if o]
    names = before + [v.name for g in around for v in g.input] * 3
    kind = rng.randrange(3)
    if kind == 0:
        pick(rng, graph.node).output[0] = pick(rng, names)
    elif kind == 1:
        graph.initializer.append(helper.make_tensor(pick(rng, names), TensorProto.FLOAT, [1], [1.0]))
    else:
        pick(rng, graph.input).name = pick(rng, names)


@mutation
def output_from_around(rng, m):
    graph, around = pick(rng, ((g, a) for g, a in graphs(m) if a))
    pick(rng, graph.output).name = pick(rng, [o for n in around[-1].node for o in n.output] + [v.name for v in around[-1].input])


@mutation
def shuffle_nodes(rng, m):
    body = pick(rng, (b for b in bodies(m) if len(b.node) > 1))
    order = [*body.node]
    rng.shuffle(order)
    copies = [type(n).FromString(n.SerializeToString()) for n in order]
    del body.node[:]
    body.node.extend(copies)


@mutation
def drop_node(rng, m):
    drop_from(rng, pick(rng, (b for b in bodies(m) if b.node)).node)


@mutation
def repeat_node(rng, m):
    body = pick(rng, (b for b in bodies(m) if b.node))
    body.node.append(pick(rng, body.node))


@mutation
def rename_operator(rng, m):
    names = ["", "Nonsense", "relu", "ATen", "Scale", "Upsample", "Scatter", "BatchNormalization", "Einsum", "Attention"]
    a_node(rng, m).op_type = rng.choice(names)


@mutation
def change_domain(rng, m):
    node = a_node(rng, m)
    node.domain = rng.choice(["com.example", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.training", ""])
    if rng.random() < 0.5:
        m.opset_import.append(helper.make_opsetid(node.domain, rng.choice([1, 3])))


@mutation
def clear_node(rng, m):
    node = a_node(rng, m)
    del node.input[:], node.output[:]


@mutation
def unname_node(rng, m):
    a_node(rng, m).name = rng.choice(["", "the same", "If > then_branch"])
    a_node(rng, m).name = "the same"


@mutation
def drop_attribute(rng, m):
    drop_from(rng, a_node(rng, m, lambda n: n.attribute).attribute)


@mutation
def repeat_attribute(rng, m):
    node = a_node(rng, m, lambda n: n.attribute)
    node.attribute.append(pick(rng, node.attribute))


@mutation
def add_attribute(rng, m):
    name = rng.choice(["unheard_of", "__internal", "_one", "axis", "body", "value", ""])
    value = rng.choice([1, 0.5, "text", [1, 2], [0.5], ["a"], helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])])
    a_node(rng, m).attribute.append(helper.make_attribute(name or "x", value))
    if not name:
        m.graph.node[-1].attribute.extend([AttributeProto(i=1, type=AttributeProto.INT)])


@mutation
def rename_attribute(rng, m):
    an_attribute(rng, m).name = rng.choice(["", "unheard_of", "__internal"])


@mutation
def change_attribute_type(rng, m):
    an_attribute(rng, m).type = rng.randrange(0, 15)


@mutation
def clear_attribute_type(rng, m):
    an_attribute(rng, m).ClearField("type")


@mutation
def fill_attribute_twice(rng, m):
    a = an_attribute(rng, m)
    field, value = rng.choice([("i", 7), ("f", 0.5), ("s", b"x")])
    setattr(a, field, value)
    if rng.random() < 0.5:
        a.ints.append(3)


@mutation
def empty_attribute(rng, m):
    a = an_attribute(rng, m)
    kept = AttributeProto(name=a.name, type=a.type)
    a.CopyFrom(kept)


@mutation
def refer_to_attribute(rng, m):
    a = an_attribute(rng, m)
    if rng.random() < 0.7:
        a.CopyFrom(AttributeProto(name=a.name, type=a.type))
    a.ref_attr_name = rng.choice(["alpha", "unheard_of"])


@mutation
def drop_graph_input(rng, m):
    drop_from(rng, pick(rng, (g for g, _ in graphs(m) if g.input)).input)


@mutation
def repeat_graph_input(rng, m):
    graph = pick(rng, (g for g, _ in graphs(m) if g.input))
    graph.input.append(pick(rng, graph.input))


@mutation
def repeat_graph_output(rng, m):
    graph = pick(rng, (g for g, _ in graphs(m) if g.output))
    graph.output.append(pick(rng, graph.output))


@mutation
def rename_graph_output(rng, m):
    pick(rng, (v for g, _ in graphs(m) for v in g.output)).name = rng.choice(["", "nobody_makes_this"])


@mutation
def rename_graph_input(rng, m):
    pick(rng, (v for g, _ in graphs(m) for v in g.input)).name = rng.choice(["", "another"])


@mutation
def unname_graph(rng, m):
    graph = pick(rng, (g for g, _ in graphs(m)))
    graph.ClearField("name") if rng.random() < 0.5 else setattr(graph, "name", "")


@mutation
def drop_graph(rng, m):
    m.ClearField("graph")


@mutation
def clear_value_type(rng, m):
    value = a_value(rng, m)
    tensor = value.type.tensor_type
    rng.choice(
        [
            lambda: value.ClearField("type"),
            lambda: value.type.ClearField("tensor_type"),
            lambda: tensor.ClearField("elem_type"),
            lambda: tensor.ClearField("shape"),
            lambda: setattr(tensor, "elem_type", rng.choice([0, 99, TensorProto.INT64])),
        ]
    )()


@mutation
def other_value_type(rng, m):
    value = a_value(rng, m)
    value.type.Clear()
    kind = value.type
    rng.choice(
        [
            lambda: kind.sequence_type.SetInParent(),
            lambda: kind.sequence_type.elem_type.tensor_type.SetInParent(),
            lambda: kind.optional_type.SetInParent(),
            lambda: kind.map_type.SetInParent(),
            lambda: setattr(kind.map_type, "key_type", TensorProto.INT64),
            lambda: kind.sparse_tensor_type.SetInParent(),
            lambda: setattr(kind.sparse_tensor_type, "elem_type", TensorProto.FLOAT),
            lambda: setattr(kind.opaque_type, "name", rng.choice(["", "thing"])),
        ]
    )()


@mutation
def change_dimension(rng, m):
    value = a_value(rng, m)
    value.type.tensor_type.shape.dim.add().dim_value = rng.choice([-1, 0, 7])


@mutation
def change_dims(rng, m):
    tensor = a_tensor(rng, m)
    kind = rng.randrange(6)
    if kind == 0:
        tensor.dims.append(rng.choice([2, 3]))
    elif kind == 1:
        tensor.dims.append(-1)
    elif kind == 2:
        tensor.dims.extend([2**62, 2**62])
    elif kind == 3:
        tensor.dims.append(0)
    elif kind == 4:
        del tensor.dims[:]
    else:
        tensor.dims.append(1)


@mutation
def change_data_type(rng, m):
    tensor = a_tensor(rng, m)
    rng.choice([lambda: tensor.ClearField("data_type"), lambda: setattr(tensor, "data_type", rng.choice([0, 99, *range(1, 27)]))])()


@mutation
def change_raw_data(rng, m):
    tensor = pick(rng, (t for t in tensors(m) if t.data_type != TensorProto.STRING))
    if not tensor.HasField("raw_data"):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    raw = tensor.raw_data
    tensor.raw_data = rng.choice([raw[:-1], raw + b"\0", b"", raw[: len(raw) // 2], raw * 2])


@mutation
def change_typed_data(rng, m):
    tensor = a_tensor(rng, m)
    field = rng.choice(["float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data"])
    if rng.random() < 0.5 and len(getattr(tensor, field)):
        del getattr(tensor, field)[-1]
    else:
        getattr(tensor, field).append(b"x" if field == "string_data" else 1)


@mutation
def type_the_data(rng, m):
    """Moves raw data to the typed field, then takes some away or not."""
    tensor = pick(rng, (t for t in tensors(m) if t.HasField("raw_data") and t.data_type in (1, 6, 7, 11)))
    values = numpy_helper.to_array(tensor).flatten().tolist()
    tensor.ClearField("raw_data")
    field = {1: "float_data", 6: "int32_data", 7: "int64_data", 11: "double_data"}[tensor.data_type]
    field = field if rng.random() < 0.8 else "int32_data" if field == "float_data" else "float_data"
    getattr(tensor, field).extend([int(v) if "int" in field else v for v in values[rng.randrange(2) :]])


@mutation
def sub_byte(rng, m):
    n = rng.choice([1, 7, 8, 9])
    kind = rng.choice([TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1, TensorProto.INT2, TensorProto.FLOAT6E2M3, TensorProto.FLOAT6E3M2])
    tensor = TensorProto(name="packed", data_type=kind, dims=[n])
    if rng.random() < 0.5:
        tensor.raw_data = bytes([rng.choice([0, 255])] * rng.randrange(0, n + 2))
    else:
        tensor.int32_data.extend([rng.choice([1, 63, 64])] * rng.randrange(0, n + 2))
    m.graph.initializer.append(tensor)


@mutation
def drop_initializer(rng, m):
    drop_from(rng, pick(rng, (g for g, _ in graphs(m) if g.initializer)).initializer)


@mutation
def repeat_initializer(rng, m):
    graph = pick(rng, (g for g, _ in graphs(m) if g.initializer))
    graph.initializer.append(pick(rng, graph.initializer))


@mutation
def rename_initializer(rng, m):
    tensor = pick(rng, (t for g, _ in graphs(m) for t in g.initializer))
    tensor.ClearField("name") if rng.random() < 0.3 else setattr(tensor, "name", rng.choice(["", "another"]))


@mutation
def add_initializer(rng, m):
    graph = pick(rng, (g for g, _ in graphs(m)))
    names = ["new", *[v.name for v in graph.input], *[o for n in graph.node for o in n.output]]
    graph.initializer.append(helper.make_tensor(rng.choice(names), TensorProto.FLOAT, [2], [1.0, 2.0]))


@mutation
def add_sparse_initializer(rng, m):
    values, indices, dims = [1.0, 2.0], [1, 3], [4]
    if rng.random() < 0.5:
        indices, dims = [0, 1, 1, 0], [2, 2]
    kind = rng.randrange(12)
    if kind == 0:
        indices = indices[::-1]
    elif kind == 1:
        indices[-1] = 9
    elif kind == 2:
        dims = [0]
    elif kind == 3:
        dims = []
    elif kind == 4:
        values = [1.0, 2.0, 3.0]
    elif kind == 5:
        indices[0] = -1
    value = helper.make_tensor(rng.choice(["sparse", "sparse", "", m.graph.input[0].name if m.graph.input else "s"]), 1, [len(values)], values)
    shape = [2, 2] if len(indices) == 4 else [len(indices)]
    index = helper.make_tensor("i", TensorProto.INT64, shape, indices)
    sparse = helper.make_sparse_tensor(value, index, dims)
    if kind == 6:
        sparse.ClearField("indices")
    elif kind == 7:
        sparse.ClearField("values")
    elif kind == 8:
        sparse.indices.data_type = TensorProto.INT32
    elif kind == 9:
        sparse.values.dims.append(1)
    elif kind == 10:
        sparse.indices.dims.append(1)
    m.graph.sparse_initializer.append(sparse)


@mutation
def change_ir_version(rng, m):
    version = rng.choice([None, 0, 1, 2, 3, 4, 7, 8, 10, 11, 14, 15, 99, -1, 2**40])
    m.ClearField("ir_version") if version is None else setattr(m, "ir_version", version)


@mutation
def change_opset(rng, m):
    import_ = pick(rng, m.opset_import)
    version = rng.choice([None, 0, -1, 1, 5, 6, 7, 9, 11, 12, 13, 17, 18, 20, 22, 25, 28, 29, 99, 2**40])
    import_.ClearField("version") if version is None else setattr(import_, "version", version)


@mutation
def change_imports(rng, m):
    kind = rng.randrange(5)
    if kind == 0:
        del m.opset_import[:]
    elif kind == 1:
        m.opset_import[0].domain = rng.choice(["ai.onnx", "ai.onnx.ml", "com.example"])
    elif kind == 2:
        m.opset_import.append(m.opset_import[0])
    elif kind == 3:
        m.opset_import.append(helper.make_opsetid("com.example", rng.choice([0, 1])))
    else:
        m.opset_import.append(helper.make_opsetid("ai.onnx.ml", rng.choice([0, 3, 99])))


@mutation
def change_metadata(rng, m):
    for key in rng.choice([["a", "a"], ["a", "b"], ["", ""]]):
        m.metadata_props.add(key=key, value="1")


@mutation
def move_data_outside(rng, m):
    tensor = pick(rng, (t for t in tensors(m) if t.data_type not in (0, TensorProto.STRING)))
    size = len(tensor.raw_data) or 16
    if rng.random() < 0.9:
        for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    places = ["data", "data", "data", "./data", "sub/../data", "../data", "/etc/hostname", "gone", "", ".", "link", "out", None]
    location = rng.choice(places)
    if location is not None:
        tensor.external_data.add(key="location", value=location)
    if rng.random() < 0.8:
        tensor.external_data.add(key="length", value=rng.choice([str(size)] * 4 + ["-1", "99999999", "x"]))
    if rng.random() < 0.3:
        tensor.external_data.add(key="offset", value=rng.choice(["0", "64", "-8", "99999999"]))


@mutation
def break_function(rng, m):
    f = pick(rng, m.functions)
    other = m.functions[rng.randrange(len(m.functions))]
    rng.choice(
        [
            lambda: f.ClearField("name"),
            lambda: f.ClearField("domain"),
            lambda: f.input.append(pick(rng, f.input)),
            lambda: f.output.append(pick(rng, f.output)),
            lambda: f.output.append("nobody_makes_this"),
            lambda: f.attribute.extend([pick(rng, f.attribute)]),
            lambda: f.ClearField("opset_import"),
            lambda: setattr(f.opset_import[0], "version", rng.choice([1, 6, 11, 13, 18, 21, 28, 2**40])),
            lambda: setattr(f.opset_import[0], "domain", rng.choice(["com.example", "ai.onnx"])),
            lambda: m.functions.append(f),
            lambda: setattr(f, "overload", "second"),
            lambda: drop_from(rng, f.input),
            lambda: f.node.append(helper.make_node(other.name, [*other.input][:1], ["again"], domain=other.domain)),
            lambda: m.functions.remove(f),
            lambda: setattr(m, "ir_version", rng.choice([7, 8])),
        ]
    )()


def made_models():
    """Models for what the suite has little of."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    y.type.tensor_type.shape.dim.add().dim_param = "n"
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    alpha = AttributeProto(name="alpha", ref_attr_name="alpha", type=AttributeProto.FLOAT)
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"], name="leaky")
    leaky.attribute.append(alpha)
    branch = helper.make_graph([helper.make_node("Neg", ["b"], ["c"])], "then", [], [helper.make_empty_tensor_value_info("c")])
    other = helper.make_graph([helper.make_node("Abs", ["b"], ["c"])], "else", [], [helper.make_empty_tensor_value_info("c")])
    choose = helper.make_node("If", ["cond"], ["d"], then_branch=branch, else_branch=other)
    truth = helper.make_node("Constant", [], ["cond"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
    inner = helper.make_function("my", "Inner", ["a"], ["b"], [leaky], [opset[0]], ["alpha"])
    call = helper.make_node("Inner", ["a"], ["b"], domain="my")
    call.attribute.append(alpha)
    outer = helper.make_function("my", "Outer", ["a"], ["d"], [call, truth, choose], opset, ["alpha"])
    w = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w")
    body = [helper.make_node("Outer", ["x"], ["h"], domain="my", alpha=0.1), helper.make_node("Add", ["h", "w"], ["y"])]
    functions = helper.make_model(helper.make_graph(body, "g", [x], [y], [w]), opset_imports=opset, functions=[inner, outer])

    scale, zero = helper.make_tensor("s", 1, [], [0.5]), helper.make_tensor("z", TensorProto.UINT8, [], [3])
    body = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["h"], name="dq"),
        helper.make_node("Add", ["h", "w"], ["y"], name="add"),
    ]
    quantized = helper.make_model(helper.make_graph(body, "g", [x], [y], [w, scale, zero]), opset_imports=opset[:1])
    old = helper.make_model(helper.make_graph(body[2:], "g", [helper.make_tensor_value_info("h", 1, [2, 3]), helper.make_tensor_value_info("w", 1, [2, 3])], [y], [w]), opset_imports=[helper.make_opsetid("", 8)])
    old.ir_version = 3
    for m in (functions, quantized):
        m.ir_version = 8
    return [functions, functions, quantized, old]


def mutants(suite, folder, count):
    """Writes mutants into a folder; returns their paths."""
    rng = random.Random(20)
    small = [p for p in suite if p.stat().st_size < 100_000]
    rich = [p for p in small if re.search("_if|loop|scan|sequence_map|optional|expanded", str(p))]
    made = made_models()
    (folder / "data").write_bytes(bytes(range(256)) * 4)
    (folder / "link").symlink_to("data")
    (folder / "out").symlink_to("/etc/hostname")
    paths = []
    while len(paths) < count:
        base = rng.choice([small, rich, made])
        base = rng.choice(base)
        model = onnx.load(base, load_external_data=False) if isinstance(base, Path) else onnx.ModelProto.FromString(base.SerializeToString())
        changes = rng.sample(MUTATIONS, rng.choice([1, 1, 1, 2]))
        try:
            for change in changes:
                change(rng, model)
        except Exception:  # noqa: BLE001: a change that cannot be made on top of another is no mutant
            continue
        path = folder / f"{len(paths):05}-{'+'.join(c.__name__ for c in changes)}.onnx"
        path.write_bytes(model.SerializeToString())
        paths.append(path)
    return paths


# ---- the comparison ----


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("qdq", type=Path)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--mutants", type=int, default=3000)
    parser.add_argument("--older")
    parser.add_argument("--keep", type=Path, help="write the mutants here and leave them")
    args = parser.parse_args()
    suite = sorted(args.suite.rglob("*.onnx"))
    assert suite, f"no models in {args.suite}"
    with tempfile.TemporaryDirectory() as folder:
        folder = args.keep or Path(folder)
        folder.mkdir(exist_ok=True)
        broken = mutants(suite, folder, args.mutants)
        paths = [*suite, *broken]
        found = [findings(args.qdq, p) for p in paths]
        newer = verdicts(sys.executable, paths)
        older = verdicts(args.older, paths) if args.older else newer
    reasons, unexplained = collections.Counter(), []
    broken_here = [any(f["severity"] == "error" for f in of_one) for of_one in found]
    for path, of_one, wrong, new, old in zip(paths, found, broken_here, newer, older):
        if wrong != (new is not None):
            reason = reason_for(new, of_one)
            reasons[f"only {'here' if wrong else 'there'}: {reason}"] += 1
            if reason is None:
                what = [f"{f['rule']}: {f['place']}: {f['message']}" for f in of_one]
                unexplained.append((path.name, what, new))
        if (new is None) != (old is None):
            known = re.search(NOT_CHECKED_BEFORE, new) if old is None else re.search(UNKNOWN_BEFORE, old)
            reasons[f"only {'newer' if old is None else 'older'} checker: {known[0] if known else None}"] += 1
            if not known:
                unexplained.append((path.name, f"newer: {new}", f"older: {old}"))
    refused = sum(v is not None for v in newer[len(suite) :])
    print(f"{len(suite)} models of the suite, {sum(broken_here[: len(suite)])} with errors; ", end="")
    print(f"{len(broken)} mutants, {refused} refused by onnx.checker {onnx.__version__}")
    rules = collections.Counter(rule for of_one in found for rule in {f["rule"] for f in of_one})
    print("rules that found something:", ", ".join(f"{rule} {n}" for rule, n in sorted(rules.items())))
    for reason, n in sorted(reasons.items()):
        print(f"  {n:5} {reason}")
    for row in unexplained:
        print("UNEXPLAINED", *row, sep="\n    ")
    print(f"{len(unexplained)} unexplained differences")
    sys.exit(bool(unexplained))


if __name__ == "__main__":
    judge() if sys.argv[1:] == ["--judge"] else main()
