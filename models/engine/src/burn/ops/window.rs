//! What convolutions and pools have in common: a window that slides over the spatial dimensions.

use hedge_graph::Node;

use super::{OpError, size_of};

/// A window's attributes, with paddings and positions resolved for a known input.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) kernel: Vec<usize>,
    pub(super) strides: Vec<usize>,
    pub(super) dilations: Vec<usize>,
    /// (begin, end) of each spatial dimension.
    pub(super) pads: Vec<(usize, usize)>,
    /// The elements of each spatial dimension before the first place; where there are some, there is no padding.
    pub(super) skips: Vec<usize>,
    /// How many places the window takes along each spatial dimension.
    pub(super) outputs: Vec<usize>,
    /// Whether a last window that only begins on the input counts.
    pub(super) ceil: bool,
}

/// A window along one spatial dimension of an input of known size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Axis {
    pub(super) input: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
    /// The padding before the input; that behind it follows from `outputs`.
    pub(super) pad: usize,
    pub(super) outputs: usize,
}

/// How a node says its padding.
#[derive(Clone, Debug)]
enum Padding {
    Explicit(Option<Vec<i64>>),
    SameUpper,
    SameLower,
    Valid,
}

/// A window as the node describes it, before the input's size is known.
#[derive(Clone, Debug)]
pub(super) struct WindowSpec {
    kernel: Option<Vec<i64>>,
    strides: Option<Vec<i64>>,
    dilations: Option<Vec<i64>>,
    padding: Padding,
    ceil: bool,
    /// Whether it is one of a pool ([`WindowSpec::of_pool`]).
    pool: bool,
}

impl WindowSpec {
    /// A window without padding that moves by single elements.
    pub(super) fn plain() -> Self {
        WindowSpec { kernel: None, strides: None, dilations: None, padding: Padding::Valid, ceil: false, pool: false }
    }

    pub(super) fn read(node: &Node) -> Result<Self, OpError> {
        let pads = node.ints("pads").map(<[i64]>::to_vec);
        let padding = match node.string("auto_pad").unwrap_or("NOTSET") {
            "NOTSET" | "" => Padding::Explicit(pads),
            "SAME_UPPER" => Padding::SameUpper,
            "SAME_LOWER" => Padding::SameLower,
            "VALID" => Padding::Valid,
            other => {
                return Err(OpError::new(format!(
                    "auto_pad {other:?} is none of NOTSET, SAME_UPPER, SAME_LOWER, VALID"
                )));
            }
        };
        let ints = |name: &str| node.ints(name).map(<[i64]>::to_vec);
        Ok(WindowSpec {
            kernel: ints("kernel_shape"),
            strides: ints("strides"),
            dilations: ints("dilations"),
            padding,
            ceil: node.int("ceil_mode", 0) != 0,
            pool: false,
        })
    }

    /// The window of a pool. ONNX does not say what one does that is larger than its input; onnxruntime gives it the place
    /// at the input's beginning if it is larger by less than a stride, and none otherwise. Nor does it say
    /// where the places of `SAME_UPPER` and `SAME_LOWER` lie that need less than the input: onnxruntime's means leave out as
    /// much at both ends, and so do the largest elements of ONNX's reference; its convolutions begin with the input.
    pub(super) fn of_pool(node: &Node) -> Result<Self, OpError> {
        Ok(WindowSpec { pool: true, ..WindowSpec::read(node)? })
    }

    /// The window over an input with these spatial sizes; `kernel` is used where the node gives no `kernel_shape`.
    pub(super) fn resolve(&self, spatial: &[usize], kernel: Option<&[usize]>) -> Result<Window, OpError> {
        let rank = spatial.len();
        let kernel = match (&self.kernel, kernel) {
            (Some(sizes), _) => sizes_of(sizes, rank, "kernel_shape")?,
            (None, Some(sizes)) => sizes.to_vec(),
            (None, None) => return Err(OpError::new("kernel_shape is missing")),
        };
        let sizes = |given: &Option<Vec<i64>>, name: &str| match given {
            Some(values) => sizes_of(values, rank, name),
            None => Ok(vec![1; rank]),
        };
        let strides = sizes(&self.strides, "strides")?;
        let dilations = sizes(&self.dilations, "dilations")?;
        if kernel.iter().chain(&strides).chain(&dilations).any(|&size| size == 0) || kernel.len() != rank {
            return Err(OpError::new(format!(
                "kernel {kernel:?}, strides {strides:?} and dilations {dilations:?} must be positive, one for each of {rank} dimensions"
            )));
        }
        let pads = self.pads(spatial, &kernel, &strides, &dilations)?;
        let skips = self.skips(spatial, &kernel, &strides, &dilations);
        let mut window = Window { kernel, strides, dilations, pads, skips, outputs: Vec::new(), ceil: self.ceil };
        let outputs = spatial.iter().enumerate().map(|(axis, &size)| match window.places(axis, size) {
            Err(_) if self.pool && size > 0 => Ok(window.places_beyond(axis, size)),
            places => places,
        });
        window.outputs = outputs.collect::<Result<_, _>>()?;
        // Its only window ends beyond the input, as the last one may where ends are rounded up.
        window.ceil |= self.pool
            && spatial.iter().enumerate().any(|(axis, &size)| window.overhang(axis, size) > window.pads[axis].1);
        Ok(window)
    }

