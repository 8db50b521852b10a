#!/usr/bin/env python3
"""Checks what the kernels made of codes and numbers, as a test wrote it, with other libraries.

usage: kernels.py FILE

FILE is an .npz of float32 arrays:

  - FORMAT.x, FORMAT.codes, FORMAT.reals: numbers, the codes they were rounded to, and the numbers of all codes. They must
    be those of ml_dtypes, whose casts round half to even; it does not saturate, so that numbers are cut off at the ends
    before.
  - FORMAT.COUNT.numbers and .bytes: numbers and how they were packed; as onnx packs them.
  - ROW.made, and blocks.x: what became of a matrix [24, 96] in a format with blocks along its rows, by the arithmetic of the OCP
    Microscaling specification v1.0 (sections 5 and 6.3), of the micro-exponents of Rouhani et al. 2023 (figure 3), and of NVFP4,
    all written out here a second time.
"""

import sys

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper

TYPES = {
    "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8e5m2": ml_dtypes.float8_e5m2,
    "float8e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "float8e8m0": ml_dtypes.float8_e8m0fnu,
    "float6e2m3": ml_dtypes.float6_e2m3fn,
    "float6e3m2": ml_dtypes.float6_e3m2fn,
    "float4e2m1": ml_dtypes.float4_e2m1fn,
}
PACKED = {
    "int2": (onnx.TensorProto.INT2, ml_dtypes.int2),
    "uint2": (onnx.TensorProto.UINT2, ml_dtypes.uint2),
    "int4": (onnx.TensorProto.INT4, ml_dtypes.int4),
    "uint4": (onnx.TensorProto.UINT4, ml_dtypes.uint4),
    "float4e2m1": (onnx.TensorProto.FLOAT4E2M1, ml_dtypes.float4_e2m1fn),
    "float8e4m3fn": (onnx.TensorProto.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn),
    "float8e5m2": (onnx.TensorProto.FLOAT8E5M2, ml_dtypes.float8_e5m2),
}
# Mantissa bits, exponent of the smallest normal number, largest number.
FLOATS = {
    "mxfp8e4m3": (3, -6, 448.0),
    "mxfp8e5m2": (2, -14, 57344.0),
    "mxfp6e2m3": (3, 0, 7.5),
    "mxfp6e3m2": (2, -2, 28.0),
    "mxfp4": (1, 0, 6.0),
}
MICRO = {"mx9": 7, "mx6": 4, "mx4": 2}


def same(what, wanted, found):
    wanted, found = np.asarray(wanted), np.asarray(found)
    if wanted.shape != found.shape:
        sys.exit(f"{what}: shape {found.shape}, not {wanted.shape}")
    off = ~((wanted == found) | (np.isnan(wanted.astype(float)) & np.isnan(found.astype(float))))
    if off.any():
        i = np.argwhere(off)[0]
        sys.exit(f"{what}: {off.sum()} of {off.size} differ, at {i} {found[tuple(i)]} instead of {wanted[tuple(i)]}")
    print(f"ok    {what}: {wanted.size} numbers")


def floats(file):
    for name, dtype in TYPES.items():
        reals, x, codes = file[f"{name}.reals"], file[f"{name}.x"], file[f"{name}.codes"].astype(np.uint8)
        every = np.arange(len(reals)).astype(np.uint8).view(dtype).astype(np.float32)
        same(f"all codes of {name}", every, reals)
        finite = every[np.isfinite(every)]
        if name == "float8e8m0":
            # What ml_dtypes makes of subnormal numbers of float32 is not the nearest.
            x, codes = x[x >= 2.0**-126], codes[x >= 2.0**-126]
        if np.isfinite(every).all():
            codes, x = codes[~np.isnan(x)], x[~np.isnan(x)]
        cut = np.clip(x, finite.min(), finite.max()).astype(dtype)
        same(f"{name} of {len(x)} numbers", cut.astype(np.float32), every[codes])
        same(f"codes of {name}, signs of zero with them", cut.view(np.uint8)[~np.isnan(x)], codes[~np.isnan(x)])


def packed(file):
    for name, (kind, dtype) in PACKED.items():
        for count in (1, 2, 3, 4, 5, 254):
            numbers = file[f"{name}.{count}.numbers"]
            by_array = numpy_helper.from_array(numbers.astype(dtype)).raw_data
            found = file[f"{name}.{count}.bytes"].astype(np.uint8)
            same(f"{count} {name} packed", np.frombuffer(by_array, np.uint8), found)
            tensor = onnx.helper.make_tensor("x", kind, [count], found.tobytes(), raw=True)
            same(f"{count} {name} read", numbers, numpy_helper.to_array(tensor).astype(np.float32))


def element(x, mantissa, least, largest):
    """The nearest number of a floating-point format, half to even, saturating (OCP MX v1.0, 5.3)."""
    _, exponent = np.frexp(x)
    step = np.ldexp(1.0, np.maximum(exponent - 1, least) - mantissa)
    return np.clip(np.round(x / step) * step, -largest, largest)


def blocks(x, size):
    return x.astype(np.float64).reshape(len(x), -1, size)


def exponent_of(x):
    """floor(log2(x)), exactly."""
    return np.frexp(x)[1] - 1


def mx(file):
    x = file["blocks.x"].reshape(24, 96)
    for name, (mantissa, least, largest) in FLOATS.items():
        b = blocks(x, 32)
        shared = exponent_of(np.abs(b).max(axis=2, keepdims=True)) - exponent_of(largest)
        made = element(np.ldexp(b, -shared), mantissa, least, largest)
        same(name, np.ldexp(made, shared).reshape(-1).astype(np.float32), file[f"{name}.made"])
    b = blocks(x, 32)
    shared = exponent_of(np.abs(b).max(axis=2, keepdims=True)) - 6
    made = np.clip(np.round(np.ldexp(b, -shared)), -127, 127)
    same("mxint8", np.ldexp(made, shared).reshape(-1).astype(np.float32), file["mxint8.made"])
    for name, bits in MICRO.items():
        b = blocks(x, 16)
        shared = exponent_of(np.abs(b).max(axis=2, keepdims=True))
        pairs = b.reshape(24, -1, 8, 2)
        own = exponent_of(np.abs(pairs).max(axis=3, keepdims=True))
        shift = np.minimum(shared[..., None] - own, 1)
        step = shared[..., None] - shift - bits + 1
        made = np.clip(np.round(np.ldexp(pairs, -step)), 1 - 2**bits, 2**bits - 1)
        same(name, np.ldexp(made, step).reshape(-1).astype(np.float32), file[f"{name}.made"])
    b = x.reshape(24, -1, 16)
    largest = np.abs(b).max(axis=2, keepdims=True)
    ideal = (largest.astype(np.float64) / 6).astype(np.float32)
    tensor = np.float32(ideal.max().astype(np.float64) / 448)
    # No block may have a scale of 0.
    scale = np.maximum((ideal / tensor).astype(ml_dtypes.float8_e4m3fn).astype(np.float32), np.float32(2.0**-9)) * tensor
    made = np.clip(b / scale, -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    same("nvfp4", (made * scale).reshape(-1), file["nvfp4.made"])


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: kernels.py FILE")
    file = np.load(sys.argv[1])
    floats(file)
    packed(file)
    mx(file)


if __name__ == "__main__":
    main()
