"""Answers from topics, beside regressions: `python -m benchmarks supervised`.

Every contender runs alone in a fresh process (`measure`); "fit" is training. Settings
were chosen on training rows that were not fitted to.

labelme_images
    Classes of scenes, 8 of them: accuracy on the test rows, 100 topics. "completion" is
    ``metrics.completion_perplexity`` of the test rows.
movie_scale
    Ratings of reviews, five folds by ``fold`` (the seed is the fold): area under the
    curve for a rating above the median of the training rows, by a classifier that knows
    no more than that and by a regression on ratings; R squared of ratings, and
    completion.
20news_2000
    Classes of posts, 20 of them: accuracy and completion, 50 topics.
tenth
    The same, where all but a tenth of the training rows, at random by the seed, have
    lost their class. The regressions see the rows that have one; topics see all words.

Peers: a regression on log(1 + x) or tf-idf of it (logistic for classes, ridge for
numbers; C and alpha chosen by cross-validation on the training rows), and the same on
the proportions of LatentDirichletAllocation's topics, as many as ours; of movie_scale,
tomotopy's supervised LDA by Gibbs sampling, with as many topics.
"""

import argparse
import contextlib

import numpy as np

from benchmarks import data, measure

QUICK_ROWS = 300

# corpus: parameters of ours, chosen on validation rows
OURS = {
    "labelme_images": {"n_components": 100, "supervision": 1000.0},
    "movie_scale": {
        "n_components": 50,
        "supervision": 100.0,
        "C": 1.0,
        "count_power": 0.0,
        "word_dropout": 0.5,
        "max_iter": 12,
        "max_inner_iter": 6,
    },
    "20news_2000": {
        "n_components": 50,
        "supervision": 50.0,
        "C": 30.0,
        "word_dropout": 0.3,
        "doc_topic_prior": 0.03,
        "max_iter": 10,
    },
    "tenth": {
        "n_components": 50,
        "supervision": 300.0,
        "C": 10.0,
        "word_dropout": 0.7,
        "unlabeled_weight": 0.3,
        "doc_topic_prior": 0.03,
        "max_iter": 10,
    },
}
# Of the ratings themselves.
NUMBERS = {
    "supervision": 350.0,
    "C": 1.0,
    "word_dropout": 0.5,
    "max_iter": 30,
    "max_inner_iter": 15,
}
# Of tomotopy's, for high ratings and for ratings.
SLDA = {
    "iterations": 100,
    "b": {"alpha": 0.1, "eta": 0.05, "nu_sq": 1.0, "glm_param": 10.0},
    "l": {"alpha": 0.1, "eta": 0.05, "nu_sq": 1.0, "glm_param": 0.1},
}
STRENGTHS = np.logspace(-3, 3, 13)
SHOWN = 0.1


class Job:
    """Data for every contender: counts and answers, NaN where hidden."""

    def __init__(self, meter, corpus, seed, quick):
        self.meter, self.corpus, self.seed, self.quick = meter, corpus, seed, quick
        self.is_regression = corpus == "movie_scale"
        if self.is_regression:
            X = data.counts(corpus, "all").astype(np.float32)
            folder = data.folder() / corpus
            y, fold = np.load(folder / "rating.npy"), np.load(folder / "fold.npy")
            is_test = fold == np.unique(fold)[seed]
            self.train, self.y = X[~is_test], y[~is_test]
            self.test, self.truth = X[is_test], y[is_test]
        else:
            name = "20news_2000" if corpus == "tenth" else corpus
            self.train, self.y = self._read(name, "train")
            self.test, self.truth = self._read(name, "test")
        if quick:
            rows = np.random.default_rng(0).permutation(self.train.shape[0])
            self.train, self.y = (
                self.train[rows[:QUICK_ROWS]],
                self.y[rows[:QUICK_ROWS]],
            )
        self.shown = np.ones(len(self.y), dtype=bool)
        if corpus == "tenth":
            self.shown = np.random.default_rng(seed).random(len(self.y)) < SHOWN

    def _read(self, corpus, split):
        y = np.load(data.folder() / corpus / f"{split}_labels.npy")
        return data.counts(corpus, split).astype(np.float32), y

    def settings(self, parameters):
        """Return the parameters of a fit of ours."""
        quick = {"n_components": 3, "max_iter": 1} if self.quick else {}
        return {**OURS[self.corpus], **parameters, **quick, "random_state": self.seed}

    def median(self):
        """Return the rating that counts as high if exceeded."""
        return np.median(self.y)


def completion(job, model):
    """Return the perplexity of hidden halves of the test rows."""
    from skdeepfactor.metrics import completion_perplexity

    return {
        "completion": completion_perplexity(model, job.test.astype(int), random_state=0)
    }


def area(job, scores):
    """Return the area under the curve of high ratings."""
    from sklearn.metrics import roc_auc_score

    return {"auc": float(roc_auc_score(job.truth > job.median(), scores))}


def ours(job, **parameters):
    """Fit supervised topics, to classes, or to ratings and whether they are high."""
    from skdeepfactor import SupervisedLDAClassifier, SupervisedLDARegressor

    settings = job.settings(parameters)
    if not job.is_regression:
        model = SupervisedLDAClassifier(**settings)
        with job.meter("fit"):
            model.fit(job.train, np.where(job.shown, job.y.astype(float), np.nan))
        accuracy = model.score(job.test, job.truth)
        return {"accuracy": accuracy, **completion(job, model)}
    model = SupervisedLDAClassifier(**settings)
    with job.meter("fit"):
        model.fit(job.train, job.y > job.median())
    quick = {"max_iter": 1} if job.quick else {}
    numbers = SupervisedLDARegressor(**{**settings, **NUMBERS, **parameters, **quick})
    numbers.fit(job.train, job.y)
    return {
        **area(job, model.predict_proba(job.test)[:, 1]),
        "auc_of_ratings": area(job, numbers.predict(job.test))["auc"],
        "r2": numbers.score(job.test, job.truth),
        **completion(job, model),
        "completion of R2": completion(job, numbers)["completion"],
    }


