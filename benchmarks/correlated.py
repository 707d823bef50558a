"""Correlated topics: held-out words, planted covariances, effects of covariates.

completion
    ``metrics.completion_perplexity`` of the test rows, seed 0, beside our LDA and
    tomotopy's CTModel on the same data. Every contender runs alone in a fresh process
    with two threads, or ``--threads`` (`measure`). "fit" is training, its start
    included; "CPU s" is the time of all threads in it. With ``--validate`` rows are
    fitted without 500 of the training rows (those of ``neural_topics``), which are
    scored in place of test rows: settings were chosen by these.
planted
    Rows drawn from the model with known topics and covariance: 5,000 of 200 words, 10
    topics. Topics are paired by ``match_components``; "r" is Pearson's correlation of
    the off-diagonal entries of P Sigma P, P = I - 11'/K, found and planted, since the
    softmax leaves a shift open. "cosine" is the least cosine of a pair of topics.
effects
    Rows whose topics depend on three covariates: how often the intervals of
    ``effect`` hold the planted coefficients, over all topics, covariates and data sets
    (``--n-sets``), and the slope of the found on the planted ones. ``--n-words`` is the
    length of rows, ``--n-passes`` how long they are fitted.
"""

import argparse
import time

import numpy as np
from scipy import sparse

from benchmarks import data, measure, neural_topics

PARTS = ("completion", "planted", "effects")

COLUMNS = {
    "fit s": ("fit_seconds", 1),
    "CPU s": ("cpu_seconds", 1),
    "transform s": ("transform_seconds", 1),
    "peak MiB": ("peak_mib", 0),
    "completion": ("completion", 1),
    "passes": ("passes", 0),
}
PLANTED_COLUMNS = {
    "fit s": ("fit_seconds", 1),
    "CPU s": ("cpu_seconds", 1),
    "r": ("r", 3),
    "cosine": ("cosine", 3),
}
EFFECT_COLUMNS = {
    "coefficients": ("n_coefficients", 0),
    "coverage": ("coverage", 3),
    "slope": ("slope", 3),
}

# Sizes of simulated data, and of those for --quick.
PLANTED = {"n_rows": 5000, "n_words": 200, "k": 10, "n_features": 1000}
EFFECTS = {"n_rows": 1000, "n_words": 400, "k": 5, "n_features": 300}
QUICK = {"n_rows": 60, "n_words": 20, "k": 2, "n_features": 12}

# Intervals take the regression to have converged.
EFFECT_PASSES = 120


class Job:
    """Data for every contender."""

    def __init__(self, meter, corpus, k, seed, quick, validate):
        self.meter, self.k, self.seed, self.quick = meter, k, seed, quick
        if validate:
            self.train, self.test, _ = neural_topics.split(corpus)
            self.train, self.test = (X.astype(int) for X in (self.train, self.test))
        else:
            self.train = data.counts(corpus, "train", n_rows=200 if quick else None)
            self.test = data.counts(corpus, "test")


def ours(job, name, **parameters):
    """Fit an estimator of this package."""
    import skdeepfactor
    from skdeepfactor.metrics import completion_perplexity

    if job.quick:
        parameters["max_iter"] = 2
    model = getattr(skdeepfactor, name)(job.k, random_state=job.seed, **parameters)
    started = time.process_time()
    with job.meter("fit"):
        model.fit(job.train)
    spent = time.process_time() - started
    with job.meter("transform"):
        model.transform(job.test)
    return {
        "cpu_seconds": spent,
        "passes": model.n_iter_,
        "completion": completion_perplexity(model, job.test, random_state=0),
    }


