//! TfIdfVectorizer: how often known sequences of tokens occur in a text of integers.

use std::collections::HashMap;

use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::host::{integers, need, room};
use super::{BoxOp, Builder, OpError, on_host, size_of};

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "TfIdfVectorizer" => Some(tf_idf),
        _ => None,
    }
}

/// What stands for a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The count.
    Tf,
    /// The weight where there is any.
    Idf,
    /// The product of both.
    TfIdf,
}

struct Vectorizer {
    mode: Mode,
    /// The column of each n-gram of a wanted length.
    columns: HashMap<Vec<i64>, usize>,
    /// By column; all one where there are none.
    weights: Vec<f32>,
    width: usize,
    shortest: usize,
    longest: usize,
    /// How far apart the tokens of an n-gram are at most.
    distance: usize,
}

fn tf_idf(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let vectorizer = Vectorizer::read(node)?;
    on_host(move |inputs| Ok(vec![vectorizer.count(need(inputs, 0)?)?]))
}

impl Vectorizer {
    fn read(node: &Node) -> Result<Self, OpError> {
        let mode = match node.string("mode") {
            Some("TF") => Mode::Tf,
            Some("IDF") => Mode::Idf,
            Some("TFIDF") => Mode::TfIdf,
            other => return Err(OpError::new(format!("mode {other:?} is not supported"))),
        };
        let pool = node.ints("pool_int64s");
        let pool = pool.ok_or_else(|| OpError::new("its n-grams are texts, which are not supported"))?;
        let (shortest, longest) =
            (size_of(node.int("min_gram_length", 1))?.max(1), size_of(node.int("max_gram_length", 1))?);
        let indexes = node.ints("ngram_indexes").unwrap_or_default();
        let indexes = indexes.iter().map(|&index| size_of(index)).collect::<Result<Vec<_>, _>>()?;
        let width = indexes.iter().max().map_or(Some(0), |last| last.checked_add(1));
        let width = width.ok_or_else(|| OpError::new("its ngram_indexes are too large"))?;
        let grams = grams(pool, node.ints("ngram_counts").unwrap_or_default())?;
        if grams.len() > indexes.len() {
            return Err(OpError::new(format!("{} ngram_indexes for {} n-grams", indexes.len(), grams.len())));
        }
        let columns: HashMap<Vec<i64>, usize> = grams
            .into_iter()
            .zip(indexes)
            .filter(|(gram, _)| (shortest..=longest).contains(&gram.len()))
            .map(|(gram, column)| (gram.to_vec(), column))
            .collect();
        let longest = columns.keys().map(Vec::len).max().unwrap_or(0);
        let distance = size_of(node.int("max_skip_count", 0))?.saturating_add(1);
        let weights = node.floats("weights").unwrap_or_default().to_vec();
        if mode != Mode::Tf && !weights.is_empty() && weights.len() < width {
            return Err(OpError::new(format!("{} weights for {width} columns", weights.len())));
        }
        Ok(Vectorizer { mode, columns, weights, width, shortest, longest, distance })
    }

    fn count(&self, x: &Tensor) -> Result<Tensor, OpError> {
        let (rows, length, shape) = match x.shape() {
            [] => (1, 1, vec![self.width]),
            [length] => (1, *length, vec![self.width]),
            [rows, length] => (*rows, *length, vec![*rows, self.width]),
            other => return Err(OpError::new(format!("one row or several are needed, but it has {other:?}"))),
        };
        let mut values = vec![0f32; room(DType::F32, &shape)?];
        let tokens = integers(x)?;
        for row in 0..rows {
            let counts = &mut values[row * self.width..(row + 1) * self.width];
            self.count_row(&tokens[row * length..(row + 1) * length], counts);
            counts.iter_mut().enumerate().for_each(|(column, count)| *count = self.weighted(*count, column));
        }
        Ok(Tensor::from_slice(&shape, &values)?)
    }

    fn count_row(&self, tokens: &[i64], counts: &mut [f32]) {
        let mut gram = Vec::with_capacity(self.longest);
        for distance in 1..=self.distance.min(tokens.len()) {
            // Single tokens have no distance and count once.
            let shortest = if distance > 1 { self.shortest.max(2) } else { self.shortest };
            for first in 0..tokens.len() {
                gram.clear();
                for token in tokens[first..].iter().step_by(distance).take(self.longest) {
                    gram.push(*token);
                    let column = self.columns.get(&gram).filter(|_| gram.len() >= shortest);
                    if let Some(&column) = column {
                        counts[column] += 1.0;
                    }
                }
            }
        }
    }

    fn weighted(&self, count: f32, column: usize) -> f32 {
        let weight = self.weights.get(column).copied().unwrap_or(1.0);
        match self.mode {
            Mode::Tf => count,
            Mode::Idf if count > 0.0 => weight,
            Mode::Idf => 0.0,
            Mode::TfIdf => count * weight,
        }
    }
}

/// The n-grams of a pool, in which `starts` says where those of one token begin, those of two, and so on.
fn grams<'a>(pool: &'a [i64], starts: &[i64]) -> Result<Vec<&'a [i64]>, OpError> {
    let wrong = || OpError::new(format!("ngram_counts {starts:?} do not divide a pool of {}", pool.len()));
    let mut ends = starts.iter().skip(1).copied().chain([pool.len() as i64]);
    let mut grams = Vec::new();
    for (size, &start) in (1..).zip(starts) {
        let (start, end) = (size_of(start)?, size_of(ends.next().unwrap_or_default())?);
        grams.extend(pool.get(start..end).ok_or_else(wrong)?.chunks_exact(size));
    }
    Ok(grams)
}