    fn pads(
        &self,
        spatial: &[usize],
        kernel: &[usize],
        strides: &[usize],
        dilations: &[usize],
    ) -> Result<Vec<(usize, usize)>, OpError> {
        let rank = spatial.len();
        let same = |upper: bool| {
            (0..rank)
                .map(|axis| {
                    let reach = reach_of_same(spatial[axis], kernel[axis], strides[axis], dilations[axis]);
                    let total = reach.saturating_sub(spatial[axis]);
                    let small = total / 2;
                    if upper { (small, total - small) } else { (total - small, small) }
                })
                .collect()
        };
        match &self.padding {
            Padding::Valid | Padding::Explicit(None) => Ok(vec![(0, 0); rank]),
            Padding::SameUpper | Padding::SameLower if spatial.contains(&0) => Ok(vec![(0, 0); rank]),
            Padding::SameUpper => Ok(same(true)),
            Padding::SameLower => Ok(same(false)),
            Padding::Explicit(Some(pads)) => {
                let pads = sizes_of(pads, 2 * rank, "pads")?;
                Ok((0..rank).map(|axis| (pads[axis], pads[rank + axis])).collect())
            }
        }
    }

    fn skips(&self, spatial: &[usize], kernel: &[usize], strides: &[usize], dilations: &[usize]) -> Vec<usize> {
        let surplus = |axis: usize| match spatial[axis] {
            0 => 0,
            size => size.saturating_sub(reach_of_same(size, kernel[axis], strides[axis], dilations[axis])),
        };
        let skip = |axis: usize| match self.padding {
            Padding::SameUpper if self.pool => surplus(axis) / 2,
            Padding::SameLower if self.pool => surplus(axis).saturating_sub(1) / 2,
            _ => 0,
        };
        (0..spatial.len()).map(skip).collect()
    }
}

/// The elements that the places of a window with one place a stride reach over, on an input that has some.
fn reach_of_same(size: usize, kernel: usize, stride: usize, dilation: usize) -> usize {
    let extent = (kernel - 1).saturating_mul(dilation).saturating_add(1);
    ((size.div_ceil(stride) - 1) * stride).saturating_add(extent)
}

impl Window {
    /// Whether some dimension is padded differently at its two ends.
    pub(super) fn is_asymmetric(&self) -> bool {
        self.pads.iter().any(|(begin, end)| begin != end)
    }

    /// One dimension, over an input of this size, without what is skipped.
    pub(super) fn axis(&self, axis: usize, input: usize) -> Axis {
        Axis {
            input,
            kernel: self.kernel[axis],
            stride: self.strides[axis],
            dilation: self.dilations[axis],
            pad: self.pads[axis].0,
            outputs: self.outputs[axis],
        }
    }

