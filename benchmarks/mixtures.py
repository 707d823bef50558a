"""Clusters of texts: mixtures of multinomials beside k-means and LDA.

Each fit runs alone in a fresh process on one thread (`measure`). "seconds" are of the
wall clock, those of the start included; "CPU seconds", of the process, are what they
would be on a machine that does nothing else, or a little more.

short
    Titles of news and tweets with the stories they are of (Yin and Wang 2014), K=500
    as an upper bound, alpha = beta = .1 as in the paper; nothing is tuned. NMI of
    `predict` with the stories (geometric average, as in the paper; there .874 on
    short_tset, and .732 for k-means at the true K), adjusted Rand index, and the number
    of components that hold rows. At least .90 on short_tset, within 30 s, and .88 on
    short_tweet, with numbers within 15 % of the true ones (152 and 89).
long
    Training rows of bbc_news_octis and 20news_2000, which have 5 and 20 classes, K the
    number of classes: the three kinds of inference, k-means on tf-idf rows, and the
    largest topic of LDA.
planted
    Adjusted Rand index on planted rows: 1,000 of 30 words out of 500 from 10 topics
    (Dirichlet .1), for the three kinds of inference at the true K; at least .95.
em_pass
    A pass of "em" on 20news_2000, K=100, over the two products of SciPy's sparse
    matrices that it cannot do without, in turns: CPU times, the shortest of each; the
    ratio is to be at most 1.5.
"""

import argparse
import time

import numpy as np
import scipy.sparse

from benchmarks import data, measure

SHORT = {"short_tset": 152, "short_tweet": 89}
LONG = {"bbc_news_octis": 5, "20news_2000": 20}
INFERENCES = ("collapsed", "mean_field", "em")
UPPER_BOUND = 500
COLUMNS = {
    "NMI": ("nmi", 3),
    "ARI": ("ari", 3),
    "clusters": ("n_clusters", 1),
    "passes": ("n_iter", 1),
    "seconds": ("fit_seconds", 1),
    "CPU seconds": ("cpu_seconds", 1),
}


def labelled(dataset, n_rows=None):
    """Counts and classes of a data set's rows, or of its training rows."""
    name = "all" if dataset in SHORT else "train"
    labels = "labels" if dataset in SHORT else "train_labels"
    X = data.counts(dataset, name)
    y = np.load(data.folder() / dataset / f"{labels}.npy")
    if n_rows is not None:
        rows = np.sort(np.random.default_rng(0).permutation(len(y))[:n_rows])
        X, y = X[rows], y[rows]
    return X, y


def planted_rows(seed, n_rows=1000):
    """Rows of a mixture of 10 components, and these."""
    rng = np.random.default_rng(seed)
    topics = rng.dirichlet(np.full(500, 0.1), 10)
    y = rng.integers(10, size=n_rows)
    return scipy.sparse.csr_matrix(rng.multinomial(30, topics[y])), y


def clusterer(method, n_components, seed):
    """Make a function that fits rows and gives their clusters and the estimator."""
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfTransformer

    from skdeepfactor import LatentDirichletAllocation, MultinomialMixture

    def kmeans(X):
        model = KMeans(n_components, n_init=1, random_state=seed)
        return model.fit_predict(TfidfTransformer().fit_transform(X)), model

    def lda(X):
        model = LatentDirichletAllocation(n_components, random_state=seed)
        return model.fit_transform(X).argmax(1), model

    def mixture(X):
        model = MultinomialMixture(n_components, inference=method, random_state=seed)
        return model.fit_predict(X), model

    return {"k-means": kmeans, "LDA": lda}.get(method, mixture)


