"""Topic models side by side: time, memory, perplexity, coherence.

Every contender runs alone in a fresh process with two threads (`measure`), or with two
workers where it has workers, and sees the same data; contenders alternate, seed by
seed. Times are wall-clock seconds. "fit" is training, the contender's own
start included, with anything that it imports no earlier than that; "transform" is
inference for the observed halves of the test rows. Reading the data, other imports
(this package's too, which all need for the evaluation) and conversion to a contender's
format do not count. The peak is that of resident memory during fit and transform
above the memory held before.

completion
    Plug-in perplexity of the hidden halves: half of each test row's tokens are
    hidden, by the same draw for all (``metrics.split_tokens``, seed 0); from the
    observed half comes theta; exp(- mean over hidden tokens of log p), where p is a
    row of theta @ topics, scaled to sum to 1 and floored at 1e-12. Rows without
    tokens in either half are left out.
npmi
    Mean NPMI of the ten top words of each topic, over the training rows.
bound
    Document-bound perplexity of whole test rows, exp(- mean over rows of bound /
    tokens), the bound without the term of the topics. Only for contenders that have
    an ELBO per row. Ours take expectations over q(topics), as scikit-learn's does.

Peers keep their defaults except for the number of components, the seed, the threads,
and the passes and priors listed in `CONTENDERS`. Ours and scikit-learn's batch LDA are
compared twice: each at its default priors, and both at .1 and .05, where scikit-learn's
does better than at its defaults, 1 / K. The memory of scikit-learn's workers is not
counted. With two workers, tomotopy's figures differ from run to run.
"""

import argparse
import itertools

import numpy as np
from scipy import sparse

from benchmarks import data, measure

COLUMNS = {
    "fit s": ("fit_seconds", 2),
    "transform s": ("transform_seconds", 2),
    "peak MiB": ("peak_mib", 0),
    "completion": ("completion", 1),
    "npmi": ("npmi", 3),
    "bound": ("bound", 1),
}


def ours(job, name, **parameters):
    """Fit an estimator of this package."""
    import skdeepfactor

    est = getattr(skdeepfactor, name)(
        n_components=job.k, random_state=job.seed, **parameters
    )
    with job.meter("fit"):
        est.fit(job.train)
    with job.meter("transform"):
        theta = est.transform(job.observed)
    return theta, est.components_, est.perplexity(job.test)


def sklearn_lda(job, **parameters):
    """Fit scikit-learn's variational LDA, in batches or online."""
    from sklearn.decomposition import LatentDirichletAllocation

    est = LatentDirichletAllocation(
        n_components=job.k,
        random_state=job.seed,
        **{"n_jobs": measure.THREADS, **parameters},
    )
    with job.meter("fit"):
        est.fit(job.train)
    with job.meter("transform"):
        theta = est.transform(job.observed)
    bounds = sklearn_row_bounds(est, job.test)
    return theta, scaled(est.components_), document_perplexity(bounds, job.test)


def sklearn_row_bounds(est, X):
    """Bound of each row: what `_approx_bound` sums up, without the topics' part.

    E_q[log p(w | theta, beta)] + E_q[log p(theta)] - E_q[log q(theta)], with both
    Dirichlet posteriors of scikit-learn.
    """
    from scipy.special import digamma, gammaln, logsumexp

    X = sparse.csr_matrix(X, dtype=est.components_.dtype)
    prior = est.doc_topic_prior_
    gamma = est.transform(X, normalize=False)
    log_theta = digamma(gamma) - digamma(gamma.sum(1, keepdims=True))
    topics = est.components_
    log_topics = digamma(topics) - digamma(topics.sum(1, keepdims=True))
    bounds = ((prior - gamma) * log_theta + gammaln(gamma) - gammaln(prior)).sum(1)
    bounds += gammaln(prior * gamma.shape[1]) - gammaln(gamma.sum(1))
    for row in range(X.shape[0]):
        entries = slice(X.indptr[row], X.indptr[row + 1])
        log_rates = log_theta[row, :, None] + log_topics[:, X.indices[entries]]
        bounds[row] += X.data[entries] @ logsumexp(log_rates, axis=0)
    return bounds


def tomotopy_lda(job, iterations):
    """Fit tomotopy's collapsed Gibbs sampler; unseen words get probability 0."""
    import tomotopy

    train, observed = words(job.train), words(job.observed)
    model = tomotopy.LDAModel(k=job.k, seed=job.seed, min_cf=0, rm_top=0)
    with job.meter("fit"):
        for row in train:
            model.add_doc(row, ignore_empty_words=True)
        model.train(iterations, workers=measure.THREADS)
    columns = [int(word) for word in model.used_vocabs]
    topics = np.zeros((job.k, job.train.shape[1]))
    topics[:, columns] = [model.get_topic_word_dist(topic) for topic in range(job.k)]
    known = set(model.used_vocabs)
    rows = [n for n, row in enumerate(observed) if known.intersection(row)]
    theta = np.full((len(observed), job.k), 1 / job.k)
    with job.meter("transform"):
        documents = [model.make_doc(observed[row]) for row in rows]
        theta[rows] = model.infer(documents, workers=measure.THREADS)[0]
    return theta, topics, None


