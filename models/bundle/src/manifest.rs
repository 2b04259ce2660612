//! `manifest.json`: what is known of a model.
//!
//! ```json
//! {
//!   "format": 1,
//!   "name": "digits", "version": "1.0.0",
//!   "description": "…", "licence": "Apache-2.0 OR MIT",
//!   "inputs": [{"name": "image", "meaning": "gray levels, ink is 1", "unit": "", "transform": {"kind": "image", …}}],
//!   "outputs": [{"name": "logits", "meaning": "…", "unit": "", "labels": ["0", …]}],
//!   "comparison": {"kind": "top-class", "output": "logits"},
//!   "score": "logits",
//!   "golden": [{"inputs": [{"name": "image", "file": "golden/0/in-0.npy"}], "outputs": […]}],
//!   "files": [{"name": "model.onnx", "bytes": 1234, "sha256": "…"}, …]
//! }
//! ```
//!
//! `files` lists every other file of the bundle, so that the manifest's digest stands for all of it. A manifest without it
//! is a draft: what a person writes and `pack` completes.

use std::collections::{BTreeMap, BTreeSet};

use hedge_graph::{Dim, Graph};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::{
    MAX_ASSET_BYTES, MAX_BUNDLE_BYTES, MAX_FILES, MAX_GOLDEN_BYTES, MAX_GOLDEN_CASES, MAX_LABELS, MAX_MANIFEST_BYTES,
    MAX_MANIFEST_DEPTH, MAX_MODEL_BYTES, MAX_PORTS, MAX_TEXT_BYTES, MAX_WORD_BYTES,
};
use crate::{Digest, FileName, ModelName, ModelVersion, Transform};

/// The manifest's file.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The model's file.
pub const MODEL_FILE: &str = "model.onnx";
/// The file with the model's large tensors, in ONNX's external-data form.
pub const WEIGHTS_FILE: &str = "weights.bin";
/// The version of the manifest's form that this program reads and writes.
pub const FORMAT: u32 = 1;

/// What is known of a model.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The model's name where requests are made.
    pub name: ModelName,
    /// Its version there.
    pub version: ModelVersion,
    /// What it does, for people.
    #[serde(default)]
    pub description: String,
    /// An SPDX expression, or what may be done with it in words.
    #[serde(default)]
    pub licence: String,
    /// What a caller gives.
    #[serde(default)]
    pub inputs: Vec<Input>,
    /// What a caller gets.
    #[serde(default)]
    pub outputs: Vec<Output>,
    /// When an answer counts as another model's; without it nothing can be certified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    /// The output that confidence is computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// Inputs with known outputs, at the model's own inputs: after the transforms.
    #[serde(default)]
    pub golden: Vec<GoldenFiles>,
    /// Every file but the manifest, in the order of their names.
    #[serde(default)]
    pub files: Vec<FileRecord>,
}

/// One thing that a caller gives.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Its name: the model's input, or, with a text transform, a name of its own.
    pub name: String,
    /// What it is, for people.
    #[serde(default)]
    pub meaning: String,
    /// Its unit, such as `m/s`; empty where it has none.
    #[serde(default)]
    pub unit: String,
    /// How raw bytes become the model's input; without one the caller gives the model's input itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<Transform>,
}

/// One thing that a caller gets.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// The model's output.
    pub name: String,
    /// What it is, for people.
    #[serde(default)]
    pub meaning: String,
    /// Its unit; empty where it has none.
    #[serde(default)]
    pub unit: String,
    /// What the entries of its last dimension are called; empty where they have no names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}

/// When two models' answers to one row differ: what a certificate counts.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Comparison {
    /// Another entry of the last dimension is the largest.
    TopClass {
        /// The output with one number a class.
        output: String,
    },
    /// The first model's largest entry is not among the second's `k` largest.
    TopK {
        /// The output with one number a class.
        output: String,
        /// How many.
        k: u32,
    },
    /// A number `a` is further from the second model's `b` than `absolute + relative * |b|`.
    Tolerance {
        /// The output.
        output: String,
        /// In the output's unit.
        #[serde(default)]
        absolute: f64,
        /// A share of the second model's value.
        #[serde(default)]
        relative: f64,
    },
    /// Any token is another.
    Tokens {
        /// The output with integers.
        output: String,
    },
}

/// Where one golden case lies.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenFiles {
    /// A value for each input of the model.
    pub inputs: Vec<GoldenFile>,
    /// What comes of them.
    pub outputs: Vec<GoldenFile>,
}

/// One tensor of a golden case.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenFile {
    /// The model's input or output.
    pub name: String,
    /// Its value: `.npy`, or an ONNX `TensorProto` as `.pb`.
    pub file: FileName,
}

