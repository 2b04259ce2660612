"""Writes ONNX's own node cases as folders: CASE/model.onnx, CASE/test_data_set_0/{input,output}_N.pb, and index.json with
their tolerances. The cases are made by the `onnx` package itself.

  onnx_cases.py FOLDER
"""
import json
import os
import sys
import warnings

import numpy as np

warnings.filterwarnings("ignore")
from onnx import TensorProto, numpy_helper  # noqa: E402
from onnx.backend.test.case.node import collect_testcases  # noqa: E402


def to_proto(value, info):
    if isinstance(value, TensorProto):
        return value
    kind = info.type.WhichOneof("value")
    if kind == "sequence_type":
        return numpy_helper.from_list(value, info.name)
    if kind == "optional_type":
        return numpy_helper.from_optional(value, info.name)
    return numpy_helper.from_array(np.asarray(value), info.name)


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def main(folder):
    index = {}
    for case in collect_testcases(None):
        index[case.name] = {"rtol": case.rtol, "atol": case.atol}
        home = os.path.join(folder, case.name)
        os.makedirs(home)
        write(os.path.join(home, "model.onnx"), case.model.SerializeToString())
        for number, sets in enumerate(case.data_sets):
            data = os.path.join(home, f"test_data_set_{number}")
            os.makedirs(data)
            graph = case.model.graph
            for side, values, infos in zip(("input", "output"), sets, (graph.input, graph.output)):
                for position, (value, info) in enumerate(zip(values, infos)):
                    write(os.path.join(data, f"{side}_{position}.pb"), to_proto(value, info).SerializeToString())
    with open(os.path.join(folder, "index.json"), "w") as file:
        json.dump(index, file)
    print(f"{len(index)} cases")


main(sys.argv[1])
