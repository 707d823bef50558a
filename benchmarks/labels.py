"""Labels from words, beside a sampler and regressions: `python -m benchmarks labels`.

Every contender runs alone in a fresh process (`measure`); "fit" is training, "predict"
is what it takes to score all labels of the test rows. Settings were chosen on 500
training rows that were not fitted to, before the test rows were used once.

20news_2000
    One label of 20 for each row. Accuracy on the test rows, and
    ``metrics.completion_perplexity`` of their hidden halves (ours). With 4 topics a
    label and 10 shared. "half" and "tenth" hide the labels of all but these shares of
    the training rows, at random by the seed, but not the rows; "dropped" are fits to
    the rows with a label alone. Peers: tomotopy's partially labelled LDA with as many
    topics (accuracy by the proportions of a label's topics), naive Bayes, and logistic
    regression on tf-idf of log(1 + x).
delicious
    Tags of web pages, 983 of them, 19 a page. Each model gives its 19 best tags to each
    test row: micro-F1, and the mean average precision of its ranking, over the rows
    that have tags. Peers: the most frequent tags, tomotopy's labelled LDA (with the
    priors of ours, and with what did better on validation rows), and a logistic
    regression for each tag, on tf-idf and on the proportions of 100 topics of
    LatentDirichletAllocation, C untuned. Ours, by shares, ranks by the proportions of
    the tags' topics instead of Bayes' rule.
"""

import argparse

import numpy as np
from scipy import sparse

from benchmarks import data, measure

NEWS = {"topics_per_label": 4, "n_shared": 10}
TAGS = {"doc_topic_prior": 1.0, "max_iter": 2}
# Few rows, and little work, for --quick.
QUICK_ROWS = 400
N_TAGS = 19

COLUMNS = {
    "20news_2000": {
        "fit s": ("fit_seconds", 2),
        "predict s": ("predict_seconds", 2),
        "accuracy": ("accuracy", 4),
        "completion": ("completion", 1),
    },
    "delicious": {
        "fit s": ("fit_seconds", 2),
        "predict s": ("predict_seconds", 2),
        "micro-F1": ("f1", 4),
        "MAP": ("average_precision", 4),
    },
}


class Job:
    """Data for every contender: counts and labels, classes or an indicator."""

    def __init__(self, meter, corpus, seed, quick):
        self.meter, self.seed, self.quick = meter, seed, quick
        self.train, self.y = self._read(corpus, "train")
        self.test, self.truth = self._read(corpus, "test")

    def _read(self, corpus, split):
        X = data.counts(corpus, split).astype(np.float32)
        path = data.folder() / corpus / f"{split}_labels"
        if corpus == "delicious":
            y = sparse.csr_matrix(sparse.load_npz(path.with_suffix(".npz")))
        else:
            y = np.load(path.with_suffix(".npy"))
        if self.quick:
            rows = np.random.default_rng(0).permutation(X.shape[0])[:QUICK_ROWS]
            X, y = X[rows], y[rows]
        return X, y


# One label for each row.


def ours(job, shown=1.0, drop=False, **parameters):
    """Fit LabeledLDA, perhaps with the labels of some rows alone."""
    from skdeepfactor import LabeledLDA
    from skdeepfactor.metrics import completion_perplexity

    X, y = job.train, job.y.astype(float)
    is_hidden = np.random.default_rng(job.seed).random(len(y)) >= shown
    y[is_hidden] = np.nan
    if drop:
        X, y = X[~is_hidden], y[~is_hidden]
    model = LabeledLDA(random_state=job.seed, **{**NEWS, **parameters})
    with job.meter("fit"):
        model.fit(X, y)
    with job.meter("predict"):
        predicted = model.predict(job.test)
    perplexity = completion_perplexity(model, job.test.astype(int), random_state=0)
    return {**accuracy(job, predicted), "completion": perplexity}


def tomotopy_plda(job, iterations):
    """Fit tomotopy's partially labelled LDA, and rank by a label's topics."""
    import tomotopy

    model = tomotopy.PLDAModel(
        latent_topics=NEWS["n_shared"],
        topics_per_label=NEWS["topics_per_label"],
        alpha=0.03,
        eta=0.05,
        seed=job.seed,
    )
    labels = [[str(label)] for label in job.y]
    scores = tomotopy_scores(job, model, labels, iterations, NEWS["topics_per_label"])
    return accuracy(job, scores.argmax(axis=1))


