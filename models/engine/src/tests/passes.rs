//! Passes change no result: graphs run as they are and optimized, built by hand for each pass and at random for all.

use hedge_graph::infer::infer_shapes;
use hedge_graph::{Attribute, Dim, Graph, GraphBuilder, NoExternalData};
use hedge_tensor::{DType, Tensor};

use super::floats;
use crate::burn::{BurnExecutor, Context, Program, Value, optimized};
use crate::{Device, Executor};

/// Runs `graph` as it is.
fn plain(graph: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
    let context = Context::new(Device::cpu().open().unwrap());
    let program = Program::prepare(graph, &context).unwrap();
    let outputs = program.run(&context, inputs.iter().cloned().map(Value::host).collect()).unwrap();
    outputs.into_iter().map(|output| output.into_host().unwrap()).collect()
}

/// Runs what is prepared of the graph alone, as it is read from a file: its weights are worked on where they lie.
fn given_away(graph: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
    let file = graph.write();
    let alone = Graph::read_from(&mut file.as_slice(), file.len() as u64, &NoExternalData).unwrap();
    BurnExecutor.prepare(alone, &Device::cpu()).unwrap().run(inputs).unwrap()
}

/// Asserts that optimizing changes no result; returns the operators that are left and what was done.
fn unchanged(graph: &Graph, inputs: &[Tensor]) -> (Vec<String>, hedge_graph::passes::Report) {
    let (fused, report) = optimized(graph);
    fused.validate().unwrap();
    assert_eq!(optimized(&fused).1.total(), 0, "a second time changes nothing");
    assert_eq!(fused.inputs, graph.inputs);
    let expected = plain(graph, inputs);
    let after = [plain(&fused, inputs), given_away(graph, inputs)].concat();
    for (before, after) in expected.iter().cycle().zip(&after) {
        assert_eq!((before.dtype(), before.shape()), (after.dtype(), after.shape()));
        let (before, after) = (numbers(before), numbers(after));
        for (a, b) in before.iter().zip(&after) {
            assert!((a - b).abs() <= 1e-5 * a.abs().max(1.0), "{a} became {b}");
        }
    }
    (fused.nodes.iter().map(hedge_graph::Node::qualified_op).collect(), report)
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_doubles()
        .unwrap_or_else(|| tensor.to_vec::<i64>().unwrap().into_iter().map(|value| value as f64).collect())
}

/// Numbers between -1 and 1, the same for the same seed (xorshift, Marsaglia 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| (self.next() % 2001) as f32 / 1000.0 - 1.0).collect();
        floats(shape, &values)
    }

    fn positive(&mut self, shape: &[usize]) -> Tensor {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| (self.next() % 1000) as f32 / 1000.0 + 0.5).collect();
        floats(shape, &values)
    }
}

fn dims(sizes: &[usize]) -> Vec<Dim> {
    sizes.iter().map(|&size| size.into()).collect()
}

/// Closes the graph with the output `name`.
fn closed(mut b: GraphBuilder, name: &str) -> Graph {
    b.output(name, DType::F32, &[]);
    let mut graph = b.finish().unwrap();
    graph.outputs[0].shape = None;
    graph
}

#[test]
fn batch_norm_and_channel_constants_go_into_a_convolution_with_groups() {
    let mut random = Random(1);
    for op in ["Conv", "ConvTranspose"] {
        let mut b = GraphBuilder::new("conv");
        let x = b.input("x", DType::F32, &dims(&[2, 4, 5, 5]));
        let w = b.init("w", random.tensor(&[4, 2, 3, 3]));
        let c = b.op(op, &[&x, &w], &[("group", Attribute::Int(2))]);
        let parameters: Vec<String> = ["s", "b", "m"].iter().map(|name| b.init(name, random.tensor(&[4]))).collect();
        let v = b.init("v", random.positive(&[4]));
        let n = b.op("BatchNormalization", &[&c, &parameters[0], &parameters[1], &parameters[2], &v], &[]);
        let f = b.init("f", random.tensor(&[4, 1, 1]));
        let m = b.op("Mul", &[&f, &n], &[]);
        let a = b.init("a", random.tensor(&[1, 4, 1, 1]));
        let s = b.op("Sub", &[&m, &a], &[]);
        let y = b.op("Relu", &[&s], &[]);
        let (ops, _) = unchanged(&closed(b, &y), &[random.tensor(&[2, 4, 5, 5])]);
        assert_eq!(ops, if op == "Conv" { vec!["hedge.Conv"] } else { vec![op, "Relu"] });
    }
}

