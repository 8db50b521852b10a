#!/usr/bin/env python3
"""Checks the models that the tests wrote with the reference tools: the ONNX checker and ONNX Runtime.

usage: crosscheck.py DIR

DIR holds one JSON file a model (paths absolute or relative to DIR; data: arrays by input name, samples on axis 0):

    {"name": "...", "float": "a.onnx", "quantized": "b.onnx", "data": "c.npz", "first": 0, "count": 8,
     "sqnr_db": {"output name": 31.4}}

Each quantized model must
  - pass the full check of the ONNX checker;
  - have scales and zero points of the right form: rank 0 for a whole tensor, one value a channel, or blocks; scales
    finite and above zero;
  - have the graph inputs and outputs of the float model: name, type, shape, order (an input that an initializer gives a
    default does not count);
  - load in ONNX Runtime with all optimizations and with none;
  - have, per output, the SQNR that the tests measured, within 0.5 dB: both models run without optimizations, batch 1,
    on the samples first .. first + count, 10 log10(sum ref^2 / sum (ref - got)^2) over all of them together. Engines
    differ in the last bit of a float, and so in which code a tie gets; where N numbers make up the noise (its
    participation ratio, (sum d^2)^2 / sum d^4), 10 / N dB are added to what is allowed, at most 3.
    Above 60 dB the two need not agree any closer; null stands for an exact output. Where the model holds operators on
    codes, whose kernels round in their own ways, 1.5 dB more are allowed;
  - where there is "quantum" in place of "sqnr_db", give outputs that differ from those of the float model by no more than
    that in any number, with all optimizations and with none: "float" is then the same model in another form.
  - where there is "storage", give the same outputs as the float model, which is the same model with weights in other types,
    but for rounding sums; one that "does not run" in ONNX Runtime runs in the reference implementation of ONNX instead.
Without "sqnr_db" (null or missing) and "quantum" nothing is run. A line a model, then the count; exit code 1 when one failed or DIR
holds none.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import AttributeProto, numpy_helper
from onnx.reference import ReferenceEvaluator

TOLERANCE_DB = 0.5
TIES_DB = 10.0
MOST_TIES_DB = 3.0
# Kernels on codes compute with integers and tables, where the tests compute with floats.
ON_CODES_DB = 1.5
# With all of ONNX Runtime's optimizations, an output may be this much worse than stated, and above this it is well.
FUSED_LOSS_DB = 3.0
# MatMul behind codes, where nothing else is quantized, becomes MatMulNBits, which rounds what it reads as well.
FUSED_WEIGHTS_LOSS_DB = 6.0
FUSED_DB = 38.0
EXACT_DB = 60.0


class Failed(Exception):
    pass


def graphs(graph):
    """The graph and every subgraph in it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from graphs(attribute.g)
            for subgraph in attribute.graphs:
                yield from graphs(subgraph)


def facts(model):
    """Constant arrays by value name, and inferred shapes (None for an unknown dimension) by value name."""
    constants, shapes = {}, {}
    for graph in graphs(onnx.shape_inference.infer_shapes(model).graph):
        constants |= {t.name: t for t in graph.initializer}
        constants |= {n.output[0]: a.t for n in graph.node if n.op_type == "Constant"
                      for a in n.attribute if a.name == "value"}
        for info in [*graph.input, *graph.value_info, *graph.output]:
            if info.type.tensor_type.HasField("shape"):
                dims = info.type.tensor_type.shape.dim
                shapes[info.name] = [d.dim_value if d.HasField("dim_value") else None for d in dims]
    shapes |= {name: list(t.dims) for name, t in constants.items()}
    return constants, shapes


