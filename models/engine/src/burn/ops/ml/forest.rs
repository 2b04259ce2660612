//! Ensembles of trees.

use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::super::host::{buffer, need, room};
use super::super::{BoxOp, Builder, OpError, on_host, size_of};
use super::scores::{Single, Transform, labels};
use super::trees::{Trees, optional_reals};
use super::{Rows, rounded};

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "TreeEnsemble" => Some(ensemble),
        "TreeEnsembleRegressor" => Some(regressor),
        "TreeEnsembleClassifier" => Some(classifier),
        _ => None,
    }
}

/// `aggregate_function`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Aggregate {
    Average,
    Sum,
    Least,
    Most,
}

impl Aggregate {
    const ALL: [(&str, Aggregate); 4] =
        [("AVERAGE", Aggregate::Average), ("SUM", Aggregate::Sum), ("MIN", Aggregate::Least), ("MAX", Aggregate::Most)];

    fn named(name: &str) -> Result<Self, OpError> {
        let found = Aggregate::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, found)| *found).ok_or_else(|| OpError::new(format!("aggregate_function {name:?} is not known")))
    }

    /// As `TreeEnsemble` numbers them.
    fn of_number(number: i64) -> Result<Self, OpError> {
        let found = usize::try_from(number).ok().and_then(|index| Aggregate::ALL.get(index));
        found.map(|(_, found)| *found).ok_or_else(|| OpError::new(format!("aggregate_function {number} is not known")))
    }
}

/// Trees, and what is made of what they give.
struct Forest {
    trees: Trees,
    targets: usize,
    aggregate: Aggregate,
    /// Added at the end: one number for each target, or one for a single target; else nothing is.
    base: Vec<f64>,
    transform: Transform,
}

fn regressor(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let forest = Forest {
        trees: Trees::of_lists(node, "target")?,
        targets: size_of(node.int("n_targets", 1))?,
        aggregate: Aggregate::named(node.string("aggregate_function").unwrap_or("SUM"))?,
        base: optional_reals(node, "base_values")?,
        transform: Transform::read(node)?,
    }
    .checked()?;
    on_host(move |inputs| {
        let scores = forest.run(need(inputs, 0)?)?;
        Ok(vec![Tensor::from_vec(&[scores.len() / forest.targets, forest.targets], scores)?])
    })
}

/// The one that stands for both others since version 5; its output is of the type of its input.
fn ensemble(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let forest = Forest {
        trees: Trees::of_tensors(node)?,
        targets: size_of(node.int("n_targets", 1))?,
        aggregate: Aggregate::of_number(node.int("aggregate_function", 1))?,
        base: Vec::new(),
        transform: Transform::of_number(node.int("post_transform", 0))?,
    }
    .checked()?;
    on_host(move |inputs| {
        let x = need(inputs, 0)?;
        let scores = forest.run_unrounded(x)?;
        let shape = [scores.len() / forest.targets, forest.targets];
        Ok(vec![match x.dtype() {
            DType::F64 => Tensor::from_vec(&shape, scores)?,
            DType::F16 => Tensor::from_vec(&shape, scores.into_iter().map(half::f16::from_f64).collect())?,
            _ => Tensor::from_vec(&shape, scores.into_iter().map(|score| score as f32).collect())?,
        }])
    })
}

impl Forest {
    fn checked(self) -> Result<Self, OpError> {
        room(DType::F64, &[self.targets])?;
        match self.trees.targets() {
            _ if self.targets == 0 => Err(OpError::new("n_targets must be at least 1")),
            used if used > self.targets => {
                Err(OpError::new(format!("its leaves are of {used} targets, but it has {}", self.targets)))
            }
            _ => Ok(self),
        }
    }

    fn run(&self, x: &Tensor) -> Result<Vec<f32>, OpError> {
        let mut scores: Vec<f32> = self.sums(x)?.into_iter().map(|score| score as f32).collect();
        scores.chunks_mut(self.targets).for_each(|row| self.transform.apply(row));
        Ok(scores)
    }

    /// In 64 bits, if nothing asks for less.
    fn run_unrounded(&self, x: &Tensor) -> Result<Vec<f64>, OpError> {
        match self.transform {
            Transform::None => self.sums(x),
            _ => Ok(self.run(x)?.into_iter().map(f64::from).collect()),
        }
    }

