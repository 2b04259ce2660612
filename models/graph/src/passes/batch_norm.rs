//! BatchNorm in inference (Ioffe and Szegedy, 2015) is a factor and an offset of each channel: the weights before it take
//! them.

use super::absorb::{Affine, absorb};
use super::pattern::Rewrite;
use super::scan::{Scan, input, is, output};

/// Folds a batch normalization into the convolution or product before it.
pub(super) fn matched(scan: &Scan<'_>, index: usize) -> Option<Rewrite> {
    let node = &scan.graph.nodes[index];
    let per_channel = node.int("spatial", 1) != 0 && node.int("training_mode", 0) == 0;
    if !is(node, "BatchNormalization") || !per_channel || output(node).is_none() {
        return None;
    }
    let epsilon = f64::from(node.float("epsilon", 1e-5));
    let values = |at: usize| scan.constant(input(node, at))?.to_doubles();
    let (scale, bias, mean, variance) = (values(1)?, values(2)?, values(3)?, values(4)?);
    let channels = scale.len();
    if [&bias, &mean, &variance].iter().any(|values| values.len() != channels) {
        return None;
    }
    let factor: Vec<f64> =
        scale.iter().zip(&variance).map(|(scale, variance)| scale / (variance + epsilon).sqrt()).collect();
    let offset = (0..channels).map(|channel| bias[channel] - mean[channel] * factor[channel]).collect();
    absorb(scan, index, input(node, 0), &Affine { factor: Some(factor), offset: Some(offset) })
}
