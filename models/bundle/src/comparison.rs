//! When two models' answers to one row differ, decided on the values themselves.
//!
//! Whatever is not clearly the same counts as different: a NaN in either answer, a number that is none, an answer of another
//! length. A certificate may be refused for that, but never issued by it.

use hedge_tensor::{DType, Tensor};
use thiserror::Error;

use crate::Comparison;

/// Two answers that cannot be compared in the manifest's way.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CompareError {
    /// Not of a type that the comparison is about.
    #[error("output {output:?} is {dtype}, but comparing {what} needs {needs}; correct the bundle's comparison")]
    Type {
        /// Which output.
        output: String,
        /// Its type.
        dtype: DType,
        /// The comparison.
        what: &'static str,
        /// What it takes.
        needs: &'static str,
    },
    /// The models do not answer in the same form.
    #[error("output {output:?} is {first:?} of one model and {second:?} of the other; they must name the same classes")]
    Shape {
        /// Which output.
        output: String,
        /// The first model's shape.
        first: Vec<usize>,
        /// The second model's shape.
        second: Vec<usize>,
    },
}

impl Comparison {
    /// Whether the answer `first` (the edge model's) differs from `second` (the cloud model's): one row's value of
    /// [`Comparison::output`] each. Classes are along the last dimension; an answer with several such vectors differs if
    /// one of them does.
    pub fn differs(&self, first: &Tensor, second: &Tensor) -> Result<bool, CompareError> {
        match self {
            Comparison::TopClass { output } => {
                let vectors = Vectors::of("top classes", output, first, second)?;
                Ok(vectors.any(|first, second| top(first).is_none_or(|class| top(second) != Some(class))))
            }
            Comparison::TopK { output, k } => {
                let vectors = Vectors::of("top classes", output, first, second)?;
                let among = |class: usize, of: &[f64]| top(of).is_some() && rank(class, of) < *k as usize;
                Ok(vectors.any(|first, second| top(first).is_none_or(|class| !among(class, second))))
            }
            Comparison::Tolerance { output, absolute, relative } => {
                let [a, b] = numbers("numbers", output, first, second)?;
                // Not `>`, which NaN would pass.
                let close = |(a, b): (&f64, &f64)| a == b || (a - b).abs() <= absolute + relative * b.abs();
                Ok(a.len() != b.len() || !a.iter().zip(&b).all(close))
            }
            Comparison::Tokens { output } => {
                for tensor in [first, second] {
                    if tensor.dtype().is_float() {
                        return Err(wrong_type(output, tensor, "tokens", "integers"));
                    }
                }
                Ok(first.dtype() != second.dtype()
                    || first.shape() != second.shape()
                    || first.bytes() != second.bytes())
            }
        }
    }
}

/// Both answers, cut along the last dimension.
struct Vectors {
    first: Vec<f64>,
    second: Vec<f64>,
    classes: usize,
}

impl Vectors {
    fn of(what: &'static str, output: &str, first: &Tensor, second: &Tensor) -> Result<Self, CompareError> {
        let [a, b] = numbers(what, output, first, second)?;
        let classes = |tensor: &Tensor| tensor.shape().last().copied().unwrap_or(1);
        if a.len() != b.len() || classes(first) != classes(second) {
            return Err(CompareError::Shape {
                output: output.to_owned(),
                first: first.shape().to_vec(),
                second: second.shape().to_vec(),
            });
        }
        Ok(Vectors { first: a, second: b, classes: classes(first) })
    }

    /// Whether `differ` holds for a pair of vectors; answers without any differ.
    fn any(&self, differ: impl Fn(&[f64], &[f64]) -> bool) -> bool {
        let size = self.classes.max(1);
        self.first.is_empty() || self.first.chunks(size).zip(self.second.chunks(size)).any(|(a, b)| differ(a, b))
    }
}

/// The index of the largest number, the first of equals; `None` where one is NaN or there are none.
fn top(vector: &[f64]) -> Option<usize> {
    if vector.iter().any(|number| number.is_nan()) {
        return None;
    }
    (0..vector.len()).reduce(|best, index| if vector[index] > vector[best] { index } else { best })
}

/// How many classes stand before `class`, those of equal number in their order.
fn rank(class: usize, vector: &[f64]) -> usize {
    let before =
        |(index, number): &(usize, &f64)| **number > vector[class] || (**number == vector[class] && *index < class);
    vector.iter().enumerate().filter(before).count()
}

fn numbers(what: &'static str, output: &str, first: &Tensor, second: &Tensor) -> Result<[Vec<f64>; 2], CompareError> {
    let of = |tensor: &Tensor| tensor.to_doubles().ok_or_else(|| wrong_type(output, tensor, what, "floats"));
    Ok([of(first)?, of(second)?])
}

