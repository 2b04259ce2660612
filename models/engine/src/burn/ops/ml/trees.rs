//! Decision trees: from lists of nodes to something that rows walk through.

use std::collections::{HashMap, HashSet};

use hedge_graph::Node;
use hedge_tensor::Tensor;

use super::super::{OpError, size_of};
use super::numbers;

/// Trees whose leaves give weights to targets.
pub(super) struct Trees {
    roots: Vec<Link>,
    splits: Vec<Split>,
    /// The targets and weights of each leaf.
    leaves: Vec<Vec<(usize, f64)>>,
    /// Features that a row must have.
    features: usize,
}

#[derive(Clone, Copy)]
enum Link {
    Split(usize),
    Leaf(usize),
}

struct Split {
    feature: usize,
    test: Test,
    /// Where a missing value (NaN) goes that the test does not hold for.
    missing: bool,
    yes: Link,
    no: Link,
}

enum Test {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
    Above(f64),
    Equal(f64),
    Unequal(f64),
    OneOf(Vec<f64>),
}

impl Test {
    fn holds(&self, x: f64) -> bool {
        match self {
            Test::AtMost(value) => x <= *value,
            Test::Below(value) => x < *value,
            Test::AtLeast(value) => x >= *value,
            Test::Above(value) => x > *value,
            Test::Equal(value) => x == *value,
            Test::Unequal(value) => x != *value,
            Test::OneOf(values) => values.contains(&x),
        }
    }

    fn named(name: &str, value: f64) -> Result<Self, OpError> {
        Ok(match name {
            "BRANCH_LEQ" => Test::AtMost(value),
            "BRANCH_LT" => Test::Below(value),
            "BRANCH_GTE" => Test::AtLeast(value),
            "BRANCH_GT" => Test::Above(value),
            "BRANCH_EQ" => Test::Equal(value),
            "BRANCH_NEQ" => Test::Unequal(value),
            other => return Err(OpError::new(format!("a tree's node has the mode {other:?}, which is not known"))),
        })
    }
}

impl Trees {
    /// Of `TreeEnsembleClassifier` and `TreeEnsembleRegressor`: nodes are named by tree and number, and `prefix` (`class` or
    /// `target`) begins the names of the lists that give leaves their weights.
    pub(super) fn of_lists(node: &Node, prefix: &str) -> Result<Self, OpError> {
        let trees = list(node, "nodes_treeids", None)?;
        let count = trees.len();
        let own = |name: &str| list(node, name, Some(count));
        let (ids, features) = (own("nodes_nodeids")?, own("nodes_featureids")?);
        let (yes, no) = (own("nodes_truenodeids")?, own("nodes_falsenodeids")?);
        let values = reals(node, "nodes_values", count)?;
        let modes = node.strings("nodes_modes").unwrap_or_default();
        if modes.len() != count {
            return Err(OpError::new(format!("it has {} nodes_modes for {count} nodes", modes.len())));
        }
        let missing = node.ints("nodes_missing_value_tracks_true").unwrap_or_default();
        let is_leaf = |index: usize| modes[index] == b"LEAF";
        let mut links = HashMap::with_capacity(count);
        let (mut splits, mut leaves) = (0, 0);
        for index in 0..count {
            let next = if is_leaf(index) { &mut leaves } else { &mut splits };
            let link = if is_leaf(index) { Link::Leaf(*next) } else { Link::Split(*next) };
            *next += 1;
            if links.insert((trees[index], ids[index]), link).is_some() {
                return Err(OpError::new(format!("tree {} has two nodes {}", trees[index], ids[index])));
            }
        }
        let link = |tree: i64, id: i64| {
            links.get(&(tree, id)).copied().ok_or_else(|| OpError::new(format!("tree {tree} has no node {id}")))
        };
        let mut made = Trees { roots: Vec::new(), splits: Vec::new(), leaves: vec![Vec::new(); leaves], features: 0 };
        let mut begun = HashSet::new();
        for index in 0..count {
            // A tree begins with the first of its nodes.
            if begun.insert(trees[index]) {
                made.roots.push(link(trees[index], ids[index])?);
            }
            if !is_leaf(index) {
                let mode = std::str::from_utf8(&modes[index]).unwrap_or_default();
                made.split(Split {
                    feature: size_of(features[index])?,
                    test: Test::named(mode, values[index])?,
                    missing: missing.get(index).is_some_and(|tracks| *tracks != 0),
                    yes: link(trees[index], yes[index])?,
                    no: link(trees[index], no[index])?,
                });
            }
        }
        let targets = list(node, &format!("{prefix}_ids"), None)?;
        let own = |name: &str| list(node, &format!("{prefix}_{name}"), Some(targets.len()));
        let (trees, ids) = (own("treeids")?, own("nodeids")?);
        let weights = reals(node, &format!("{prefix}_weights"), targets.len())?;
        for (index, &target) in targets.iter().enumerate() {
            // Weights of what is no leaf count for nothing.
            if let Link::Leaf(leaf) = link(trees[index], ids[index])? {
                made.leaves[leaf].push((size_of(target)?, weights[index]));
            }
        }
        Ok(made)
    }

