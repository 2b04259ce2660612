//! An integer that is followed: known, named like a dimension, or unknown.

use crate::Dim;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Number {
    Known(i64),
    Named(String),
    Unknown,
}

impl Number {
    pub(super) fn known(&self) -> Option<i64> {
        match self {
            Number::Known(value) => Some(*value),
            _ => None,
        }
    }

    /// The dimension of this size; a negative number is none.
    pub(super) fn dim(&self) -> Dim {
        match self {
            Number::Known(value) => usize::try_from(*value).map_or(Dim::Unknown, Dim::Known),
            Number::Named(name) => Dim::Named(name.clone()),
            Number::Unknown => Dim::Unknown,
        }
    }

    /// The result of an operator on two numbers; names stay where the other number changes nothing.
    pub(super) fn apply(op: &str, a: &Number, b: &Number) -> Number {
        let same = |number: &Number| number.clone();
        match (op, a, b) {
            (_, Number::Known(a), Number::Known(b)) => arithmetic(op, *a, *b).map_or(Number::Unknown, Number::Known),
            ("Add", Number::Known(0), other) | ("Mul", Number::Known(1), other) => same(other),
            ("Add" | "Sub", other, Number::Known(0)) | ("Mul" | "Div", other, Number::Known(1)) => same(other),
            ("Mul", Number::Known(0), _) | ("Mul", _, Number::Known(0)) => Number::Known(0),
            ("Sub", Number::Named(a), Number::Named(b)) if a == b => Number::Known(0),
            ("Max" | "Min", a, b) if a == b => same(a),
            _ => Number::Unknown,
        }
    }
}

impl From<&Dim> for Number {
    fn from(dim: &Dim) -> Self {
        match dim {
            Dim::Known(size) => i64::try_from(*size).map_or(Number::Unknown, Number::Known),
            Dim::Named(name) => Number::Named(name.clone()),
            Dim::Unknown => Number::Unknown,
        }
    }
}

fn arithmetic(op: &str, a: i64, b: i64) -> Option<i64> {
    match op {
        "Add" => a.checked_add(b),
        "Sub" => a.checked_sub(b),
        "Mul" => a.checked_mul(b),
        // Executors do not agree on the rounding of negative quotients.
        "Div" if a >= 0 && b > 0 => a.checked_div(b),
        "Mod" if a >= 0 && b > 0 => a.checked_rem(b),
        "Max" => Some(a.max(b)),
        "Min" => Some(a.min(b)),
        "Equal" => Some(i64::from(a == b)),
        "Less" => Some(i64::from(a < b)),
        "Greater" => Some(i64::from(a > b)),
        _ => None,
    }
}
