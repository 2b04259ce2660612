//! Element types and their names in the protocols that Hedge speaks.

/// The type of a tensor's elements.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DType {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 16-bit integer.
    U16,
    /// Signed 16-bit integer.
    I16,
    /// Unsigned 32-bit integer.
    U32,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 64-bit integer.
    U64,
    /// Signed 64-bit integer.
    I64,
    /// IEEE 754 binary16.
    F16,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
}

/// One row a type: (type, bytes, OIP name, ONNX `TensorProto.DataType`, code on Hedge's wire).
const TABLE: [(DType, usize, &str, i32, u8); 12] = [
    (DType::Bool, 1, "BOOL", 9, 0),
    (DType::U8, 1, "UINT8", 2, 1),
    (DType::I8, 1, "INT8", 3, 2),
    (DType::U16, 2, "UINT16", 4, 3),
    (DType::I16, 2, "INT16", 5, 4),
    (DType::U32, 4, "UINT32", 12, 5),
    (DType::I32, 4, "INT32", 6, 6),
    (DType::U64, 8, "UINT64", 13, 7),
    (DType::I64, 8, "INT64", 7, 8),
    (DType::F16, 2, "FP16", 10, 9),
    (DType::F32, 4, "FP32", 1, 10),
    (DType::F64, 8, "FP64", 11, 11),
];

impl DType {
    /// Every type, in the order of the wire codes.
    pub fn all() -> impl Iterator<Item = DType> {
        TABLE.iter().map(|row| row.0)
    }

    /// Bytes of one element.
    pub fn size_bytes(self) -> usize {
        self.row().1
    }

    /// The name in the Open Inference Protocol ("Tensor Data Types").
    pub fn oip_name(self) -> &'static str {
        self.row().2
    }

    /// The inverse of [`DType::oip_name`]; `None` for names without a fixed element size (`BYTES`) and unknown ones.
    pub fn from_oip_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.2 == name).map(|row| row.0)
    }

    /// The value of ONNX's `TensorProto.DataType`.
    pub fn onnx_code(self) -> i32 {
        self.row().3
    }

    /// The inverse of [`DType::onnx_code`]; `None` for types that Hedge has no host form of (string, complex, 4-bit, 8-bit float).
    pub fn from_onnx_code(code: i32) -> Option<Self> {
        TABLE.iter().find(|row| row.3 == code).map(|row| row.0)
    }

    /// The code in an MQTT envelope. Codes are never reused.
    pub fn wire_code(self) -> u8 {
        self.row().4
    }

    /// The inverse of [`DType::wire_code`].
    pub fn from_wire_code(code: u8) -> Option<Self> {
        TABLE.iter().find(|row| row.4 == code).map(|row| row.0)
    }

    /// Whether elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::F32 | DType::F64)
    }

    fn row(self) -> &'static (DType, usize, &'static str, i32, u8) {
        // The table is in declaration order, which a test holds.
        &TABLE[self as usize]
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.oip_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_declaration_order_and_every_code_leads_back() {
        for (index, dtype) in DType::all().enumerate() {
            assert_eq!(dtype as usize, index);
            assert_eq!(DType::from_oip_name(dtype.oip_name()), Some(dtype));
            assert_eq!(DType::from_onnx_code(dtype.onnx_code()), Some(dtype));
            assert_eq!(DType::from_wire_code(dtype.wire_code()), Some(dtype));
        }
        assert_eq!(DType::from_oip_name("BYTES"), None);
    }
}