    /// Of `TreeEnsemble`: splits and leaves are numbered, and one target is each leaf's.
    pub(super) fn of_tensors(node: &Node) -> Result<Self, OpError> {
        let tensor = |name: &str| node.tensor(name).map(numbers).transpose();
        let needed = |name: &str| tensor(name)?.ok_or_else(|| OpError::new(format!("{name} is missing")));
        let values = needed("nodes_splits")?;
        let count = values.len();
        let own = |name: &str| list(node, name, Some(count));
        let (features, modes) = (own("nodes_featureids")?, needed("nodes_modes")?);
        let (yes, no) = (own("nodes_truenodeids")?, own("nodes_falsenodeids")?);
        let (yes_leaf, no_leaf) = (own("nodes_trueleafs")?, own("nodes_falseleafs")?);
        let missing = node.ints("nodes_missing_value_tracks_true").unwrap_or_default();
        let (targets, weights) = (list(node, "leaf_targetids", None)?, needed("leaf_weights")?);
        if modes.len() != count || targets.len() != weights.len() {
            let (modes, targets, weights) = (modes.len(), targets.len(), weights.len());
            return Err(OpError::new(format!(
                "it has {modes} nodes_modes for {count} nodes, {weights} leaf_weights for {targets} leaves"
            )));
        }
        let members = tensor("membership_values")?.unwrap_or_default();
        let mut members = members.split(|member| member.is_nan());
        let link = |index: i64, is_leaf: i64| {
            let (index, all) = (size_of(index)?, if is_leaf != 0 { targets.len() } else { count });
            let inside = (index < all).then_some(if is_leaf != 0 { Link::Leaf(index) } else { Link::Split(index) });
            inside.ok_or_else(|| OpError::new(format!("a tree's node leads to number {index} of {all}")))
        };
        let mut made = Trees { roots: Vec::new(), splits: Vec::new(), leaves: Vec::new(), features: 0 };
        for index in 0..count {
            let names = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"];
            let test = match modes[index] as usize {
                6 => Test::OneOf(members.next().unwrap_or_default().to_vec()),
                mode => Test::named(names.get(mode).unwrap_or(&"of a higher number"), values[index])?,
            };
            made.split(Split {
                feature: size_of(features[index])?,
                test,
                missing: missing.get(index).is_some_and(|tracks| *tracks != 0),
                yes: link(yes[index], yes_leaf[index])?,
                no: link(no[index], no_leaf[index])?,
            });
        }
        for (target, weight) in targets.iter().zip(weights) {
            made.leaves.push(vec![(size_of(*target)?, weight)]);
        }
        for &root in list(node, "tree_roots", None)? {
            made.roots.push(link(root, 0)?);
        }
        Ok(made)
    }

    fn split(&mut self, split: Split) {
        self.features = self.features.max(split.feature.saturating_add(1));
        self.splits.push(split);
    }

    pub(super) fn len(&self) -> usize {
        self.roots.len()
    }

    /// One more than the highest target.
    pub(super) fn targets(&self) -> usize {
        self.leaves.iter().flatten().map(|(target, _)| target.saturating_add(1)).max().unwrap_or(0)
    }

    /// The targets and weights of all leaves, walked to or not.
    pub(super) fn weights(&self) -> impl Iterator<Item = &(usize, f64)> {
        self.leaves.iter().flatten()
    }

    /// What the trees give to each of `targets` for a row, joined tree by tree; nothing where no leaf names it.
    pub(super) fn sums(
        &self,
        row: &[f64],
        targets: usize,
        join: impl Fn(f64, f64) -> f64,
    ) -> Result<Vec<Option<f64>>, OpError> {
        if row.len() < self.features {
            let (have, need) = (row.len(), self.features);
            return Err(OpError::new(format!("its rows have {have} features, but its trees ask for {need}")));
        }
        let mut sums = vec![None; targets];
        for &root in &self.roots {
            for &(target, weight) in self.leaf(root, row)? {
                sums[target] = Some(sums[target].map_or(weight, |sum| join(sum, weight)));
            }
        }
        Ok(sums)
    }

    fn leaf(&self, root: Link, row: &[f64]) -> Result<&[(usize, f64)], OpError> {
        let mut at = root;
        for _ in 0..=self.splits.len() {
            let split = match at {
                Link::Leaf(leaf) => return Ok(&self.leaves[leaf]),
                Link::Split(split) => &self.splits[split],
            };
            let x = row[split.feature];
            at = if split.test.holds(x) || split.missing && x.is_nan() { split.yes } else { split.no };
        }
        Err(OpError::new("one of its trees leads back to itself"))
    }
}

/// A list of integers, of a length if that is known.
fn list<'n>(node: &'n Node, name: &str, length: Option<usize>) -> Result<&'n [i64], OpError> {
    let values = node.ints(name).unwrap_or_default();
    match length.filter(|&length| length != values.len()) {
        Some(length) => Err(OpError::new(format!("it has {} {name}, but {length} are needed", values.len()))),
        None => Ok(values),
    }
}

/// A list of floats, or the tensor of doubles in its place.
fn reals(node: &Node, name: &str, length: usize) -> Result<Vec<f64>, OpError> {
    let values = optional_reals(node, name)?;
    match values.len() == length {
        true => Ok(values),
        false => Err(OpError::new(format!("it has {} {name}, but {length} are needed", values.len()))),
    }
}

/// The same; empty where there is neither.
pub(super) fn optional_reals(node: &Node, name: &str) -> Result<Vec<f64>, OpError> {
    let tensor: Option<&Tensor> = node.tensor(&format!("{name}_as_tensor"));
    match (tensor, node.floats(name)) {
        (Some(tensor), _) => numbers(tensor),
        (None, floats) => Ok(floats.unwrap_or_default().iter().copied().map(f64::from).collect()),
    }
}