    fn sums(&self, x: &Tensor) -> Result<Vec<f64>, OpError> {
        let (rows, dtype) = (Rows::of(x)?, x.dtype());
        let join = |sum: f64, weight: f64| match self.aggregate {
            Aggregate::Least => sum.min(weight),
            Aggregate::Most => sum.max(weight),
            Aggregate::Sum | Aggregate::Average => rounded(sum + weight, dtype),
        };
        let count = if self.aggregate == Aggregate::Average { self.trees.len() as f64 } else { 1.0 };
        let has_base = self.base.len() == self.targets;
        let based = |(target, sum): (usize, Option<f64>)| {
            let mean = rounded(sum.unwrap_or(0.0) / count, dtype);
            if has_base { rounded(mean + self.base[target], dtype) } else { mean }
        };
        let mut all = buffer(room(DType::F64, &[rows.rows, self.targets])?)?;
        for row in rows.each() {
            all.extend(self.trees.sums(row, self.targets, join)?.into_iter().enumerate().map(based));
        }
        Ok(all)
    }
}

/// Each class's scores, and the label of the highest. onnxruntime differs where both of two classes have weights: its labels are 0 and 1 then,
/// whatever the model's are, and by the second sum alone.
struct Classifier {
    trees: Trees,
    labels: Vec<i64>,
    base: Vec<f64>,
    transform: Transform,
    /// Of two classes where all weights are of one: what their sum is.
    single: Option<Single>,
}

fn classifier(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let (trees, labels) = (Trees::of_lists(node, "class")?, labels(node, "classlabels_int64s")?);
    if trees.targets() > labels.len() {
        let (used, have) = (trees.targets(), labels.len());
        return Err(OpError::new(format!("its leaves are of {used} classes, but it has labels for {have}")));
    }
    let first = trees.weights().next().map(|(class, _)| *class);
    let one_sided = labels.len() == 2 && trees.weights().all(|(class, _)| Some(*class) == first);
    let is_share = trees.weights().all(|(_, weight)| *weight >= 0.0);
    let single = one_sided.then_some(if is_share { Single::Share } else { Single::Signed });
    let base = optional_reals(node, "base_values")?;
    if !(base.is_empty() || base.len() == labels.len() || one_sided && base.len() == 1) {
        return Err(OpError::new(format!("it has {} base_values for {} classes", base.len(), labels.len())));
    }
    let classifier = Classifier { trees, labels, base, transform: Transform::read(node)?, single };
    on_host(move |inputs| {
        let x = need(inputs, 0)?;
        let (rows, classes) = (Rows::of(x)?, classifier.labels.len());
        let mut labels = Vec::with_capacity(rows.rows);
        let mut scores = buffer(room(DType::F32, &[rows.rows, classes])?)?;
        for row in rows.each() {
            let sums = classifier.trees.sums(row, classes, |sum, weight| rounded(sum + weight, x.dtype()))?;
            let (class, row) = match classifier.single {
                Some(single) => classifier.of_one_sum(&sums, single),
                None => classifier.of_sums(&sums),
            };
            labels.push(classifier.labels[class]);
            scores.extend(row);
        }
        Ok(vec![Tensor::from_slice(&[rows.rows], &labels)?, Tensor::from_vec(&[rows.rows, classes], scores)?])
    })
}

impl Classifier {
    /// The class with the highest sum, and all scores.
    fn of_sums(&self, sums: &[Option<f64>]) -> (usize, Vec<f32>) {
        let based = |(class, sum): (usize, &Option<f64>)| match (sum, self.base.get(class)) {
            (None, None) => None,
            (sum, base) => Some((sum.unwrap_or(0.0) + base.copied().unwrap_or(0.0)) as f32),
        };
        let sums: Vec<Option<f32>> = sums.iter().enumerate().map(based).collect();
        let mut best: Option<(usize, f32)> = None;
        for (class, sum) in sums.iter().enumerate() {
            if let Some(sum) = sum.filter(|sum| best.is_none_or(|(_, most)| *sum > most)) {
                best = Some((class, sum));
            }
        }
        let mut scores: Vec<f32> = sums.into_iter().map(Option::unwrap_or_default).collect();
        self.transform.apply(&mut scores);
        (best.map_or(0, |(class, _)| class), scores)
    }

    /// Of two classes with one sum, whichever of them it is written for. A class that no leaf names has the score 0, base value or not.
    fn of_one_sum(&self, sums: &[Option<f64>], single: Single) -> (usize, Vec<f32>) {
        let [mut first, mut second] = [sums[0], sums[1]].map(|sum| sum.map(|sum| sum as f32));
        match *self.base.as_slice() {
            // onnxruntime takes the first class's sum, which there is none of, for what is added to the base value.
            [_, base] if second.is_some() => second = Some(base as f32),
            [base, ..] => first = first.map(|sum| sum + base as f32),
            [] => {}
        }
        let sum = second.or(first).unwrap_or(0.0);
        let class = usize::from(sum > if single == Single::Share { 0.5 } else { 0.0 });
        if second.is_none() && self.base.len() < 2 {
            return (class, self.transform.both(sum, single).to_vec());
        }
        let mut scores = vec![first.unwrap_or(0.0), second.unwrap_or(0.0)];
        self.transform.apply(&mut scores);
        (class, scores)
    }
}
