//! Moves elements of host tensors, whatever their type: bytes by the piece.
//!
//! Integers and booleans are moved here, not by burn: they mostly are shapes, indices and masks on the host, where they
//! stay exact at any width. Floats are moved on the device, where gradients flow.

use hedge_tensor::{DType, Tensor};

use super::OpError;
use super::host::{buffer, room, strides};
use crate::burn::{Context, Value};

/// One axis of a result: how far into the source each of its indices reaches, in elements; `None` takes the fill.
///
/// The source of an element of the result is the sum over its axes, so that transposing, slicing, repeating, picking and
/// padding are all tables of this kind.
pub(super) type Reach = Vec<Option<usize>>;

/// For results without any fill.
pub(super) const NO_FILL: [u8; 8] = [0; 8];

/// Whether the elements of `x` are moved on the host: integers and booleans that are there, scalars, what has no elements
/// (burn's kernels do not take it everywhere), and doubles next to a graphics adapter, which may have none.
pub(super) fn moves_on_host(x: &Value, context: &Context) -> bool {
    let foreign = x.dtype() == DType::F64 && context.is_gpu();
    x.is_host() && (!x.is_float() || foreign || x.rank() == 0) || x.shape().contains(&0)
}

/// The axis as it is, in a source where its neighbours are `stride` apart.
pub(super) fn whole(size: usize, stride: usize) -> Reach {
    reaching(0..size, stride)
}

/// The axis at these indices, in a source where its neighbours are `stride` apart.
pub(super) fn reaching(indices: impl IntoIterator<Item = usize>, stride: usize) -> Reach {
    indices.into_iter().map(|index| Some(index * stride)).collect()
}

/// The source's axes as they are, to be changed one by one.
pub(super) fn untouched(shape: &[usize]) -> Vec<Reach> {
    shape.iter().zip(strides(shape)).map(|(&size, stride)| whole(size, stride)).collect()
}

/// The tensor with `axes`, whose elements come from `x` or are `fill`, the first bytes of which are one element.
pub(super) fn moved(x: &Tensor, axes: &[Reach], fill: [u8; 8]) -> Result<Tensor, OpError> {
    let shape: Vec<usize> = axes.iter().map(Vec::len).collect();
    let count = room(x.dtype(), &shape)?;
    let bytes = match x.dtype().size_bytes() {
        1 => gathered::<1>(x.bytes(), axes, fill, count)?,
        2 => gathered::<2>(x.bytes(), axes, fill, count)?,
        4 => gathered::<4>(x.bytes(), axes, fill, count)?,
        _ => gathered::<8>(x.bytes(), axes, fill, count)?,
    };
    Ok(Tensor::new(x.dtype(), shape, bytes.into())?)
}

/// The tensors one after the other along `axis`; they are alike but for that dimension.
pub(super) fn joined(parts: &[Tensor], axis: usize) -> Result<Tensor, OpError> {
    let first = parts.first().ok_or_else(|| OpError::new("there is nothing to join"))?;
    let mut shape = first.shape().to_vec();
    shape[axis] = parts.iter().map(|part| part.shape()[axis]).sum();
    let count = room(first.dtype(), &shape)?;
    let mut bytes = buffer(count * first.dtype().size_bytes())?;
    let outer: usize = shape[..axis].iter().product();
    for index in 0..outer {
        for part in parts {
            let piece = part.bytes().len() / outer;
            bytes.extend_from_slice(&part.bytes()[index * piece..(index + 1) * piece]);
        }
    }
    Ok(Tensor::new(first.dtype(), shape, bytes.into())?)
}

fn gathered<const N: usize>(source: &[u8], axes: &[Reach], fill: [u8; 8], count: usize) -> Result<Vec<u8>, OpError> {
    let mut out: Vec<[u8; N]> = buffer(count)?;
    if count == 0 {
        return Ok(Vec::new());
    }
    // Axes of one index only shift. Without them the walk is no deeper than a count of elements has bits.
    let base = axes.iter().filter(|axis| axis.len() == 1).try_fold(0, |sum, axis| axis[0].map(|reach| sum + reach));
    let mut walked: Vec<&[Option<usize>]> = axes.iter().filter(|axis| axis.len() != 1).map(Vec::as_slice).collect();
    // The last axes that go on where they stand are one piece.
    let mut piece = 1;
    while let Some(last) = walked.pop_if(|last| (0..).zip(last.iter()).all(|(i, reach)| *reach == Some(i * piece))) {
        piece *= last.len();
    }
    let mut fill_element = [0; N];
    fill_element.copy_from_slice(&fill[..N]);
    let source = source.as_chunks::<N>().0;
    walk(&Walk { source, fill: fill_element, piece }, &walked, base, &mut out);
    Ok(out.into_flattened())
}

struct Walk<'a, const N: usize> {
    source: &'a [[u8; N]],
    fill: [u8; N],
    /// Elements that are copied at once.
    piece: usize,
}

fn walk<const N: usize>(task: &Walk<N>, axes: &[&[Option<usize>]], base: Option<usize>, out: &mut Vec<[u8; N]>) {
    match axes {
        [] => match base {
            Some(base) => out.extend_from_slice(&task.source[base..base + task.piece]),
            None => out.extend(std::iter::repeat_n(task.fill, task.piece)),
        },
        [last] if task.piece == 1 => out.extend(last.iter().map(|reach| match (base, reach) {
            (Some(base), Some(reach)) => task.source[base + reach],
            _ => task.fill,
        })),
        [first, rest @ ..] => {
            for reach in *first {
                walk(task, rest, base.zip(*reach).map(|(base, reach)| base + reach), out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(shape: &[usize]) -> Tensor {
        let values: Vec<i16> = (0..shape.iter().product::<usize>() as i16).collect();
        Tensor::from_slice(shape, &values).unwrap()
    }

    #[test]
    fn axes_may_swap_repeat_reverse_and_be_filled() {
        let x = counted(&[2, 3]);
        let turned = moved(&x, &[whole(3, 1), whole(2, 3)], NO_FILL).unwrap();
        assert_eq!(turned.to_vec::<i16>().unwrap(), [0, 3, 1, 4, 2, 5]);
        let repeated = moved(&x, &[vec![Some(3); 2], whole(3, 1)], NO_FILL).unwrap();
        assert_eq!(repeated.to_vec::<i16>().unwrap(), [3, 4, 5, 3, 4, 5]);
        let padded = moved(&x, &[vec![None, Some(0)], vec![Some(2), None]], [7, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(padded.to_vec::<i16>().unwrap(), [7, 7, 2, 7]);
    }

    #[test]
    fn a_tensor_of_very_many_dimensions_does_not_exhaust_the_stack() {
        let axes = vec![vec![Some(0)]; 500_000];
        assert_eq!(moved(&counted(&[1]), &axes, NO_FILL).unwrap().len(), 1);
    }

    #[test]
    fn a_result_beyond_all_memory_is_refused() {
        let axes = [vec![Some(0); 1 << 20], vec![Some(0); 1 << 20]];
        assert!(moved(&counted(&[1]), &axes, NO_FILL).is_err());
    }

    #[test]
    fn parts_join_along_an_inner_axis() {
        let parts = [counted(&[2, 1]), counted(&[2, 0]), counted(&[2, 2])];
        let joined = joined(&parts, 1).unwrap();
        assert_eq!((joined.shape(), joined.to_vec::<i16>().unwrap()), (&[2, 3][..], vec![0, 0, 1, 1, 2, 3]));
    }
}