#[test]
fn bounds_go_into_the_convolution_before_them() {
    let mut random = Random(21);
    for (op, bounds) in [("Relu", vec![]), ("Clip", vec![Some(-0.5), Some(0.5)]), ("Clip", vec![None, Some(0.25)])] {
        for spatial in [vec![5], vec![5, 6], vec![4, 3, 3]] {
            let mut b = GraphBuilder::new("bounds");
            let x = b.input("x", DType::F32, &dims(&[&[2, 3], spatial.as_slice()].concat()));
            let w = b.init("w", random.tensor(&[&[4, 3], vec![2; spatial.len()].as_slice()].concat()));
            let c = b.op("Conv", &[&x, &w], &[("pads", Attribute::Ints(vec![1; 2 * spatial.len()]))]);
            let bound = |b: &mut GraphBuilder, (index, bound): (usize, &Option<f32>)| {
                bound.map_or(String::new(), |bound| b.init(&format!("bound{index}"), Tensor::scalar(bound)))
            };
            let bounds: Vec<String> = bounds.iter().enumerate().map(|each| bound(&mut b, each)).collect();
            let inputs: Vec<&str> = [c.as_str()].into_iter().chain(bounds.iter().map(String::as_str)).collect();
            let y = b.op(op, &inputs, &[]);
            let (ops, report) = unchanged(&closed(b, &y), &[random.tensor(&[&[2, 3], spatial.as_slice()].concat())]);
            assert_eq!((ops, report.counts["bounds"]), (vec!["hedge.Conv".to_owned()], 1));
        }
    }
}

#[test]
fn a_bound_that_is_computed_or_comes_late_stays_behind_its_convolution() {
    let mut random = Random(22);
    let mut b = GraphBuilder::new("late");
    let x = b.input("x", DType::F32, &dims(&[1, 2, 4, 4]));
    let most = b.input("most", DType::F32, &[]);
    let w = b.init("w", random.tensor(&[2, 2, 1, 1]));
    let c = b.op("Conv", &[&x, &w], &[]);
    let clipped = b.op("Clip", &[&c, "", &most], &[]);
    let shared = b.op("Conv", &[&clipped, &w], &[]);
    let positive = b.op("Relu", &[&shared], &[]);
    let y = b.op("Add", &[&positive, &shared], &[]);
    let (_, report) = unchanged(&closed(b, &y), &[random.tensor(&[1, 2, 4, 4]), Tensor::scalar(0.1f32)]);
    assert!(!report.counts.contains_key("bounds"));
}

#[test]
fn a_convolution_over_nothing_but_padding_gives_its_bias_within_bounds() {
    let mut b = GraphBuilder::new("padding");
    let x = b.input("x", DType::F32, &dims(&[1, 1, 0, 3]));
    let (w, bias) = (b.init("w", floats(&[2, 1, 1, 1], &[1.0, 1.0])), b.init("bias", floats(&[2], &[-1.0, 2.0])));
    let c = b.op("Conv", &[&x, &w, &bias], &[("pads", Attribute::Ints(vec![1, 0, 0, 0]))]);
    let y = b.op("Relu", &[&c], &[]);
    let (graph, nothing) = (closed(b, &y), Tensor::zeros(DType::F32, vec![1, 1, 0, 3]).unwrap());
    unchanged(&graph, std::slice::from_ref(&nothing));
    assert_eq!(plain(&graph, &[nothing])[0].to_vec::<f32>().unwrap(), [0., 0., 0., 2., 2., 2.]);
}

#[test]
fn scale_and_offset_go_into_a_gemm_and_a_scale_into_a_product() {
    let mut random = Random(2);
    let mut b = GraphBuilder::new("linear");
    let x = b.input("x", DType::F32, &dims(&[3, 4]));
    let (w, c) = (b.init("w", random.tensor(&[5, 4])), b.init("c", random.tensor(&[1, 5])));
    let attributes = [("transB", Attribute::Int(1)), ("alpha", Attribute::Float(0.5)), ("beta", Attribute::Float(2.0))];
    let g = b.op("Gemm", &[&x, &w, &c], &attributes);
    let (f, o) = (b.init("f", random.positive(&[5])), b.init("o", random.tensor(&[5])));
    let d = b.op("Div", &[&g, &f], &[]);
    let a = b.op("Add", &[&o, &d], &[]);
    let r = b.op("Relu", &[&a], &[]);
    let v = b.init("v", random.tensor(&[5, 2]));
    let p = b.op("MatMul", &[&r, &v], &[]);
    let two = b.init("two", Tensor::scalar(2f32));
    let y = b.op("Mul", &[&p, &two], &[]);
    let (ops, _) = unchanged(&closed(b, &y), &[random.tensor(&[3, 4])]);
    assert_eq!(ops, ["Gemm", "Relu", "MatMul"]);
}

