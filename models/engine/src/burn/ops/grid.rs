//! Reading an input along a grid of coordinates (`GridSample`), and the grids of affine maps (`AffineGrid`).

use burn_backend::ops::FloatTensorOps;
use burn_backend::{FloatDType, TensorData};
use hedge_graph::Node;
use hedge_tensor::{DType, Tensor, element_count};
use rayon::prelude::*;

use super::host::{for_each_index, need, room, strides, with_elements};
use super::number::{Number, tensor};
use super::precision::{empty, narrowed, widened};
use super::{BoxOp, OpError, on_host, one, size_of};
use crate::burn::{B, Context, Value};

/// How a grid reads between and beyond the input's elements.
struct Sampling {
    filter: Filter,
    beyond: Beyond,
    align_corners: bool,
}

#[derive(Clone, Copy)]
enum Filter {
    Nearest,
    Linear,
    Cubic,
}

#[derive(Clone, Copy, PartialEq)]
enum Beyond {
    Zeros,
    Border,
    Reflection,
}

pub(super) fn grid_sample(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let sampling = Sampling {
        filter: match node.string("mode").unwrap_or("linear") {
            "nearest" => Filter::Nearest,
            "linear" | "bilinear" => Filter::Linear,
            "cubic" | "bicubic" => Filter::Cubic,
            other => return Err(OpError::new(format!("mode {other:?} is none of nearest, linear, cubic"))),
        },
        beyond: match node.string("padding_mode").unwrap_or("zeros") {
            "zeros" => Beyond::Zeros,
            "border" => Beyond::Border,
            "reflection" => Beyond::Reflection,
            other => return Err(OpError::new(format!("padding_mode {other:?} is none of zeros, border, reflection"))),
        },
        align_corners: node.int("align_corners", 0) != 0,
    };
    on_host(move |inputs| {
        let (x, grid) = (need(inputs, 0)?, need(inputs, 1)?);
        let (shape, points) = (x.shape(), grid.shape());
        let rank = shape.len().saturating_sub(2);
        if rank == 0 || points.len() != rank + 2 || points[0] != shape[0] || points[rank + 1] != rank {
            return Err(OpError::new(format!("a grid {points:?} does not read an input {shape:?}")));
        }
        let coordinates = grid.to_doubles().ok_or_else(|| OpError::new("its grid must be of floats"))?;
        let out: Vec<usize> = shape[..2].iter().chain(&points[1..=rank]).copied().collect();
        // onnxruntime computes coordinates in the grid's type; what is nearest depends on it.
        let wide = grid.dtype() == DType::F64;
        room(x.dtype(), &out)?;
        let y = with_elements!(x.dtype(), T => sampling.sampled::<T>(x, &coordinates, &out, wide))?;
        Ok(vec![y])
    })
}

/// The input elements that one output element is made of, with their weights.
type Stencil = Vec<(usize, f64)>;

impl Sampling {
    fn sampled<T: Number + Send + Sync>(
        &self,
        x: &Tensor,
        coordinates: &[f64],
        out: &[usize],
        wide: bool,
    ) -> Result<Tensor, OpError> {
        let values = x.to_vec::<T>()?;
        let (batch, channels, spatial) = (out[0], out[1], &x.shape()[2..]);
        let size: usize = spatial.iter().product();
        let points: usize = out[2..].iter().product();
        if size == 0 && element_count(out).is_some_and(|count| count > 0) {
            return Err(OpError::new("its input has no elements to read"));
        }
        let mut y = Vec::with_capacity(values.len());
        for image in 0..batch {
            let grid = &coordinates[image * points * spatial.len()..(image + 1) * points * spatial.len()];
            let stencils: Vec<Stencil> =
                grid.par_chunks(spatial.len()).map(|point| self.stencil(point, spatial, wide)).collect();
            let planes = (0..channels).into_par_iter().map(|channel| {
                let plane = &values[(image * channels + channel) * size..][..size];
                let element = |stencil: &Stencil| match (self.filter, stencil.as_slice()) {
                    (Filter::Nearest, [(at, _)]) => plane[*at],
                    (_, stencil) => {
                        T::from_double(stencil.iter().map(|&(at, weight)| plane[at].to_f64() * weight).sum())
                    }
                };
                stencils.iter().map(element).collect::<Vec<T>>()
            });
            y.extend(planes.collect::<Vec<_>>().concat());
        }
        tensor(x.dtype(), out, &y)
    }

    /// A point's coordinates run from the last dimension to the first.
    fn stencil(&self, point: &[f64], spatial: &[usize], wide: bool) -> Stencil {
        let rank = spatial.len();
        let rows: Vec<Vec<(Option<usize>, f64)>> = (0..rank)
            .map(|axis| {
                let at = self.place(point[rank - 1 - axis], spatial[axis]);
                self.taps(if wide { at } else { f64::from(at as f32) }, spatial[axis])
            })
            .collect();
        let steps = strides(spatial);
        let counts: Vec<usize> = rows.iter().map(Vec::len).collect();
        let mut stencil = Vec::with_capacity(counts.iter().product());
        let walked = for_each_index(&counts, |index| {
            let mut weight = 1.0;
            let at = (0..rank).try_fold(0, |sum, axis| {
                let (position, share) = rows[axis][index[axis]];
                weight *= share;
                Some(sum + position? * steps[axis])
            });
            stencil.extend(at.map(|at| (at, weight)));
            Ok(())
        });
        debug_assert!(walked.is_ok(), "nothing in the walk fails");
        stencil
    }

    /// A coordinate from -1 to 1 as a position among `size` elements.
    fn place(&self, coordinate: f64, size: usize) -> f64 {
        let size = size as f64;
        if self.align_corners {
            (coordinate + 1.0) / 2.0 * (size - 1.0)
        } else {
            ((coordinate + 1.0) * size - 1.0) / 2.0
        }
    }