    /// The elements from the window's first to its last along a dimension.
    pub(super) fn extent(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1).saturating_mul(self.dilations[axis]).saturating_add(1)
    }

    /// The elements that all places of the window reach beyond the input's end.
    pub(super) fn overhang(&self, axis: usize, size: usize) -> usize {
        let reach = self.outputs[axis].saturating_sub(1).saturating_mul(self.strides[axis]);
        reach.saturating_add(self.extent(axis)).saturating_sub(size.saturating_add(self.pads[axis].0))
    }

    /// The padding that lets a pool which drops incomplete windows see exactly this window's places.
    pub(super) fn exact_pads(&self, spatial: &[usize]) -> Vec<(usize, usize)> {
        let pads = spatial.iter().enumerate().map(|(axis, &size)| (self.pads[axis].0, self.overhang(axis, size)));
        pads.collect()
    }

    /// The window along the named dimensions alone, as one of two dimensions.
    pub(super) fn along(&self, axes: &[usize]) -> Window {
        let with = |values: &[usize]| axes.iter().map(|&axis| values[axis]).chain([1]).take(2).collect();
        Window {
            kernel: with(&self.kernel),
            strides: with(&self.strides),
            dilations: with(&self.dilations),
            pads: axes.iter().map(|&axis| self.pads[axis]).chain([(0, 0)]).take(2).collect(),
            skips: axes.iter().map(|&axis| self.skips[axis]).chain([0]).take(2).collect(),
            outputs: with(&self.outputs),
            ceil: self.ceil,
        }
    }

    /// By what the mean over each whole window falls short of the mean over its elements on the input (or its padding,
    /// if `count_pads`); `None` where by nothing.
    pub(super) fn shares(&self, spatial: &[usize], count_pads: bool) -> Option<Vec<f64>> {
        let along = |axis: usize| {
            let (begin, end) = if count_pads { self.pads[axis] } else { (0, 0) };
            let first = self.pads[axis].0 - begin;
            let last = self.pads[axis].0 + spatial[axis] + end;
            let counted = |place: usize| {
                let position = |step: usize| place * self.strides[axis] + step * self.dilations[axis];
                (0..self.kernel[axis]).filter(|&step| (first..last).contains(&position(step))).count()
            };
            let kernel = self.kernel[axis];
            let share = move |count: usize| if count == 0 { 0.0 } else { kernel as f64 / count as f64 };
            (0..self.outputs[axis]).map(|place| share(counted(place))).collect::<Vec<_>>()
        };
        let mut all = vec![1.0];
        for axis in 0..spatial.len() {
            let shares = along(axis);
            all = all.iter().flat_map(|&outer| shares.iter().map(move |&inner| outer * inner)).collect();
        }
        all.iter().any(|&share| share != 1.0).then_some(all)
    }

    /// How many places a window has that is larger than its input.
    fn places_beyond(&self, axis: usize, size: usize) -> usize {
        let padded = size.saturating_add(self.pads[axis].0).saturating_add(self.pads[axis].1);
        usize::from(self.extent(axis).saturating_sub(padded) < self.strides[axis])
    }

    /// Where element `step` of the window lies in its place `place`, `None` on the padding.
    pub(super) fn position(&self, axis: usize, place: usize, step: usize, size: usize) -> Option<usize> {
        let padded = place.checked_mul(self.strides[axis])?.checked_add(step.checked_mul(self.dilations[axis])?)?;
        padded.checked_add(self.skips[axis])?.checked_sub(self.pads[axis].0).filter(|&position| position < size)
    }

    /// Windows that would begin on the padding behind the input are dropped, as ONNX says for `ceil_mode`.
    fn places(&self, axis: usize, size: usize) -> Result<usize, OpError> {
        let extent = self.extent(axis);
        let (begin, end) = self.pads[axis];
        let padded = size.saturating_add(begin).saturating_add(end);
        if self.ceil {
            let missing = extent.saturating_sub(padded);
            let places = (padded.saturating_sub(extent).div_ceil(self.strides[axis]) + 1)
                .saturating_sub(missing / self.strides[axis]);
            let beyond = places > 0 && (places - 1).saturating_mul(self.strides[axis]) >= size.saturating_add(begin);
            match places - usize::from(beyond) {
                0 => {}
                places => return Ok(places),
            }
        } else if padded >= extent {
            return Ok((padded - extent) / self.strides[axis] + 1);
        }
        Err(OpError::new(format!(
            "its window spans {extent} elements, but dimension {axis} of the padded input has only {padded}"
        )))
    }
}

/// The spatial dimensions of an input `[N, C, …]` with `rank` of them.
pub(super) fn spatial_of(shape: &[usize]) -> Result<&[usize], OpError> {
    match shape.len() {
        3..=5 => Ok(&shape[2..]),
        rank => Err(OpError::new(format!(
            "its input has {rank} dimensions, but must have a batch, channels and 1 to 3 spatial ones"
        ))),
    }
}

/// Sizes that a node lists, `expected` of them.
pub(super) fn sizes_of(values: &[i64], expected: usize, name: &str) -> Result<Vec<usize>, OpError> {
    if values.len() != expected {
        return Err(OpError::new(format!("{name} has {} values, but {expected} are needed", values.len())));
    }
    values.iter().map(|&value| size_of(value)).collect()
}