def cluster(meter, dataset, method, n_components, seed, rows=None):
    """Cluster a data set once; runs in its own process."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    import skdeepfactor  # noqa: F401, for what it takes to be imported does not count

    if dataset == "planted":
        X, y = planted_rows(seed) if rows is None else planted_rows(seed, rows)
    else:
        X, y = labelled(dataset, rows)
    fit = clusterer(method, n_components, seed)
    started = time.process_time()
    with meter("fit"):
        labels, model = fit(X)
    found = vars(model).get("n_active_components_", len(np.unique(labels)))
    return {
        "cpu_seconds": time.process_time() - started,
        "nmi": normalized_mutual_info_score(y, labels, average_method="geometric"),
        "ari": adjusted_rand_score(y, labels),
        "n_clusters": found,
        "n_iter": model.n_iter_,
    }


def em_pass(meter, dtype, rows=None, k=100, rounds=6):
    """CPU times of a pass of "em" and of its two products, in turns, in ms."""
    from unittest.mock import patch

    from skdeepfactor import MultinomialMixture
    from skdeepfactor._training.run import Run

    X = data.counts("20news_2000", "train", n_rows=rows).astype(dtype)
    init = np.random.RandomState(0).dirichlet(np.full(X.shape[1], 0.3), k)
    model = MultinomialMixture(
        k, inference="em", init=init, max_iter=4, tol=0, warm_start=True
    ).fit(X)
    passes, products = [], []
    begin, end = Run.begin, Run.end

    def begun(run):
        passes.append(-time.process_time())
        begin(run)

    def ended(run, *arguments):
        end(run, *arguments)
        passes[-1] += time.process_time()

    for _ in range(rounds):
        with patch.object(Run, "begin", begun), patch.object(Run, "end", ended):
            model.fit(X)
        shares = model.transform(X)
        logs = np.ascontiguousarray(np.log(model.components_).T)
        for _ in range(4):
            started = time.process_time()
            _ = X @ logs, shares.T @ X
            products.append(time.process_time() - started)
    return {
        "pass_ms": 1e3 * min(passes),
        "products_ms": 1e3 * min(products),
        "ratio": min(passes) / min(products),
    }


def main(argv):
    """Run what was asked for and print its tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks mixtures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = ("short", "long", "planted", "em_pass")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--rows", type=int, help="rows of each set; all unless given")
    parser.add_argument("--k", type=int, default=UPPER_BOUND, help="K of short sets")
    chosen = parser.parse_args(argv)
    data.folder()
    rows = []

    def run(function, **arguments):
        asked = {**arguments, "rows": chosen.rows}
        measured = measure.run(f"benchmarks.mixtures:{function}", asked, threads=1)
        rows.append({**asked, **measured})
        return rows[-1]

    def table(dataset, methods, n_components, n_true):
        print(f"\n{dataset}, K={n_components}, {n_true} classes")
        measure.print_contenders(
            [
                {
                    "contender": method,
                    **run(
                        "cluster",
                        dataset=dataset,
                        method=method,
                        n_components=n_components,
                        seed=seed,
                    ),
                }
                for method in methods
                for seed in chosen.seeds
            ],
            COLUMNS,
        )

    if "short" in chosen.only:
        for dataset, n_true in SHORT.items():
            table(dataset, ["collapsed"], chosen.k, n_true)
            table(dataset, ["k-means"], n_true, n_true)
    if "long" in chosen.only:
        for dataset, n_true in LONG.items():
            table(dataset, [*INFERENCES, "k-means", "LDA"], n_true, n_true)
    if "planted" in chosen.only:
        table("planted", INFERENCES, 10, 10)
    if "em_pass" in chosen.only:
        print("\na pass of em over its two products")
        columns = {
            "pass, ms": ("pass_ms", 1),
            "products, ms": ("products_ms", 1),
            "ratio": ("ratio", 2),
        }
        measure.print_contenders(
            [
                {"contender": dtype, **run("em_pass", dtype=dtype)}
                for dtype in ("float32", "float64")
            ],
            columns,
        )
    measure.write_results("mixtures", argv, rows, seeds=chosen.seeds)