def on_words(job):
    """Fit regressions to logarithms of counts."""
    return regressions(job, job.train.log1p(), job.test.log1p())


def on_tfidf(job):
    """Fit regressions to tf-idf of logarithms of counts."""
    from sklearn.feature_extraction.text import TfidfTransformer

    weights = TfidfTransformer().fit(job.train)
    train, test = (weights.transform(X.log1p()) for X in (job.train, job.test))
    return regressions(job, train, test)


def on_topics(job):
    """Fit regressions to proportions of topics that saw no answer."""
    from skdeepfactor import LatentDirichletAllocation

    n_components = job.settings({})["n_components"]
    model = LatentDirichletAllocation(
        n_components, max_iter=10, random_state=job.seed
    ).fit(job.train)
    found = regressions(job, model.transform(job.train), model.transform(job.test))
    return {**found, **completion(job, model)}


def tomotopy_slda(job, iterations, **parameters):
    """Fit tomotopy's supervised LDA, to high ratings and to ratings."""
    import tomotopy
    from sklearn.metrics import r2_score

    from benchmarks.topics import words

    train, test = words(job.train), words(job.test)
    mean, scale = job.y.mean(), job.y.std()
    targets = {"b": job.y > job.median(), "l": (job.y - mean) / scale}
    found = {}
    for kind, y in targets.items():
        model = tomotopy.SLDAModel(
            k=job.settings({})["n_components"],
            vars=kind,
            seed=job.seed,
            **parameters[kind],
        )
        # Documents in an order of their own: reviews come sorted by author.
        for row in np.random.default_rng(0).permutation(len(train)):
            model.add_doc(train[row], y=[float(y[row])])
        with contextlib.nullcontext() if kind == "l" else job.meter("fit"):
            model.train(2 if job.quick else iterations, workers=1)
        documents = [model.make_doc(row) for row in test]
        model.infer(documents, iterations=100, workers=1)
        found[kind] = np.ravel(model.estimate(documents))
    return {
        **area(job, found["b"]),
        "auc_of_ratings": area(job, found["l"])["auc"],
        "r2": float(r2_score(job.truth, mean + scale * found["l"])),
    }


def regressions(job, train, test):
    """Fit logistic and ridge regressions, their strength by cross-validation."""
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.model_selection import GridSearchCV, KFold

    # Reviews come sorted by author.
    folds = KFold(3, shuffle=True, random_state=0)
    y = job.y > job.median() if job.is_regression else job.y
    train, y = train[job.shown], y[job.shown]
    model = GridSearchCV(
        LogisticRegression(max_iter=200),
        {"C": STRENGTHS[2:-2:2]},
        cv=folds,
        scoring="roc_auc" if job.is_regression else "accuracy",
    )
    with job.meter("fit"):
        model.fit(train, y)
    if not job.is_regression:
        return {"accuracy": float((model.predict(test) == job.truth).mean())}
    numbers = RidgeCV(STRENGTHS, cv=folds).fit(train, job.y)
    return {
        **area(job, model.decision_function(test)),
        "auc_of_ratings": area(job, numbers.predict(test))["auc"],
        "r2": numbers.score(test, job.truth),
    }


CONTENDERS = {
    "ours": (ours, {}),
    "ours, auto": (ours, {"supervision": "auto"}),
    "words": (on_words, {}),
    "tf-idf": (on_tfidf, {}),
    "LDA": (on_topics, {}),
    "tomotopy SLDA": (tomotopy_slda, SLDA),
}
COLUMNS = {
    "fit s": ("fit_seconds", 1),
    "accuracy": ("accuracy", 4),
    "AUC": ("auc", 4),
    "AUC of ratings": ("auc_of_ratings", 4),
    "R2": ("r2", 4),
    "completion": ("completion", 1),
}
DRAWS_NOTHING = ("words", "tf-idf")


def contend(meter, corpus, contender, seed, quick):
    """Fit and evaluate one contender; runs in its own process."""
    job = Job(meter, corpus, seed, quick)
    function, parameters = CONTENDERS[contender]
    return function(job, **parameters)


def main(argv):
    """Run the contenders that were asked for, one after the other."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks supervised",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", nargs="+", choices=OURS, default=[*OURS])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=[*CONTENDERS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=measure.THREADS)
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_ROWS} rows, one pass"
    )
    chosen = parser.parse_args(argv)
    data.folder()
    results = []
    for corpus in chosen.data:
        rows = []
        for contender in chosen.only:
            if contender == "tomotopy SLDA" and corpus != "movie_scale":
                continue
            is_same = contender in DRAWS_NOTHING and corpus in (
                "labelme_images",
                "20news_2000",
            )
            for seed in chosen.seeds[:1] if is_same else chosen.seeds:
                setting = {
                    "corpus": corpus,
                    "contender": contender,
                    "seed": seed,
                    "quick": chosen.quick,
                }
                measured = measure.run(
                    "benchmarks.supervised:contend", setting, threads=chosen.threads
                )
                rows.append({**setting, **measured})
                # A long run that is cut short keeps what it has.
                measure.write_results(
                    "supervised", argv, results + rows, seeds=chosen.seeds
                )
        print(f"\n{corpus}")
        known = set().union(*rows)
        columns = {name: c for name, c in COLUMNS.items() if c[0] in known}
        measure.print_contenders(rows, columns)
        results += rows
