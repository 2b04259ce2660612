"""Runs what `hedge demo --keep argv[1]` kept through onnxruntime: each answer must be the one of the model that it names."""

import hashlib
import json
import pathlib
import sys

import numpy as np
import onnxruntime

TOLERANCE = 1e-4


def main(folder: pathlib.Path) -> None:
    inputs = np.load(folder / "inputs.npy")
    outputs = np.load(folder / "outputs.npy")
    requests = [json.loads(line) for line in (folder / "requests.jsonl").open()]
    assert len(inputs) == len(outputs) == len(requests) > 0
    compared = 0
    for name in ("edge.onnx", "cloud.onnx"):
        model = (folder / name).read_bytes()
        digest = "sha256:" + hashlib.sha256(model).hexdigest()
        rows = [index for index, request in enumerate(requests) if request["model"] == digest]
        assert rows, f"no answer names {name}, {digest}"
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        (expected,) = session.run(["logits"], {"image": inputs[rows]})
        worst = np.abs(outputs[rows] - expected).max() / max(1.0, np.abs(expected).max())
        print(f"{name}: {len(rows)} answers, largest difference {worst:.2e}")
        assert worst <= TOLERANCE, f"{name}: {worst}"
        compared += len(rows)
    assert compared == len(requests), "an answer names neither model"


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
