//! What a model takes and gives, and the check of a request against it.

use hedge_graph::{Dim, Graph, ValueInfo};
use hedge_tensor::{DType, NamedTensor, Tensor, TensorError};
use thiserror::Error;

/// One input or output of a model.
#[derive(Clone, PartialEq, Debug)]
pub struct Port {
    /// Its name in the graph.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its dimensions; free ones are named or unknown. `None`: even their number is free.
    pub shape: Option<Vec<Dim>>,
}

/// A model's inputs and outputs.
#[derive(Clone, PartialEq, Debug)]
pub struct Signature {
    /// The inputs that a caller gives, in the graph's order.
    pub inputs: Vec<Port>,
    /// The outputs, in the graph's order.
    pub outputs: Vec<Port>,
    /// Whether the leading dimension of every input and output is free: then each of its slices is a sample of its own.
    pub batched: bool,
}

/// Why inputs do not fit a model.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum InputError {
    /// An input that the model needs was not given.
    #[error("input {name:?} is missing; the model takes {takes}")]
    Missing {
        /// Which.
        name: String,
        /// What the model takes.
        takes: String,
    },
    /// An input that the model does not have.
    #[error("the model has no input {name:?}; it takes {takes}")]
    Unknown {
        /// Which.
        name: String,
        /// What the model takes.
        takes: String,
    },
    /// An input given twice.
    #[error("input {name:?} is given twice; give it once")]
    Duplicate {
        /// Which.
        name: String,
    },
    /// An input of another type.
    #[error("input {name:?} is {actual}, but the model takes {expected}")]
    Type {
        /// Which.
        name: String,
        /// The type given.
        actual: DType,
        /// The model's type.
        expected: DType,
    },
    /// An input of another shape.
    #[error("input {name:?} has shape {actual:?}, but the model takes {expected}")]
    Shape {
        /// Which.
        name: String,
        /// The shape given.
        actual: Vec<usize>,
        /// The model's shape.
        expected: String,
    },
    /// Inputs with different numbers of rows.
    #[error("input {name:?} has {actual} rows, but {first:?} has {expected}; all inputs need as many")]
    Rows {
        /// Which.
        name: String,
        /// Its rows.
        actual: usize,
        /// The input it is compared with.
        first: String,
        /// That one's rows.
        expected: usize,
    },
    /// A number that is none.
    #[error("input {name:?} holds NaN or an infinity at element {index}; send finite numbers")]
    NotFinite {
        /// Which.
        name: String,
        /// The index of the first such element, row-major.
        index: usize,
    },
    /// Rows that do not stack.
    #[error("the rows of a batch do not fit together: {0}")]
    Stack(#[from] TensorError),
}

impl Port {
    /// The port's shape as people write it: `[N, 1, 16, 16]`, or `[...]` for any number of dimensions.
    pub fn shape_text(&self) -> String {
        let Some(shape) = &self.shape else { return "[...]".to_owned() };
        let dims: Vec<String> = shape.iter().map(ToString::to_string).collect();
        format!("[{}]", dims.join(", "))
    }

    fn from_value(value: &ValueInfo) -> Self {
        Port { name: value.name.clone(), dtype: value.dtype.unwrap_or(DType::F32), shape: value.shape.clone() }
    }

    fn check(&self, tensor: &Tensor) -> Result<(), InputError> {
        if tensor.dtype() != self.dtype {
            let (actual, expected) = (tensor.dtype(), self.dtype);
            return Err(InputError::Type { name: self.name.clone(), actual, expected });
        }
        if !self.admits(tensor.shape()) {
            let (actual, expected) = (tensor.shape().to_vec(), self.shape_text());
            return Err(InputError::Shape { name: self.name.clone(), actual, expected });
        }
        Ok(())
    }

    /// What a sample of a caller's must be besides: there, and made of numbers.
    fn check_elements(&self, tensor: &Tensor) -> Result<(), InputError> {
        if tensor.is_empty() {
            let (actual, expected) = (tensor.shape().to_vec(), self.shape_text());
            return Err(InputError::Shape { name: self.name.clone(), actual, expected });
        }
        match tensor.first_non_finite() {
            Some(index) => Err(InputError::NotFinite { name: self.name.clone(), index }),
            None => Ok(()),
        }
    }

