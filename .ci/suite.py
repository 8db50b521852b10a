#!/usr/bin/env python3
"""Runs what the tests made of the ONNX backend test suite, before and after, in ONNX Runtime or in ONNX's own evaluator.

usage: suite.py DIR

DIR holds a folder for each release of the suite, as tests/it/suite writes it: the models that it made, and `index.json`, a list
of

    {"name": "node/test_abs", "model": "model.onnx", "sets": ["test_data_set_0"], "expected": true, "rtol": 1e-3,
     "atol": 1e-7, "opset": 13, "doubtful": false, "forms": [{"what": "raised", "opset": 21, "file": "..."}]}

with whole paths. `what` is `prepared` (made ready for quantization) or `raised` (to another opset, and nothing else).

Each form must give the expected outputs on all test data, within the suite's tolerances, in an engine that gave them before;
where none did, what the model gave before. Outputs that are random are held to their types and shapes. A form that runs
nowhere is at fault if the model ran before; so is a `doubtful` one, which the tests' own engine ran with wrong outputs.

What is raised must besides agree with what `onnx.version_converter` makes of the model, where that is not wrong itself. And
every change of form between opset 7 and the newest, as the schemas of the `onnx` package tell, must lie between the two
opsets of some raised model that stayed equal.
"""

import functools
import json
import multiprocessing
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, defs, helper, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator

RANDOM = {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}

# The batched Scan of opset 8, which is refused by name.
REFUSED = {("Scan", 9)}

# The newest opset that ONNX Runtime loads.
RUNTIME = 26


def graphs(graph):
    """The graph and every subgraph in it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in [attribute.g] * attribute.HasField("g") + [*attribute.graphs]:
                yield from graphs(subgraph)


def operators(model):
    """ONNX's own operators in the model."""
    return {n.op_type for g in graphs(model.graph) for n in g.node if n.domain in ("", "ai.onnx")}


# ---- what changed ----


def form(schema):
    default = lambda a: helper.get_attribute_value(a.default_value) if a.default_value.type else None
    attributes = {n: (a.type, a.required, default(a)) for n, a in schema.attributes.items()}
    return [i.option for i in schema.inputs], [o.option for o in schema.outputs], attributes, schema.deprecated


def loses_a_type(old, new):
    types = {v.name: set(v.types) for v in [*new.inputs, *new.outputs]}
    return any(set(v.types) - types.get(v.name, set(v.types)) for v in [*old.inputs, *old.outputs])


def changes():
    """The opsets from 8 on that changed the form of each of ONNX's own operators."""
    history = defaultdict(list)
    for schema in sorted(defs.get_all_schemas_with_history(), key=lambda s: s.since_version):
        if schema.domain == "":
            history[schema.name].append(schema)
    return {
        name: [
            new.since_version
            for old, new in zip(versions, versions[1:])
            if new.since_version >= 8 and (form(old) != form(new) or loses_a_type(old, new))
        ]
        for name, versions in history.items()
    }


CHANGES = changes()


# ---- what goes in and must come out ----


def value(path, kind):
    """What a file of test data holds: an array, a list of them for a sequence, None for an optional value that is none."""
    data = Path(path).read_bytes()
    match kind.WhichOneof("value"):
        case "sequence_type":
            return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
        case "optional_type":
            return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
        case _:
            tensor = TensorProto.FromString(data)
            # Some releases hold the bits of bfloat16 and of 8-bit floats as integers.
            if tensor.data_type in (TensorProto.UINT8, TensorProto.UINT16):
                tensor.data_type = kind.tensor_type.elem_type
            return numpy_helper.to_array(tensor)


def ramp(info):
    """What the suite's own runner feeds to a model without test data."""
    shape = [d.dim_value if d.HasField("dim_value") else 1 for d in info.type.tensor_type.shape.dim]
    n = int(np.prod(shape))
    return (np.arange(n).reshape(shape) / n).astype(np.float32)


def test_data(case, model):
    """The inputs by name of each run, and the expected outputs of each; None where none are known."""
    given = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    inputs = [i for i in model.graph.input if i.name not in given]
    outputs = list(enumerate(model.graph.output))
    if case["sets"]:
        feeds = [{v.name: value(f"{s}/input_{i}.pb", v.type) for i, v in enumerate(inputs)} for s in case["sets"]]
        return feeds, [[value(f"{s}/output_{i}.pb", v.type) for i, v in outputs] for s in case["sets"]]
    stem = case["model"].removesuffix(".onnx")
    expected = [[value(f"{stem}_output_{i}.pb", v.type) for i, v in outputs]] if case["expected"] else None
    return [{v.name: ramp(v) for v in inputs}], expected


def close(want, got, case, exact):
    """Whether two outputs are the same within the suite's tolerances; their types and shapes alone if not `exact`."""
    if want is None or got is None:
        return want is None and got is None
    if isinstance(want, list) or isinstance(got, list):
        both = isinstance(want, list) and isinstance(got, list) and len(want) == len(got)
        return both and all(close(a, b, case, exact) for a, b in zip(want, got))
    want, got = np.asarray(want), np.asarray(got)
    if want.dtype.kind in "OUS":
        return want.shape == got.shape and (not exact or want.astype(str).tolist() == got.astype(str).tolist())
    if want.dtype != got.dtype or want.shape != got.shape or not exact:
        return want.dtype == got.dtype and want.shape == got.shape
    if want.dtype.kind in "biu":
        return np.array_equal(want, got)
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    return np.allclose(got.astype(wide), want.astype(wide), case["rtol"], case["atol"], equal_nan=True)


def same(want, got, case, exact=True):
    return all(len(a) == len(b) and all(close(x, y, case, exact) for x, y in zip(a, b)) for a, b in zip(want, got))