def words(X):
    """Write each row as a list of column names, as often as they were counted."""
    names = np.array([str(column) for column in range(X.shape[1])], dtype=object)
    return [
        np.repeat(names[row.indices], row.data.astype(int)).tolist()
        for row in map(X.getrow, range(X.shape[0]))
    ]


def gensim_lda(job, passes):
    """Fit gensim's online variational LDA."""
    from gensim.matutils import Sparse2Corpus
    from gensim.models import LdaModel

    names = {column: str(column) for column in range(job.train.shape[1])}
    train = Sparse2Corpus(job.train, documents_columns=False)
    observed = list(Sparse2Corpus(job.observed, documents_columns=False))
    with job.meter("fit"):
        model = LdaModel(
            train,
            num_topics=job.k,
            id2word=names,
            passes=passes,
            random_state=job.seed,
            minimum_probability=0,
        )
    with job.meter("transform"):
        theta, _ = model.inference(observed)
    return theta, model.get_topics(), None


def sklearn_nmf(job, max_iter):
    """Fit scikit-learn's NMF with the Kullback-Leibler loss."""
    from sklearn.decomposition import NMF

    est = NMF(
        n_components=job.k,
        beta_loss="kullback-leibler",
        solver="mu",
        max_iter=max_iter,
        random_state=job.seed,
    )
    train, observed = job.train.astype(float), job.observed.astype(float)
    with job.meter("fit"):
        est.fit(train)
    with job.meter("transform"):
        theta = est.transform(observed)
    return theta, est.components_, None


def hpfrec_hpf(job, max_iter):
    """Fit hpfrec; it infers new rows one at a time, all of them here."""
    import pandas
    from hpfrec import HPF

    model = HPF(
        k=job.k,
        maxiter=max_iter,
        random_seed=job.seed + 1,
        ncores=measure.THREADS,
        verbose=False,
    )
    train = job.train.tocoo()
    rows = [
        pandas.DataFrame({"ItemId": row.indices, "Count": row.data})
        for row in map(job.observed.getrow, range(job.observed.shape[0]))
    ]
    with job.meter("fit"):
        model.fit(train)
    with job.meter("transform"):
        theta = np.stack([model.predict_factors(row) for row in rows])
    return theta, model.Beta.T, None


PRIORS = {"doc_topic_prior": 0.1, "topic_word_prior": 0.05}
# Without workers, which take longer to start than a quick run.
QUICK_PEER = {"max_iter": 2, "n_jobs": 1}

# name: (function, parameters, the parameters that --quick changes)
CONTENDERS = {
    "ours LDA": (ours, {"name": "LatentDirichletAllocation"}, {}),
    "ours LDA .1": (ours, {"name": "LatentDirichletAllocation", **PRIORS}, {}),
    "ours LDA cross-fitted": (
        ours,
        {
            "name": "LatentDirichletAllocation",
            "inference": "cross_fitted",
            "doc_topic_prior": 0.01,
            "max_iter": 6,
        },
        {},
    ),
    "ours LDA gibbs": (
        ours,
        {
            "name": "LatentDirichletAllocation",
            "inference": "gibbs",
            "doc_topic_prior": "auto",
            "topic_word_prior": 0.1,
            "max_iter": 340,
        },
        {"max_iter": 4},
    ),
    "ours LDA mean-field": (
        ours,
        {
            "name": "LatentDirichletAllocation",
            "inference": "mean_field",
            "max_iter": 5,
        },
        {},
    ),
    "ours PF": (ours, {"name": "PoissonFactorization"}, {}),
    "sklearn LDA batch": (
        sklearn_lda,
        {"learning_method": "batch", "max_iter": 20},
        QUICK_PEER,
    ),
    "sklearn LDA .1": (
        sklearn_lda,
        {"learning_method": "batch", "max_iter": 20, **PRIORS},
        QUICK_PEER,
    ),
    "sklearn LDA online": (
        sklearn_lda,
        {"learning_method": "online", "max_iter": 10},
        QUICK_PEER,
    ),
    "tomotopy LDA": (tomotopy_lda, {"iterations": 300}, {"iterations": 20}),
    "gensim LDA": (gensim_lda, {"passes": 10}, {"passes": 2}),
    "sklearn NMF": (sklearn_nmf, {"max_iter": 200}, {"max_iter": 20}),
    "hpfrec HPF": (hpfrec_hpf, {"max_iter": 100}, {"max_iter": 10}),
}