def check_parameters(model):
    """Returns how many QuantizeLinear and DequantizeLinear nodes there are."""
    constants, shapes = facts(model)
    count = 0
    for graph in graphs(model.graph):
        for node in graph.node:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                continue
            count += 1
            where = f"{node.op_type} of `{node.input[0]}`"
            x, scale = shapes.get(node.input[0]), shapes.get(node.input[1])
            if scale is None:
                raise Failed(f"{where}: the rank of scale `{node.input[1]}` is not known")
            if len(node.input) > 2 and node.input[2] and shapes.get(node.input[2]) != scale:
                raise Failed(f"{where}: scale {scale} and zero point {shapes.get(node.input[2])} differ in shape")
            attributes = {a.name: a.i for a in node.attribute}
            axis = attributes.get("axis", 1)
            if attributes.get("block_size", 0):
                fits = x is None or len(scale) == len(x)
            elif len(scale) == 1:
                # One value is a channel's only in a weight whose axis holds one channel.
                known = x is not None and -len(x) <= axis < len(x) and x[axis] is not None
                fits = (not known or x[axis] == scale[0]) and (scale[0] != 1 or node.input[0] in constants)
            else:
                fits = len(scale) == 0
            if not fits:
                raise Failed(f"{where}: scale of shape {scale} is neither one for the tensor (rank 0) nor fit for "
                             f"axis {axis} of its shape {x}")
            if node.input[1] in constants:
                values = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
                if not (np.isfinite(values).all() and (values > 0).all()):
                    raise Failed(f"{where}: scale `{node.input[1]}` is not finite and above zero")
    return count


def interface(model):
    """Graph inputs and outputs: (name, type with shape) in order."""
    given = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    form = lambda values: [(v.name, v.type.SerializeToString(deterministic=True)) for v in values]
    return form(i for i in model.graph.input if i.name not in given), form(model.graph.output)


def check_interface(reference, quantized):
    for kind, old, new in zip(("inputs", "outputs"), interface(reference), interface(quantized)):
        if old != new:
            changed = sorted({name for name, _ in set(old) ^ set(new)}) or "their order"
            raise Failed(f"graph {kind} differ from the float model's: {changed}")


def session(path, optimized):
    level = ort.GraphOptimizationLevel
    options = ort.SessionOptions()
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def samples(path, first, count, inputs):
    """The feeds of the samples, batch 1."""
    with np.load(path) as file:
        data = {i.name: file[i.name] for i in inputs}
    shortest = min(len(v) for v in data.values())
    if count < 1 or first + count > shortest:
        raise Failed(f"samples {first} .. {first + count} asked of {shortest}")

    def one(sample, value, rank):
        if value.ndim == rank:
            return value[sample : sample + 1]
        if value.ndim == rank + 1:
            return value[sample]
        raise Failed(f"data of rank {value.ndim} for an input of rank {rank}")

    for sample in range(first, first + count):
        yield {i.name: one(sample, data[i.name], len(i.shape)) for i in inputs}


def measured(reference, quantized, feeds):
    """By output name: SQNR in dB, infinite where the outputs are the same; and how many numbers make up the noise."""
    names = [o.name for o in reference.get_outputs()]
    signal, noise, fourth = (dict.fromkeys(names, 0.0) for _ in range(3))
    for feed in feeds:
        for name, ref, got in zip(names, reference.run(names, feed), quantized.run(names, feed)):
            if ref.shape != got.shape:
                raise Failed(f"output `{name}`: shape {ref.shape} in float, {got.shape} quantized")
            ref, got = ref.astype(np.float64), got.astype(np.float64)
            if not (np.isfinite(ref).all() and np.isfinite(got).all()):
                raise Failed(f"output `{name}` holds values that are not finite")
            signal[name] += float((ref**2).sum())
            noise[name] += float(((ref - got) ** 2).sum())
            fourth[name] += float(((ref - got) ** 4).sum())

    def decibels(s, n):
        if n == 0:
            return math.inf
        return 10 * math.log10(s / n) if s > 0 else -math.inf

    def numbers(n, f):
        return n**2 / f if f > 0 else math.inf

    return {name: (decibels(signal[name], noise[name]), numbers(noise[name], fourth[name])) for name in names}


def on_codes(model):
    """Whether a node computes on codes."""
    return any(node.op_type.startswith(("QLinear", "QGemm", "MatMulIntegerToFloat"))
               for graph in graphs(model.graph) for node in graph.node)


def check_alike(quantum, one, other, feeds):
    """Both models give the same to within a quantum; returns how many numbers are not the same, and of how many."""
    apart = count = 0
    for feed in feeds:
        for a, b in zip(one.run(None, feed), other.run(None, feed)):
            far = np.abs(a.astype(np.float64) - b)
            if a.shape != b.shape or not far.max() <= quantum * 1.001:
                raise Failed(f"outputs differ by {far.max() / quantum:.2f} quanta")
            apart, count = apart + int((far > quantum / 2).sum()), count + far.size
    return apart, count


