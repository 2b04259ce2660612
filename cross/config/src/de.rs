//! Reads a serde type out of the merged tree.
//!
//! A deserializer of our own, because only here meet the three things that a good message needs: where a value comes
//! from, the full key, and the keys or choices that the type expected (serde hands them to the deserializer).
//! The same place gives a variable's text the type that its reader asks for.

use std::fmt::Display;

use serde::{
    Deserialize,
    de::{
        DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer, MapAccess,
        SeqAccess, Unexpected, VariantAccess, Visitor, value::StringDeserializer,
    },
    forward_to_deserialize_any,
};

use crate::{
    error::ConfigError,
    tree::{Entry, Node, Origin, Value, parse_inline},
};

/// How alike (Jaro-Winkler, 0 to 1) a known name must be to be offered for an unknown one.
const NEAR: f64 = 0.75;

/// Reads `T` from the root of a tree.
pub(crate) fn deserialize<T: DeserializeOwned>(root: Node) -> Result<T, ConfigError> {
    T::deserialize(root).map_err(Fault::into_error)
}

/// An error on its way up: gains its origin at the innermost node and its key part by part.
#[derive(Debug)]
pub(crate) struct Fault {
    what: What,
    origin: Option<Origin>,
    /// Innermost part first, each with its separator: `.key` or `[0]`.
    path: Vec<String>,
}

