//! The bundled task: data, recipe and trained models, so that Hedge can be tried, tested and measured without anything
//! of one's own.

pub mod digits;
