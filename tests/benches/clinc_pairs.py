#!/usr/bin/env python3
"""Pairs of a small edge and a large cloud text classifier on CLINC150, for `hedge route certify` and `hedge route simulate`.

  pip install scikit-learn==1.9.1 numpy
  python tests/benches/clinc_pairs.py data_full.json pairs.csv [--logits logits.npy] [--tune N] [--seed S] [--buckets B]

data_full.json is the one of CLINC150 (Larson et al., EMNLP 2019). Both models learn from its `train` and `oos_train` and have 151
classes, the last one "out of scope":

  edge    words hashed into B buckets, logistic regression: B * 151 weights
  cloud   TF-IDF of words, word pairs and character 2- to 5-grams, logistic regression: some million weights

The pool is `val`, `oos_val`, `test` and `oos_test`, shuffled: `val` and `test` alone are not exchangeable. Written are score (the
softmax margin of the edge's float logits), agree (1 where both name the same class) and split (`tune` for N random rows of the pool, `cal` for
the rest); with --logits, also the edge's logits [rows, 151] in float32, row by row as in the file.
"""
import argparse
import csv
import json

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

TRAIN = ("train", "oos_train")
POOL = ("val", "oos_val", "test", "oos_test")


def main():
    o = options()
    data = json.load(open(o.data))
    texts, labels = read(data, TRAIN)
    pool, truth = read(data, POOL)
    order = np.random.default_rng(o.seed).permutation(len(pool))
    pool, truth = [pool[i] for i in order], truth[order]

    logits, edge = answers(edge_model(o.buckets), texts, labels, pool)
    _, cloud = answers(cloud_model(), texts, labels, pool)
    score, agree = margin(logits), edge == cloud
    # The pool is shuffled already: its first rows are a random part of it.
    split = np.where(np.arange(len(pool)) < o.tune, "tune", "cal")

    with open(o.pairs, "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["score", "agree", "split"])
        # Nine digits: a float32 reads back as the same number.
        rows.writerows((f"{s:.9g}", int(a), p) for s, a, p in zip(score, agree, split))
    if o.logits:
        np.save(o.logits, logits)

    print(f"pairs {len(pool)}  tune {o.tune}  classes {logits.shape[1]}")
    for rows, which in ((np.full(len(pool), True), "all"), (truth != "oos", "in scope")):
        print(f"accuracy ({which})  edge {np.mean((edge == truth)[rows]):.4f}  cloud {np.mean((cloud == truth)[rows]):.4f}")
    print(f"differ {np.mean(~agree):.4f}")
    for alpha in (0.05, 0.02, 0.01, 0.005):
        print(f"oracle at {alpha:.1%}: offload  system {oracle(score, agree, alpha, len(score)):.4f}"
              f"  local {oracle(score, agree, alpha):.4f}")


def read(data, splits):
    rows = [row for split in splits for row in data[split]]
    return [text for text, _ in rows], np.array([label for _, label in rows])


def edge_model(buckets):
    words = HashingVectorizer(n_features=buckets, alternate_sign=False)
    return make_pipeline(words, LogisticRegression(C=10, max_iter=300))


def cloud_model():
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    letters = TfidfVectorizer(ngram_range=(2, 5), analyzer="char_wb", sublinear_tf=True)
    return make_pipeline(make_union(words, letters), LogisticRegression(C=30, max_iter=100))


def answers(model, texts, labels, pool):
    model.fit(texts, labels)
    logits = model.decision_function(pool).astype(np.float32)
    return logits, model.classes_[logits.argmax(axis=1)]


def margin(logits):
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    second = np.partition(weights, -2, axis=1)[:, -2]
    return ((1 - second) / weights.sum(axis=1)).astype(np.float32)


def oracle(score, agree, alpha, of=None):
    """The least share below a threshold whose true risk is at most alpha, of all rows or (of=None) of the accepted ones."""
    order = np.argsort(-score, kind="stable")
    accepted = np.arange(1, len(score) + 1)
    risk = np.cumsum(~agree[order]) / (of or accepted)
    # A threshold cannot part rows of equal score.
    last = np.append(score[order][1:] != score[order][:-1], True)
    fit = accepted[last & (risk <= alpha)]
    return 1 - (fit.max() if fit.size else 0) / len(score)


def options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("data")
    parser.add_argument("pairs")
    parser.add_argument("--logits", help="the edge's logits, as .npy")
    parser.add_argument("--tune", type=int, default=2000, help="rows of the pool that are the tune split (2000)")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--buckets", type=int, default=1024, help="buckets of the edge's words (1024)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
