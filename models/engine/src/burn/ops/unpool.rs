//! Back from windows to the plane that they were taken from: `Col2Im` and `MaxUnpool`.

use hedge_graph::Node;
use hedge_tensor::{Tensor, element_count};

use super::host::{for_each_index, need, optional, strides, with_elements};
use super::number::{Number, tensor, zeros};
use super::window::sizes_of;
use super::{BoxOp, OpError, on_host};
use crate::burn::Value;

/// Adds blocks, one a column, up to the image that they came from.
pub(super) fn col2im(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let ints = |name: &str| node.ints(name).map(<[i64]>::to_vec);
    let (dilations, pads, steps) = (ints("dilations"), ints("pads"), ints("strides"));
    on_host(move |inputs| {
        let x = need(inputs, 0)?;
        let image = sizes(need(inputs, 1)?, "image_shape")?;
        let block = sizes(need(inputs, 2)?, "block_shape")?;
        let rank = image.len();
        let each = |given: &Option<Vec<i64>>, count: usize, name: &str, default: usize| match given {
            Some(values) => sizes_of(values, count, name),
            None => Ok(vec![default; count]),
        };
        let blocks = Blocks {
            strides: each(&steps, rank, "strides", 1)?,
            dilations: each(&dilations, rank, "dilations", 1)?,
            pads: each(&pads, 2 * rank, "pads", 0)?,
            image,
            block,
        };
        let (shape, places) = blocks.check(x.shape())?;
        let y = with_elements!(x.dtype(), T => blocks.summed::<T>(x, &shape, &places))?;
        Ok(vec![y])
    })
}

fn sizes(tensor: &Tensor, name: &str) -> Result<Vec<usize>, OpError> {
    let values = Value::host(tensor.clone()).to_ints()?;
    sizes_of(&values, values.len(), name)
}

struct Blocks {
    image: Vec<usize>,
    block: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    pads: Vec<usize>,
}

impl Blocks {
    /// The output's shape, and how many places a block has along each dimension.
    fn check(&self, input: &[usize]) -> Result<(Vec<usize>, Vec<usize>), OpError> {
        let rank = self.image.len();
        let wrong = || {
            OpError::new(format!(
                "columns {input:?} are not those of blocks {:?} in an image {:?}",
                self.block, self.image
            ))
        };
        let positive = self.block.iter().chain(&self.strides).chain(&self.dilations).all(|&size| size > 0);
        if input.len() != 3 || self.block.len() != rank || !positive {
            return Err(wrong());
        }
        let places = (0..rank).map(|axis| {
            let extent = (self.block[axis] - 1).checked_mul(self.dilations[axis])?.checked_add(1)?;
            let padded = self.image[axis].checked_add(self.pads[axis])?.checked_add(self.pads[rank + axis])?;
            Some(padded.checked_sub(extent)? / self.strides[axis] + 1)
        });
        let places = places.collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
        let points = element_count(&self.block).ok_or_else(wrong)?;
        if element_count(&places) != Some(input[2]) || !input[1].is_multiple_of(points) {
            return Err(wrong());
        }
        let shape: Vec<usize> = [input[0], input[1] / points].into_iter().chain(self.image.iter().copied()).collect();
        Ok((shape, places))
    }

    fn summed<T: Number>(&self, x: &Tensor, shape: &[usize], places: &[usize]) -> Result<Tensor, OpError> {
        let columns = x.to_vec::<T>()?;
        let mut image = zeros::<T>(shape)?;
        let (size, length): (usize, usize) = (self.image.iter().product(), places.iter().product());
        let points: usize = self.block.iter().product();
        let steps = strides(&self.image);
        let rank = self.image.len();
        // The targets of one channel's elements are those of all others.
        let mut targets = Vec::with_capacity(points * length);
        for_each_index(&self.block, |point| {
            for_each_index(places, |place| {
                let target = (0..rank).try_fold(0, |sum, axis| {
                    let padded = place[axis] * self.strides[axis] + point[axis] * self.dilations[axis];
                    let position = padded.checked_sub(self.pads[axis]).filter(|&at| at < self.image[axis])?;
                    Some(sum + position * steps[axis])
                });
                targets.push(target);
                Ok(())
            })
        })?;
        for channel in 0..shape[0] * shape[1] {
            let plane = &mut image[channel * size..(channel + 1) * size];
            let column = &columns[channel * targets.len()..(channel + 1) * targets.len()];
            for (target, &value) in targets.iter().zip(column) {
                if let Some(target) = *target {
                    plane[target] = plane[target].plus(value);
                }
            }
        }
        tensor(x.dtype(), shape, &image)
    }
}