    fn admits(&self, shape: &[usize]) -> bool {
        let fits = |(dim, &size): (&Dim, &usize)| match dim {
            Dim::Known(known) => *known == size,
            Dim::Named(_) | Dim::Unknown => true,
        };
        self.shape.as_ref().is_none_or(|dims| dims.len() == shape.len() && dims.iter().zip(shape).all(fits))
    }
}

impl Signature {
    /// The signature of `graph`; initializers that are also listed as inputs have a value and are not asked for.
    pub fn of(graph: &Graph) -> Self {
        let given = graph.inputs.iter().filter(|input| !graph.initializers.contains_key(&input.name));
        let inputs: Vec<Port> = given.map(Port::from_value).collect();
        let outputs: Vec<Port> = graph.outputs.iter().map(Port::from_value).collect();
        let leading = |port: &Port| port.shape.as_ref().and_then(|shape| shape.first().cloned());
        let free = |port: &Port| leading(port).is_some_and(|dim| !matches!(dim, Dim::Known(_)));
        let batched = !inputs.is_empty() && inputs.iter().chain(&outputs).all(free);
        Signature { inputs, outputs, batched }
    }

    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<&Port> {
        self.inputs.iter().find(|port| port.name == name)
    }

    /// The output of that name.
    pub fn output(&self, name: &str) -> Option<&Port> {
        self.outputs.iter().find(|port| port.name == name)
    }

