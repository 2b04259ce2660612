//! Einsum: sums of products over named dimensions.
//!
//! An equation names the dimensions of each operand. They become [`Label`]s here, once the operands' ranks are known; floats
//! are then contracted pair by pair as matrix products (see [`super::contraction`]), integers are summed in loops, exactly.

use std::collections::BTreeMap;

use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::contraction::{Operand, contract};
use super::host::{elements, for_each_index, hosted, room, strides, tensor_of, with_elements, zeros};
use super::number::Number;
use super::{BoxOp, Builder, OpError, one};
use crate::burn::Value;

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "Einsum" => Some(einsum),
        _ => None,
    }
}

/// A dimension of the whole sum. Those of the ellipsis come first, counted from the last one, which broadcasting aligns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Label {
    Ellipsis(std::cmp::Reverse<usize>),
    Letter(char),
}

/// One place of a term as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Ellipsis,
    Letter(char),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Equation {
    terms: Vec<Vec<Sign>>,
    /// `None` is the implicit form: the ellipsis, then all letters that occur once.
    output: Option<Vec<Sign>>,
}

/// An equation over operands of known shapes.
struct Labelled {
    operands: Vec<Vec<Label>>,
    output: Vec<Label>,
    /// Of each label, after broadcasting.
    sizes: BTreeMap<Label, usize>,
}

fn einsum(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let equation = node.string("equation").ok_or_else(|| OpError::new("its equation is missing"))?;
    let equation = Equation::parse(equation)?;
    one(move |context, mut inputs| {
        let values = inputs.all();
        let dtype = values.first().map(Value::dtype).ok_or_else(|| OpError::new("it has no inputs"))?;
        if dtype == DType::Bool || values.iter().any(|value| value.dtype() != dtype) {
            return Err(OpError::new("its inputs must be numbers of one type"));
        }
        let shapes: Vec<Vec<usize>> = values.iter().map(Value::shape).collect();
        let labelled = equation.label(&shapes)?;
        let shape: Vec<usize> = labelled.output.iter().map(|label| labelled.sizes[label]).collect();
        if room(dtype, &shape)? == 0 || shapes.iter().flatten().any(|&size| size == 0) {
            return Ok(Value::host(zeros(dtype, &shape)?));
        }
        if dtype.is_float() {
            let operands = values.into_iter().zip(labelled.operands);
            let operands = operands.map(|(value, labels)| Operand { value, labels }).collect();
            return contract(operands, &labelled.output, &labelled.sizes, context);
        }
        let tensors = values.into_iter().map(hosted).collect::<Result<Vec<_>, _>>()?;
        Ok(Value::host(summed_in_loops(&tensors, &labelled, &shape)?))
    })
}

impl Equation {
    fn parse(text: &str) -> Result<Self, OpError> {
        let wrong = || OpError::new(format!("equation {text:?} is not understood"));
        let plain: String = text.chars().filter(|sign| !sign.is_whitespace()).collect();
        let (terms, output) = match plain.split_once("->") {
            Some((terms, output)) => (terms, Some(output)),
            None => (plain.as_str(), None),
        };
        let terms = terms.split(',').map(signs).collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
        let output = output.map(|output| signs(output).ok_or_else(wrong)).transpose()?;
        if let Some(output) = &output {
            let repeats = |index: usize| output[..index].contains(&output[index]);
            let unknown = |sign: &Sign| *sign != Sign::Ellipsis && !terms.iter().flatten().any(|known| known == sign);
            if (0..output.len()).any(repeats) || output.iter().any(unknown) {
                return Err(wrong());
            }
        }
        Ok(Equation { terms, output })
    }

    fn label(&self, shapes: &[Vec<usize>]) -> Result<Labelled, OpError> {
        if shapes.len() != self.terms.len() {
            let (given, terms) = (shapes.len(), self.terms.len());
            return Err(OpError::new(format!("{given} inputs for an equation of {terms} terms")));
        }
        let mut sizes = BTreeMap::new();
        let mut operands = Vec::with_capacity(shapes.len());
        for (term, shape) in self.terms.iter().zip(shapes) {
            let labels = labels(term, shape.len())?;
            for (label, &size) in labels.iter().zip(shape) {
                let known = sizes.entry(*label).or_insert(size);
                *known = match (*known, size) {
                    (known, 1) => known,
                    (1, size) => size,
                    (known, size) if known == size => size,
                    (known, size) => {
                        return Err(OpError::new(format!("{label:?} is {known} in one input and {size} in another")));
                    }
                };
            }
            operands.push(labels);
        }
        let ellipsis = sizes.keys().copied().filter(|label| matches!(label, Label::Ellipsis(_)));
        let output = match &self.output {
            Some(output) => output
                .iter()
                .flat_map(|sign| match sign {
                    Sign::Ellipsis => ellipsis.clone().collect(),
                    Sign::Letter(letter) => vec![Label::Letter(*letter)],
                })
                .collect(),
            None => {
                let occurrences = |label: &Label| operands.iter().flatten().filter(|other| *other == label).count();
                let letters = sizes.keys().copied().filter(|label| matches!(label, Label::Letter(_)));
                ellipsis.clone().chain(letters.filter(|label| occurrences(label) == 1)).collect()
            }
        };
        Ok(Labelled { operands, output, sizes })
    }
}

