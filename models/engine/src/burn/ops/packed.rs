//! `Conv` by the kernel of [`direct`]: with constant weights, which are packed when the model is prepared, and with weights
//! that come at run time.

use std::sync::{Arc, Mutex, PoisonError};

use burn_backend::ops::FloatTensorOps;
use burn_backend::{DType as BurnType, TensorData, TensorMetadata};
use hedge_graph::Node;
use hedge_tensor::DType;

use super::convolution::{bound, groups, only_bias, placed, within};
use super::direct::{Bounds, Packed, Plan};
use super::precision::empty;
use super::window::{Axis, Window, WindowSpec};
use super::{BoxOp, OpError, one, simd};
use crate::burn::value::singles;
use crate::burn::{B, Context, Primitive, Value};

/// A convolution whose weights are known: `None` where they are not or where the kernel is not for them. What is wrong with
/// them is left to the operator that takes them as they come, which says so when it runs.
pub(super) fn convolution(node: &Node, constant: impl Fn(usize) -> Option<Value>) -> Result<Option<BoxOp>, OpError> {
    let (spec, groups) = (WindowSpec::read(node)?, groups(node, "group")?);
    let Some(weight) = constant(1).filter(|weight| weight.dtype() == DType::F32) else { return Ok(None) };
    let bias = constant(2);
    let given = node.inputs.get(2).is_some_and(|name| !name.is_empty());
    let kernel = weight.shape();
    let Some(shape) = planar(&kernel, groups) else { return Ok(None) };
    let fits = |bias: &Value| bias.dtype() == DType::F32 && bias.shape() == [kernel[0]];
    if given != bias.is_some() || !bias.as_ref().is_none_or(fits) {
        return Ok(None);
    }
    let addends = bias.as_ref().map(Value::singles).transpose()?;
    let bounds = [bound(node, "least"), bound(node, "most")];
    let packed = Packed::new(&weight.singles()?, shape, groups, addends.as_deref()).within(Bounds::new(bounds));
    drop(addends);
    let convolution = Convolution { packed, kernel, bias, bounds, spec, groups, last: Mutex::default() };
    one(move |context, mut inputs| convolution.run(inputs.take(0)?, context)).map(Some)
}

/// The convolution with weights that are packed for this call alone; `None` where the kernel is not for them.
pub(super) fn once(
    x: &Primitive,
    weight: &Primitive,
    bias: Option<&Primitive>,
    window: &Window,
    groups: usize,
    context: &Context,
) -> Result<Option<Primitive>, OpError> {
    let (input, kernel) = (x.shape().to_vec(), weight.shape().to_vec());
    if x.dtype() != BurnType::F32 {
        return Ok(None);
    }
    let Some(shape) = planar(&kernel, groups) else { return Ok(None) };
    let addends = bias.map(singles).transpose()?;
    let packed = Packed::new(&singles(weight)?, shape, groups, addends.as_deref());
    let [rows, columns] = axes(&input, window);
    let Some(plan) = packed.plan(rows, columns) else { return Ok(None) };
    let output = [&[input[0], kernel[0]], window.outputs.as_slice()].concat();
    let mut y = context.buffers.take(output.iter().product());
    packed.run(&singles(x)?, &plan, &mut y);
    Ok(Some(B::float_from_data(TensorData::new(y, output), &context.device)))
}

struct Convolution {
    packed: Packed,
    /// The shape of the weights.
    kernel: Vec<usize>,
    bias: Option<Value>,
    /// The least and the most that it gives.
    bounds: [Option<f32>; 2],
    spec: WindowSpec,
    groups: usize,
    /// The plan for the last input's shape: the next one's is the same as a rule.
    last: Mutex<Option<Arc<Planned>>>,
}

struct Planned {
    input: Vec<usize>,
    output: Vec<usize>,
    plan: Plan,
}

impl Convolution {
    fn run(&self, x: Value, context: &Context) -> Result<Value, OpError> {
        let dtype = x.dtype();
        if dtype != DType::F32 {
            return Err(OpError::new(format!("its input is {dtype}, its weights {}; they must be alike", DType::F32)));
        }
        let input = x.shape();
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let planned = match last.filter(|last| last.input == input) {
            Some(planned) => planned,
            None => {
                let window = placed(&input, &self.kernel, self.groups, &self.spec)?;
                let output = [&[input[0], self.kernel[0]], window.outputs.as_slice()].concat();
                if let Some(empty) = empty(dtype, &output)? {
                    return Ok(empty);
                }
                if input.contains(&0) {
                    let y = only_bias(self.bias.clone(), dtype, &output, context)?;
                    return within(y, self.bounds, context);
                }
                self.planned(input, output, &window)?
            }
        };
        let mut y = context.buffers.take(planned.output.iter().product());
        if Packed::is_large(&planned.plan, y.len()) {
            context.note_threads();
        }
        let x = Value::float(x.into_float(context)?);
        self.packed.run(&x.singles()?, &planned.plan, &mut y);
        x.into_buffer().into_iter().for_each(|buffer| context.buffers.give(buffer));
        let y = TensorData::new(y, planned.output.clone());
        Ok(Value::float(B::float_from_data(y, &context.device)))
    }

    fn planned(&self, input: Vec<usize>, output: Vec<usize>, window: &Window) -> Result<Arc<Planned>, OpError> {
        let [rows, columns] = axes(&input, window);
        let plan = self.packed.plan(rows, columns).ok_or_else(|| {
            OpError::new(format!("an input of shape {input:?} with its padding of {:?} is too large", window.pads))
        })?;
        let planned = Arc::new(Planned { input, output, plan });
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&planned));
        Ok(planned)
    }
}

/// The shape of weights as those of planes, `None` where the kernel is not for them.
pub(super) fn planar(kernel: &[usize], groups: usize) -> Option<[usize; 4]> {
    let shape = match *kernel {
        [outputs, channels, length] => [outputs, channels, 1, length],
        [outputs, channels, rows, columns] => [outputs, channels, rows, columns],
        _ => return None,
    };
    (simd::is_available() && !shape.contains(&0) && shape[0].is_multiple_of(groups)).then_some(shape)
}

/// The rows and columns of a window over a plane, or over a line as a plane of one row.
pub(super) fn axes(input: &[usize], window: &Window) -> [Axis; 2] {
    match input.len() {
        3 => [Axis { input: 1, kernel: 1, stride: 1, dilation: 1, pad: 0, outputs: 1 }, window.axis(0, input[2])],
        _ => [window.axis(0, input[2]), window.axis(1, input[3])],
    }
}
