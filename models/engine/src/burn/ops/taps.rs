//! Where each element of a resized dimension comes from: coordinates, neighbours and their weights (ONNX `Resize`).
//!
//! Coordinates are computed in 32-bit floats, as onnxruntime does: whether a coordinate falls on one side of a tie or the
//! other decides which element is the nearest.

use hedge_graph::Node;

use super::{OpError, size_of};

/// How a node resizes.
pub(super) struct Resizing {
    pub(super) filter: Filter,
    coordinates: Coordinates,
    antialias: bool,
    exclude_outside: bool,
    extrapolation: f64,
    policy: Policy,
}

/// How an element is made from its neighbours.
pub(super) enum Filter {
    Nearest(Rounding),
    Linear,
    /// With the coefficient of Keys' cubic convolution.
    Cubic(f64),
}

/// Which neighbour is the nearest.
#[derive(Clone, Copy)]
pub(super) enum Rounding {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
    /// Before opset 11: up where the dimension shrinks, down where it grows, as onnxruntime does.
    Simple,
}

#[derive(Clone, Copy, PartialEq)]
enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    /// The centre of the element itself.
    Centre,
    CropAndResize,
}

#[derive(Clone, Copy, PartialEq)]
enum Policy {
    Stretch,
    NotLarger,
    NotSmaller,
}

/// One dimension, before and after.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) input: usize,
    pub(super) output: usize,
    scale: f32,
    /// The output's size by the scale, which need not be whole.
    resized: f32,
    /// The part of the input that is looked at, from 0 to 1.
    region: (f32, f32),
}

/// For each output element of a dimension, `count` input elements and their weights.
pub(super) struct Taps {
    pub(super) count: usize,
    pub(super) positions: Vec<usize>,
    pub(super) weights: Vec<f64>,
    /// Whether an output element lies outside the input and is the extrapolation value instead.
    pub(super) outside: Vec<bool>,
    extrapolation: f64,
    input: usize,
}

impl Resizing {
    pub(super) fn read(node: &Node) -> Result<Self, OpError> {
        let coordinates = match node.string("coordinate_transformation_mode").unwrap_or("half_pixel") {
            "half_pixel" => Coordinates::HalfPixel,
            "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
            "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
            "align_corners" => Coordinates::AlignCorners,
            "asymmetric" => Coordinates::Asymmetric,
            // Opset 11 alone has it: TensorFlow's older way.
            "tf_half_pixel_for_nn" => Coordinates::Centre,
            "tf_crop_and_resize" => Coordinates::CropAndResize,
            other => return Err(OpError::new(format!("coordinate_transformation_mode {other:?} is not known"))),
        };
        let rounding = match node.string("nearest_mode").unwrap_or("round_prefer_floor") {
            "round_prefer_floor" => Rounding::PreferFloor,
            "round_prefer_ceil" => Rounding::PreferCeil,
            "floor" => Rounding::Floor,
            "ceil" => Rounding::Ceil,
            other => return Err(OpError::new(format!("nearest_mode {other:?} is not known"))),
        };
        let policy = match node.string("keep_aspect_ratio_policy").unwrap_or("stretch") {
            "stretch" => Policy::Stretch,
            "not_larger" => Policy::NotLarger,
            "not_smaller" => Policy::NotSmaller,
            other => return Err(OpError::new(format!("keep_aspect_ratio_policy {other:?} is not known"))),
        };
        Ok(Resizing {
            filter: Filter::read(node, rounding)?,
            coordinates,
            antialias: node.int("antialias", 0) != 0,
            exclude_outside: node.int("exclude_outside", 0) != 0,
            extrapolation: f64::from(node.float("extrapolation_value", 0.0)),
            policy,
        })
    }

    /// `Upsample`, and `Resize` of opset 10.
    pub(super) fn first(node: &Node) -> Result<Self, OpError> {
        Ok(Resizing {
            filter: Filter::read(node, Rounding::Simple)?,
            coordinates: Coordinates::Asymmetric,
            antialias: false,
            exclude_outside: false,
            extrapolation: 0.0,
            policy: Policy::Stretch,
        })
    }

    /// All dimensions, those in `axes` resized by one of `scales` each.
    pub(super) fn by_scales(&self, shape: &[usize], axes: &[usize], scales: &[f32]) -> Result<Vec<Place>, OpError> {
        check_count(axes, scales.len(), "scales")?;
        let mut places = unchanged(shape);
        for (&axis, &scale) in axes.iter().zip(scales) {
            if !(scale > 0.0 && scale.is_finite()) {
                return Err(OpError::new(format!("a scale is {scale}, but must be positive")));
            }
            let resized = scale * shape[axis] as f32;
            let output = size_of(resized.floor() as i64)?;
            places[axis] = Place { output, scale, resized, ..places[axis].clone() };
        }
        Ok(places)
    }