#[test]
fn weights_that_two_layers_share_are_scaled_for_one_of_them() {
    let mut random = Random(31);
    let mut b = GraphBuilder::new("shared");
    let x = b.input("x", DType::F32, &dims(&[1, 2, 4, 4]));
    let w = b.init("w", random.tensor(&[2, 2, 1, 1]));
    // Not the same node twice, which would be one.
    let (plain, scaled) = (b.op("Conv", &[&x, &w], &[]), b.op("Conv", &[&x, &w], &[("group", Attribute::Int(1))]));
    let f = b.init("f", random.tensor(&[2, 1, 1]));
    let scaled = b.op("Mul", &[&scaled, &f], &[]);
    let other = b.op("Sigmoid", &[&plain], &[]);
    let y = b.op("Concat", &[&other, &scaled], &[("axis", Attribute::Int(1))]);
    let (ops, _) = unchanged(&closed(b, &y), &[random.tensor(&[1, 2, 4, 4])]);
    assert_eq!(ops.iter().filter(|op| *op == "Mul").count(), 0);
}

#[test]
fn a_layer_that_somebody_else_takes_too_keeps_its_weights() {
    let mut random = Random(3);
    let mut b = GraphBuilder::new("shared");
    let x = b.input("x", DType::F32, &dims(&[3, 4]));
    let w = b.init("w", random.tensor(&[4, 4]));
    let p = b.op("MatMul", &[&x, &w], &[]);
    let f = b.init("f", random.tensor(&[4]));
    let m = b.op("Mul", &[&p, &f], &[]);
    let y = b.op("Add", &[&m, &p], &[]);
    let (_, report) = unchanged(&closed(b, &y), &[random.tensor(&[3, 4])]);
    assert_eq!(report.total(), 0);
}

/// `0.5 u (1 + erf(u / sqrt 2))` as exporters order it, the one with dimensions of its own.
fn written_gelu(b: &mut GraphBuilder, u: &str, form: usize, one: &[usize]) -> String {
    let (half, one) = (b.init("half", Tensor::scalar(0.5f32)), b.init("one", floats(one, &[1.0])));
    if form == 3 {
        let (three, cubic) = (b.init("three", Tensor::scalar(3f32)), b.init("cubic", Tensor::scalar(0.044_715f32)));
        let root = b.init("root", Tensor::scalar(std::f32::consts::FRAC_2_PI.sqrt()));
        let p = b.op("Pow", &[u, &three], &[]);
        let c = b.op("Mul", &[&p, &cubic], &[]);
        let s = b.op("Add", &[u, &c], &[]);
        let t = b.op("Mul", &[&s, &root], &[]);
        let h = b.op("Tanh", &[&t], &[]);
        let bent = b.op("Add", &[&h, &one], &[]);
        let m = b.op("Mul", &[u, &half], &[]);
        return b.op("Mul", &[&m, &bent], &[]);
    }
    let inner = if form == 0 {
        let root = b.init("root", Tensor::scalar(std::f32::consts::FRAC_1_SQRT_2));
        b.op("Mul", &[u, &root], &[])
    } else {
        let root = b.init("root", Tensor::scalar(std::f32::consts::SQRT_2));
        b.op("Div", &[u, &root], &[])
    };
    let e = b.op("Erf", &[&inner], &[]);
    let bent = b.op("Add", &[&e, &one], &[]);
    if form == 1 {
        let m = b.op("Mul", &[u, &bent], &[]);
        return b.op("Mul", &[&m, &half], &[]);
    }
    let m = b.op("Mul", &[u, &half], &[]);
    b.op("Mul", &[&m, &bent], &[])
}

#[test]
fn gelu_is_recognised_in_every_form_that_exporters_write() {
    for form in 0..4 {
        let mut b = GraphBuilder::new("gelu");
        let x = b.input("x", DType::F32, &dims(&[2, 7]));
        let u = b.op("Neg", &[&x], &[]);
        let y = written_gelu(&mut b, &u, form, &[]);
        let (ops, _) = unchanged(&closed(b, &y), &[Random(4).tensor(&[2, 7])]);
        assert_eq!(ops, ["Neg", "hedge.Gelu"], "form {form}");
    }
}