fn signs(term: &str) -> Option<Vec<Sign>> {
    let mut signs = Vec::new();
    let mut rest = term;
    while let Some(first) = rest.chars().next() {
        if let Some(behind) = rest.strip_prefix("...") {
            signs.push(Sign::Ellipsis);
            rest = behind;
        } else if first.is_ascii_alphabetic() {
            signs.push(Sign::Letter(first));
            rest = &rest[1..];
        } else {
            return None;
        }
    }
    (signs.iter().filter(|sign| **sign == Sign::Ellipsis).count() <= 1).then_some(signs)
}

fn labels(term: &[Sign], rank: usize) -> Result<Vec<Label>, OpError> {
    let letters = term.iter().filter(|sign| **sign != Sign::Ellipsis).count();
    let covered = match rank.checked_sub(letters) {
        Some(covered) if covered == 0 || letters < term.len() => covered,
        _ => return Err(OpError::new(format!("a term of {letters} letters for an input of {rank} dimensions"))),
    };
    let labels = term.iter().flat_map(|sign| match sign {
        Sign::Ellipsis => (0..covered).rev().map(|from_last| Label::Ellipsis(std::cmp::Reverse(from_last))).collect(),
        Sign::Letter(letter) => vec![Label::Letter(*letter)],
    });
    Ok(labels.collect())
}

/// All products of integers, added up where they belong; they wrap around at their own width.
fn summed_in_loops(tensors: &[Tensor], labelled: &Labelled, shape: &[usize]) -> Result<Tensor, OpError> {
    let summed = labelled.sizes.keys().copied().filter(|label| !labelled.output.contains(label));
    let loops: Vec<Label> = labelled.output.iter().copied().chain(summed).collect();
    let sizes: Vec<usize> = loops.iter().map(|label| labelled.sizes[label]).collect();
    let steps: Vec<Vec<usize>> =
        tensors.iter().zip(&labelled.operands).map(|(tensor, labels)| steps(tensor.shape(), labels, &loops)).collect();
    let out = strides(shape);
    let at =
        |steps: &[usize], index: &[usize]| steps.iter().zip(index).map(|(step, index)| step * index).sum::<usize>();
    with_elements!(tensors[0].dtype(), T => {
        let operands = tensors.iter().map(elements::<T>).collect::<Result<Vec<_>, _>>()?;
        let mut sums = vec![T::ZERO; shape.iter().product()];
        for_each_index(&sizes, |index| {
            let factors = operands.iter().zip(&steps).map(|(values, steps)| values[at(steps, index)]);
            let sum = &mut sums[at(&out, index)];
            *sum = sum.plus(factors.fold(T::ONE, T::times));
            Ok(())
        })?;
        tensor_of(tensors[0].dtype(), shape, &sums)
    })
}

/// How far each loop moves in an operand: along all dimensions of its label, and not along broadcast ones.
fn steps(shape: &[usize], labels: &[Label], loops: &[Label]) -> Vec<usize> {
    let strides = strides(shape);
    let step = |label: &Label| {
        let own = (0..shape.len()).filter(|&axis| labels[axis] == *label && shape[axis] > 1);
        own.map(|axis| strides[axis]).sum()
    };
    loops.iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output_of(equation: &str, shapes: &[&[usize]]) -> Vec<usize> {
        let shapes: Vec<Vec<usize>> = shapes.iter().map(|shape| shape.to_vec()).collect();
        let labelled = Equation::parse(equation).unwrap().label(&shapes).unwrap();
        labelled.output.iter().map(|label| labelled.sizes[label]).collect()
    }

    #[test]
    fn an_implicit_output_has_the_ellipsis_and_then_single_letters_in_ascii_order() {
        assert_eq!(output_of("ba", &[&[2, 3]]), [3, 2]);
        assert_eq!(output_of("bA,bc", &[&[2, 3], &[2, 4]]), [3, 4]);
        assert_eq!(output_of("z...j, jy", &[&[2, 7, 8, 3], &[3, 5]]), [7, 8, 5, 2]);
        assert_eq!(output_of("ii", &[&[2, 2]]), [] as [usize; 0]);
    }

    #[test]
    fn an_ellipsis_broadcasts_from_its_last_dimension_and_may_be_empty() {
        assert_eq!(output_of("...i,...i->...", &[&[2, 1, 3], &[4, 3]]), [2, 4]);
        assert_eq!(output_of("i...->...i", &[&[5]]), [5]);
    }

    #[test]
    fn equations_that_make_no_sense_are_refused() {
        for wrong in ["i->j", "i->ii", "i.j->i", "......", "i->i->i", "1", "i->i,i"] {
            assert!(Equation::parse(wrong).is_err(), "{wrong}");
        }
        let equation = Equation::parse("ij,jk").unwrap();
        assert!(equation.label(&[vec![2, 3]]).is_err());
        assert!(equation.label(&[vec![2, 3], vec![4, 5]]).is_err());
        assert!(equation.label(&[vec![2, 3, 1], vec![3, 5]]).is_err());
    }
}
