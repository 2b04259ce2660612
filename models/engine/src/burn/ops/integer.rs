//! Operators on the bits of integers.

use hedge_graph::Node;

use super::exact::{IntBinary, IntUnary, int_binary, int_unary};
use super::{BoxOp, Builder, OpError, one};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "BitwiseAnd" => |_, _| bitwise(IntBinary::And),
        "BitwiseOr" => |_, _| bitwise(IntBinary::Or),
        "BitwiseXor" => |_, _| bitwise(IntBinary::Xor),
        "BitwiseNot" => |_, _| one(|_, mut inputs| int_unary(IntUnary::Not, inputs.take(0)?)),
        "BitShift" => shift,
        _ => return None,
    })
}

fn bitwise(op: IntBinary) -> Result<BoxOp, OpError> {
    one(move |_, mut inputs| {
        let (a, b) = super::elementwise::same_type(inputs.take(0)?, inputs.take(1)?)?;
        int_binary(op, a, b)
    })
}

fn shift(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    match node.string("direction") {
        Some("LEFT") => bitwise(IntBinary::ShiftLeft),
        Some("RIGHT") => bitwise(IntBinary::ShiftRight),
        other => Err(OpError::new(format!("direction is {other:?}, but must be LEFT or RIGHT"))),
    }
}