class Job:
    """Data for every contender."""

    def __init__(self, meter, corpus, k, seed, quick):
        from skdeepfactor.metrics import split_tokens

        self.meter, self.k, self.seed = meter, k, seed
        self.train = data.counts(corpus, "train", n_rows=500 if quick else None)
        self.test = data.counts(corpus, "test", n_rows=200 if quick else None)
        observed, hidden = split_tokens(self.test, random_state=0)
        has_both = (observed.sum(1) > 0) & (hidden.sum(1) > 0)
        rows = np.flatnonzero(has_both)
        self.observed = sparse.csr_matrix(observed)[rows]
        self.hidden = sparse.csr_matrix(hidden)[rows]


def contend(meter, contender, corpus, k, seed, quick):
    """Fit and evaluate one contender; runs in its own process."""
    from skdeepfactor.metrics import npmi_coherence

    job = Job(meter, corpus, k, seed, quick)
    function, parameters, quicker = CONTENDERS[contender]
    parameters = {**parameters, **quicker} if quick else parameters
    theta, topics, bound = function(job, **parameters)
    return {
        "completion": completion_perplexity(theta, topics, job.hidden),
        "npmi": float(np.mean(npmi_coherence(topics, job.train, top_n=10))),
        "bound": bound,
    }


def completion_perplexity(theta, topics, hidden, chunk=256):
    """Perplexity per hidden token of the rows of theta @ topics, scaled to sum to 1."""
    theta, topics = np.asarray(theta, dtype=float), np.asarray(topics, dtype=float)
    totals = theta @ topics.sum(1)
    log_p = 0.0
    for start in range(0, hidden.shape[0], chunk):
        rows = slice(start, start + chunk)
        x = hidden[rows].tocoo()
        p = (theta[rows] @ topics)[x.row, x.col] / totals[rows][x.row]
        log_p += x.data @ np.log(np.maximum(p, 1e-12))
    return float(np.exp(-log_p / hidden.sum()))


def document_perplexity(bounds, X):
    """Return exp(- mean of bound / tokens), over the rows that have tokens."""
    n_tokens = np.asarray(X.sum(1)).ravel()
    has_tokens = n_tokens > 0
    return float(np.exp(-np.mean(bounds[has_tokens] / n_tokens[has_tokens])))


def scaled(components):
    """Scale rows to sum to 1."""
    return components / components.sum(1, keepdims=True)


def print_results(rows, corpus, k):
    """Print one table, means over seeds, and how much faster ours is."""
    print(f"\n{corpus}, {k} components")
    measure.print_contenders(rows, COLUMNS)
    for name, own in (
        ("sklearn LDA batch", "ours LDA"),
        ("sklearn LDA .1", "ours LDA .1"),
        ("tomotopy LDA", "ours LDA"),
    ):
        them = [row for row in rows if row["contender"] == name]
        us = [row for row in rows if row["contender"] == own]
        ratios = [
            {"ratio": theirs["fit_seconds"] / mine["fit_seconds"]}
            for theirs, mine in itertools.product(them, us)
            if theirs["seed"] == mine["seed"] and "fit_seconds" in theirs
        ]
        if ratios:
            print(
                f"fit time of {name} / {own}: {measure.spread(ratios, 'ratio', 1)}"
                f" (completion {measure.mean(them, 'completion'):.1f}"
                f" against {measure.mean(us, 'completion'):.1f})"
            )


def main(argv):
    """Run the contenders that were asked for, one after the other."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks topics",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", nargs="+", default=["20news_2000"])
    parser.add_argument("--k", nargs="+", type=int, default=[100])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="500 training rows, 200 test rows, 10 components, few passes",
    )
    chosen = parser.parse_args(argv)
    data.folder()
    results = []
    for corpus in chosen.data:
        for k in [10] if chosen.quick else chosen.k:
            rows = []
            for seed, contender in itertools.product(chosen.seeds, chosen.only):
                setting = {
                    "contender": contender,
                    "corpus": corpus,
                    "k": k,
                    "seed": seed,
                    "quick": chosen.quick,
                }
                measured = measure.run("benchmarks.topics:contend", setting)
                rows.append({**setting, **measured})
                # A long run that is cut short keeps what it has.
                measure.write_results(
                    "topics", argv, results + rows, seeds=chosen.seeds
                )
                print_results(rows[-1:], corpus, k)
            print_results(rows, corpus, k)
            results += rows