#[test]
fn a_number_with_dimensions_is_a_number_unless_it_adds_dimensions() {
    for (one, recognised) in [(vec![1, 1], true), (vec![1, 1, 1], false)] {
        let mut b = GraphBuilder::new("numbers");
        let x = b.input("x", DType::F32, &dims(&[2, 7]));
        let y = written_gelu(&mut b, &x, 0, &one);
        let (ops, report) = unchanged(&closed(b, &y), &[Random(4).tensor(&[2, 7])]);
        assert_eq!(ops == ["hedge.Gelu"], recognised, "{one:?}: {ops:?}");
        assert_eq!(report.counts.contains_key("scalars"), recognised, "{one:?}");
    }
}

#[test]
fn two_numbers_with_dimensions_keep_them() {
    let mut b = GraphBuilder::new("numbers");
    let x = b.input("x", DType::F32, &[]);
    let (one, two) = (b.init("one", floats(&[1, 1], &[1.0])), b.init("two", floats(&[1, 1], &[2.0])));
    let s = b.op("Add", &[&one, &two], &[]);
    let y = b.op("Mul", &[&s, &x], &[]);
    unchanged(&closed(b, &y), &[floats(&[], &[3.0])]);
}

#[test]
fn a_layer_norm_written_out_is_recognised_with_one_centring_or_two() {
    for twice in [false, true] {
        let mut random = Random(5);
        let mut b = GraphBuilder::new("norm");
        let x = b.input("x", DType::F32, &[Dim::named("N"), 3.into(), 8.into()]);
        let axes = [("axes", Attribute::from([-1]))];
        let mean = b.op("ReduceMean", &[&x], &axes);
        let centred = b.op("Sub", &[&x, &mean], &[]);
        let again = if twice { b.op("Sub", &[&x, &mean], &[]) } else { centred.clone() };
        let two = b.init("two", Tensor::scalar(2f32));
        let square = b.op("Pow", &[&centred, &two], &[]);
        let variance = b.op("ReduceMean", &[&square], &axes);
        let epsilon = b.init("eps", Tensor::scalar(1e-5f32));
        let sum = b.op("Add", &[&variance, &epsilon], &[]);
        let deviation = b.op("Sqrt", &[&sum], &[]);
        let normal = b.op("Div", &[&again, &deviation], &[]);
        let (scale, bias) = (b.init("scale", random.tensor(&[8])), b.init("bias", random.tensor(&[8])));
        let scaled = b.op("Mul", &[&normal, &scale], &[]);
        let y = b.op("Add", &[&scaled, &bias], &[]);
        let (ops, _) = unchanged(&closed(b, &y), &[random.tensor(&[2, 3, 8])]);
        assert_eq!(ops, ["hedge.LayerNormalization"]);
    }
}

#[test]
fn an_rms_norm_written_out_is_recognised() {
    let mut random = Random(6);
    let mut b = GraphBuilder::new("norm");
    let x = b.input("x", DType::F32, &[Dim::named("N"), 8.into()]);
    let two = b.init("two", Tensor::scalar(2f32));
    let square = b.op("Pow", &[&x, &two], &[]);
    let mean = b.op("ReduceMean", &[&square], &[("axes", Attribute::from([-1]))]);
    let epsilon = b.init("eps", Tensor::scalar(1e-6f32));
    let sum = b.op("Add", &[&mean, &epsilon], &[]);
    let root = b.op("Sqrt", &[&sum], &[]);
    let inverse = b.op("Reciprocal", &[&root], &[]);
    let normal = b.op("Mul", &[&x, &inverse], &[]);
    let scale = b.init("scale", random.tensor(&[8]));
    let y = b.op("Mul", &[&scale, &normal], &[]);
    let (ops, _) = unchanged(&closed(b, &y), &[random.tensor(&[2, 8])]);
    assert_eq!(ops, ["hedge.RMSNormalization"]);
}