def check_storage(case, folder, native, runs):
    """Weights in other types give the same outputs; returns what to say."""
    portable = session(folder / case["float"], optimized=False)
    onnx.checker.check_model(str(folder / case["float"]), full_check=True)
    session(folder / case["float"], optimized=True)
    feed = next(samples(folder / case["data"], 0, case["count"], portable.get_inputs()))
    wanted = portable.run(None, feed)
    try:
        other = session(folder / case["quantized"], optimized=False)
        if runs != "runs":
            raise Failed("ONNX Runtime runs it after all")
    except Failed:
        raise
    except Exception as error:
        if runs == "runs":
            raise
        other = ReferenceEvaluator(native)
    for a, b in zip(wanted, other.run(None, feed)):
        if not np.array_equal(a, b):
            raise Failed(f"{(a != b).sum()} of {a.size} numbers differ, the first {a[a != b][0]} and {b[a != b][0]}")
    return f"the same in both storages, by {type(other).__name__}"


def check_sqnr(stated, found, more=0.0):
    if unknown := sorted(set(stated) - set(found)):
        raise Failed(f"sqnr_db names what is no output: {unknown}")
    if not stated:
        raise Failed("sqnr_db names no output")
    for name, db in stated.items():
        db = math.inf if db is None else db
        got, numbers = found[name]
        allowed = TOLERANCE_DB + min(TIES_DB / numbers, MOST_TIES_DB) + more
        agree = abs(db - got) <= allowed if math.isfinite(db) else db == got
        if not (agree or min(db, got) > EXACT_DB):
            raise Failed(f"output `{name}`: {db:.2f} dB stated, {got:.2f} dB measured, {allowed:.2f} apart allowed")


def check_fused(model, stated, found):
    """Integer kernels may round otherwise, and must not fall apart."""
    static = any(node.op_type == "QuantizeLinear" for graph in graphs(model.graph) for node in graph.node)
    loss = FUSED_LOSS_DB if static else FUSED_WEIGHTS_LOSS_DB
    for name, db in stated.items():
        least = min(math.inf if db is None else db, FUSED_DB) - loss
        if found[name][0] < least:
            raise Failed(f"output `{name}`: {found[name][0]:.2f} dB with all optimizations, {least:.2f} wanted")


def check(case, folder):
    """Returns what to say of a model that passed."""
    float_path, path = folder / case["float"], folder / case["quantized"]
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    count = check_parameters(model)
    check_interface(onnx.load(float_path, load_external_data=False), model)
    if storage := case.get("storage"):
        return check_storage(case, folder, model, storage)
    fused = session(path, optimized=True)
    quantized = session(path, optimized=False)
    said = f"{count} Q/DQ"
    if quantum := case.get("quantum"):
        for form, optimized in ((quantized, False), (fused, True)):
            reference = session(float_path, optimized)
            feeds = samples(folder / case["data"], case.get("first", 0), case["count"], reference.get_inputs())
            apart, count = check_alike(quantum, reference, form, feeds)
            said += f", {apart} of {count} a quantum apart" + (" fused" if optimized else "")
    stated = case.get("sqnr_db")
    if stated is not None:
        reference = session(float_path, optimized=False)
        feeds = list(samples(folder / case["data"], case.get("first", 0), case["count"], reference.get_inputs()))
        found = measured(reference, quantized, feeds)
        check_sqnr(stated, found, ON_CODES_DB if on_codes(model) else 0.0)
        check_fused(model, stated, measured(reference, fused, feeds))
        said += "".join(f", {name} {found[name][0]:.2f} dB" for name in stated)
    return said


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: crosscheck.py DIR")
    folder = Path(sys.argv[1])
    passed = failed = 0
    for file in sorted(folder.glob("*.json")):
        name = file.stem
        try:
            case = json.loads(file.read_text())
            name = case.get("name", name)
            print(f"ok    {name}: {check(case, folder)}", flush=True)
            passed += 1
        except Exception as error:  # Each tool has its own; whatever it is, this model failed.
            kind = "" if isinstance(error, Failed) else f"{type(error).__name__}: "
            print(f"FAIL  {name}: {kind}{' '.join(str(error).split())}", flush=True)
            failed += 1
    if passed + failed == 0:
        print(f"no JSON file in `{folder}`")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
