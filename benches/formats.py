#!/usr/bin/env python3
"""Measures what weights lose in each format: quantizes a model with the nearest codes and with those that samples choose, and
lets a command score what was written. Prints a Markdown table.

usage: formats.py MODEL --data SOURCE --score COMMAND --metric KEY

COMMAND scores one model, whose path stands in the place of {}, and prints a JSON object at the end. KEY is the member of it that
goes into the table; with --noise KEY, another stands behind in parentheses. Bits are those that a weight takes with scales and tables.

    benches/formats.py model.onnx --data calib.npz --score "./evaluate.py {}" --metric top1 --noise sqnr_db
"""

import argparse
import json
import pathlib
import shlex
import subprocess
import sys
import tempfile

FORMATS = (
    "int8 int4 int4/b32 int3 fp8e4m3 fp6e2m3 mxfp4 mxfp6e2m3 mx6 nvfp4 vsq4 lpbq4 nf4 sqrt2-5 kmeans4 kmeans3 ternary binary"
).split()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--data", required=True, help="samples to choose codes by, as qdq takes them")
    parser.add_argument("--score", required=True, help="command that scores a model, {} for its path")
    parser.add_argument("--metric", required=True, help="member of what the command prints")
    parser.add_argument("--noise", help="another member, in dB, in parentheses")
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    parser.add_argument("--qdq", default="target/release/qdq", help="the program, as `cargo build --release` makes it")
    args = parser.parse_args()
    if "{}" not in args.score:
        parser.error("--score: {} has to stand where the path of the model goes")
    return args


def output(command):
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    except FileNotFoundError:
        sys.exit(f"there is no {command[0]}")
    if done.returncode != 0:
        sys.exit(f"{shlex.join(map(str, command))}: exit code {done.returncode}")
    return done.stdout.decode()


def score(args, model):
    # Whatever a runtime prints ahead of it, the object comes last.
    command = [part.replace("{}", str(model)) for part in shlex.split(args.score)]
    printed = output(command).strip()
    try:
        found = json.loads(printed.splitlines()[-1])
    except (IndexError, ValueError):
        sys.exit(f"{shlex.join(command)}: prints no JSON object at the end")
    if not isinstance(found, dict) or args.metric not in found:
        sys.exit(f"{shlex.join(command)}: there is no `{args.metric}` in {found}")
    # A float model has no drift.
    return str(found[args.metric]) + (f" ({found[args.noise]} dB)" if args.noise in found else "")


def kib(path):
    files = [path, *path.parent.glob(f"{path.name}.*.data")]
    return f"{sum(file.stat().st_size for file in files) / 1024:.0f} KiB"


def main():
    args = arguments()
    print("| format | nearest | auto | bits, file |\n|---|---|---|---|")
    print(f"| float | {score(args, args.model)} | | 32, {kib(args.model)} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        made = pathlib.Path(folder) / "model.onnx"
        for form in args.formats:
            scores, sizes = [], []
            for rounding in ["nearest", "auto"]:
                command = [args.qdq, "quantize", args.model, "--mode", "weights", "--storage", "portable", "--weights", form]
                command += ["--weight-clip", "mse", "--round", rounding, "--data", args.data, "--json", "--quiet"]
                report = json.loads(output([*command, "--force", "-o", made]))
                scores.append(score(args, made))
                sizes.append(f"{report['weights']['bits_per_weight']:.2f}, {kib(made)}")
            # Codes that samples choose may come with biases that were not there before.
            print(f"| `{form}` | {' | '.join(scores)} | {' / '.join(dict.fromkeys(sizes))} |", flush=True)


if __name__ == "__main__":
    main()