#[derive(Debug)]
enum What {
    Unknown { nearest: Option<&'static str>, known: &'static [&'static str] },
    Type { expected: String, found: String },
    Choice { nearest: Option<&'static str>, known: &'static [&'static str] },
    Missing,
    Message(String),
}

impl Fault {
    fn new(what: What) -> Self {
        Self { what, origin: None, path: Vec::new() }
    }

    fn at(mut self, origin: &Origin) -> Self {
        self.origin.get_or_insert_with(|| origin.clone());
        self
    }

    fn under(mut self, part: String) -> Self {
        self.path.push(part);
        self
    }

    fn key(&self) -> String {
        let key: String = self.path.iter().rev().map(String::as_str).collect();
        key.trim_start_matches('.').to_owned()
    }

    fn into_error(self) -> ConfigError {
        let key = self.key();
        let place = self.origin.as_ref().unwrap_or(&Origin::Text).place();
        match self.what {
            What::Unknown { nearest, known } => {
                let nearest = nearest.map(|name| match key.rsplit_once('.') {
                    Some((section, _)) => format!("{section}.{name}"),
                    None => name.to_owned(),
                });
                ConfigError::UnknownKey { key, place, nearest, known }
            }
            What::Type { expected, found } => ConfigError::WrongType { key, place, expected, found },
            What::Choice { nearest, known } => {
                ConfigError::UnknownChoice { key, place, nearest: nearest.map(str::to_owned), known }
            }
            What::Missing => ConfigError::Missing { key, place },
            What::Message(message) => ConfigError::Invalid { key, place, message },
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`: {:?}", self.key(), self.what)
    }
}

impl std::error::Error for Fault {}

impl serde::de::Error for Fault {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(What::Message(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(What::Type { expected: plain(expected), found: kind(&found).to_owned() })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match found {
            Unexpected::Unsigned(number) => number.to_string(),
            Unexpected::Signed(number) => number.to_string(),
            other => kind(&other).to_owned(),
        };
        Self::new(What::Type { expected: plain(expected), found })
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        Self::new(What::Choice { nearest: nearest(variant, known), known })
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Self::new(What::Unknown { nearest: nearest(field, known), known }).under(format!(".{field}"))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(What::Missing).under(format!(".{field}"))
    }
}

fn nearest(name: &str, known: &'static [&'static str]) -> Option<&'static str> {
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), *candidate))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// What serde calls `u16`, in words.
fn plain(expected: &dyn Expected) -> String {
    let name = expected.to_string();
    match name.as_str() {
        "i8" | "i16" | "i32" | "i64" | "isize" => format!("a whole number ({name})"),
        "u8" | "u16" | "u32" | "u64" | "usize" => format!("a whole number, not negative ({name})"),
        "f32" | "f64" => "a number".into(),
        "a string" => "a text".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list".into(),
        _ if name.starts_with("struct ") || name == "a map" => "a table".into(),
        _ => name,
    }
}

/// The type of a value, without the value.
fn kind(found: &Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "true or false",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
        Unexpected::Float(_) => "a fraction",
        Unexpected::Str(_) | Unexpected::Char(_) => "a text",
        Unexpected::Seq => "a list",
        Unexpected::Map => "a table",
        _ => "something else",
    }
}

impl Node {
    fn unexpected(&self) -> Unexpected<'_> {
        match &self.value {
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Integer(value) => Unexpected::Signed(*value),
            Value::Float(value) => Unexpected::Float(*value),
            Value::Text(text) | Value::Raw(text) => Unexpected::Str(text),
            Value::Array(_) => Unexpected::Seq,
            Value::Table(_) => Unexpected::Map,
        }
    }

    fn type_fault(&self, expected: &dyn Expected) -> Fault {
        Fault::invalid_type(self.unexpected(), expected).at(&self.origin)
    }

    /// A variable's text as the TOML value that it spells; any other node as it is.
    fn resolved(self) -> Self {
        match &self.value {
            Value::Raw(raw) => parse_inline(raw.trim(), &self.origin).unwrap_or(self),
            _ => self,
        }
    }
}

/// Methods that first read a variable's text as the TOML value that it spells.
macro_rules! resolve_raw {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.resolved().deserialize_any(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Node {
    type Error = Fault;

    /// Reads what stands there; a variable's text stays a text.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Self { origin, value } = self;
        match value {
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Integer(value) => visitor.visit_i64(value),
            Value::Float(value) => visitor.visit_f64(value),
            Value::Text(text) | Value::Raw(text) => visitor.visit_string(text),
            Value::Array(items) => visitor.visit_seq(Items { items: items.into_iter().enumerate() }),
            Value::Table(entries) => visitor.visit_map(Entries { entries: entries.into_iter(), pending: None }),
        }
        .map_err(|fault: Fault| fault.at(&origin))
    }

    resolve_raw! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64 deserialize_seq deserialize_map
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let node = self.resolved();
        let Value::Table(entries) = &node.value else { return Err(node.type_fault(&"a table")) };
        if let Some((key, entry)) = entries.iter().find(|(key, _)| !fields.contains(&key.as_str())) {
            return Err(Fault::unknown_field(key, fields).at(&entry.key_origin));
        }
        node.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let origin = self.origin.clone();
        match self.value {
            Value::Text(name) | Value::Raw(name) => visitor.visit_enum(name.into_deserializer()),
            Value::Table(entries) if entries.len() == 1 => {
                let (name, entry) = entries.into_iter().next().expect("the table has one entry");
                visitor.visit_enum(Choice { name, node: entry.node })
            }
            _ => Err(self.type_fault(&"a text")),
        }
        .map_err(|fault: Fault| fault.at(&origin))
    }

    forward_to_deserialize_any! { char str string bytes byte_buf unit unit_struct identifier ignored_any }
}

/// The elements of a list.
struct Items {
    items: std::iter::Enumerate<std::vec::IntoIter<Node>>,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        let origin = node.origin.clone();
        seed.deserialize(node).map(Some).map_err(|fault| fault.at(&origin).under(format!("[{index}]")))
    }
}

/// The entries of a table.
struct Entries {
    entries: std::collections::btree_map::IntoIter<String, Entry>,
    pending: Option<(String, Node)>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((key, entry)) = self.entries.next() else { return Ok(None) };
        let name: StringDeserializer<Fault> = key.clone().into_deserializer();
        self.pending = Some((key, entry.node));
        seed.deserialize(name).map(Some).map_err(|fault| fault.at(&entry.key_origin))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (key, node) = self.pending.take().expect("serde asks for a value only after its key");
        let origin = node.origin.clone();
        seed.deserialize(node).map_err(|fault| fault.at(&origin).under(format!(".{key}")))
    }
}

/// A choice with content: a table of one entry.
struct Choice {
    name: String,
    node: Node,
}

impl<'de> EnumAccess<'de> for Choice {
    type Error = Fault;
    type Variant = Node;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Node), Fault> {
        let name: StringDeserializer<Fault> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self.node))
    }
}

impl<'de> VariantAccess<'de> for Node {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        <()>::deserialize(self)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_struct("", fields, visitor)
    }
}