# ---- engines ----


def in_runtime(model, feeds):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [session.run(None, feed) for feed in feeds]


def in_evaluator(model, feeds):
    evaluator = ReferenceEvaluator(model)
    with np.errstate(all="ignore"):
        return [evaluator.run(None, feed) for feed in feeds]


def run(engine, model, feeds):
    """The outputs of each run, or None: each engine says in its own way that it cannot run a model."""
    try:
        return engine(model, feeds)
    except Exception:
        return None


# ---- one model ----


def examine(case):
    """What counts in which row, what is wrong, and which changes of form a raised model has behind it."""
    counts, faults, crossed = Counter(), [], set()
    model = onnx.load(case["model"])
    try:
        feeds, expected = test_data(case, model)
    except Exception as error:
        print(f"test data that cannot be read: {case['name']}: {error}", flush=True)
        return counts, faults, crossed
    # Light models are too heavy for the evaluator.
    engines = [in_runtime, in_evaluator] if case["sets"] or not case["expected"] else [in_runtime]
    exact = not operators(model) & RANDOM
    before = functools.cache(lambda engine: run(engine, model, feeds))
    right = lambda outputs: expected is not None and outputs is not None and same(expected, outputs, case, exact)

    def verdict(outputs, engine):
        """Whether the model is the same; None where this engine cannot tell, because it was wrong before."""
        if right(outputs):
            return True
        if right(before(engine)):
            return False
        known = (before(e) for e in [engine, *engines])
        return any(same(want, outputs, case, exact) for want in known if want is not None) or None

    for made in case["forms"]:
        row = f"{made['what']} {made['opset']}"
        where = f"{case['name']}, {made['what']} to opset {made['opset']}"
        counts[row, "made"] += 1
        after = onnx.load(made["file"])
        found = None
        for engine in engines:
            if (got := run(engine, after, feeds)) is not None:
                found = verdict(got, engine), engine, got
                if found[0] is not None:
                    break
        if found is None:
            counts[row, "not run"] += 1
            if case["doubtful"] or made["opset"] <= RUNTIME and any(before(e) for e in engines):
                faults.append(f"{where}: runs no longer")
            continue
        equal, engine, got = found
        counts[row, "in ONNX Runtime" if engine is in_runtime else "in the evaluator"] += 1
        counts[row, "equal" if equal else "different"] += 1
        if not equal:
            faults.append(f"{where}: other outputs than before")
        elif made["what"] == "raised":
            versions = ((name, v) for name in operators(model) for v in CHANGES[name])
            crossed |= {(name, v) for name, v in versions if case["opset"] < v <= made["opset"]}
            theirs = converted(model, made["opset"], engine, feeds)
            if isinstance(theirs, str):
                counts["converter", theirs] += 1
            elif same(theirs, got, case, exact):
                counts["converter", "agrees"] += 1
            elif right(theirs) or expected is None and same(before(engine), theirs, case, exact):
                counts["converter", "disagrees"] += 1
                faults.append(f"{where}: what `onnx.version_converter` makes of it has other outputs, and right ones")
            else:
                counts["converter", "is wrong itself"] += 1
    return counts, faults, crossed


def converted(model, opset, engine, feeds):
    """The outputs of what the other converter makes of the model, or why there are none."""
    try:
        theirs = version_converter.convert_version(model, opset)
    except Exception:
        return "cannot"
    return run(engine, theirs, feeds) or "is not run"


def table(counts):
    """The counts of a release, a line for each form."""
    columns = ["made", "in ONNX Runtime", "in the evaluator", "equal", "different", "not run"]
    rows = sorted({key[0] for key in counts if isinstance(key, tuple) and key[0] != "converter"},
                  key=lambda row: (row.split()[0], int(row.split()[1])))
    lines = [" " * 12 + "".join(f"{c:>18}" for c in columns)]
    lines += [f"{row:12}" + "".join(f"{counts[row, c]:>18}" for c in columns) for row in rows]
    verdicts = ", ".join(f"{verdict} {n}" for (kind, verdict), n in
                         sorted(kv for kv in counts.items() if kv[0][0] == "converter"))
    return lines + [f"onnx.version_converter, of those equal: {verdicts}"]


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: suite.py DIR")
    folders = sorted(p.parent for p in Path(sys.argv[1]).glob("*/index.json"))
    began, faults, crossed, total = time.time(), [], set(), Counter()
    with multiprocessing.Pool() as pool:
        for folder in folders:
            counts = Counter()
            cases = json.loads((folder / "index.json").read_text())
            for c, f, x in pool.imap_unordered(examine, cases, 8):
                counts += c
                faults += [f"{folder.name} {fault}" for fault in f]
                crossed |= x
            print(f"\nsuite of onnx {folder.name}, {len(cases)} models\n" + "\n".join(table(counts)), flush=True)
            total += counts
    wanted = {(name, v) for name, versions in CHANGES.items() for v in versions}
    missing = sorted(wanted - crossed - REFUSED)
    faults += [f"no model holds the change of `{name}` in opset {v}" for name, v in missing]
    print(f"\nchanges of form from opset 8 on: {len(wanted)}, {len(wanted & crossed)} of them held by models that stayed equal")
    print("\n".join(sorted(faults)))
    count = lambda column: sum(n for (_, c), n in total.items() if c == column)
    print(f"{count('made')} made, {count('equal')} equal, {count('different')} different, {count('not run')} not run, "
          f"{len(faults)} faults, in {time.time() - began:.0f} s")
    sys.exit(1 if faults or not count("equal") else 0)


if __name__ == "__main__":
    main()