def naive_bayes(job):
    """Fit naive Bayes, with scikit-learn's default."""
    from sklearn.naive_bayes import MultinomialNB

    return classifier(job, MultinomialNB(), job.train, job.test)


def regression(job):
    """Fit a logistic regression to tf-idf."""
    from sklearn.linear_model import LogisticRegression

    return classifier(job, LogisticRegression(C=10, max_iter=200), *tfidf(job))


def classifier(job, model, train, test):
    """Fit a classifier of scikit-learn's."""
    with job.meter("fit"):
        model.fit(train, job.y)
    with job.meter("predict"):
        predicted = model.predict(test)
    return accuracy(job, predicted)


def accuracy(job, predicted):
    """Return the share of the test rows that are right."""
    return {"accuracy": float((predicted == job.truth).mean())}


# Tags.


def our_tags(job, by_shares=False, **parameters):
    """Fit LabeledLDA, and rank tags by Bayes' rule, or by the topics' proportions."""
    from skdeepfactor import LabeledLDA

    model = LabeledLDA(random_state=job.seed, **{**TAGS, **parameters})
    with job.meter("fit"):
        model.fit(job.train, job.y)
    with job.meter("predict"):
        score = model.transform if by_shares else model.predict_log_proba
        scores = score(job.test)
    return ranking(job, scores)


def most_frequent(job):
    """Rank tags by how often they are given, alike for all rows."""
    frequencies = np.asarray(job.y.sum(axis=0)).ravel()
    return ranking(job, np.tile(frequencies, (job.test.shape[0], 1)))


def tomotopy_llda(job, alpha, iterations):
    """Fit tomotopy's labelled LDA."""
    import tomotopy

    model = tomotopy.LLDAModel(alpha=alpha, eta=0.05, seed=job.seed)
    labels = [[str(column) for column in row.indices] for row in rows_of(job.y)]
    return ranking(job, tomotopy_scores(job, model, labels, iterations, 1))


def tag_regression(job, on_topics=False):
    """Fit a logistic regression for each tag, to tf-idf or to proportions of topics."""
    from sklearn.linear_model import LogisticRegression

    from skdeepfactor import LatentDirichletAllocation

    with job.meter("fit"):
        if on_topics:
            topics = LatentDirichletAllocation(
                100, doc_topic_prior=0.1, random_state=job.seed
            )
            train = topics.fit_transform(job.train)
        else:
            train, test = tfidf(job)
        Y = job.y.toarray().astype(bool)
        models = [
            LogisticRegression(
                C=10.0 if on_topics else 1.0, solver="liblinear", tol=1e-2
            ).fit(train, y)
            if 0 < y.sum() < len(y)
            else None
            for y in Y.T
        ]
    with job.meter("predict"):
        if on_topics:
            test = topics.transform(job.test)
        scores = np.full((job.test.shape[0], Y.shape[1]), -50.0)
        for column, model in zip(scores.T, models, strict=True):
            if model is not None:
                column[:] = model.decision_function(test)
    return ranking(job, scores)


def ranking(job, scores):
    """Return micro-F1 of the best tags and the mean average precision of all."""
    order = np.argsort(-scores, axis=1, kind="stable")
    hits = np.take_along_axis(job.truth.toarray().astype(bool), order, 1)
    n_hits, n_true = hits[:, :N_TAGS].sum(), hits.sum()
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    has_tags = hits.any(axis=1)
    averages = (precision * hits).sum(axis=1)[has_tags] / hits.sum(axis=1)[has_tags]
    return {
        "f1": float(2 * n_hits / (N_TAGS * len(hits) + n_true)),
        "average_precision": float(averages.mean()),
    }


# Of both.


def tomotopy_scores(job, model, labels, iterations, topics_per_label):
    """Fit a model of tomotopy's; sum the proportions of each label's topics."""
    from benchmarks.topics import words

    train, test = words(job.train), words(job.test)
    with job.meter("fit"):
        # Documents in an order of their own: files are sorted by class.
        for row in np.random.default_rng(0).permutation(len(train)):
            if labels[row]:
                model.add_doc(train[row], labels=labels[row])
        model.train(iterations, workers=1)
    with job.meter("predict"):
        theta = np.asarray(
            model.infer(
                [model.make_doc(row) for row in test], iterations=100, workers=1
            )[0]
        )
    names = [int(name) for name in model.topic_label_dict]
    own = theta[:, : len(names) * topics_per_label]
    n_labels = job.y.shape[1] if sparse.issparse(job.y) else int(job.y.max()) + 1
    scores = np.zeros((len(theta), n_labels))
    scores[:, names] = own.reshape(len(theta), len(names), topics_per_label).sum(2)
    return scores


