"""Models of tables drawn at random (`ai.onnx.ml`) answer as onnxruntime does.

  random_tables.py HEDGE [COUNT [SEED]]

Each seed is a model of one node: a forest for numbers or for classes, a linear model, or a step around them. Numbers are of every
type that onnxruntime takes, some are missing, and forests test in every mode. The bound is models_check.py's. Left out is what
onnxruntime 1.32 does wrong: PROBIT, with which a classifier with one score for two classes writes over its own rows, and forests
in which both of two classes have weights, whose labels are 0 and 1 there, whatever the model's are.
"""
import os
import random
import sys
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models_check import Hedge, compare, session

MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
TRANSFORMS = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]
NUMBERS = [np.float32, np.float64, np.int64, np.int32]


class Drawn:
    def __init__(self, seed):
        self.choose, self.numbers = random.Random(seed), np.random.default_rng(seed)
        self.rows, self.columns = self.choose.randint(1, 7), self.choose.randint(1, 5)
        self.version, self.constants = 3, []

    def one_of(self, *options):
        return self.choose.choice(options)

    def floats(self, count):
        return [float(value) for value in self.numbers.standard_normal(count).astype(np.float32)]

    def features(self, dtype, missing=0.0):
        x = (self.numbers.standard_normal((self.rows, self.columns)) * 2).astype(dtype)
        if np.issubdtype(dtype, np.floating):
            x[self.numbers.random(x.shape) < missing] = np.nan
        return x

    def trees(self, count, targets, positive):
        """Nodes, and the weights of leaves."""
        names = ["treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids", "missing_value_tracks_true"]
        nodes, leaves = {f"nodes_{name}": [] for name in names}, {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
        modes = self.one_of(MODES, [self.one_of(*MODES)])

        def grow(tree, depth, free):
            node = free.pop()
            free.append(node + 1)
            at = len(nodes["nodes_nodeids"])
            values = [tree, node, self.choose.randrange(self.columns), self.one_of(*modes), *self.floats(1), 0, 0, self.one_of(0, 1)]
            for name, value in zip(names, values, strict=True):
                nodes[f"nodes_{name}"].append(value)
            if depth == 0 or self.choose.random() < 0.2:
                nodes["nodes_modes"][at] = "LEAF"
                for target in targets():
                    weight = self.floats(1)[0]
                    for name, value in zip(leaves, [tree, node, target, abs(weight) / count if positive else weight], strict=True):
                        leaves[name].append(value)
            else:
                nodes["nodes_truenodeids"][at] = grow(tree, depth - 1, free)
                nodes["nodes_falsenodeids"][at] = grow(tree, depth - 1, free)
            return node

        for tree in range(count):
            grow(tree, self.choose.randint(0, 3), [0])
        return nodes, leaves

    def regressor(self):
        # onnxruntime has no trees for numbers on integers of 32 bits.
        x, targets = self.features(self.one_of(np.float32, np.float64), missing=0.1), self.choose.randint(1, 3)
        nodes, leaves = self.trees(self.choose.randint(1, 30), lambda: range(targets), False)
        attributes = nodes | {f"target_{name}": values for name, values in leaves.items()} | {"n_targets": targets}
        attributes["aggregate_function"] = self.one_of("SUM", "AVERAGE", "MIN", "MAX")
        attributes["post_transform"] = self.one_of(*TRANSFORMS)
        if self.one_of(True, False):
            attributes["base_values"] = self.floats(targets)
        return "TreeEnsembleRegressor", {"x": x}, attributes, [TensorProto.FLOAT]

    def classifier(self):
        x, classes = self.features(self.one_of(*NUMBERS), missing=0.1), self.one_of(2, 2, 3, 4)
        several = [lambda: range(classes), lambda: [self.choose.randrange(classes)]]
        targets = self.one_of(*([lambda: [0], lambda: [1]] if classes == 2 else several))
        nodes, leaves = self.trees(self.choose.randint(1, 30), targets, self.one_of(True, False))
        attributes = nodes | {f"class_{name}": values for name, values in leaves.items()}
        attributes |= {"classlabels_int64s": list(range(5, 5 + classes)), "post_transform": self.one_of(*TRANSFORMS)}
        base = self.one_of(0, 1, 2) if classes == 2 else self.one_of(0, classes)
        if base > 0:
            attributes["base_values"] = self.floats(base)
        return "TreeEnsembleClassifier", {"x": x}, attributes, [TensorProto.INT64, TensorProto.FLOAT]

    def linear(self):
        x, targets = self.features(self.one_of(*NUMBERS)), self.choose.randint(1, 4)
        attributes = {"coefficients": self.floats(targets * self.columns), "intercepts": self.floats(targets)}
        if self.one_of(True, False):
            return "LinearRegressor", {"x": x.astype(np.float32)}, attributes | {"targets": targets}, [TensorProto.FLOAT]
        attributes |= {"classlabels_ints": list(range(7, 7 + max(2, targets))), "post_transform": self.one_of(*TRANSFORMS)}
        return "LinearClassifier", {"x": x}, attributes, [TensorProto.INT64, TensorProto.FLOAT]

    def scaled(self):
        x = self.features(self.one_of(*NUMBERS))
        if self.one_of(True, False):
            return "Normalizer", {"x": x}, {"norm": self.one_of("MAX", "L1", "L2")}, [TensorProto.FLOAT]
        count = self.one_of(1, self.columns)
        return "Scaler", {"x": x}, {"offset": self.floats(count), "scale": self.floats(count)}, [TensorProto.FLOAT]

    def picked(self):
        x = self.features(self.one_of(*NUMBERS))
        indices = self.numbers.integers(0, self.columns, self.choose.randint(1, 4))
        self.constants = [numpy_helper.from_array(indices, "indices")]
        return "ArrayFeatureExtractor", {"x": x}, {}, [helper.np_dtype_to_tensor_dtype(x.dtype)]

    def replaced(self):
        if self.one_of(True, False):
            values = self.floats(self.one_of(1, self.columns))
            attributes = {"imputed_value_floats": values, "replaced_value_float": float("nan")}
            return "Imputer", {"x": self.features(np.float32, missing=0.3)}, attributes, [TensorProto.FLOAT]
        return "Binarizer", {"x": self.features(np.float32)}, {"threshold": self.floats(1)[0]}, [TensorProto.FLOAT]

    def encoded(self):
        x = self.numbers.integers(-2, 4, (self.rows, self.columns))
        keys = self.choose.sample(range(-2, 4), self.choose.randint(1, 5))
        if self.one_of(True, False):
            return "OneHotEncoder", {"x": x}, {"cats_int64s": keys, "zeros": 1}, [TensorProto.FLOAT]
        self.version = 4
        if self.one_of(True, False):
            attributes = {"values_floats": self.floats(len(keys)), "default_float": self.floats(1)[0]}
            return "LabelEncoder", {"x": x}, attributes | {"keys_int64s": keys}, [TensorProto.FLOAT]
        attributes = {"keys_floats": [float("nan")] + [float(key) for key in keys], "values_int64s": [99] + keys}
        return "LabelEncoder", {"x": np.round(self.features(np.float32, missing=0.2))}, attributes, [TensorProto.INT64]

    def model(self):
        kinds = [self.regressor, self.classifier, self.linear, self.scaled, self.picked, self.replaced, self.encoded]
        op, feed, attributes, made = self.choose.choices(kinds, [4, 6, 2, 1, 1, 1, 1])[0]()
        outputs = [f"y{index}" for index in range(len(made))]
        inputs = list(feed) + [constant.name for constant in self.constants]
        node = helper.make_node(op, inputs, outputs, domain="ai.onnx.ml", **attributes)
        kind = helper.np_dtype_to_tensor_dtype
        declared = [helper.make_tensor_value_info(name, kind(x.dtype), x.shape) for name, x in feed.items()]
        results = [helper.make_tensor_value_info(name, dtype, None) for name, dtype in zip(outputs, made, strict=True)]
        graph = helper.make_graph([node], "random", declared, results, self.constants)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", self.version)]
        model = helper.make_model(graph, opset_imports=opsets)
        model.ir_version = 9
        return model, feed, outputs


def check(seed, hedge, path):
    model, feed, outputs = Drawn(seed).model()
    onnx.save(model, path)
    expected = session(path).run(outputs, feed)
    compare(f"seed {seed}, {model.graph.node[0].op_type}", hedge.run(path, feed, outputs), expected)


def main():
    program, count, first = sys.argv[1:] + ["100", "0"][len(sys.argv) - 2 :]
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(int(first), int(first) + int(count)):
            check(seed, Hedge(program), os.path.join(folder, "model.onnx"))


if __name__ == "__main__":
    main()
