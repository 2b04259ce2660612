#!/usr/bin/env python3
"""Hedge beside onnxruntime and tract: medians of one model after another, in one run on one machine.

  pip install onnxruntime==1.32.0 tract numpy
  cargo build --release --workspace --bins
  python tests/benches/peers.py [--seconds S] [--rounds N] [--json FILE] MODEL.onnx ...

Each engine gets the same shapes (a free leading dimension is the batch, and so is one of the same name elsewhere; any other one is
--length). Engines take turns, round by round;
a figure is the median of the rounds' medians, in milliseconds. tract runs on one thread only. A dash: the engine cannot run the
model, or not at this batch.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime as ort

HEDGE = os.environ.get("HEDGE_BINARIES", "target/release") + "/hedge"


def shapes(session, batch, length):
    inputs = session.get_inputs()
    # A name is one size: that of the batch, wherever it stands, is the batch's.
    rows = {value.shape[0] for value in inputs if value.shape and isinstance(value.shape[0], str)}
    size = lambda k, d: d if isinstance(d, int) and d > 0 else batch if k == 0 or d in rows else length
    for value in inputs:
        yield value, [size(k, d) for k, d in enumerate(value.shape)]


def draw(value, shape):
    rng = np.random.default_rng(0)
    if "float" in value.type:
        return rng.standard_normal(shape).astype(np.float32)
    dtype = {"tensor(uint8)": np.uint8, "tensor(int32)": np.int32}.get(value.type, np.int64)
    return np.ones(shape, dtype) if "mask" in value.name else rng.integers(0, 256, shape).astype(dtype)


def median(run, seconds):
    run()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        begun = time.perf_counter()
        run()
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times)


def session(model, threads):
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads, options.inter_op_num_threads = 3, threads, 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def with_onnxruntime(model, batch, threads, o):
    s = session(model, threads)
    feed = {value.name: draw(value, shape) for value, shape in shapes(s, batch, o.length)}
    return median(lambda: s.run(None, feed), o.seconds)


def with_tract(model, batch, threads, o):
    if threads > 1:
        return None
    import tract

    s = session(model, 1)
    loaded, feed = tract.onnx().load(model), []
    by_name = {loaded.input_name(k): k for k in range(loaded.input_count())}
    names = {"float32": "f32", "int64": "i64", "int32": "i32", "uint8": "u8"}
    inputs = [None] * len(by_name)
    for value, shape in shapes(s, batch, o.length):
        inputs[by_name[value.name]] = draw(value, shape)
    for k, array in enumerate(inputs):
        loaded.set_input_fact(k, ",".join(map(str, array.shape)) + "," + names[str(array.dtype)])
    for k in range(loaded.output_count()):
        loaded.set_output_fact(k, None)
    runnable = loaded.into_model().into_runnable()
    return median(lambda: runnable.run(inputs), o.seconds)


def with_hedge(model, batch, threads, o):
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        flags = {"batch": batch, "length": o.length, "threads": threads, "seconds": o.seconds, "device": "cpu", "json": out.name}
        command = [HEDGE, "model", "bench", model] + [word for key, value in flags.items() for word in (f"--{key}", str(value))]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        return json.load(open(out.name))["p50_ms"]


ENGINES = {"hedge": with_hedge, "onnxruntime": with_onnxruntime, "tract": with_tract}


def measure(engine, model, batch, threads, o):
    try:
        return ENGINES[engine](model, batch, threads, o)
    except Exception as error:
        print(f"{engine} {os.path.basename(model)} batch {batch}: {str(error).splitlines()[0][:200]}", file=sys.stderr)
        return None


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("models", nargs="+")
    a.add_argument("--seconds", type=float, default=1.0)
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--length", type=int, default=128)
    a.add_argument("--json")
    o = a.parse_args()
    rows = []
    print("| model | batch | threads | hedge ms | onnxruntime ms | tract ms | hedge / onnxruntime | hedge / tract |\n|" + " --- |" * 8)
    for model in o.models:
        free = not isinstance(session(model, 1).get_inputs()[0].shape[0], int)
        for batch in (1, 16) if free else (1,):
            for threads in (1, 2):
                rounds = [{e: measure(e, model, batch, threads, o) for e in ENGINES} for _ in range(o.rounds)]
                of = lambda e: statistics.median(r[e] for r in rounds) if all(r[e] for r in rounds) else None
                ms = {e: of(e) for e in ENGINES}
                ratio = lambda peer: ms["hedge"] / ms[peer] if ms["hedge"] and ms[peer] else None
                row = {"model": os.path.basename(model), "batch": batch, "threads": threads, **ms,
                       "to_onnxruntime": ratio("onnxruntime"), "to_tract": ratio("tract")}
                rows.append(row)
                text = lambda v, digits: "-" if v is None else f"{v:.{digits}f}"
                figures = [text(ms[e], 3) for e in ENGINES] + [text(row["to_onnxruntime"], 2), text(row["to_tract"], 2)]
                print("| " + " | ".join([row["model"], str(batch), str(threads), *figures]) + " |", flush=True)
    if o.json:
        json.dump(rows, open(o.json, "w"), indent=1)


main()