/// Puts pooled elements back to where the pool's indices say that they came from; the rest is zero.
pub(super) fn max_unpool(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let ints = |name: &str| node.ints(name).map(<[i64]>::to_vec);
    let kernel = ints("kernel_shape").ok_or_else(|| OpError::new("kernel_shape is missing"))?;
    let (steps, pads) = (ints("strides"), ints("pads"));
    on_host(move |inputs| {
        let (x, indices) = (need(inputs, 0)?, need(inputs, 1)?);
        let shape = x.shape();
        let rank = kernel.len();
        if shape.len() != rank + 2 || indices.shape() != shape {
            return Err(OpError::new(format!(
                "its input is {shape:?}, its indices {:?} and its kernel {kernel:?}",
                indices.shape()
            )));
        }
        let kernel = sizes_of(&kernel, rank, "kernel_shape")?;
        let strides = steps.as_ref().map_or(Ok(vec![1; rank]), |steps| sizes_of(steps, rank, "strides"))?;
        let pads = pads.as_ref().map_or(Ok(vec![0; 2 * rank]), |pads| sizes_of(pads, 2 * rank, "pads"))?;
        let plane = |axis: usize| {
            let reach = shape[axis + 2].saturating_sub(1).checked_mul(strides[axis])?;
            let full = reach.checked_add(kernel[axis])?;
            Some(full.saturating_sub(pads[axis].saturating_add(pads[rank + axis])))
        };
        let inferred = (0..rank).map(plane).collect::<Option<Vec<_>>>();
        let inferred = inferred.ok_or_else(|| OpError::new("its output is too large"))?;
        let inferred: Vec<usize> = shape[..2].iter().copied().chain(inferred).collect();
        let wanted = optional(inputs, 2).map(|wanted| sizes(wanted, "output_shape")).transpose()?;
        let wanted = match wanted {
            Some(wanted) if wanted.len() == rank => shape[..2].iter().copied().chain(wanted).collect(),
            Some(wanted) => wanted,
            None => inferred.clone(),
        };
        let y = with_elements!(x.dtype(), T => unpooled::<T>(x, indices, &inferred, &wanted))?;
        Ok(vec![y])
    })
}

/// The indices are those of the whole tensor of the inferred shape, which is then put into the corner of the wanted one.
fn unpooled<T: Number>(x: &Tensor, indices: &Tensor, inferred: &[usize], wanted: &[usize]) -> Result<Tensor, OpError> {
    if wanted.len() != inferred.len() {
        return Err(OpError::new(format!("output_shape {wanted:?} has not the dimensions of {inferred:?}")));
    }
    let mut plane = zeros::<T>(inferred)?;
    for (value, index) in x.to_vec::<T>()?.into_iter().zip(indices.to_vec::<i64>()?) {
        let place = usize::try_from(index).ok().and_then(|index| plane.get_mut(index));
        *place.ok_or_else(|| OpError::new(format!("index {index} is outside of {inferred:?}")))? = value;
    }
    if wanted == inferred {
        return tensor(x.dtype(), wanted, &plane);
    }
    let mut y = zeros::<T>(wanted)?;
    let (from, to) = (strides(inferred), strides(wanted));
    let common: Vec<usize> = inferred.iter().zip(wanted).map(|(&a, &b)| a.min(b)).collect();
    for_each_index(&common, |index| {
        let at = |strides: &[usize]| index.iter().zip(strides).map(|(&i, &stride)| i * stride).sum::<usize>();
        y[at(&to)] = plane[at(&from)];
        Ok(())
    })?;
    tensor(x.dtype(), wanted, &y)
}
