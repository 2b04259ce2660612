//! What detectors need after their network: `NonMaxSuppression`.

use hedge_graph::Node;
use hedge_tensor::Tensor;

use super::host::{need, optional};
use super::{BoxOp, Builder, OpError, on_host};
use crate::burn::Value;

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "NonMaxSuppression" => Some(suppression),
        _ => None,
    }
}

/// A box by its least and its greatest corner.
#[derive(Clone, Copy)]
struct Area {
    left: f32,
    top: f32,
    right: f32,
    bottom: f32,
}

/// What decides over a class's boxes.
struct Limits {
    boxes: usize,
    overlap: f32,
    score: Option<f32>,
}

fn suppression(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let centred = match node.int("center_point_box", 0) {
        0 => false,
        1 => true,
        other => return Err(OpError::new(format!("center_point_box is {other}, but must be 0 or 1"))),
    };
    on_host(move |inputs| {
        let (boxes, scores) = (need(inputs, 0)?, need(inputs, 1)?);
        let (shape, rated) = (boxes.shape(), scores.shape());
        let fits =
            shape.len() == 3 && shape[2] == 4 && rated.len() == 3 && rated[0] == shape[0] && rated[2] == shape[1];
        if !fits {
            return Err(OpError::new(format!("scores {rated:?} are not those of boxes {shape:?}")));
        }
        let limits = limits(inputs)?;
        let (count, classes) = (shape[1], rated[1]);
        let areas: Vec<Area> = floats(boxes)?.chunks(4).map(|corners| area(corners, centred)).collect();
        let scores = floats(scores)?;
        let mut selected: Vec<i64> = Vec::new();
        for batch in 0..shape[0] {
            let areas = &areas[batch * count..(batch + 1) * count];
            for class in 0..classes {
                let scores = &scores[(batch * classes + class) * count..][..count];
                let kept = kept(areas, scores, &limits);
                selected.extend(kept.into_iter().flat_map(|index| [batch as i64, class as i64, index as i64]));
            }
        }
        Ok(vec![Tensor::from_slice(&[selected.len() / 3, 3], &selected)?])
    })
}

/// No box at all is kept unless the node says how many may be.
fn limits(inputs: &[Option<Tensor>]) -> Result<Limits, OpError> {
    let boxes = optional(inputs, 2).map(|tensor| Value::host(tensor.clone()).to_ints()).transpose()?;
    let number = |index: usize| -> Result<Option<f32>, OpError> {
        Ok(optional(inputs, index).map(floats).transpose()?.and_then(|values| values.first().copied()))
    };
    Ok(Limits {
        boxes: usize::try_from(boxes.and_then(|boxes| boxes.first().copied()).unwrap_or(0)).unwrap_or(0),
        overlap: number(3)?.unwrap_or(0.0),
        score: number(4)?,
    })
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>, OpError> {
    super::precision::floats(tensor)
}

/// `[y, x, y, x]` of two opposite corners in any order, or `[x, y, width, height]` around the centre.
fn area(corners: &[f32], centred: bool) -> Area {
    let [a, b, c, d] = [corners[0], corners[1], corners[2], corners[3]];
    if centred {
        let (width, height) = (c / 2.0, d / 2.0);
        return Area { left: a - width, top: b - height, right: a + width, bottom: b + height };
    }
    Area { left: b.min(d), top: a.min(c), right: b.max(d), bottom: a.max(c) }
}

/// The boxes of one class, best first, that overlap no better one too much.
fn kept(areas: &[Area], scores: &[f32], limits: &Limits) -> Vec<usize> {
    let mut candidates: Vec<usize> =
        (0..areas.len()).filter(|&index| limits.score.is_none_or(|least| scores[index] > least)).collect();
    candidates.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut kept: Vec<usize> = Vec::new();
    for candidate in candidates {
        if kept.len() >= limits.boxes {
            break;
        }
        if kept.iter().all(|&better| !overlaps(areas[candidate], areas[better], limits.overlap)) {
            kept.push(candidate);
        }
    }
    kept
}

/// Whether the intersection of two boxes is more than the share `limit` of their union.
fn overlaps(a: Area, b: Area, limit: f32) -> bool {
    let width = a.right.min(b.right) - a.left.max(b.left);
    let height = a.bottom.min(b.bottom) - a.top.max(b.top);
    if width <= 0.0 || height <= 0.0 {
        return false;
    }
    let intersection = width * height;
    let size = |area: Area| (area.right - area.left) * (area.bottom - area.top);
    let union = size(a) + size(b) - intersection;
    size(a) > 0.0 && size(b) > 0.0 && union > 0.0 && intersection / union > limit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(left: f32, size: f32) -> Area {
        Area { left, top: 0.0, right: left + size, bottom: size }
    }

    #[test]
    fn equal_scores_are_kept_in_the_order_of_the_boxes() {
        let areas = [square(0.0, 1.0), square(5.0, 1.0), square(10.0, 1.0)];
        let limits = Limits { boxes: 2, overlap: 0.5, score: None };
        assert_eq!(kept(&areas, &[0.5, 0.9, 0.5], &limits), [1, 0]);
    }

    #[test]
    fn a_box_that_overlaps_exactly_as_much_as_allowed_stays() {
        let (a, b) = (square(0.0, 2.0), square(1.0, 2.0));
        assert!(!overlaps(a, b, 1.0 / 3.0));
        assert!(overlaps(a, b, 0.33));
    }

    #[test]
    fn boxes_without_an_area_suppress_nothing() {
        assert!(!overlaps(square(0.0, 0.0), square(0.0, 0.0), 0.0));
    }
}
