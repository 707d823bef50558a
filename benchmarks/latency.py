"""Milliseconds that a call takes with one document, as a web service makes it.

Models are fitted to a few rows, in one process. Then each contender in turn is given
the same row, and the next row after that: so all of them meet the same load of the
machine. ``--method partial_fit`` gives them chunks of eight rows instead. "ms" is the
median over rows and rounds, then come the first and the ninth decile, and the median
over that of scikit-learn's LDA.

``--busy`` keeps every processor busy with another process meanwhile: where threads wait
for each other, calls then take a hundred times as long.

2,000 columns are those of 20news_2000. Wider documents are made of 20 topics, each with
1,000 of the columns, which follow Zipf's law. Models of wide documents start at random
and are trained for a pass or two: how far a model was trained changes how many steps
its rows take, and little else.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time

import numpy as np
from scipy import sparse

from benchmarks import data, measure

N_FITTED, N_TOPICS, N_WORDS = 2000, 20, 1000
CHUNK = 8

REFERENCE = "sklearn LDA"


def sklearn_lda(k, seed, *, is_wide):
    """scikit-learn's LDA, with its own priors."""
    from sklearn.decomposition import LatentDirichletAllocation

    return LatentDirichletAllocation(k, max_iter=3, random_state=seed)


def sklearn_nmf(k, seed, *, is_wide):
    """scikit-learn's NMF."""
    from sklearn.decomposition import NMF

    return NMF(k, init="nndsvda", max_iter=20, tol=1e-2, random_state=seed)


def ours(name, **parameters):
    """An estimator of this package, made as above."""

    def make(k, seed, *, is_wide):
        import skdeepfactor

        given = {"random_state": seed, **parameters}
        if name == "SparseGammaDEF":
            given["layer_sizes"] = (k, max(1, k // 2), max(1, k // 5))
        else:
            given["n_components"] = k
        if is_wide and name in ("LatentDirichletAllocation", "PoissonFactorization"):
            given.update(init="random", max_iter=2)
        return getattr(skdeepfactor, name)(**given)

    return make


CONTENDERS = {
    REFERENCE: sklearn_lda,
    "sklearn NMF": sklearn_nmf,
    "LDA": ours("LatentDirichletAllocation"),
    "PF": ours("PoissonFactorization"),
    "VAE": ours("VariationalAutoencoder", likelihood="multinomial", max_iter=1),
    "VSC": ours("VariationalSparseCoding", likelihood="multinomial", max_iter=1),
    "DLGM": ours("NeuralTopicDLGM", max_iter=2),
    "DEF": ours("SparseGammaDEF", max_iter=15),
}


def documents(n_features, n_rows, seed):
    """Rows to fit and to ask for, CSR, float32."""
    if n_features == 2000:
        return data.counts("20news_2000", "train", n_rows=n_rows).astype(np.float32)
    rng = np.random.default_rng(seed)
    n_words = min(N_WORDS, n_features)
    words = [rng.choice(n_features, n_words, replace=False) for _ in range(N_TOPICS)]
    p = 1 / np.arange(1, n_words + 1)
    p /= p.sum()
    rows = np.repeat(np.arange(n_rows), rng.integers(60, 160, n_rows))
    mixtures = rng.dirichlet(np.full(N_TOPICS, 0.1), n_rows)
    columns = np.empty_like(rows)
    for row, shares in enumerate(mixtures):
        at = np.flatnonzero(rows == row)
        topics = rng.choice(N_TOPICS, len(at), p=shares)
        drawn = rng.choice(n_words, len(at), p=p)
        columns[at] = [
            words[topic][word] for topic, word in zip(topics, drawn, strict=True)
        ]
    ones = np.ones(len(rows), dtype=np.float32)
    X = sparse.csr_matrix((ones, (rows, columns)), shape=(n_rows, n_features))
    X.sum_duplicates()
    return X


@contextlib.contextmanager
def busy_processors(is_wanted):
    """Keep each processor busy by a process for as long as the block lasts."""
    n_processes = (os.cpu_count() or 1) if is_wanted else 0
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(n_processes)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def contend(meter, names, n_features, k, method, n_rows, rounds, seed, *, busy):
    """Fit all contenders, and give each its calls in turn; seconds by name."""
    n_fitted = min(N_FITTED, 10 * n_rows)
    X = documents(n_features, n_fitted, seed)
    if method == "partial_fit":
        starts = range(0, min(n_rows, n_fitted), CHUNK)
        asked = [X[start : start + CHUNK] for start in starts]
    else:
        rng = np.random.default_rng(seed)
        asked = [X[row] for row in rng.choice(n_fitted, n_rows, replace=False)]
    calls = {}
    for name in names:
        model = CONTENDERS[name](k, seed, is_wide=n_features > 2000).fit(X)
        if not hasattr(model, method):
            continue
        calls[name] = getattr(model, method)
        # What is kept from call to call is made by the first.
        for rows in asked[:2]:
            calls[name](rows)
    seconds = {name: [] for name in calls}
    with busy_processors(busy):
        for _ in range(rounds):
            for rows in asked:
                for name, call in calls.items():
                    start = time.perf_counter()
                    call(rows)
                    seconds[name].append(time.perf_counter() - start)
    return {"seconds": seconds, "load": os.getloadavg()[0]}


def summary(found):
    """A row of the table for each contender."""
    reference = np.median(found["seconds"].get(REFERENCE, np.nan))
    for name, seconds in found["seconds"].items():
        low, middle, high = np.quantile(seconds, [0.1, 0.5, 0.9])
        yield {
            "contender": name,
            "ms": 1e3 * middle,
            "low_ms": 1e3 * low,
            "high_ms": 1e3 * high,
            "ratio": middle / reference,
        }


def main(argv):
    """Measure all shapes that are asked for, and print a table for each."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=[*CONTENDERS])
    parser.add_argument("--columns", nargs="+", type=int, default=[2000])
    parser.add_argument("--k", type=int, default=50)
    choices = ["transform", "score", "partial_fit"]
    parser.add_argument("--method", choices=choices, default="transform")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--threads", type=int, default=measure.THREADS)
    chosen = parser.parse_args(argv)
    rows = []
    for n_features in chosen.columns:
        setting = {
            "n_features": n_features,
            "k": chosen.k,
            "method": chosen.method,
            "n_rows": chosen.rows,
            "rounds": chosen.rounds,
            "seed": chosen.seed,
            "busy": chosen.busy,
        }
        found = measure.run(
            "benchmarks.latency:contend",
            {"names": chosen.only, **setting},
            threads=chosen.threads,
        )
        if "note" in found:
            rows.append({"contender": "all", **setting, "note": found["note"]})
            continue
        print(
            f"{n_features:,} columns, K={chosen.k}, load {found['load']:.1f}",
            flush=True,
        )
        table = list(summary(found))
        columns = {"ms": ("ms", 2), "10 %": ("low_ms", 2), "90 %": ("high_ms", 2)}
        measure.print_contenders(table, {**columns, "ratio": ("ratio", 2)})
        rows += [{**setting, **row} for row in table]
    measure.print_notes(rows, "contender")
    measure.write_results("latency", argv, rows)