def tfidf(job):
    """Return tf-idf of log(1 + x), of the training and the test rows."""
    from sklearn.feature_extraction.text import TfidfTransformer

    weights = TfidfTransformer().fit(job.train)
    return weights.transform(job.train.log1p()), weights.transform(job.test.log1p())


def rows_of(matrix):
    """Yield the rows of a CSR matrix."""
    return map(matrix.getrow, range(matrix.shape[0]))


# corpus: name: (function, parameters, the parameters that --quick changes)
CONTENDERS = {
    "20news_2000": {
        "ours": (ours, {}, {}),
        "ours mean-field": (ours, {"inference": "mean_field"}, {}),
        "ours, batches of 1,000": (ours, {"batch_size": 1000}, {"batch_size": 100}),
        "ours, half": (ours, {"shown": 0.5}, {}),
        "ours, half, dropped": (ours, {"shown": 0.5, "drop": True}, {}),
        "ours, tenth": (ours, {"shown": 0.1}, {}),
        "ours, tenth, dropped": (ours, {"shown": 0.1, "drop": True}, {}),
        "tomotopy PLDA": (tomotopy_plda, {"iterations": 100}, {"iterations": 5}),
        "naive Bayes": (naive_bayes, {}, {}),
        "regression on words": (regression, {}, {}),
    },
    "delicious": {
        "ours": (our_tags, {}, {}),
        "ours, prior .1": (our_tags, {"doc_topic_prior": 0.1, "max_iter": 4}, {}),
        "ours, by shares": (our_tags, {"by_shares": True}, {}),
        "most frequent": (most_frequent, {}, {}),
        "tomotopy LLDA .1": (
            tomotopy_llda,
            {"alpha": 0.1, "iterations": 200},
            {"iterations": 5},
        ),
        "tomotopy LLDA 1": (
            tomotopy_llda,
            {"alpha": 1.0, "iterations": 50},
            {"iterations": 5},
        ),
        "regression on words": (tag_regression, {}, {}),
        "regression on topics": (tag_regression, {"on_topics": True}, {}),
    },
}
# Slow, and all but the same for any seed.
ONCE = ("tomotopy LLDA .1", "tomotopy LLDA 1", "tomotopy PLDA")
DRAWS_NOTHING = ("most frequent", "naive Bayes", "regression on words")


def contend(meter, corpus, contender, seed, quick):
    """Fit and evaluate one contender; runs in its own process."""
    job = Job(meter, corpus, seed, quick)
    function, parameters, quicker = CONTENDERS[corpus][contender]
    return function(job, **{**parameters, **(quicker if quick else {})})


def main(argv):
    """Run the contenders that were asked for, one after the other."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks labels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = dict.fromkeys(name for some in CONTENDERS.values() for name in some)
    parser.add_argument("--data", nargs="+", choices=CONTENDERS, default=[*CONTENDERS])
    parser.add_argument("--only", nargs="+", choices=names, default=[*names])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=measure.THREADS)
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_ROWS} rows, few iterations"
    )
    chosen = parser.parse_args(argv)
    data.folder()
    results = []
    for corpus in chosen.data:
        rows = []
        for contender in [name for name in CONTENDERS[corpus] if name in chosen.only]:
            draws = contender not in (*ONCE, *DRAWS_NOTHING)
            for seed in chosen.seeds if draws else chosen.seeds[:1]:
                setting = {
                    "corpus": corpus,
                    "contender": contender,
                    "seed": seed,
                    "quick": chosen.quick,
                }
                measured = measure.run(
                    "benchmarks.labels:contend", setting, threads=chosen.threads
                )
                rows.append({**setting, **measured})
                # A long run that is cut short keeps what it has.
                measure.write_results(
                    "labels", argv, results + rows, seeds=chosen.seeds
                )
        print(f"\n{corpus}")
        measure.print_contenders(rows, COLUMNS[corpus])
        results += rows
