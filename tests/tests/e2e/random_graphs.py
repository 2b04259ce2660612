"""Networks drawn at random, as exporters write them, answer as onnxruntime does without its optimizations.

  random_graphs.py HEDGE [COUNT [SEED [cpu|gpu]]]

Each seed is a network: convolutions, normalizations, activations in every spelling, branches, attention, recurrence; weights as
initializers or as nodes, fixed or free dimensions, operator sets 11 to 21, and now and then an intermediate value as an output,
which no pass may take away. The bound is models_check.py's. A seed that differs is named, and made again by the same numbers.
"""
import os
import random
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from models_check import Hedge, compare

FREE = {"N": 3, "S": 6}
SHARE_OF_OUTPUTS = 0.06
OPSETS = [11, 12, 13, 14, 17, 18, 20, 21]


class Builder:
    def __init__(self, seed):
        self.choose, self.numbers = random.Random(seed), np.random.default_rng(seed)
        self.opset = self.choose.choice(OPSETS)
        self.nodes, self.weights, self.inputs, self.outputs, self.count = [], [], [], [], 0

    def one_of(self, *options):
        return self.choose.choice(options)

    def chance(self, share):
        return self.choose.random() < share

    def normal(self, *shape, scale=1.0):
        return (self.numbers.standard_normal(shape) * scale).astype(np.float32)

    def input(self, name, shape, dtype=np.float32):
        self.inputs.append((name, shape, np.dtype(dtype)))
        return name

    def weight(self, value):
        self.count += 1
        name, tensor = f"w{self.count}", numpy_helper.from_array(np.asarray(value), f"w{self.count}")
        if self.chance(0.15):
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.weights.append(tensor)
        return name

    def scalar(self, value):
        """A number, with the dimensions that exporters give it."""
        return self.weight(np.full(self.one_of((), (), (1,), (1, 1, 1)), value, np.float32))

    def ints(self, *values):
        return self.weight(np.array(values, np.int64))

    def op(self, kind, *inputs, outputs=1, **attributes):
        self.count += 1
        names = [f"v{self.count}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        if self.chance(SHARE_OF_OUTPUTS):
            self.outputs.append(names[0])
        return names[0] if outputs == 1 else names

    def either_way(self, kind, a, b):
        return self.op(kind, *self.choose.sample([a, b], 2))

    def over(self, kind, value, axes, **attributes):
        """Axes as the operator set takes them: an input, or an attribute before."""
        if self.opset >= (13 if kind in ("ReduceSum", "Unsqueeze") else 18):
            return self.op(kind, value, self.ints(*axes), **attributes)
        return self.op(kind, value, axes=axes, **attributes)

    def activation(self, x):
        kind = self.one_of("relu", "relu", "clip", "leaky", "silu", "hard_swish", "sigmoid", "gelu", "tanh_gelu", "mish", "none", "plain")
        number, op = self.scalar, self.op
        if kind == "relu":
            return op("Relu", x)
        if kind == "clip":
            least, most = self.one_of((0, 6), (-0.3, None), (None, 0.4), (-1, 1))
            bounds = ["" if bound is None else self.weight(np.float32(bound)) for bound in (least, most)]
            return op("Clip", x, *bounds)
        if kind == "leaky":
            return op("LeakyRelu", x, alpha=self.one_of(0.01, 0.2))
        if kind == "silu":
            return self.either_way("Mul", x, op("Sigmoid", x))
        if kind == "hard_swish":
            bounded = op("Clip", op("Add", x, number(3)), self.weight(np.float32(0)), self.weight(np.float32(6)))
            return op("Mul", x, op("Div", bounded, number(6)))
        if kind == "sigmoid":
            return op(self.one_of("Sigmoid", "HardSigmoid", "Tanh", "Softplus", "Elu"), x)
        if kind == "gelu":
            inner = op("Div", x, number(2**0.5)) if self.chance(0.5) else op("Mul", x, number(2**-0.5))
            bent = self.either_way("Add", op("Erf", inner), number(1))
            last = self.chance(0.5)
            return op("Mul", self.either_way("Mul", x, bent), number(0.5)) if last else op("Mul", op("Mul", x, number(0.5)), bent)
        if kind == "tanh_gelu":
            cube = op("Pow", x, number(3)) if self.chance(0.5) else op("Mul", x, op("Mul", x, x))
            sum_ = op("Add", x, self.either_way("Mul", cube, number(0.044715)))
            bent = self.either_way("Add", op("Tanh", op("Mul", sum_, number((2 / np.pi) ** 0.5))), number(1))
            return op("Mul", op("Mul", x, number(0.5)), bent)
        if kind == "mish":
            return op("Mul", x, op("Tanh", op("Softplus", x)))
        return op(self.one_of("Abs", "Neg"), x) if kind == "plain" else x

    def channel_norm(self, x, channels):
        kind, per_channel = self.one_of("batch", "batch", "affine", "number", "none"), lambda: self.weight(self.normal(channels))
        if kind == "batch":
            variance = self.weight(np.abs(self.normal(channels)) + np.float32(0.1))
            return self.op("BatchNormalization", x, per_channel(), per_channel(), per_channel(), variance, epsilon=self.one_of(1e-5, 1e-3))
        if kind == "affine":
            scaled = self.either_way("Mul", x, self.weight(self.normal(channels, 1, 1)))
            return self.either_way("Add", scaled, self.weight(self.normal(1, channels, 1, 1)))
        if kind == "number":
            number = self.weight(self.normal(*self.one_of((), (1,), (1, 1, 1, 1))) + np.float32(3))
            return self.op(self.one_of("Mul", "Add", "Sub", "Div"), x, number)
        return x

    def conv(self, x, before, after, kernel=None, stride=1, group=1):
        kernel = kernel or self.one_of(1, 1, 3, 3, 5)
        scale = (2 * group / (before * kernel * kernel)) ** 0.5
        inputs = [x, self.weight(self.normal(after, before // group, kernel, kernel, scale=scale))]
        if self.chance(0.6):
            inputs.append(self.weight(self.normal(after, scale=0.3)))
        padding, half = self.one_of("pads", "pads", "same", "pad node"), kernel // 2
        attributes = {"strides": [stride] * 2, "group": group}
        if padding == "pads":
            attributes["pads"] = [half] * 4
        elif padding == "same":
            attributes["auto_pad"] = self.one_of("SAME_UPPER", "SAME_LOWER")
        elif kernel > 1:
            pads, mode = self.ints(0, 0, half, half, 0, 0, half, half), self.one_of("constant", "constant", "reflect", "edge")
            inputs[0] = self.op("Pad", x, pads, mode=mode)
        return self.op("Conv", *inputs, **attributes)

    def layer(self, x, before, after, **how):
        return self.activation(self.channel_norm(self.conv(x, before, after, **how), after))

    def convolutional(self):
        channels, size = self.one_of(1, 3, 4), self.one_of(12, 15, 16, 20)
        x = self.input("x", [self.one_of(1, 2, "N"), channels, size, size])
        for _ in range(self.choose.randint(1, 5)):
            block = self.one_of("plain", "depthwise", "residual", "squeeze", "pool", "concat", "upsample", "gate", "shuffle", "transposed")
            if block == "plain":
                after, stride = self.one_of(4, 6, 8, 16, 24), self.one_of(1, 1, 2)
                x, channels, size = self.layer(x, channels, after, stride=stride), after, -(-size // stride)
            elif block == "depthwise":
                after, x = self.one_of(4, 8, 12), self.layer(x, channels, channels, kernel=3, group=channels)
                x, channels = self.layer(x, channels, after, kernel=1), after
            elif block == "residual":
                y = self.channel_norm(self.conv(self.layer(x, channels, channels), channels, channels), channels)
                x = self.activation(self.either_way("Add", x, y))
            elif block == "squeeze":
                mean = self.op("GlobalAveragePool", x) if self.chance(0.5) else self.over("ReduceMean", x, [2, 3], keepdims=1)
                narrow = self.activation(self.conv(mean, channels, 2, kernel=1))
                x = self.op("Mul", x, self.op("Sigmoid", self.conv(narrow, 2, channels, kernel=1)))
            elif block == "pool" and size >= 4:
                ceil = self.one_of(0, 1)
                x = self.op(self.one_of("MaxPool", "AveragePool"), x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=ceil)
                size = -(-size // 2) if ceil else size // 2
            elif block == "concat":
                x, channels = self.op("Concat", self.layer(x, channels, 4), self.conv(x, channels, 6), x, axis=1), channels + 10
            elif block == "upsample" and size <= 10:
                scales, roi = self.weight(np.array([1, 1, 2, 2], np.float32)), self.weight(np.array([], np.float32))
                mode, places = self.one_of("nearest", "linear"), self.one_of("asymmetric", "half_pixel", "align_corners")
                x, size = self.op("Resize", x, roi, scales, mode=mode, coordinate_transformation_mode=places), size * 2
            elif block == "gate" and channels % 2 == 0:
                how = {"num_outputs": 2} if self.opset >= 18 else {}
                one, other = self.op("Split", x, outputs=2, axis=1, **how)
                x, channels = self.op("Mul", one, self.op("Sigmoid", other)), channels // 2
            elif block == "shuffle" and channels % 2 == 0:
                split = self.op("Transpose", self.op("Reshape", x, self.ints(0, 2, channels // 2, size, size)), perm=[0, 2, 1, 3, 4])
                x = self.op("Reshape", split, self.ints(0, -1, size, size))
            elif block == "transposed" and size <= 10:
                x = self.activation(self.op("ConvTranspose", x, self.weight(self.normal(channels, 6, 2, 2, scale=0.3)), strides=[2, 2]))
                channels, size = 6, size * 2
        if self.chance(0.5):
            x = self.op("Flatten", self.op("GlobalAveragePool", x))
            x = self.op("Gemm", x, self.weight(self.normal(7, channels, scale=0.5)), self.weight(self.normal(7)), transB=1)
            x = self.op("Softmax", x, axis=1)
        return x

    def linear(self, x, before, after):
        product = self.op("MatMul", x, self.weight(self.normal(before, after, scale=before**-0.5)))
        return self.either_way("Add", product, self.weight(self.normal(after, scale=0.3))) if self.chance(0.7) else product

    def layer_norm(self, x, width):
        scale = self.weight(self.normal(width))
        if self.chance(0.25):
            square = self.over("ReduceMean", self.op("Pow", x, self.scalar(2)), [-1], keepdims=1)
            deviation = self.op("Sqrt", self.op("Add", square, self.scalar(1e-6)))
            return self.op("Mul", self.op("Mul", x, self.op("Reciprocal", deviation)), scale)
        if self.opset >= 17 and self.chance(0.4):
            return self.op("LayerNormalization", x, scale, self.weight(self.normal(width)), axis=-1)
        centred = self.op("Sub", x, self.over("ReduceMean", x, [-1], keepdims=1))
        square = self.op("Pow", centred, self.scalar(2)) if self.chance(0.5) else self.op("Mul", centred, centred)
        variance = self.over("ReduceMean", square, [-1], keepdims=1)
        deviation = self.op("Sqrt", self.op("Add", variance, self.scalar(self.one_of(1e-5, 1e-12, 1e-3))))
        normal = self.op("Div", centred, deviation) if self.chance(0.6) else self.op("Mul", centred, self.op("Reciprocal", deviation))
        return self.op("Add", self.op("Mul", normal, scale), self.weight(self.normal(width)))

    def mask(self, batch, length):
        """What is done to the scores of attention."""
        kind = self.one_of("none", "added", "chosen", "causal")
        if kind == "causal" and length != "S":
            ahead = self.weight(np.triu(np.full((length, length), self.one_of(-1e9, -np.inf), np.float32), 1)[None, None])
            return lambda scores: self.either_way("Add", scores, ahead)
        if kind not in ("added", "chosen"):
            return lambda scores: scores
        mask = self.over("Unsqueeze", self.input("mask", [batch, length], np.int64), [1, 2])
        if kind == "chosen":
            hidden = self.op("Equal", mask, self.weight(np.int64(0)))
            return lambda scores: self.op("Where", hidden, self.weight(np.float32(-1e9)), scores)
        inverse = self.op("Sub", self.scalar(1), self.op("Cast", mask, to=TensorProto.FLOAT))
        added = self.op("Mul", inverse, self.scalar(self.one_of(-1e4, -1e9, -3.4e38)))
        return lambda scores: self.either_way("Add", scores, added)

    def attention(self, x, heads, size, masked):
        width, scale = heads * size, self.one_of("scores", "divided", "query", "none")
        split = lambda name: self.op("Reshape", self.linear(x, width, width), self.ints(0, self.one_of(0, -1), heads, size))
        query, value = (self.op("Transpose", split(name), perm=[0, 2, 1, 3]) for name in ("query", "value"))
        if scale == "query":
            query = self.op("Mul", query, self.scalar(size**-0.5))
        if self.chance(0.6):
            key = self.op("Transpose", split("key"), perm=[0, 2, 3, 1])
        else:
            key = self.op("Transpose", self.op("Transpose", split("key"), perm=[0, 2, 1, 3]), perm=[0, 1, 3, 2])
        scores = self.op("MatMul", query, key)
        if scale == "scores":
            scores = self.either_way("Mul", scores, self.scalar(size**-0.5))
        if scale == "divided":
            scores = self.op("Div", scores, self.scalar(size**0.5))
        shares = self.op("Softmax", masked(scores), axis=3)
        mixed = self.op("Transpose", self.op("MatMul", shares, value), perm=[0, 2, 1, 3])
        return self.linear(self.op("Reshape", mixed, self.ints(0, self.one_of(0, -1), width)), width, width)

    def transformer(self):
        heads, size, batch, length = self.one_of(1, 2, 4), self.one_of(2, 4, 8), self.one_of(1, 2, "N"), self.one_of(3, 5, 8, "S")
        width = heads * size
        x = self.input("x", [batch, length, width])
        masked, before = self.mask(batch, length), self.chance(0.5)

        def step(x, f):
            y = f(self.layer_norm(x, width) if before else x)
            y = self.either_way("Add", x, y)
            return y if before else self.layer_norm(y, width)

        for _ in range(self.choose.randint(1, 2)):
            x = step(x, lambda y: self.attention(y, heads, size, masked))
            x = step(x, lambda y: self.linear(self.activation(self.linear(y, width, 2 * width)), 2 * width, width))
        return self.over("ReduceMean", x, [1], keepdims=0) if self.chance(0.3) else x

    def recurrent(self):
        channels, hidden, direction = self.one_of(1, 4), self.one_of(3, 6), self.one_of("forward", "reverse", "bidirectional")
        x = self.input("x", [self.one_of(1, 2, "N"), channels, self.one_of(24, 31)])
        kernel, ways = self.one_of(1, 3, 5), 2 if direction == "bidirectional" else 1
        weights = self.weight(self.normal(8, channels, kernel, scale=0.4))
        x = self.op("Conv", x, weights, pads=[kernel // 2] * 2, strides=[self.one_of(1, 2)])
        kind, gates, outputs = self.one_of(("LSTM", 4, 3), ("GRU", 3, 2))
        own = {"linear_before_reset": self.one_of(0, 1)} if kind == "GRU" else {}
        weights = [self.weight(self.normal(ways, gates * hidden, size, scale=0.5)) for size in (8, hidden)]
        states = self.op("Transpose", self.activation(x), perm=[2, 0, 1])
        bias = self.weight(self.normal(ways, 2 * gates * hidden))
        y = self.op(kind, states, *weights, bias, outputs=outputs, hidden_size=hidden, direction=direction, **own)[0]
        y = self.op("Reshape", self.op("Transpose", y, perm=[2, 0, 1, 3]), self.ints(0, 0, -1))
        return self.op("Softmax", self.linear(y, ways * hidden, 5), axis=2)

    def model(self):
        last = self.one_of(self.convolutional, self.convolutional, self.transformer, self.transformer, self.recurrent)()
        outputs = [last] + [name for name in self.outputs if name != last]
        kind = helper.np_dtype_to_tensor_dtype
        inputs = [helper.make_tensor_value_info(name, kind(dtype), shape) for name, shape, dtype in self.inputs]
        # What they are is left to whoever reads the file.
        declared = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self.nodes, "random", inputs, declared, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8
        return model, outputs

    def feed(self):
        for name, shape, dtype in self.inputs:
            shape = [FREE.get(size, size) for size in shape]
            # A row of a mask has something to see.
            yield name, self.normal(*shape) if dtype == np.float32 else self.numbers.integers(0, 2, shape) | (np.arange(shape[1]) == 0)


def check(seed, hedge, path):
    builder = Builder(seed)
    model, outputs = builder.model()
    onnx.save(model, path)
    options = ort.SessionOptions()
    options.log_severity_level, options.graph_optimization_level = 3, ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    feed = dict(builder.feed())
    expected = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(outputs, feed)
    compare(f"seed {seed}, {len(model.graph.node)} nodes", hedge.run(path, feed, outputs), expected)


def main():
    program, count, first, device = sys.argv[1:] + ["100", "0", "cpu"][len(sys.argv) - 2 :]
    hedge = Hedge(program, device)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(int(first), int(first) + int(count)):
            check(seed, hedge, os.path.join(folder, "model.onnx"))


if __name__ == "__main__":
    main()
