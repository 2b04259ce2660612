//! Operators that work element by element.

use hedge_tensor::DType;

use super::fact::{Call, Fact, Rule, broadcast};
use super::number::Number;
use crate::Dim;

pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "Relu"
        | "Sigmoid"
        | "Tanh"
        | "Exp"
        | "Log"
        | "Sqrt"
        | "Erf"
        | "Floor"
        | "Ceil"
        | "Round"
        | "Reciprocal"
        | "Sin"
        | "Cos"
        | "Tan"
        | "Asin"
        | "Acos"
        | "Atan"
        | "Sinh"
        | "Cosh"
        | "Asinh"
        | "Acosh"
        | "Atanh"
        | "Softplus"
        | "Softsign"
        | "HardSwish"
        | "HardSigmoid"
        | "Gelu"
        | "Neg"
        | "Abs"
        | "Sign"
        | "LeakyRelu"
        | "Elu"
        | "Selu"
        | "Celu"
        | "Mish"
        | "Swish"
        | "ThresholdedRelu"
        | "Shrink"
        | "Clip"
        | "Softmax"
        | "LogSoftmax"
        | "Hardmax"
        | "Identity"
        | "CumSum"
        | "CumProd"
        | "Trilu"
        | "BitwiseNot"
        | "PRelu"
        | "ReverseSequence"
        | "ScatterND"
        | "ScatterElements"
        | "Scatter"
        | "LRN"
        | "MeanVarianceNormalization"
        | "LpNormalization"
        | "InstanceNormalization"
        | "GroupNormalization"
        | "RMSNormalization"
        | "RotaryEmbedding" => same,
        "Not" | "IsNaN" | "IsInf" => |call| call.maybe(Some(DType::Bool), call.shape(0).map(<[Dim]>::to_vec)),
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" | "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor"
        | "Min" | "Max" | "Sum" | "Mean" => arithmetic,
        "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "And" | "Or" | "Xor" => comparison,
        "Where" => select,
        "Cast" => cast,
        "CastLike" => |call| call.maybe(call.dtype(1), call.shape(0).map(<[Dim]>::to_vec)),
        "Dropout" => |call| {
            let shape = call.shape(0).map(<[Dim]>::to_vec);
            Some(vec![Fact::new(call.dtype(0), shape.clone()), Fact::new(Some(DType::Bool), shape)])
        },
        "BatchNormalization" => |call| Some(vec![Fact::new(call.dtype(0), call.shape(0).map(<[Dim]>::to_vec))]),
        "LayerNormalization" => layer_normalization,
        "QuantizeLinear" => |call| {
            let given = call.type_attribute("output_dtype");
            let dtype = given.or(if call.has(2) { call.dtype(2) } else { Some(DType::U8) });
            call.maybe(dtype, call.shape(0).map(<[Dim]>::to_vec))
        },
        "DequantizeLinear" => |call| call.maybe(call.dtype(1), call.shape(0).map(<[Dim]>::to_vec)),
        "DynamicQuantizeLinear" => |call| {
            let shape = call.shape(0).map(<[Dim]>::to_vec);
            let scalar = |dtype| Fact::new(Some(dtype), Some(Vec::new()));
            Some(vec![Fact::new(Some(DType::U8), shape), scalar(DType::F32), scalar(DType::U8)])
        },
        _ => return None,
    })
}

/// The output is like input 0; integers keep their values through `Identity`.
fn same(call: &Call<'_>) -> Option<Vec<Fact>> {
    let x = call.inputs.first()?;
    let value = x.value.clone().filter(|_| call.node.op == "Identity");
    Some(vec![Fact { value, ..Fact::new(x.dtype, x.shape.clone()) }])
}

fn arithmetic(call: &Call<'_>) -> Option<Vec<Fact>> {
    let value = numbers(call);
    Some(vec![Fact { value, ..Fact::new(call.dtype(0), all_broadcast(call)) }])
}

fn comparison(call: &Call<'_>) -> Option<Vec<Fact>> {
    let value = numbers(call);
    Some(vec![Fact { value, ..Fact::new(Some(DType::Bool), all_broadcast(call)) }])
}

fn all_broadcast(call: &Call<'_>) -> Option<Vec<Dim>> {
    let mut shapes = (0..call.inputs.len()).map(|index| call.shape(index));
    let first = shapes.next()??.to_vec();
    shapes.try_fold(first, |all, shape| broadcast(&all, shape?))
}

/// The elements of an operator on two followed values.
fn numbers(call: &Call<'_>) -> Option<Vec<Number>> {
    if call.inputs.len() != 2 {
        return None;
    }
    let (a, b) = (call.value(0)?, call.value(1)?);
    let length = if a.len() == 1 { b.len() } else { a.len() };
    let at = |values: &[Number], index: usize| values.get(if values.len() == 1 { 0 } else { index }).cloned();
    (0..length).map(|index| Some(Number::apply(&call.node.op, &at(a, index)?, &at(b, index)?))).collect()
}

fn select(call: &Call<'_>) -> Option<Vec<Fact>> {
    let value = || {
        let (condition, a, b) = (call.value(0)?, call.value(1)?, call.value(2)?);
        let length = condition.len().max(a.len()).max(b.len());
        let at = |values: &[Number], index: usize| values.get(if values.len() == 1 { 0 } else { index }).cloned();
        let pick = |index: usize| {
            let (a, b) = (at(a, index)?, at(b, index)?);
            Some(match at(condition, index)?.known() {
                Some(0) => b,
                Some(_) => a,
                None if a == b => a,
                None => Number::Unknown,
            })
        };
        (0..length).map(pick).collect::<Option<Vec<_>>>()
    };
    Some(vec![Fact { value: value(), ..Fact::new(call.dtype(1).or(call.dtype(2)), all_broadcast(call)) }])
}

fn cast(call: &Call<'_>) -> Option<Vec<Fact>> {
    let dtype = call.type_attribute("to");
    let whole = matches!(dtype, Some(DType::I64 | DType::I32));
    let narrow = dtype == Some(DType::I32);
    let fits = |number: &Number| !narrow || number.known().is_none_or(|value| i32::try_from(value).is_ok());
    let value = call.value(0).filter(|values| whole && values.iter().all(fits)).map(<[Number]>::to_vec);
    Some(vec![Fact { value, ..Fact::new(dtype, call.shape(0).map(<[Dim]>::to_vec)) }])
}

fn layer_normalization(call: &Call<'_>) -> Option<Vec<Fact>> {
    let shape = call.shape(0).map(<[Dim]>::to_vec);
    let stash = call.type_attribute("stash_type").or(Some(DType::F32));
    let rows = || {
        let mut rows = shape.clone()?;
        let axis = call.axis(-1, rows.len())?;
        rows[axis..].fill(Dim::Known(1));
        Some(rows)
    };
    let statistics = Fact::new(stash, rows());
    Some(vec![Fact::new(call.dtype(0), shape.clone()), statistics.clone(), statistics])
}
