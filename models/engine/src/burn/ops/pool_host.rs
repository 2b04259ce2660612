//! Max pools on the host: of integers, and with the indices of what was picked.

use hedge_tensor::Tensor;
use rayon::prelude::*;

use super::OpError;
use super::host::{for_each_index, strides, with_elements};
use super::number::{Number, tensor};
use super::window::{Window, WindowSpec, spatial_of};

/// The largest element of each window and, where `column_major` is given, its index in the whole tensor, counted with the
/// first spatial dimension fastest if it is true.
pub(super) fn largest(x: &Tensor, spec: &WindowSpec, column_major: Option<bool>) -> Result<Vec<Tensor>, OpError> {
    let spatial = spatial_of(x.shape())?;
    let window = spec.resolve(spatial, None)?;
    with_elements!(x.dtype(), T => pooled::<T>(x, &window, column_major))
}

fn pooled<T: Number + Send + Sync>(
    x: &Tensor,
    window: &Window,
    column_major: Option<bool>,
) -> Result<Vec<Tensor>, OpError> {
    let shape = x.shape();
    let spatial = &shape[2..];
    let values = x.to_vec::<T>()?;
    let size: usize = spatial.iter().product();
    let planes = if size == 0 { Vec::new() } else { values.chunks(size).collect() };
    let picked = planes.par_iter().map(|plane| picks(plane, window, spatial)).collect::<Result<Vec<_>, _>>()?;
    let out: Vec<usize> = shape[..2].iter().chain(&window.outputs).copied().collect();
    let places = picked.iter().enumerate().flat_map(|(plane, picks)| picks.iter().map(move |&pick| (plane, pick)));
    let (mut largest, mut indices) = (Vec::new(), Vec::new());
    for (plane, pick) in places {
        largest.push(planes[plane][pick]);
        if let Some(column_major) = column_major {
            let inside = if column_major { first_fastest(pick, spatial) } else { pick };
            indices.push((plane * size + inside) as i64);
        }
    }
    let mut outputs = vec![tensor(x.dtype(), &out, &largest)?];
    if column_major.is_some() {
        outputs.push(Tensor::from_slice(&out, &indices)?);
    }
    Ok(outputs)
}

/// Where the first largest element of each window lies in a plane.
fn picks<T: Number>(plane: &[T], window: &Window, spatial: &[usize]) -> Result<Vec<usize>, OpError> {
    let steps = strides(spatial);
    let mut picks = Vec::new();
    for_each_index(&window.outputs, |place| {
        let mut best: Option<usize> = None;
        for_each_index(&window.kernel, |step| {
            let at = (0..spatial.len()).try_fold(0, |sum, axis| {
                Some(sum + window.position(axis, place[axis], step[axis], spatial[axis])? * steps[axis])
            });
            if let Some(at) = at
                && best.is_none_or(|best| plane[at] > plane[best])
            {
                best = Some(at);
            }
            Ok(())
        })?;
        picks.push(best.ok_or_else(|| OpError::new("a window of its lies on padding alone"))?);
        Ok(())
    })?;
    Ok(picks)
}

fn first_fastest(index: usize, spatial: &[usize]) -> usize {
    let mut stride = 1;
    let mut rest = index;
    let mut at = 0;
    let steps = strides(spatial);
    for (axis, &size) in spatial.iter().enumerate() {
        at += rest / steps[axis] * stride;
        rest %= steps[axis];
        stride *= size;
    }
    at
}
