//! How scales and zero points lie on a tensor: one for all of it, one for each place along an axis, or one for each block
//! of places along an axis (there the parameters have as many dimensions as the tensor).

use rayon::prelude::*;

use super::super::{OpError, axis_of};

/// Elements at a time where work is shared among threads.
const CHUNK: usize = 1 << 15;

/// Scales and zero points, in the order of their tensors.
pub(super) struct Levels {
    pub(super) scales: Vec<f32>,
    pub(super) zeros: Vec<f32>,
}

/// The tensor seen as `[outer, size, inner]`, with parameters `[1]`, `[size]` or `[outer, ceil(size / block), inner]`.
pub(super) struct Grid {
    shape: Vec<usize>,
    axis: usize,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Tensor,
    Axis,
    Block { size: usize, count: usize },
}

impl Grid {
    pub(super) fn new(shape: &[usize], parameters: &[usize], axis: i64, block: usize) -> Result<Self, OpError> {
        let wrong = || OpError::new(format!("scales of shape {parameters:?} do not fit an input of shape {shape:?}"));
        let count: usize = parameters.iter().product();
        if block == 0 && parameters.len() <= 1 && count == 1 {
            return Ok(Grid { shape: shape.to_vec(), axis: 0, kind: Kind::Tensor });
        }
        let axis = axis_of(axis, shape.len())?;
        if block == 0 {
            let fits = parameters.len() == 1 && count == shape[axis];
            return fits.then(|| Grid { shape: shape.to_vec(), axis, kind: Kind::Axis }).ok_or_else(wrong);
        }
        let blocks = shape[axis].div_ceil(block);
        let fits = parameters.len() == shape.len()
            && (0..shape.len()).all(|i| parameters[i] == if i == axis { blocks } else { shape[i] });
        let kind = Kind::Block { size: block, count: blocks };
        fits.then(|| Grid { shape: shape.to_vec(), axis, kind }).ok_or_else(wrong)
    }

    pub(super) fn is_blocked(&self) -> bool {
        matches!(self.kind, Kind::Block { .. })
    }

    /// The shape under which parameters that are not blocked broadcast over the tensor.
    pub(super) fn aligned_shape(&self) -> Vec<usize> {
        let mut shape = vec![1; self.shape.len()];
        if self.kind == Kind::Axis {
            shape[self.axis] = self.shape[self.axis];
        }
        shape
    }

    /// Parameters under a shape that broadcasts over the tensor.
    pub(super) fn spread(&self, parameters: Vec<f32>) -> (Vec<f32>, Vec<usize>) {
        let Kind::Block { size, count } = self.kind else { return (parameters, self.aligned_shape()) };
        let (length, inner) = (self.shape[self.axis], self.inner());
        let row = |outer: usize, place: usize| {
            let start = (outer * count + place / size) * inner;
            &parameters[start..start + inner]
        };
        let outer: usize = self.shape[..self.axis].iter().product();
        let rows = (0..outer).flat_map(|outer| (0..length).map(move |place| (outer, place)));
        (rows.flat_map(|(outer, place)| row(outer, place).iter().copied()).collect(), self.shape.clone())
    }

    /// Replaces each element by `f(element, scale, zero point)`.
    pub(super) fn apply(&self, values: &mut [f32], levels: &Levels, f: impl Fn(f32, f32, f32) -> f32 + Sync) {
        if values.is_empty() {
            return;
        }
        let same = |run: &mut [f32], index: usize| {
            let (scale, zero) = (levels.scales[index], levels.zeros[index]);
            run.iter_mut().for_each(|value| *value = f(*value, scale, zero));
        };
        let each = |run: &mut [f32], start: usize| {
            let parameters = levels.scales[start..].iter().zip(&levels.zeros[start..]);
            run.iter_mut().zip(parameters).for_each(|(value, (&scale, &zero))| *value = f(*value, scale, zero));
        };
        let (length, inner) = (self.shape.get(self.axis).copied().unwrap_or(1), self.inner());
        match self.kind {
            Kind::Tensor if values.len() > CHUNK => values.par_chunks_mut(CHUNK).for_each(|run| same(run, 0)),
            Kind::Tensor => same(values, 0),
            Kind::Axis if inner == 1 => values.chunks_mut(length).for_each(|run| each(run, 0)),
            Kind::Axis => values.chunks_mut(inner).enumerate().for_each(|(row, run)| same(run, row % length)),
            Kind::Block { size, count } => {
                for (outer, plane) in values.chunks_mut(length * inner).enumerate() {
                    for (block, rows) in plane.chunks_mut(size * inner).enumerate() {
                        let start = (outer * count + block) * inner;
                        if inner == 1 {
                            same(rows, start);
                        } else {
                            rows.chunks_mut(inner).for_each(|run| each(run, start));
                        }
                    }
                }
            }
        }
    }

    fn inner(&self) -> usize {
        self.shape.get(self.axis + 1..).unwrap_or_default().iter().product()
    }
}