    /// All dimensions, those in `axes` resized to one of `sizes` each, or in proportion if the node asks for that.
    pub(super) fn by_sizes(&self, shape: &[usize], axes: &[usize], sizes: &[usize]) -> Result<Vec<Place>, OpError> {
        check_count(axes, sizes.len(), "sizes")?;
        let mut places = unchanged(shape);
        let ratio = |(&axis, &size): (&usize, &usize)| size as f32 / shape[axis] as f32;
        let ratios = axes.iter().zip(sizes).map(ratio);
        let common = match self.policy {
            Policy::Stretch => None,
            Policy::NotLarger => ratios.reduce(f32::min),
            Policy::NotSmaller => ratios.reduce(f32::max),
        };
        for (&axis, &size) in axes.iter().zip(sizes) {
            let input = shape[axis] as f32;
            let (output, scale, resized) = match common {
                Some(scale) if scale.is_finite() => {
                    // Rounded half up, on the side of the wider type: 0.6 * 5 is 3 and not a little more.
                    let exact = f64::from(scale) * shape[axis] as f64;
                    (size_of((exact + 0.5).floor() as i64)?, scale, scale * input)
                }
                _ => (size, size as f32 / input, size as f32),
            };
            places[axis] = Place { output, scale, resized, ..places[axis].clone() };
        }
        Ok(places)
    }

    /// The regions of `tf_crop_and_resize`: all starts, then all ends.
    pub(super) fn with_region(
        &self,
        mut places: Vec<Place>,
        axes: &[usize],
        region: Option<&[f32]>,
    ) -> Result<Vec<Place>, OpError> {
        if self.coordinates != Coordinates::CropAndResize {
            return Ok(places);
        }
        let region = region.ok_or_else(|| OpError::new("tf_crop_and_resize needs a roi"))?;
        if region.len() != 2 * axes.len() {
            return Err(OpError::new(format!("its roi has {} values for {} axes", region.len(), axes.len())));
        }
        for (index, &axis) in axes.iter().enumerate() {
            places[axis].region = (region[index], region[axes.len() + index]);
        }
        Ok(places)
    }

    /// Whether lines between elements without further ado are asked for; then, whether the corners are aligned.
    pub(super) fn is_plain_linear(&self, places: &[Place]) -> Option<bool> {
        let plain = matches!(self.filter, Filter::Linear) && !self.antialias && !self.exclude_outside;
        let whole = places.iter().all(|place| place.resized == place.output as f32 && place.output > 1);
        match self.coordinates {
            Coordinates::HalfPixel | Coordinates::PytorchHalfPixel if plain && whole => Some(false),
            Coordinates::AlignCorners if plain && whole => Some(true),
            _ => None,
        }
    }

    /// An integer from its neighbours' weighted sum: onnxruntime cuts off what lies between two elements, and rounds
    /// where more have a part in it.
    pub(super) fn whole(&self, sum: f64) -> f64 {
        if matches!(self.filter, Filter::Linear) && !self.antialias { sum.trunc() } else { sum }
    }

    pub(super) fn taps(&self, place: &Place) -> Result<Taps, OpError> {
        // A scale far below 1 makes every input element a neighbour, several times over.
        const WEIGHTS: usize = 1 << 28;
        let (first, count) = self.neighbours(place.scale);
        if place.output.checked_mul(count).is_none_or(|weights| weights > WEIGHTS) {
            return Err(OpError::new(format!("resizing {} elements to {} is too much", place.input, place.output)));
        }
        let mut taps = Taps {
            count,
            positions: Vec::with_capacity(place.output * count),
            weights: Vec::with_capacity(place.output * count),
            outside: Vec::with_capacity(place.output),
            extrapolation: self.extrapolation,
            input: place.input,
        };
        for output in 0..place.output {
            let at = self.coordinates.at(output, place);
            let edge = (place.input - 1) as f32;
            taps.outside.push(self.coordinates == Coordinates::CropAndResize && !(0.0..=edge).contains(&at));
            self.push(&mut taps, at, first, place);
        }
        Ok(taps)
    }

    /// The first neighbour's distance from the element before a coordinate, and how many there are.
    fn neighbours(&self, scale: f32) -> (i64, usize) {
        let reach = match self.filter {
            Filter::Nearest(_) => return (0, 1),
            Filter::Linear => 1.0,
            Filter::Cubic(_) => 2.0,
        };
        let shrink = if self.antialias { f64::from(scale).min(1.0) } else { 1.0 };
        let first = (-reach / shrink).floor() as i64 + 1;
        (first, (2 - 2 * first) as usize)
    }