fn wrong_type(output: &str, tensor: &Tensor, what: &'static str, needs: &'static str) -> CompareError {
    CompareError::Type { output: output.to_owned(), dtype: tensor.dtype(), what, needs }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[f32]) -> Tensor {
        Tensor::from_slice(&[1, values.len()], values).unwrap()
    }

    fn differs(comparison: &Comparison, first: &[f32], second: &[f32]) -> bool {
        comparison.differs(&row(first), &row(second)).unwrap()
    }

    #[test]
    fn another_top_class_is_another_answer() {
        let top = Comparison::TopClass { output: "y".into() };
        assert!(!differs(&top, &[0.1, 0.9], &[-5.0, -4.0]));
        assert!(differs(&top, &[0.1, 0.9], &[2.0, -4.0]));
        // The first of equals is the top class, of both.
        assert!(!differs(&top, &[1.0, 1.0], &[1.0, 0.0]));
    }

    #[test]
    fn the_top_class_may_be_among_the_others_k_largest() {
        let top = |k| Comparison::TopK { output: "y".into(), k };
        let (edge, cloud) = ([0.0, 9.0, 1.0], [3.0, 2.0, 1.0]);
        assert!(differs(&top(1), &edge, &cloud));
        assert!(!differs(&top(2), &edge, &cloud));
        assert!(differs(&top(2), &[0.0, 0.0, 1.0], &cloud));
    }

    #[test]
    fn each_of_several_vectors_must_have_the_same_top_class() {
        let top = Comparison::TopClass { output: "y".into() };
        let tokens = |values: &[f32]| Tensor::from_slice(&[1, 2, 2], values).unwrap();
        let reference = tokens(&[1.0, 0.0, 0.0, 1.0]);
        assert_eq!(top.differs(&tokens(&[2.0, 1.0, 1.0, 2.0]), &reference), Ok(false));
        assert_eq!(top.differs(&tokens(&[2.0, 1.0, 2.0, 1.0]), &reference), Ok(true));
    }

    #[test]
    fn a_number_may_be_off_by_the_tolerance_and_no_more() {
        let near = Comparison::Tolerance { output: "y".into(), absolute: 0.5, relative: 0.5 };
        assert!(!differs(&near, &[3.5], &[2.0]));
        assert!(differs(&near, &[3.6], &[2.0]));
        assert!(differs(&near, &[2.0, 9.0], &[2.0, 2.0]));
        assert!(!differs(&near, &[f32::INFINITY], &[f32::INFINITY]));
    }

    #[test]
    fn one_other_token_or_length_is_another_answer() {
        let tokens = Comparison::Tokens { output: "y".into() };
        let ids = |values: &[i64]| Tensor::from_slice(&[1, values.len()], values).unwrap();
        assert_eq!(tokens.differs(&ids(&[7, 8]), &ids(&[7, 8])), Ok(false));
        assert_eq!(tokens.differs(&ids(&[7, 8]), &ids(&[7, 9])), Ok(true));
        assert_eq!(tokens.differs(&ids(&[7, 8]), &ids(&[7])), Ok(true));
    }

    #[test]
    fn an_answer_that_is_no_number_differs_even_from_itself() {
        let nan = [f32::NAN, 1.0];
        for comparison in [
            Comparison::TopClass { output: "y".into() },
            Comparison::TopK { output: "y".into(), k: 2 },
            Comparison::Tolerance { output: "y".into(), absolute: 1.0, relative: 0.0 },
        ] {
            assert!(differs(&comparison, &nan, &[0.0, 1.0]), "{comparison}");
            assert!(differs(&comparison, &[0.0, 1.0], &nan), "{comparison}");
            assert!(differs(&comparison, &nan, &nan), "{comparison}");
        }
    }

    #[test]
    fn answers_of_another_form_are_an_error_that_names_the_output() {
        let top = Comparison::TopClass { output: "y".into() };
        let error = top.differs(&row(&[1.0, 2.0]), &row(&[1.0, 2.0, 3.0])).unwrap_err();
        assert!(matches!(&error, CompareError::Shape { output, .. } if output == "y"), "{error}");
        let ids = Tensor::from_slice(&[1, 2], &[1i64, 2]).unwrap();
        assert!(matches!(top.differs(&ids, &ids), Err(CompareError::Type { .. })));
        let tokens = Comparison::Tokens { output: "y".into() };
        assert!(matches!(tokens.differs(&row(&[1.0]), &row(&[1.0])), Err(CompareError::Type { .. })));
    }
}