#[test]
fn attention_written_out_is_recognised_and_gives_the_same_for_every_rank_and_mask() {
    // (queries' leading dimensions, mask)
    let cases: [(&[usize], Option<&[usize]>); 4] =
        [(&[2, 3], None), (&[2, 3], Some(&[2, 1, 1, 6])), (&[2, 3], Some(&[5, 6])), (&[4], Some(&[5, 6]))];
    for (leading, mask) in cases {
        let mut random = Random(7);
        let shape = |rows: usize, columns: usize| [leading, &[rows, columns]].concat();
        let mut b = GraphBuilder::new("attention");
        let free = vec![Dim::Unknown; leading.len() + 2];
        let (q, k, v) =
            (b.input("q", DType::F32, &free), b.input("k", DType::F32, &free), b.input("v", DType::F32, &free));
        let product = b.op("MatMul", &[&q, &k], &[]);
        let scale = b.init("scale", Tensor::scalar(0.5f32));
        let mut scores = b.op("Mul", &[&product, &scale], &[]);
        if let Some(mask) = mask {
            let mask = b.init("mask", random.tensor(mask));
            scores = b.op("Add", &[&scores, &mask], &[]);
        }
        let p = b.op("Softmax", &[&scores], &[("axis", Attribute::Int(-1))]);
        let y = b.op("MatMul", &[&p, &v], &[]);
        let inputs = [random.tensor(&shape(5, 4)), random.tensor(&shape(4, 6)), random.tensor(&shape(6, 3))];
        let (ops, _) = unchanged(&closed(b, &y), &inputs);
        assert_eq!(ops, ["hedge.Attention"], "{leading:?} {mask:?}");
    }
}

#[test]
fn what_gives_back_what_it_takes_is_left_out_and_outputs_keep_their_names() {
    let mut random = Random(8);
    let mut b = GraphBuilder::new("idle");
    let x = b.input("x", DType::F32, &dims(&[2, 3]));
    let i = b.op("Identity", &[&x], &[]);
    let d = b.op("Dropout", &[&i], &[]);
    let c = b.op("Cast", &[&d], &[("to", Attribute::Int(1))]);
    let turned = b.op("Transpose", &[&c], &[("perm", Attribute::from([1, 0]))]);
    let back = b.op("Transpose", &[&turned], &[("perm", Attribute::from([1, 0]))]);
    let one = b.init("one", Tensor::scalar(1f32));
    let m = b.op("Mul", &[&back, &one], &[]);
    let r = b.op("Relu", &[&m], &[]);
    b.op_as("y", "Identity", &[&r], &[]);
    let (ops, _) = unchanged(&closed(b, "y"), &[random.tensor(&[2, 3])]);
    assert_eq!(ops, ["Relu"]);
}

#[test]
fn constants_are_computed_and_the_same_work_is_done_once() {
    let mut random = Random(9);
    let mut b = GraphBuilder::new("constants");
    let x = b.input("x", DType::F32, &dims(&[2, 3]));
    let four = b.init("four", Tensor::scalar(4f32));
    let root = b.op("Sqrt", &[&four], &[]);
    let (first, second) = (b.op("Mul", &[&x, &root], &[]), b.op("Mul", &[&x, &root], &[]));
    let y = b.op("Add", &[&first, &second], &[]);
    let (ops, _) = unchanged(&closed(b, &y), &[random.tensor(&[2, 3])]);
    assert_eq!(ops, ["Mul", "Add"]);
}

/// `cast(ids == 0..5) @ table`, the ids spread over columns or not.
fn one_hot_product(table: Tensor, spread: bool, numbers: &[i64]) -> Graph {
    let mut b = GraphBuilder::new("one-hot");
    let x = b.input("x", DType::I64, &[Dim::named("N"), 3.into()]);
    let last = b.init("last", Tensor::from_slice(&[3], &[0i64, 3, 1]).unwrap());
    let mut ids = b.op("Reshape", &[&x, &last], &[]);
    if spread {
        let shape = b.init("shape", Tensor::from_slice(&[3], &[2i64, 1, 5]).unwrap());
        ids = b.op("Expand", &[&ids, &shape], &[]);
    }
    let numbers = b.init("numbers", Tensor::from_slice(&[1, 1, 5], numbers).unwrap());
    let equal = b.op("Equal", &[&numbers, &ids], &[]);
    let rows = b.op("Cast", &[&equal], &[("to", Attribute::Int(1))]);
    let table = b.init("table", table);
    let product = b.op("MatMul", &[&rows, &table], &[]);
    let y = b.op("Relu", &[&product], &[]);
    closed(b, &y)
}

