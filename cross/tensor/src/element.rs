//! Rust types that stand for a [`DType`].

use crate::DType;

/// A Rust number whose memory is one element of a tensor.
///
/// `bool` is not one (most bytes are no `bool`); a [`DType::Bool`] tensor is made by [`crate::Tensor::bools`].
pub trait Element: bytemuck::Pod + std::fmt::Debug {
    /// The element type this Rust type stands for.
    const DTYPE: DType;
}

macro_rules! element {
    ($($rust:ty => $dtype:ident),* $(,)?) => {
        $(impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
        })*
    };
}

element!(
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64,
    half::f16 => F16, f32 => F32, f64 => F64,
);

// Tensor bytes are little-endian and `Element`s are read from memory as they lie.
#[cfg(target_endian = "big")]
compile_error!("Hedge reads tensor bytes in place and supports little-endian targets only");
