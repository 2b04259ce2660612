"""Real models answer as onnxruntime does: on random inputs, and on real ones where there are any.

  models_check.py HEDGE SHARED [cpu|gpu [MODEL.onnx ...]]

The bound is 1e-4 * max(1, largest reference). SHARED holds models/ and data/; where models are named, these are compared on
random inputs instead.
"""
import base64
import glob
import gzip
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import wave

import numpy as np
import onnxruntime as ort

BOUND = 1e-4
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8, "tensor(bool)": bool}


def session(model):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Hedge:
    def __init__(self, program, device="cpu"):
        self.program, self.device = program, device

    def run(self, model, feed, names):
        safe = lambda name: re.sub(r"[^A-Za-z0-9_.-]", "_", name)
        with tempfile.TemporaryDirectory() as folder:
            command = [self.program, "model", "run", model, "--device", self.device, "--output-dir", folder + "/out"]
            for number, (name, array) in enumerate(feed.items()):
                np.save(f"{folder}/{number}.npy", array)
                command += ["--input", f"{name}={folder}/{number}.npy"]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, f"{os.path.basename(model)}: {done.stderr}"
            return [np.load(f"{folder}/out/{safe(name)}.npy") for name in names]


def compare(what, actual, expected):
    worst = 0.0
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape and a.dtype == e.dtype, f"{what}: {a.dtype}{a.shape} is not {e.dtype}{e.shape}"
        if a.size:
            scale = max(1.0, float(np.abs(e).max()))
            worst = max(worst, float(np.abs(a.astype(np.float64) - e).max()) / scale)
    print(f"{what}: {worst:.1e}", flush=True)
    assert worst <= BOUND, f"{what} differs by {worst:.2e}; {BOUND} is allowed"


def on_random_inputs(hedge, model):
    reference = session(model)
    names = [output.name for output in reference.get_outputs()]
    for seed, free in ((0, 1), (1, 3)):
        rng, feed = np.random.default_rng(seed), {}
        for value in reference.get_inputs():
            shape = [size if isinstance(size, int) and size > 0 else free for size in value.shape]
            dtype = TYPES[value.type]
            ints = rng.integers(0, 2 if dtype is bool else 100, shape).astype(dtype)
            feed[value.name] = rng.standard_normal(shape).astype(dtype) if dtype == np.float32 else ints
        compare(f"{os.path.basename(model)}, {free} x random", hedge.run(model, feed, names), reference.run(None, feed))


def silero(hedge, model, shared):
    """The recording in windows of 512 samples with 64 before each, as its authors feed it; the state runs through onnxruntime,
    and every window's answer and next state are compared at once, as a batch."""
    with wave.open(f"{shared}/data/silero-test.wav") as file:
        assert file.getframerate() == 16000 and file.getsampwidth() == 2
        sound = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
        sound = sound.reshape(-1, file.getnchannels())[:, 0]
    reference = session(model)
    names = [output.name for output in reference.get_outputs()]
    context, state, rate = np.zeros((1, 64), np.float32), np.zeros((2, 1, 128), np.float32), np.array(16000, np.int64)
    windows, states, answers = [], [], []
    for start in range(0, len(sound) - 511, 512):
        window = np.concatenate([context, sound[None, start : start + 512]], axis=1)
        windows.append(window)
        states.append(state)
        answer, state = reference.run(names, {"input": window, "state": state, "sr": rate})
        answers.append((answer, state))
        context = window[:, -64:]
    feed = {"input": np.concatenate(windows), "state": np.concatenate(states, axis=1), "sr": rate}
    expected = [np.concatenate([a for a, _ in answers]), np.concatenate([s for _, s in answers], axis=1)]
    speech = float((expected[0] > 0.5).mean())
    assert 0.1 < speech < 0.99, f"the recording should hold speech and silence, but {speech:.0%} is speech"
    compare(f"{os.path.basename(model)}, {len(windows)} windows of a recording", hedge.run(model, feed, names), expected)


def magika_features(content):
    """The first and the last 1,024 bytes without white space around them, 256 where there are none."""
    block, size, padding = 4096, 1024, 256
    begin = list(content[:block].lstrip()[:size])
    end = list(content[-block:].rstrip()[-size:])
    return begin + [padding] * (size - len(begin)) + [padding] * (size - len(end)) + end


def magika(hedge, model, shared):
    with tarfile.open(f"{shared}/data/magika-tests_data.tar.xz") as archive:
        name = next(n for n in archive.getnames() if n.endswith("standard_v3_3-inference_examples_by_content.json.gz"))
        by_content = json.loads(gzip.decompress(archive.extractfile(name).read()))
        name = next(n for n in archive.getnames() if n.endswith("standard_v3_3-inference_examples_by_path.json.gz"))
        by_path = json.loads(gzip.decompress(archive.extractfile(name).read()))
        contents = [base64.b64decode(example["content_base64"]) for example in by_content]
        root = next(n for n in archive.getnames() if n.endswith("reference")).removesuffix("reference")
        for example in by_path:
            contents.append(archive.extractfile(root.removesuffix("tests_data/") + example["path"]).read())
    examples = [(c, e["prediction"]) for c, e in zip(contents, by_content + by_path) if e["status"] == "ok" and e["prediction"]["dl"] != "undefined"]
    reference = session(model)
    value, names = reference.get_inputs()[0], [output.name for output in reference.get_outputs()]
    feed = {value.name: np.array([magika_features(content) for content, _ in examples], TYPES[value.type])}
    expected, actual = reference.run(names, feed), hedge.run(model, feed, names)
    compare(f"{os.path.basename(model)}, {len(examples)} golden files", actual, expected)
    golden = np.array([prediction["score"] for _, prediction in examples])
    worst = float(np.abs(actual[0].max(axis=1) - golden).max())
    # They were made on another machine, and this model amplifies last bits.
    assert worst < 1e-2, f"the golden scores differ by {worst}"
    same = (actual[0].argmax(axis=1) == expected[0].argmax(axis=1)).all()
    assert same, "another label than onnxruntime's is the likeliest"


def main():
    program, shared, device, *named = sys.argv[1:] + ["cpu"][len(sys.argv) - 3 :]
    hedge = Hedge(program, device)
    for model in named:
        on_random_inputs(hedge, model)
    if named:
        return
    models = sorted(glob.glob(f"{shared}/models/*.onnx"))
    assert models, f"there are no models in {shared}"
    for model in models:
        if "silero" in model:
            silero(hedge, model, shared)
            continue
        on_random_inputs(hedge, model)
        if "magika" in model:
            magika(hedge, model, shared)


if __name__ == "__main__":
    main()
