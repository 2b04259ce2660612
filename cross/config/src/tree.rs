//! The configuration as a tree of values that know where they come from: the file's lines or a variable.
//!
//! The tree is the merge of both; what a variable's text means is decided by who reads it (`de`), not here.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use toml::de::{DeTable, DeValue};

use crate::error::{ConfigError, Place};

/// The deepest override, in parts (`HEDGE_A__B__C` has three).
const MAX_PARTS: usize = 8;

/// Where a node comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Origin {
    /// The text as a whole.
    Text,
    /// A line of it, counted from 1.
    Line(usize),
    /// An environment variable.
    Variable(Arc<str>),
}

impl Origin {
    pub(crate) fn place(&self) -> Place {
        match self {
            Self::Text => Place::Text { file: None },
            Self::Line(line) => Place::Line { file: None, line: *line },
            Self::Variable(name) => Place::Variable(name.to_string()),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) origin: Origin,
    pub(crate) value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    /// A variable's text: whatever its reader wants it to be.
    Raw(String),
    Array(Vec<Node>),
    /// With the origin of each key: an unknown key is reported where it stands, not where its value does.
    Table(BTreeMap<String, Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key_origin: Origin,
    pub(crate) node: Node,
}

/// Parses a whole TOML document.
pub(crate) fn parse(toml: &str) -> Result<Node, ConfigError> {
    let lines = Lines::of(toml);
    let document = DeTable::parse(toml).map_err(|error| lines.syntax(&error))?;
    let value = table(document.get_ref(), &|span| Origin::Line(lines.line(span.start)))?;
    Ok(Node { origin: Origin::Text, value })
}

/// Parses one inline value out of a variable.
pub(crate) fn parse_inline(raw: &str, origin: &Origin) -> Option<Node> {
    let value = DeValue::parse(raw).ok()?;
    let value = convert(value.get_ref(), origin, &|_| origin.clone()).ok()?;
    Some(Node { origin: origin.clone(), value })
}

/// Whether a variable overrides a key: `{prefix}_…__…`.
pub(crate) fn is_override(prefix: &str, name: &str) -> bool {
    name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_')).is_some_and(|rest| rest.contains("__"))
}

/// Puts the overriding variables into the tree, in the order of their names.
pub(crate) fn overlay(
    root: &mut Node,
    prefix: &str,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    let overrides: BTreeMap<String, String> = variables.filter(|(name, _)| is_override(prefix, name)).collect();
    for (name, value) in overrides {
        let path = name[prefix.len() + 1..].to_lowercase();
        let parts: Vec<&str> = path.split("__").collect();
        let bad = |why: &str| ConfigError::BadVariable { name: name.clone(), why: why.into() };
        if parts.iter().any(|part| part.is_empty()) {
            return Err(bad("a part of its name is empty"));
        }
        if parts.len() > MAX_PARTS {
            return Err(bad("its name has too many parts"));
        }
        let origin = Origin::Variable(name.as_str().into());
        put(root, &parts, &origin, value).map_err(|why| bad(&why))?;
    }
    Ok(())
}

fn put(node: &mut Node, parts: &[&str], origin: &Origin, raw: String) -> Result<(), String> {
    let Some((first, rest)) = parts.split_first() else {
        *node = Node { origin: origin.clone(), value: Value::Raw(raw) };
        return Ok(());
    };
    let child = match &mut node.value {
        Value::Table(entries) => {
            &mut entries
                .entry((*first).to_owned())
                .or_insert_with(|| Entry { key_origin: origin.clone(), node: empty(origin, rest) })
                .node
        }
        Value::Array(items) => element(items, first, origin, rest)?,
        _ => return Err(format!("what stands before `{first}` is a plain value, not a section")),
    };
    put(child, rest, origin, raw)
}

fn element<'a>(items: &'a mut Vec<Node>, index: &str, origin: &Origin, rest: &[&str]) -> Result<&'a mut Node, String> {
    let length = items.len();
    match index.parse::<usize>() {
        Ok(index) if index < length => Ok(&mut items[index]),
        Ok(index) if index == length => {
            items.push(empty(origin, rest));
            Ok(items.last_mut().expect("an element was just pushed"))
        }
        _ => Err(format!("`{index}` must be an index from 0 to {length}")),
    }
}

/// What a variable creates where the file has nothing: a list where an index follows, a table otherwise.
fn empty(origin: &Origin, rest: &[&str]) -> Node {
    let list = rest.first().is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    let value = if list { Value::Array(Vec::new()) } else { Value::Table(BTreeMap::new()) };
    Node { origin: origin.clone(), value }
}

fn table(table: &DeTable<'_>, origin: &dyn Fn(Range<usize>) -> Origin) -> Result<Value, ConfigError> {
    let mut entries = BTreeMap::new();
    for (key, value) in table {
        let key_origin = origin(key.span());
        let node_origin = origin(value.span());
        let value = convert(value.get_ref(), &node_origin, origin)?;
        let node = Node { origin: node_origin, value };
        entries.insert(key.get_ref().to_string(), Entry { key_origin, node });
    }
    Ok(Value::Table(entries))
}

fn convert(value: &DeValue<'_>, here: &Origin, origin: &dyn Fn(Range<usize>) -> Origin) -> Result<Value, ConfigError> {
    let syntax = |message: &str| ConfigError::Syntax { place: here.place(), message: message.into() };
    Ok(match value {
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(Value::Integer)
            .map_err(|_| syntax("a whole number beyond 64 bits"))?,
        DeValue::Float(number) => number.as_str().parse().map(Value::Float).map_err(|_| syntax("not a number"))?,
        // No program has a key that is a date; as a text it gets a good error.
        DeValue::Datetime(datetime) => Value::Text(datetime.to_string()),
        DeValue::Array(items) => {
            let mut nodes = Vec::with_capacity(items.len());
            for item in items {
                let origin_of_item = origin(item.span());
                let value = convert(item.get_ref(), &origin_of_item, origin)?;
                nodes.push(Node { origin: origin_of_item, value });
            }
            Value::Array(nodes)
        }
        DeValue::Table(entries) => table(entries, origin)?,
    })
}

/// Offsets of the line starts of a text.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1).collect())
    }

    fn line(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset) + 1
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let place = match error.span() {
            Some(span) => Place::Line { file: None, line: self.line(span.start) },
            None => Place::Text { file: None },
        };
        ConfigError::Syntax { place, message: error.message().to_owned() }
    }
}
