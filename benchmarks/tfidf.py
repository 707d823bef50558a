"""Models of counts behind ``TfidfTransformer``, beside the same models of counts.

Each fit runs in a fresh process on one thread (`measure`). Times are of the CPU.
Everything is at its defaults, except what is said below.

planted
    1,000 rows of 500 words from 10 topics, data seeds 0 to 5. Least cosine of a true
    topic with the one matched to it; for the mixtures, whose rows have one topic each
    (``doc_topic_prior=.001``), the adjusted Rand index of ``predict``. At least .95.
search
    The number of components, out of 1, 5, 10, 15 and 20, that ``GridSearchCV`` chooses
    by ``score`` on these data, and the smallest that is as good: less than one standard
    error below, of the differences in the folds.
features
    20news_2000, 50 components: accuracy on the test rows of a logistic regression on
    ``transform``, features scaled to unit variance, C chosen by three folds of the
    training rows out of .01, .1 and 1. Behind tf-idf it is to be within a point of that
    from counts, within two for NeuralTopicDLGM. SparseGammaDEF and NeuralTopicDLGM have
    fewer passes than by default, from counts and behind tf-idf alike (`FEATURES`).
labels
    20news_2000: accuracy and log loss of LabeledLDA on the test rows, behind tf-idf as
    it is, and with tf-idf scaled as the other models scale it.
"""

import argparse
import time

import numpy as np

from benchmarks import data, measure
from benchmarks.sparse_codes import accuracy

SIZES = [1, 5, 10, 15, 20]
PLANTED = {
    "LDA": ("LatentDirichletAllocation", {}),
    "PF": ("PoissonFactorization", {}),
    "DEF": ("SparseGammaDEF", {}),
    "mixture, collapsed": ("MultinomialMixture", {}),
    "mixture, mean field": ("MultinomialMixture", {"inference": "mean_field"}),
    "mixture, em": ("MultinomialMixture", {"inference": "em"}),
}
FEATURES = {
    "LDA": ("LatentDirichletAllocation", {}),
    "PF": ("PoissonFactorization", {}),
    "DEF": ("SparseGammaDEF", {"max_iter": 8}),
    "NTDLGM": ("NeuralTopicDLGM", {"max_iter": 4}),
}
INPUTS = ("counts", "tfidf")


def estimator(name, parameters, n_components, seed):
    """Make an estimator of this package."""
    import skdeepfactor

    kind = getattr(skdeepfactor, name)
    if name == "SparseGammaDEF":
        return kind((n_components,), random_state=seed, **parameters)
    return kind(n_components, random_state=seed, **parameters)


def planted_rows(name, seed):
    """Rows with one topic each for mixtures, with several for other models."""
    from skdeepfactor.datasets import make_topics

    prior = 0.001 if name.startswith("mixture") else 0.1
    return make_topics(1000, 500, 10, doc_topic_prior=prior, random_state=seed)


