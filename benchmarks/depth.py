"""Linear and deep decoders of NeuralTopicDLGM, on the same rows with the same passes.

Each setting runs alone in a fresh process. "validation" is the perplexity of 500
training rows drawn with seed 1, to which nothing is fitted; "gain" is by how many
percent the deep decoder's is below the linear one's of the same seed and rows, "time"
how many times its CPU seconds the deep one takes, to fit and to score. "longer" is a
linear decoder that is given so many more passes, "over it" the gain at equal time.
--particles: "iwae" are perplexities by importance weighted bounds of so many draws in
place of the plain bound, for likelihoods of words given their number.

--data: corpora, such as 20news_2000, imdb_topmost or nyt_topmost, or "mnist": the first
20,500 training images of mnist.npz as counts from 0 to 4, (pixel + 32) // 64.
--rows: numbers of training rows, for curves of rows against gain; all by default.
"""

import argparse
import time

import numpy as np
from scipy import sparse
from sklearn.base import clone

from benchmarks import data, measure
from benchmarks.topics import document_perplexity

N_VALIDATION, N_IMAGES = 500, 20_500

COLUMNS = {
    "linear": ("linear", 2),
    "deep": ("deep", 2),
    "gain %": ("gain", 2),
    "linear iwae": ("linear_iwae", 2),
    "deep iwae": ("deep_iwae", 2),
    "gain by it %": ("gain_by_iwae", 2),
    "longer": ("longer", 2),
    "over it %": ("gain_at_equal_time", 2),
    "linear fit s": ("linear_fit", 1),
    "time": ("fit_ratio", 2),
    "linear score s": ("linear_score", 2),
    "score time": ("score_ratio", 2),
}


def split(name, n_rows=None):
    """Training and validation rows, float32; of the former as many as asked for."""
    if name == "mnist":
        with np.load(data.folder() / "mnist" / "mnist.npz") as file:
            images = file["x_train"][:N_IMAGES].astype(np.int64)
        X = sparse.csr_matrix((images.reshape(len(images), -1) + 32) // 64)
    else:
        X = data.counts(name, "train")
    X = X.astype(np.float32)
    order = np.random.RandomState(1).permutation(X.shape[0])
    n_validation = min(N_VALIDATION, X.shape[0] // 2)
    end = None if n_rows is None else n_validation + n_rows
    return X[order[n_validation:end]], X[order[:n_validation]]


def contend(
    meter, name, n_rows, layers, parameters, deep, seed, is_longer, n_particles
):
    """Fit and score the decoders; runs in its own process."""
    from skdeepfactor import NeuralTopicDLGM

    train, valid = split(name, n_rows)
    found = {}

    def add(kind, est):
        begin = time.process_time()
        est.fit(train)
        fitted = time.process_time()
        found[kind] = est.perplexity(valid)
        found[f"{kind}_fit"] = fitted - begin
        found[f"{kind}_score"] = time.process_time() - fitted
        if n_particles is not None:
            bounds = est.score_samples(valid, metric="iwae", n_particles=n_particles)
            found[f"{kind}_iwae"] = document_perplexity(bounds, valid)

    linear = NeuralTopicDLGM(random_state=seed, **parameters)
    add("linear", linear)
    add("deep", clone(linear).set_params(decoder_layers=tuple(layers), **deep))
    for key in ("fit", "score"):
        found[f"{key}_ratio"] = found[f"deep_{key}"] / found[f"linear_{key}"]
    found["gain"] = 100 * (1 - found["deep"] / found["linear"])
    if n_particles is not None:
        found["gain_by_iwae"] = 100 * (1 - found["deep_iwae"] / found["linear_iwae"])
    if is_longer:
        n_passes = max(1, round(linear.max_iter * found["fit_ratio"]))
        add("longer", clone(linear).set_params(max_iter=n_passes))
        found["gain_at_equal_time"] = 100 * (1 - found["deep"] / found["longer"])
    return found


def main(argv):
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks depth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", nargs="+", default=["20news_2000"])
    parser.add_argument("--rows", nargs="+", type=int, default=[None])
    parser.add_argument("--layers", nargs="+", type=int, default=[200])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=measure.THREADS)
    parser.add_argument(
        "--no-longer", action="store_true", help="leave the longer linear fits out"
    )
    parser.add_argument("--particles", type=int, help="at least 2; none by default")
    measure.add_settings(parser, "--set", "both")
    measure.add_settings(parser, "--set-deep", "the deep decoder alone")
    chosen = parser.parse_args(argv)
    parameters, deep = dict(chosen.set), dict(chosen.set_deep)
    rows = []
    for name in chosen.data:
        for n_rows in chosen.rows:
            for seed in chosen.seeds:
                setting = {
                    "name": name,
                    "n_rows": n_rows,
                    "layers": chosen.layers,
                    "parameters": parameters,
                    "deep": deep,
                    "seed": seed,
                    "is_longer": not chosen.no_longer,
                    "n_particles": chosen.particles,
                }
                measured = measure.run(
                    "benchmarks.depth:contend", setting, threads=chosen.threads
                )
                contender = name if n_rows is None else f"{name}, {n_rows} rows"
                rows.append({"contender": contender, **setting, **measured})
                measure.write_results("depth", argv, rows, seeds=chosen.seeds)
                measure.print_contenders(rows[-1:], COLUMNS)
    measure.print_contenders(rows, COLUMNS)