/// A file of the bundle.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Its name.
    pub name: FileName,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: Digest,
}

/// A manifest that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// Not the JSON that a manifest is.
    #[error("manifest.json: {0}")]
    Json(String),
    /// Larger or deeper than a manifest may be.
    #[error("manifest.json has {count} {what}; {most} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: u64,
        /// The bound.
        most: u64,
    },
    /// Of another version.
    #[error("manifest.json is of format {0}, this program reads format {FORMAT}; install a newer one")]
    Format(u32),
    /// Something in it is wrong.
    #[error("manifest.json: {place}: {why}")]
    Wrong {
        /// Where.
        place: String,
        /// What is wrong and what would be right.
        why: String,
    },
}

impl Manifest {
    /// A manifest of which only the name is known.
    pub fn named(name: ModelName, version: ModelVersion) -> Self {
        Manifest {
            format: FORMAT,
            name,
            version,
            description: String::new(),
            licence: String::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            comparison: None,
            score: None,
            golden: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Reads `manifest.json` and checks all that can be said without the model.
    pub fn read(json: &[u8]) -> Result<Self, ManifestError> {
        at_most("bytes", json.len(), MAX_MANIFEST_BYTES as usize)?;
        at_most("levels", depth(json), MAX_MANIFEST_DEPTH)?;
        let manifest: Manifest =
            serde_json::from_slice(json).map_err(|error| ManifestError::Json(error.to_string()))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The SHA-256 of the transforms by which raw inputs become the model's: as JSON, by the names of the inputs that have
    /// one. What was found out about a model under other transforms is about other inputs.
    pub fn transforms_digest(&self) -> Digest {
        let transforms: BTreeMap<&str, &Transform> =
            self.inputs.iter().filter_map(|input| Some((input.name.as_str(), input.transform.as_ref()?))).collect();
        Digest::of(&serde_json::to_vec(&transforms).expect("names and finite numbers are JSON"))
    }

    /// The bytes of `manifest.json`; the same manifest always gives the same.
    pub fn write(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("names and finite numbers are JSON");
        json.push(b'\n');
        json
    }

    /// The record of the file `name`.
    pub fn file(&self, name: &str) -> Option<&FileRecord> {
        self.files.binary_search_by(|file| file.name.as_str().cmp(name)).ok().map(|index| &self.files[index])
    }

    /// Checks all that can be said without the model.
    pub fn check(&self) -> Result<(), ManifestError> {
        if self.format != FORMAT {
            return Err(ManifestError::Format(self.format));
        }
        for text in [&self.description, &self.licence] {
            at_most("bytes in a text", text.len(), MAX_TEXT_BYTES)?;
        }
        self.check_ports()?;
        self.check_golden()?;
        check_files(&self.files)?;
        self.check_sizes()
    }

    /// Checks that it speaks of `graph`: each input of the graph is given exactly once, each output exists.
    pub fn check_against(&self, graph: &Graph) -> Result<(), ManifestError> {
        let mut fed = BTreeSet::new();
        for input in &self.inputs {
            for name in input.feeds() {
                let fail = |why| Err(wrong("inputs", &input.name, why));
                let Some(value) = graph.input(name) else {
                    let has = names(graph.inputs.iter().map(|input| input.name.as_str()));
                    return fail(format!("the model has no input {name:?}; it has {has}"));
                };
                if !fed.insert(name) {
                    return fail(format!("the model's input {name:?} is given twice"));
                }
                let made = input.transform.as_ref().map(Transform::dtype);
                if let Some((made, takes)) = made.zip(value.dtype).filter(|(made, takes)| made != takes) {
                    return fail(format!("its transform makes {made}, but the model's input {name:?} is {takes}"));
                }
            }
        }
        if let Some(missing) = graph.inputs.iter().find(|input| !fed.contains(input.name.as_str())) {
            return Err(wrong("inputs", &missing.name, "the model takes it, but nothing gives it".into()));
        }
        self.outputs.iter().try_for_each(|output| check_output(output, graph))?;
        self.golden.iter().enumerate().try_for_each(|(index, case)| check_case(case, index, graph))
    }

    /// Adds what `graph` takes and gives and the manifest does not speak of.
    pub(crate) fn complete(&mut self, graph: &Graph) {
        let fed: BTreeSet<String> = self.inputs.iter().flat_map(Input::feeds).map(str::to_owned).collect();
        let unfed = graph.inputs.iter().filter(|input| !fed.contains(&input.name));
        self.inputs.extend(unfed.map(|input| Input { name: input.name.clone(), ..Input::default() }));
        let spoken: BTreeSet<String> = self.outputs.iter().map(|output| output.name.clone()).collect();
        let unspoken = graph.outputs.iter().filter(|output| !spoken.contains(&output.name));
        self.outputs.extend(unspoken.map(|output| Output { name: output.name.clone(), ..Output::default() }));
    }

    /// The files that the manifest speaks of by name.
    pub(crate) fn named_files(&self) -> impl Iterator<Item = &FileName> {
        self.assets().chain(self.golden_files())
    }

    /// The files that transforms need.
    pub(crate) fn assets(&self) -> impl Iterator<Item = &FileName> {
        self.inputs.iter().filter_map(|input| input.transform.as_ref()?.assets())
    }

    fn golden_files(&self) -> impl Iterator<Item = &FileName> {
        self.golden.iter().flat_map(|case| case.inputs.iter().chain(&case.outputs)).map(|tensor| &tensor.file)
    }

    fn check_ports(&self) -> Result<(), ManifestError> {
        at_most("inputs", self.inputs.len(), MAX_PORTS)?;
        at_most("outputs", self.outputs.len(), MAX_PORTS)?;
        unique("inputs", self.inputs.iter().map(|input| input.name.as_str()))?;
        unique("outputs", self.outputs.iter().map(|output| output.name.as_str()))?;
        for input in &self.inputs {
            words([&input.name, &input.meaning, &input.unit])?;
            if let Some(transform) = &input.transform {
                words(transform.feeds(&input.name))?;
                transform.check().map_err(|why| wrong("inputs", &input.name, format!("transform: {why}")))?;
            }
        }
        for output in &self.outputs {
            words([&output.name, &output.meaning, &output.unit])?;
            at_most("labels", output.labels.len(), MAX_LABELS)?;
            words(&output.labels)?;
        }
        if let Some(comparison) = &self.comparison {
            comparison.check().map_err(|why| wrong("comparison", comparison.output(), why))?;
        }
        let named = self.comparison.iter().map(Comparison::output).chain(self.score.as_deref());
        for name in named {
            if !self.outputs.iter().any(|output| output.name == name) {
                return Err(wrong("comparison and score", name, "it is not among the outputs; list it there".into()));
            }
        }
        Ok(())
    }

    fn check_golden(&self) -> Result<(), ManifestError> {
        at_most("golden cases", self.golden.len(), MAX_GOLDEN_CASES)?;
        for case in &self.golden {
            for tensors in [&case.inputs, &case.outputs] {
                at_most("tensors in a golden case", tensors.len(), MAX_PORTS)?;
                unique("golden", tensors.iter().map(|tensor| tensor.name.as_str()))?;
            }
        }
        Ok(())
    }

    /// What is read into memory whole is bounded by itself. A draft has no sizes yet.
    fn check_sizes(&self) -> Result<(), ManifestError> {
        if self.files.is_empty() {
            return Ok(());
        }
        let Some(model) = self.file(MODEL_FILE) else {
            return Err(wrong("files", MODEL_FILE, "every bundle has one; pack the folder again".into()));
        };
        at_most_bytes("bytes in model.onnx", model.bytes, MAX_MODEL_BYTES)?;
        for name in self.named_files() {
            if self.file(name.as_str()).is_none() {
                return Err(wrong(
                    "files",
                    name.as_str(),
                    "it is spoken of, but not listed; pack the folder again".into(),
                ));
            }
        }
        let bytes = |name: &FileName| self.file(name.as_str()).map_or(0, |file| file.bytes);
        for asset in self.assets() {
            at_most_bytes("bytes in a file of a transform", bytes(asset), MAX_ASSET_BYTES)?;
        }
        let golden: BTreeSet<&FileName> = self.golden_files().collect();
        // Each is at most MAX_BUNDLE_BYTES, and there are at most MAX_FILES.
        at_most_bytes("bytes in golden vectors", golden.into_iter().map(bytes).sum(), MAX_GOLDEN_BYTES)
    }
}

impl Input {
    /// The model's inputs that it gives values to.
    pub fn feeds(&self) -> Vec<&str> {
        match &self.transform {
            Some(transform) => transform.feeds(&self.name),
            None => vec![&self.name],
        }
    }
}

impl Comparison {
    /// The output that it is about.
    pub fn output(&self) -> &str {
        match self {
            Comparison::TopClass { output }
            | Comparison::TopK { output, .. }
            | Comparison::Tolerance { output, .. }
            | Comparison::Tokens { output } => output,
        }
    }

    fn check(&self) -> Result<(), String> {
        match *self {
            Comparison::TopK { k: 0, .. } => Err("k is 0; it must be at least 1".into()),
            Comparison::Tolerance { absolute, relative, .. } => {
                let fine = absolute.is_finite() && relative.is_finite() && absolute >= 0.0 && relative >= 0.0;
                if fine { Ok(()) } else { Err("absolute and relative must be finite and not negative".into()) }
            }
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Comparison::TopClass { output } => write!(f, "top class of {output:?}"),
            Comparison::TopK { output, k } => write!(f, "top class of {output:?} among the other's {k} largest"),
            Comparison::Tolerance { output, absolute, relative } => {
                write!(f, "{output:?} within {absolute} + {relative} * |value|")
            }
            Comparison::Tokens { output } => write!(f, "tokens of {output:?}"),
        }
    }
}

fn check_files(files: &[FileRecord]) -> Result<(), ManifestError> {
    at_most("files", files.len(), MAX_FILES)?;
    let mut total = 0u64;
    let mut seen = BTreeSet::new();
    for (index, file) in files.iter().enumerate() {
        let name = file.name.as_str();
        if index > 0 && files[index - 1].name >= file.name {
            return Err(wrong("files", name, "files must stand in the order of their names, each once".into()));
        }
        // One file on Windows and macOS.
        if !seen.insert(name.to_ascii_lowercase()) || name.eq_ignore_ascii_case(MANIFEST_FILE) {
            return Err(wrong("files", name, "another file has the same name but for case".into()));
        }
        total = total.saturating_add(file.bytes);
        at_most_bytes("bytes in all files", total, MAX_BUNDLE_BYTES)?;
    }
    for name in &seen {
        let mut folders = name.match_indices('/').map(|(at, _)| &name[..at]);
        if let Some(folder) = folders.find(|folder| seen.contains(*folder) || *folder == MANIFEST_FILE) {
            return Err(wrong("files", folder, format!("it is a file and the folder of {name:?}")));
        }
    }
    Ok(())
}

fn check_output(output: &Output, graph: &Graph) -> Result<(), ManifestError> {
    let Some(value) = graph.output(&output.name) else {
        let has = names(graph.outputs.iter().map(|output| output.name.as_str()));
        return Err(wrong("outputs", &output.name, format!("the model has no such output; it has {has}")));
    };
    let last = value.shape.as_ref().and_then(|shape| shape.last());
    match last {
        Some(Dim::Known(size)) if !output.labels.is_empty() && *size != output.labels.len() => {
            let why = format!("it has {} labels, but its last dimension is {size}", output.labels.len());
            Err(wrong("outputs", &output.name, why))
        }
        _ => Ok(()),
    }
}

fn check_case(case: &GoldenFiles, index: usize, graph: &Graph) -> Result<(), ManifestError> {
    let place = format!("golden case {index}");
    let has = |tensors: &[GoldenFile], name: &str| tensors.iter().any(|tensor| tensor.name == name);
    if let Some(missing) = graph.inputs.iter().find(|input| !has(&case.inputs, &input.name)) {
        return Err(wrong(&place, &missing.name, "the model takes it, but the case does not give it".into()));
    }
    if let Some(unknown) = case.inputs.iter().find(|tensor| graph.input(&tensor.name).is_none()) {
        return Err(wrong(&place, &unknown.name, "the model has no such input".into()));
    }
    if let Some(unknown) = case.outputs.iter().find(|tensor| graph.output(&tensor.name).is_none()) {
        return Err(wrong(&place, &unknown.name, "the model has no such output".into()));
    }
    if case.outputs.is_empty() {
        return Err(wrong(&place, "outputs", "a case needs at least one known output".into()));
    }
    Ok(())
}

/// How deep objects and arrays are nested: brackets outside of texts, matched or not.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0usize, 0, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn at_most(what: &'static str, count: usize, most: usize) -> Result<(), ManifestError> {
    at_most_bytes(what, count as u64, most as u64)
}

fn at_most_bytes(what: &'static str, count: u64, most: u64) -> Result<(), ManifestError> {
    if count > most { Err(ManifestError::TooMany { what, count, most }) } else { Ok(()) }
}

fn words<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> Result<(), ManifestError> {
    words.into_iter().try_for_each(|word| at_most("bytes in a word", word.as_ref().len(), MAX_WORD_BYTES))
}

fn unique<'a>(place: &str, names: impl Iterator<Item = &'a str>) -> Result<(), ManifestError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if name.is_empty() {
            return Err(wrong(place, name, "a name is empty".into()));
        }
        if !seen.insert(name) {
            return Err(wrong(place, name, "the name stands there twice".into()));
        }
    }
    Ok(())
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    /// Names that a message repeats.
    const SHOWN: usize = 8;
    names.take(SHOWN).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

fn wrong(place: &str, name: &str, why: String) -> ManifestError {
    ManifestError::Wrong { place: format!("{place}, {name:?}"), why }
}

#[cfg(test)]
mod tests;