def planted(meter, name, seed, n_seeds):
    """Least agreement with planted topics behind tf-idf, over seeds of the model."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.metrics import adjusted_rand_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import normalize

    rows = planted_rows(name, seed)
    found = []
    for model_seed in range(n_seeds):
        model = estimator(*PLANTED[name], 10, model_seed)
        pipeline = make_pipeline(TfidfTransformer(), model).fit(rows.data)
        if name.startswith("mixture"):
            truth = rows.topic_proportions.argmax(1)
            found.append(adjusted_rand_score(truth, pipeline.predict(rows.data)))
        else:
            cosines = normalize(rows.components) @ normalize(model.components_).T
            found.append(cosines[linear_sum_assignment(-cosines)].min())
    return {"least": min(found)}


def search(meter, name, seed, behind):
    """The number of components that a grid search chooses."""
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline

    kind, parameters = PLANTED[name]
    steps = [("tfidf", TfidfTransformer())] if behind == "tfidf" else []
    pipeline = Pipeline([*steps, ("model", estimator(kind, parameters, 10, 0))])
    grid = {"model__n_components": SIZES}
    if kind == "SparseGammaDEF":
        grid = {"model__layer_sizes": [(size,) for size in SIZES]}
    found = GridSearchCV(pipeline, grid, cv=3).fit(planted_rows(name, seed).data)
    results = found.cv_results_
    scores = np.stack([results[f"split{fold}_test_score"] for fold in range(3)], 1)
    below = scores[found.best_index_] - scores
    errors = below.std(axis=1, ddof=1) / np.sqrt(3)
    return {
        "chosen": SIZES[found.best_index_],
        "smallest": SIZES[int((below.mean(axis=1) <= errors).argmax())],
        "scores": results["mean_test_score"].round(2).tolist(),
    }


def news(behind, rows=None):
    """Training and test rows of 20news_2000, as counts or tf-idf, and their labels."""
    from sklearn.feature_extraction.text import TfidfTransformer

    folder = data.folder() / "20news_2000"
    X, y = [], []
    for part in ("train", "test"):
        X.append(data.counts("20news_2000", part))
        y.append(np.load(folder / f"{part}_labels.npy"))
        # Files are sorted by class.
        drawn = np.random.default_rng(0).permutation(len(y[-1]))[:rows]
        X[-1], y[-1] = X[-1][drawn], y[-1][drawn]
    if behind == "tfidf":
        transformer = TfidfTransformer().fit(X[0])
        X = [transformer.transform(part) for part in X]
    return X, y


def features(meter, name, behind, seed, rows=None):
    """Accuracy of a logistic regression on the factors of rows."""
    X, (labels, test_labels) = news(behind, rows)
    train, test = (part.astype(np.float32) for part in X)
    model = estimator(*FEATURES[name], 50, seed)
    started = time.process_time()
    found = model.fit_transform(train)
    seconds = time.process_time() - started
    accurate = accuracy(found, labels, model.transform(test), test_labels)
    return {"cpu_seconds": seconds, "accuracy": accurate}


def labels(meter, scaled, seed, rows=None):
    """Accuracy and log loss of LabeledLDA behind tf-idf."""
    from sklearn.metrics import log_loss

    from skdeepfactor import LabeledLDA

    (train, test), (known, wanted) = news("tfidf", rows)
    scale = 1 / train.data.mean() if scaled else 1.0
    model = LabeledLDA(random_state=seed).fit(train * scale, known)
    shares = model.predict_proba(test * scale)
    return {
        "accuracy": float((model.classes_[shares.argmax(1)] == wanted).mean()),
        "log_loss": log_loss(wanted, shares, labels=model.classes_),
    }


def main(argv):
    """Run what was asked for and print its tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks tfidf",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = ("planted", "search", "features", "labels")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--models", nargs="+", default=[*PLANTED, "NTDLGM"])
    parser.add_argument("--data-seeds", nargs="+", type=int, default=list(range(6)))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--inputs", nargs="+", choices=INPUTS, default=INPUTS)
    parser.add_argument("--rows", type=int, help="rows of 20news_2000; all by default")
    chosen = parser.parse_args(argv)
    rows = []

    def run(part, contender, **arguments):
        measured = measure.run(f"benchmarks.tfidf:{part}", arguments, threads=1)
        rows.append({"part": part, "contender": contender, **arguments, **measured})

    def table(part, columns):
        measure.print_contenders([row for row in rows if row["part"] == part], columns)

    models = [name for name in chosen.models if name in PLANTED]
    if "planted" in chosen.only:
        print(f"\nleast agreement over {len(chosen.seeds)} seed(s) of the model")
        for name in models:
            for seed in chosen.data_seeds:
                run("planted", name, name=name, seed=seed, n_seeds=len(chosen.seeds))
        table("planted", {"over the data sets": ("least", 3)})
    if "search" in chosen.only:
        print("\ncomponents chosen, the fewest as good, and the scores")
        for name in models:
            for seed in chosen.data_seeds:
                for behind in chosen.inputs:
                    run("search", name, name=name, seed=seed, behind=behind)
                    found = rows[-1]
                    numbers = found["chosen"], found["smallest"], found["scores"]
                    print(name, seed, behind, *numbers, flush=True)
    if "features" in chosen.only:
        print("\n20news_2000, logistic regression on 50 factors")
        for name in [name for name in chosen.models if name in FEATURES]:
            for behind in chosen.inputs:
                for seed in chosen.seeds:
                    run(
                        "features",
                        f"{name}, {behind}",
                        name=name,
                        behind=behind,
                        seed=seed,
                        rows=chosen.rows,
                    )
        table("features", {"accuracy": ("accuracy", 4), "CPU s": ("cpu_seconds", 1)})
    if "labels" in chosen.only:
        print("\n20news_2000, LabeledLDA behind tf-idf")
        for scaled in (False, True):
            for seed in chosen.seeds:
                name = "scaled" if scaled else "as it is"
                run("labels", name, scaled=scaled, seed=seed, rows=chosen.rows)
        table("labels", {"accuracy": ("accuracy", 4), "log loss": ("log_loss", 2)})
    measure.write_results("tfidf", argv, rows, seeds=chosen.seeds)