    /// Checks names, types and shapes of `inputs` (any order) and returns them in the order of the model.
    pub fn arrange(&self, inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, InputError> {
        let mut slots: Vec<Option<NamedTensor>> = self.inputs.iter().map(|_| None).collect();
        for input in inputs {
            let index = self.inputs.iter().position(|port| port.name == input.name);
            let Some(index) = index else {
                return Err(InputError::Unknown { name: input.name, takes: self.takes() });
            };
            self.inputs[index].check(&input.tensor)?;
            if slots[index].is_some() {
                return Err(InputError::Duplicate { name: input.name });
            }
            slots[index] = Some(input);
        }
        let missing = |index: usize| InputError::Missing { name: self.inputs[index].name.clone(), takes: self.takes() };
        slots.into_iter().enumerate().map(|(index, slot)| slot.ok_or_else(|| missing(index))).collect()
    }

    /// Checks a whole request and splits it into samples, each in the order of the model's inputs. A model that is not
    /// batched takes the request as one sample. Requests come from strangers: empty tensors, NaN and infinities are refused.
    pub fn split(&self, inputs: Vec<NamedTensor>) -> Result<Vec<Vec<NamedTensor>>, InputError> {
        let inputs = self.arrange(inputs)?;
        self.check_elements(&inputs)?;
        if !self.batched {
            return Ok(vec![inputs]);
        }
        let count = self.rows_of(&inputs)?;
        if count == 1 {
            return Ok(vec![inputs]);
        }
        let mut rows: Vec<Vec<NamedTensor>> = (0..count).map(|_| Vec::with_capacity(inputs.len())).collect();
        for input in &inputs {
            for (row, tensor) in rows.iter_mut().zip(input.tensor.rows()?) {
                row.push(NamedTensor::new(input.name.clone(), tensor));
            }
        }
        Ok(rows)
    }

    /// Puts samples' tensors (all with the same names in the same order) on one another: the inverse of
    /// [`Signature::split`].
    pub fn join(rows: Vec<Vec<NamedTensor>>) -> Result<Vec<NamedTensor>, TensorError> {
        let mut rows = rows;
        if rows.len() == 1 {
            return Ok(rows.remove(0));
        }
        let Some(first) = rows.first() else { return Ok(Vec::new()) };
        (0..first.len())
            .map(|column| {
                let parts: Vec<Tensor> =
                    rows.iter().filter_map(|row| row.get(column)).map(|part| part.tensor.clone()).collect();
                Ok(NamedTensor::new(first[column].name.clone(), Tensor::stack(&parts)?))
            })
            .collect()
    }

    /// `arranged` is in the order of the model.
    fn check_elements(&self, arranged: &[NamedTensor]) -> Result<(), InputError> {
        self.inputs.iter().zip(arranged).try_for_each(|(port, input)| port.check_elements(&input.tensor))
    }

    fn rows_of(&self, inputs: &[NamedTensor]) -> Result<usize, InputError> {
        if !self.batched {
            return Ok(1);
        }
        let leading = |input: &NamedTensor| input.tensor.shape().first().copied().unwrap_or(1);
        let Some(first) = inputs.first() else { return Ok(1) };
        let expected = leading(first);
        match inputs.iter().find(|input| leading(input) != expected) {
            None => Ok(expected),
            Some(other) => Err(InputError::Rows {
                name: other.name.clone(),
                actual: leading(other),
                first: first.name.clone(),
                expected,
            }),
        }
    }

    fn takes(&self) -> String {
        let each: Vec<String> =
            self.inputs.iter().map(|port| format!("{:?} {} {}", port.name, port.dtype, port.shape_text())).collect();
        each.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature() -> Signature {
        let port = |name: &str, dtype, tail: usize| Port {
            name: name.to_owned(),
            dtype,
            shape: Some(vec![Dim::Named("N".to_owned()), Dim::Known(tail)]),
        };
        let inputs = vec![port("a", DType::F32, 2), port("b", DType::U8, 1)];
        Signature { inputs, outputs: vec![port("y", DType::F32, 1)], batched: true }
    }

    fn request(rows_a: usize, rows_b: usize) -> Vec<NamedTensor> {
        vec![
            NamedTensor::new("b", Tensor::zeros(DType::U8, vec![rows_b, 1]).unwrap()),
            NamedTensor::new("a", Tensor::zeros(DType::F32, vec![rows_a, 2]).unwrap()),
        ]
    }

    #[test]
    fn a_request_is_split_into_rows_in_the_order_of_the_model() {
        let rows = signature().split(request(3, 3)).unwrap();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[2].iter().map(|input| input.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(Signature::join(rows).unwrap()[0].tensor.shape(), [3, 2]);
    }

    #[test]
    fn each_thing_wrong_with_a_request_is_named() {
        let signature = signature();
        assert!(matches!(signature.split(request(3, 2)), Err(InputError::Rows { .. })));
        assert!(matches!(signature.split(request(0, 0)), Err(InputError::Shape { .. })));
        let mut one = request(1, 1);
        one.truncate(1);
        assert!(matches!(signature.split(one), Err(InputError::Missing { .. })));
        let mut twice = request(1, 1);
        twice.push(twice[0].clone());
        assert!(matches!(signature.split(twice), Err(InputError::Duplicate { .. })));
        let mut unknown = request(1, 1);
        unknown[0].name = "c".to_owned();
        let error = signature.split(unknown).unwrap_err();
        assert_eq!(error.to_string(), "the model has no input \"c\"; it takes \"a\" FP32 [N, 2], \"b\" UINT8 [N, 1]");
    }

    #[test]
    fn an_input_of_unknown_rank_takes_tensors_of_any_and_makes_no_batches() {
        let value = ValueInfo { name: "x".to_owned(), dtype: Some(DType::F32), shape: None };
        let graph = Graph { inputs: vec![value], ..Graph::default() };
        let signature = Signature::of(&graph);
        assert!(!signature.batched);
        assert_eq!(signature.inputs[0].shape_text(), "[...]");
        for shape in [vec![], vec![2], vec![2, 3, 4]] {
            let input = NamedTensor::new("x", Tensor::zeros(DType::F32, shape).unwrap());
            assert_eq!(signature.split(vec![input]).unwrap().len(), 1);
        }
    }

    #[test]
    fn a_number_that_is_none_is_refused_with_its_place() {
        let mut inputs = request(1, 1);
        inputs[1].tensor = Tensor::from_slice(&[1, 2], &[0f32, f32::NAN]).unwrap();
        assert_eq!(signature().split(inputs), Err(InputError::NotFinite { name: "a".to_owned(), index: 1 }));
    }
}