    fn push(&self, taps: &mut Taps, at: f32, first: i64, place: &Place) {
        let clamped = |index: i64| index.clamp(0, place.input as i64 - 1) as usize;
        if let Filter::Nearest(rounding) = self.filter {
            taps.positions.push(clamped(rounding.apply(at, place.scale)));
            taps.weights.push(1.0);
            return;
        }
        let before = at.floor();
        let ratio = f64::from(at - before);
        let shrink = if self.antialias { f64::from(place.scale).min(1.0) } else { 1.0 };
        let start = taps.weights.len();
        for tap in 0..taps.count as i64 {
            let offset = first + tap;
            let index = (before as i64).saturating_add(offset);
            let inside = (0..place.input as i64).contains(&index);
            let excluded = self.exclude_outside && !inside;
            taps.positions.push(clamped(index));
            taps.weights.push(if excluded { 0.0 } else { self.filter.weight((offset as f64 - ratio) * shrink) });
        }
        let weights = &mut taps.weights[start..];
        let sum: f64 = weights.iter().sum();
        if (self.antialias || self.exclude_outside) && sum != 0.0 {
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
    }
}

impl Filter {
    fn read(node: &Node, rounding: Rounding) -> Result<Self, OpError> {
        match node.string("mode").unwrap_or("nearest") {
            "nearest" => Ok(Filter::Nearest(rounding)),
            "linear" | "bilinear" => Ok(Filter::Linear),
            "cubic" => Ok(Filter::Cubic(f64::from(node.float("cubic_coeff_a", -0.75)))),
            other => Err(OpError::new(format!("mode {other:?} is none of nearest, linear, cubic"))),
        }
    }

    /// The weight of an element so far away.
    fn weight(&self, distance: f64) -> f64 {
        let x = distance.abs();
        match *self {
            Filter::Nearest(_) => 1.0,
            Filter::Linear => (1.0 - x).max(0.0),
            Filter::Cubic(a) if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            Filter::Cubic(a) if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
            Filter::Cubic(_) => 0.0,
        }
    }
}

impl Rounding {
    fn apply(self, at: f32, scale: f32) -> i64 {
        let (floor, ceil) = (at.floor() as i64, at.ceil() as i64);
        let above = at - at.floor();
        match self {
            Rounding::PreferFloor => {
                if above <= 0.5 {
                    floor
                } else {
                    ceil
                }
            }
            Rounding::PreferCeil => {
                // Within the coordinate's own error a tie is a tie.
                if above + at.abs() * f32::EPSILON < 0.5 { floor } else { ceil }
            }
            Rounding::Floor => floor,
            Rounding::Ceil => ceil,
            Rounding::Simple => {
                if scale < 1.0 {
                    ceil
                } else {
                    floor
                }
            }
        }
    }
}

impl Coordinates {
    /// Where in the input an output element lies.
    fn at(self, output: usize, place: &Place) -> f32 {
        let x = output as f32;
        let last = place.input as f32 - 1.0;
        let half_pixel = (x + 0.5) / place.scale - 0.5;
        match self {
            Coordinates::HalfPixel => half_pixel,
            Coordinates::HalfPixelSymmetric => {
                let adjustment = place.output as f32 / place.resized;
                place.input as f32 / 2.0 * (1.0 - adjustment) + half_pixel
            }
            Coordinates::PytorchHalfPixel => {
                if place.resized > 1.0 {
                    half_pixel
                } else {
                    0.0
                }
            }
            Coordinates::Asymmetric => x / place.scale,
            Coordinates::Centre => (x + 0.5) / place.scale,
            Coordinates::AlignCorners => {
                if place.resized == 1.0 {
                    0.0
                } else {
                    x * last / (place.resized - 1.0)
                }
            }
            Coordinates::CropAndResize => {
                let (start, end) = place.region;
                if place.resized > 1.0 {
                    start * last + x * (end - start) * last / (place.resized - 1.0)
                } else {
                    0.5 * (start + end) * last
                }
            }
        }
    }
}

impl Place {
    /// Whether the dimension stays as it is.
    pub(super) fn is_identity(&self) -> bool {
        self.scale == 1.0 && self.output == self.input && self.region == (0.0, 1.0)
    }
}

impl Taps {
    pub(super) fn outputs(&self) -> usize {
        self.outside.len()
    }

    /// The input elements of one tap of all output elements, and their weights.
    pub(super) fn tap(&self, tap: usize) -> (Vec<i64>, Vec<f64>) {
        let each = (0..self.outputs()).map(|output| output * self.count + tap);
        each.map(|at| (self.positions[at] as i64, self.weights[at])).unzip()
    }

    /// The weights of all input elements (rows) in all output elements (columns).
    pub(super) fn matrix(&self) -> Vec<f64> {
        let mut matrix = vec![0.0; self.input * self.outputs()];
        for (at, (&position, &weight)) in self.positions.iter().zip(&self.weights).enumerate() {
            matrix[position * self.outputs() + at / self.count] += weight;
        }
        matrix
    }

    /// The value of output elements outside the input, and 1 for those inside, 0 for those outside; `None` where all are
    /// inside.
    pub(super) fn fill(&self) -> Option<(f64, Vec<f64>)> {
        let keep = || self.outside.iter().map(|&outside| if outside { 0.0 } else { 1.0 }).collect();
        self.outside.contains(&true).then(|| (self.extrapolation, keep()))
    }
}

fn unchanged(shape: &[usize]) -> Vec<Place> {
    let place =
        |&size: &usize| Place { input: size, output: size, scale: 1.0, resized: size as f32, region: (0.0, 1.0) };
    shape.iter().map(place).collect()
}

fn check_count(axes: &[usize], count: usize, name: &str) -> Result<(), OpError> {
    if axes.len() == count {
        return Ok(());
    }
    Err(OpError::new(format!("it has {count} {name} for {} axes", axes.len())))
}