def tomotopy_ctm(job, iterations, workers=measure.THREADS):
    """Fit tomotopy's correlated topic model by its Gibbs sampler."""
    import tomotopy

    from benchmarks.topics import completion_perplexity, words
    from skdeepfactor.metrics import split_tokens

    observed, hidden = split_tokens(job.test, random_state=0)
    has_both = (observed.sum(1) > 0) & (hidden.sum(1) > 0)
    rows = np.flatnonzero(has_both)
    model = tomotopy.CTModel(k=job.k, seed=job.seed, min_cf=0, rm_top=0)
    train, observed = words(job.train), words(sparse.csr_matrix(observed)[rows])
    started = time.process_time()
    with job.meter("fit"):
        for row in train:
            model.add_doc(row, ignore_empty_words=True)
        model.train(2 if job.quick else iterations, workers=workers)
    spent = time.process_time() - started
    columns = [int(word) for word in model.used_vocabs]
    topics = np.zeros((job.k, job.train.shape[1]))
    topics[:, columns] = [model.get_topic_word_dist(topic) for topic in range(job.k)]
    known = set(model.used_vocabs)
    theta = np.full((len(observed), job.k), 1 / job.k)
    places = [n for n, row in enumerate(observed) if known.intersection(row)]
    with job.meter("transform"):
        documents = [model.make_doc(observed[row]) for row in places]
        theta[places] = model.infer(documents, workers=workers)[0]
    return {
        "cpu_seconds": spent,
        "passes": iterations,
        "completion": completion_perplexity(
            theta, topics, sparse.csr_matrix(hidden)[rows]
        ),
    }


# name: (function, parameters)
CONTENDERS = {
    "ours CTM": (ours, {"name": "CorrelatedTopicModel"}),
    "ours CTM, diag": (
        ours,
        {"name": "CorrelatedTopicModel", "covariance_type": "diag"},
    ),
    "ours LDA": (ours, {"name": "LatentDirichletAllocation"}),
    "tomotopy CTM": (tomotopy_ctm, {"iterations": 50}),
}


def contend(meter, contender, corpus, k, seed, quick, validate, threads):
    """Fit and evaluate one contender; runs in its own process."""
    function, parameters = CONTENDERS[contender]
    if function is tomotopy_ctm:
        parameters = {**parameters, "workers": threads}
    return function(Job(meter, corpus, k, seed, quick, validate), **parameters)


def simulated(seed, n_rows, n_words, k, n_features, n_covariates=0):
    """Rows, topics, covariance, covariates and their coefficients, drawn."""
    rng = np.random.default_rng(seed)
    topics = rng.dirichlet(np.full(n_features, 0.05), size=k)
    factor = rng.normal(size=(k, k))
    covariance = 1.2 * factor @ factor.T / k + 0.3 * np.eye(k)
    covariates = rng.normal(size=(n_rows, n_covariates))
    coef = rng.normal(scale=0.7, size=(k, n_covariates))
    eta = rng.multivariate_normal(np.zeros(k), covariance, size=n_rows)
    eta += covariates @ coef.T
    theta = np.exp(eta - eta.max(axis=1, keepdims=True))
    p = theta @ topics
    X = rng.multinomial(n_words, p / p.sum(axis=1, keepdims=True))
    return sparse.csr_matrix(X), topics, covariance, covariates, coef


def recover(meter, seed, sizes):
    """Fit planted topics, and compare their covariance; runs in its own process."""
    from skdeepfactor import CorrelatedTopicModel
    from skdeepfactor.inspection import match_components

    X, topics, covariance, _, _ = simulated(seed, **sizes)
    k = len(topics)
    model = CorrelatedTopicModel(k, random_state=seed)
    started = time.process_time()
    with meter("fit"):
        model.fit(X)
    spent = time.process_time() - started
    pairs, cosines = match_components(topics, model.components_)
    order = pairs[:, 1]
    center = np.eye(k) - 1 / k
    true = center @ covariance @ center
    found = center @ model.topic_covariance_[np.ix_(order, order)] @ center
    above = np.triu_indices(k, 1)
    r = float(np.corrcoef(found[above], true[above])[0, 1]) if k > 2 else 0.0
    return {"cpu_seconds": spent, "r": r, "cosine": float(cosines.min())}