#[test]
fn a_product_with_one_hot_rows_picks_them_and_gives_zeros_for_ids_of_no_row() {
    for spread in [false, true] {
        let graph = one_hot_product(Random(10).tensor(&[5, 4]), spread, &[0, 1, 2, 3, 4]);
        let x = Tensor::from_slice(&[2, 3], &[0i64, 4, 2, 5, -1, i64::MIN]).unwrap();
        let (ops, _) = unchanged(&graph, &[x]);
        assert_eq!(ops, ["Reshape", "hedge.PickRows", "Relu"]);
    }
}

#[test]
fn a_product_with_rows_that_are_not_one_hot_stays() {
    let infinite = floats(&[5, 1], &[f32::INFINITY; 5]);
    for (table, numbers) in [(Random(11).tensor(&[5, 4]), [0, 1, 2, 4, 3]), (infinite, [0, 1, 2, 3, 4])] {
        let (kept, _) = optimized(&one_hot_product(table, true, &numbers));
        assert!(kept.nodes.iter().any(|node| node.op == "MatMul"));
    }
}

/// A chain of common operators over rows of 8, with values taken more than once.
fn random_graph(random: &mut Random) -> Graph {
    let mut b = GraphBuilder::new("random");
    let mut values = vec![b.input("x", DType::F32, &[Dim::named("N"), 8.into()])];
    for index in 0..3 + random.below(12) {
        let pick = |random: &mut Random| values[values.len() - 1 - random.below(values.len().min(3))].clone();
        let (u, v) = (pick(random), pick(random));
        let constant = |random: &mut Random, b: &mut GraphBuilder, shape: &[usize]| {
            let tensor = random.tensor(shape);
            b.init(&format!("c{index}"), tensor)
        };
        let made = match random.below(12) {
            0 => b.op("Relu", &[&u], &[]),
            1 => b.op("Add", &[&u, &v], &[]),
            2 => {
                let c = constant(random, &mut b, &[8]);
                b.op("Mul", &[&u, &c], &[])
            }
            3 => {
                let c = constant(random, &mut b, &[8, 8]);
                b.op("MatMul", &[&u, &c], &[])
            }
            4 => {
                let c = constant(random, &mut b, &[1, 8]);
                b.op("Add", &[&c, &u], &[])
            }
            5 => b.op("Identity", &[&u], &[]),
            6 => written_gelu(&mut b, &u, index % 4, &[]),
            7 => b.op("Softmax", &[&u], &[("axis", Attribute::Int(-1))]),
            8 => {
                let turned = b.op("Transpose", &[&u], &[("perm", Attribute::from([1, 0]))]);
                b.op("Transpose", &[&turned], &[("perm", Attribute::from([1, 0]))])
            }
            9 => {
                let c = constant(random, &mut b, &[8, 8]);
                b.op("Gemm", &[&u, &c], &[("transB", Attribute::Int(1))])
            }
            10 => {
                let shape = b.init("rows", Tensor::from_slice(&[2], &[-1i64, 8]).unwrap());
                b.op("Reshape", &[&u, &shape], &[])
            }
            _ => {
                let other = b.op("Concat", &[&u, &v], &[("axis", Attribute::Int(1))]);
                let c = constant(random, &mut b, &[16, 8]);
                b.op("MatMul", &[&other, &c], &[])
            }
        };
        // Values stay within the numbers that 32 bits tell apart well.
        values.push(b.op("Tanh", &[&made], &[]));
    }
    let last = values[values.len() - 1].clone();
    closed(b, &last)
}

#[test]
fn random_graphs_give_the_same_optimized_and_the_shapes_foreseen() {
    for seed in 1..=60u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut graph = random_graph(&mut random);
        let x = random.tensor(&[3, 8]);
        unchanged(&graph, std::slice::from_ref(&x));
        infer_shapes(&mut graph);
        // Every value in between becomes an output, to be compared with what was foreseen of it.
        let foreseen = graph.values.clone();
        graph.outputs.extend(foreseen.iter().cloned());
        for (info, tensor) in foreseen.iter().zip(plain(&graph, &[x]).iter().skip(1)) {
            let fits = |(dim, &size): (&Dim, &usize)| match dim {
                Dim::Known(known) => *known == size,
                Dim::Named(name) => name == "N" && size == 3,
                Dim::Unknown => true,
            };
            let shape = info.shape.as_ref().expect("these operators are all known");
            assert!(shape.len() == tensor.shape().len(), "seed {seed}: {info:?}");
            assert!(shape.iter().zip(tensor.shape()).all(fits), "seed {seed}: {info:?} is {:?}", tensor.shape());
            assert_eq!(info.dtype, Some(tensor.dtype()), "seed {seed}");
        }
    }
}
