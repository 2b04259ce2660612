//! What convolutions and pools have in common: a window that slides over the spatial dimensions.

use hedge_graph::Node;

use super::{OpError, size_of};

/// A window's attributes, with the paddings resolved for a known input.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) kernel: Vec<usize>,
    pub(super) strides: Vec<usize>,
    pub(super) dilations: Vec<usize>,
    /// (begin, end) of each spatial dimension.
    pub(super) pads: Vec<(usize, usize)>,
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
}

impl WindowSpec {
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
        Ok(WindowSpec { kernel: ints("kernel_shape"), strides: ints("strides"), dilations: ints("dilations"), padding })
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
        let window = Window { kernel, strides, dilations, pads };
        window.check(spatial)?;
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
                    let out = spatial[axis].div_ceil(strides[axis]);
                    let extent = (kernel[axis] - 1) * dilations[axis] + 1;
                    let total = ((out - 1) * strides[axis] + extent).saturating_sub(spatial[axis]);
                    let small = total / 2;
                    if upper { (small, total - small) } else { (total - small, small) }
                })
                .collect()
        };
        match &self.padding {
            Padding::Valid | Padding::Explicit(None) => Ok(vec![(0, 0); rank]),
            _ if spatial.contains(&0) => Ok(vec![(0, 0); rank]),
            Padding::SameUpper => Ok(same(true)),
            Padding::SameLower => Ok(same(false)),
            Padding::Explicit(Some(pads)) => {
                let pads = sizes_of(pads, 2 * rank, "pads")?;
                Ok((0..rank).map(|axis| (pads[axis], pads[rank + axis])).collect())
            }
        }
    }
}

impl Window {
    /// Whether some dimension is padded differently at its two ends.
    pub(super) fn is_asymmetric(&self) -> bool {
        self.pads.iter().any(|(begin, end)| begin != end)
    }

    fn check(&self, spatial: &[usize]) -> Result<(), OpError> {
        for (axis, &size) in spatial.iter().enumerate() {
            let extent = (self.kernel[axis] - 1).saturating_mul(self.dilations[axis]).saturating_add(1);
            let (begin, end) = self.pads[axis];
            let padded = size.saturating_add(begin).saturating_add(end);
            if padded < extent {
                return Err(OpError::new(format!(
                    "its window spans {extent} elements, but dimension {axis} of the padded input has only {padded}"
                )));
            }
        }
        Ok(())
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

fn sizes_of(values: &[i64], expected: usize, name: &str) -> Result<Vec<usize>, OpError> {
    if values.len() != expected {
        return Err(OpError::new(format!("{name} has {} values, but {expected} are needed", values.len())));
    }
    values.iter().map(|&value| size_of(value)).collect()
}