def cover(meter, n_sets, n_passes, sizes, level):
    """Fit planted effects, and count intervals that hold; runs in its own process."""
    from skdeepfactor import CorrelatedTopicModel
    from skdeepfactor.inspection import match_components

    is_inside, found, true = [], [], []
    for seed in range(n_sets):
        X, topics, _, C, coef = simulated(seed, **sizes, n_covariates=3)
        coef = coef - coef.mean(axis=0)
        model = CorrelatedTopicModel(
            len(topics), max_iter=n_passes, tol=None, random_state=seed
        )
        with meter("fit"):
            model.fit(X, covariates=C)
        order = match_components(topics, model.components_)[0][:, 1]
        effect = model.effect(np.eye(3), baseline=np.zeros((1, 3)), level=level)
        lower, mean, upper = (
            effect[name][:, order].T for name in ("lower", "mean", "upper")
        )
        is_inside.append((lower < coef) & (coef < upper))
        found.append(mean)
        true.append(coef)
    found, true = np.concatenate(found).ravel(), np.concatenate(true).ravel()
    return {
        "n_coefficients": len(true),
        "coverage": float(np.concatenate(is_inside).mean()),
        "slope": float(found @ true / (true @ true)),
    }


def main(argv):
    """Run the parts that were asked for, one after the other."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks correlated",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--data", nargs="+", default=["20news_2000"])
    parser.add_argument("--k", nargs="+", type=int, default=[100])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--validate", action="store_true", help="see completion")
    parser.add_argument(
        "--n-sets", type=int, default=14, help="data sets with planted effects"
    )
    parser.add_argument("--n-words", type=int, default=EFFECTS["n_words"])
    parser.add_argument("--n-passes", type=int, default=EFFECT_PASSES)
    parser.add_argument("--threads", type=int, default=measure.THREADS)
    parser.add_argument("--quick", action="store_true", help="toy sizes, two passes")
    chosen = parser.parse_args(argv)
    results = []

    def run(function, setting, label):
        place = f"benchmarks.correlated:{function}"
        measured = measure.run(place, setting, threads=chosen.threads)
        results.append({"contender": label, **setting, **measured})
        # A long run that is cut short keeps what it has.
        measure.write_results("correlated", argv, results, seeds=chosen.seeds)
        return results[-1]

    if "completion" in chosen.parts:
        data.folder()
        for corpus in chosen.data:
            for k in [4] if chosen.quick else chosen.k:
                rows = [
                    run(
                        "contend",
                        {
                            "contender": contender,
                            "corpus": corpus,
                            "k": k,
                            "seed": seed,
                            "quick": chosen.quick,
                            "validate": chosen.validate,
                            "threads": chosen.threads,
                        },
                        contender,
                    )
                    for contender in chosen.only
                    for seed in chosen.seeds
                ]
                print(f"\n{corpus}, {k} topics")
                measure.print_contenders(rows, COLUMNS)
    if "planted" in chosen.parts:
        sizes = QUICK if chosen.quick else PLANTED
        rows = [
            run("recover", {"seed": seed, "sizes": sizes}, "planted covariance")
            for seed in chosen.seeds
        ]
        print(f"\nplanted covariance, {sizes}")
        measure.print_contenders(rows, PLANTED_COLUMNS)
    if "effects" in chosen.parts:
        sizes = QUICK if chosen.quick else {**EFFECTS, "n_words": chosen.n_words}
        n_sets, n_passes = chosen.n_sets, chosen.n_passes
        if chosen.quick:
            n_sets, n_passes = 1, 2
        setting = {"n_sets": n_sets, "n_passes": n_passes, "sizes": sizes, "level": 0.9}
        rows = [run("cover", setting, "intervals of 90 %")]
        print(f"\nplanted effects, {sizes}")
        measure.print_contenders(rows, EFFECT_COLUMNS)