    fn taps(&self, at: f64, size: usize) -> Vec<(Option<usize>, f64)> {
        let at = match self.filter {
            Filter::Nearest => at.round_ties_even(),
            _ => at,
        };
        let (low, high) = self.borders(size);
        let at = match self.beyond {
            // Cubic neighbours are clamped one by one instead, as onnxruntime and PyTorch do.
            Beyond::Border if !matches!(self.filter, Filter::Cubic) && !(low..=high).contains(&at) => {
                at.clamp(0.0, size as f64 - 1.0)
            }
            Beyond::Reflection if !(low..=high).contains(&at) => reflected(at, low, high),
            _ => at,
        };
        let floor = at.floor();
        let element = |offset: i64| self.element((floor as i64).saturating_add(offset), size);
        let x = at - floor;
        match self.filter {
            Filter::Nearest => vec![(self.element(at as i64, size), 1.0)],
            Filter::Linear => vec![(element(0), 1.0 - x), (element(1), x)],
            Filter::Cubic => {
                let distances = [x + 1.0, x, 1.0 - x, 2.0 - x];
                (-1..).zip(distances).map(|(offset, distance)| (element(offset), cubic(distance))).collect()
            }
        }
    }

    /// The element that stands for a position, none where zeros do.
    fn element(&self, index: i64, size: usize) -> Option<usize> {
        let last = size as i64 - 1;
        if (0..=last).contains(&index) {
            return Some(index as usize);
        }
        match self.beyond {
            Beyond::Zeros => None,
            Beyond::Border => Some(index.clamp(0, last) as usize),
            Beyond::Reflection => {
                let (low, high) = self.borders(size);
                Some((reflected(index as f64, low, high) as i64).clamp(0, last) as usize)
            }
        }
    }

    fn borders(&self, size: usize) -> (f64, f64) {
        if self.align_corners { (0.0, size as f64 - 1.0) } else { (-0.5, size as f64 - 0.5) }
    }
}

/// A position thrown back at the borders until it is between them.
fn reflected(at: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    if range <= 0.0 || !at.is_finite() {
        return low;
    }
    let beyond = if at < low { low - at } else { at - high };
    if beyond <= 0.0 {
        return at;
    }
    let rest = beyond % range;
    let even = (beyond / range).floor() % 2.0 == 0.0;
    // Behind the low border, an even number of throws counts from there; behind the high one, from the other.
    if even == (at < low) { low + rest } else { high - rest }
}

/// Keys' cubic convolution with a coefficient of -0.75, as in every implementation of the operator.
fn cubic(distance: f64) -> f64 {
    const A: f64 = -0.75;
    let x = distance.abs();
    if x <= 1.0 { ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0 } else { ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A }
}

/// The grid that an affine map makes of the regular one.
pub(super) fn affine_grid(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let align_corners = node.int("align_corners", 0) != 0;
    one(move |context, mut inputs| {
        let (theta, size) = (inputs.take(0)?, inputs.take(1)?.to_ints()?);
        let size = size.into_iter().map(size_of).collect::<Result<Vec<_>, _>>()?;
        grid_of(theta, &size, align_corners, context)
    })
}

fn grid_of(theta: Value, size: &[usize], align_corners: bool, context: &Context) -> Result<Value, OpError> {
    let (shape, dtype) = (theta.shape(), theta.dtype());
    let rank = size.len().saturating_sub(2);
    if !matches!(rank, 2 | 3) || shape != [size[0], rank, rank + 1] {
        return Err(OpError::new(format!("maps {shape:?} do not fit an output {size:?}")));
    }
    let spatial = &size[2..];
    let out: Vec<usize> = std::iter::once(size[0]).chain(spatial.iter().copied()).chain([rank]).collect();
    let points: usize = element_count(&out)
        .map(|_| spatial.iter().product())
        .ok_or_else(|| OpError::new(format!("its output {out:?} is too large")))?;
    if let Some(empty) = empty(dtype, &out)? {
        return Ok(empty);
    }
    // Coordinates run from the last dimension to the first and end in 1.
    let mut regular = Vec::with_capacity(points * (rank + 1));
    for_each_index(spatial, |index| {
        regular.extend((0..rank).rev().map(|axis| centre(index[axis], spatial[axis], align_corners)));
        regular.push(1.0);
        Ok(())
    })?;
    let theta = widened(theta, context)?;
    let data = TensorData::new(regular, vec![1, points, rank + 1]);
    let regular = B::float_from_data(data, &context.device);
    let wide = if dtype == DType::F64 { FloatDType::F64 } else { FloatDType::F32 };
    let regular = B::float_expand(B::float_cast(regular, wide), vec![size[0], points, rank + 1].into());
    let grid = B::float_matmul(regular, B::float_transpose(theta));
    Ok(narrowed(B::float_reshape(grid, out.into()), dtype))
}

/// Where an element's centre lies between -1 and 1: these are the outermost centres, or the outermost edges.
fn centre(index: usize, size: usize, align_corners: bool) -> f32 {
    let (index, size) = (index as f64, size as f64);
    let at = match align_corners {
        true if size == 1.0 => 0.0,
        true => 2.0 * index / (size - 1.0) - 1.0,
        false => (2.0 * index + 1.0) / size - 1.0,
    };
    at as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_thrown_back_at_the_borders_as_often_as_needed() {
        let thrown = |at: f64| reflected(at, 0.0, 3.0);
        assert_eq!([-1.0, 4.0, 7.0, -4.0, 1.5].map(thrown), [1.0, 2.0, 1.0, 2.0, 1.5]);
        assert_eq!(reflected(5.0, 0.0, 0.0), 0.0);
    }
}
