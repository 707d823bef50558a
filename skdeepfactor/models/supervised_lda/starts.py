"""Where supervised topics and the coefficients of answers start."""

import warnings

import numpy as np
import scipy.sparse
import scipy.special
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils import gen_batches

from skdeepfactor._math.batch import Batch, to_tensor
from skdeepfactor._math.gammas import check_prior
from skdeepfactor._math.starts import check_init, initial_counts
from skdeepfactor._math.topics import lda_counts
from skdeepfactor.models.supervised_lda.module import SupervisedTopics

N_ROWS = 1000
# Words that an answer counts as at the start, at most: in long rows of few features as
# many as the row has would leave nothing to the words.
MOST_WORDS = 100.0
# Smallest share of a feature in a topic that starts.
LEAST_SHARE = 1e-9


def built(estimator, kind, sizes):
    """The module of a supervised model, for answers of a kind."""
    n_features = sizes["n_features"]
    shape = (estimator.n_components, n_features)
    supervision = estimator.supervision
    if supervision == "auto":
        supervision = sizes["supervision"]
    return SupervisedTopics(
        kind,
        shape=shape,
        supervision=float(supervision),
        C=estimator.C,
        count_power=estimator.count_power,
        word_dropout=estimator.word_dropout,
        doc_topic_prior=check_prior(
            estimator.doc_topic_prior, "doc_topic_prior", shape[:1]
        ),
        topic_word_prior=check_prior(
            estimator.topic_word_prior, "topic_word_prior", (n_features,)
        ),
        inner_iter=estimator.max_inner_iter,
        tol=estimator.inner_tol,
    )


def start_topics(module, start, init, answers):
    """Set the topics from rows that have answers as words beside their own.

    ``answers``, (n_rows, n_kinds), are non-negative; one of sum 1 counts as much as an
    average row, or a hundred words at most. They draw rows of like answers into like
    topics, which predict better.
    """
    X, weights = start.X, start.weights
    init = check_init(init, module.logits.shape)
    if not isinstance(init, str):
        shares = np.asarray(init, dtype=np.float64)
    else:
        n_components, n_features = module.logits.shape
        length = weights @ np.asarray(X.sum(axis=1)).ravel() / weights.sum()
        length = min(float(length), MOST_WORDS)
        # SciPy has no matrices of half precision.
        X = X.astype(np.float64 if X.dtype == np.float64 else np.float32, copy=False)
        words = scipy.sparse.hstack(
            [scipy.sparse.csr_matrix(X), scipy.sparse.csr_matrix(answers * length)],
            format="csr",
            dtype=X.dtype,
        )
        counts = initial_counts(X, n_components, init, start.random_state, weights)
        of_answers = np.tile(
            weights @ answers * length / n_components, (n_components, 1)
        )
        counts = np.concatenate([counts, of_answers], axis=1)
        alpha = module.alpha.double()
        shares = lda_counts(words, weights, counts, alpha)[:, :n_features]
    shares = shares + np.asarray(module.eta.double())
    shares = shares / shares.sum(axis=1, keepdims=True)
    module.logits.data.copy_(torch.from_numpy(np.log(shares + LEAST_SHARE)))
    module.refresh()


def proportions(module, X):
    """Proportions of topics that rows have at the start, an array."""
    dtype = module.logits.dtype
    module.eval()
    parts = [
        module.posterior(Batch(to_tensor(X, part, dtype=dtype, device="cpu"))).mean
        for part in gen_batches(X.shape[0], N_ROWS)
    ]
    return torch.cat(parts).double().numpy()


def start_classifier(module, start, init):
    """Set the topics, and the coefficients by a logistic regression on proportions."""
    answers = start.arrays["answers"]
    start_topics(module, start, init, answers)
    labelled = np.flatnonzero(np.diff(answers.indptr))
    if len(labelled) == 0:
        # Those with an answer are not among the first rows.
        return
    # A row without a class counts, in part, as a row of each that is expected of it.
    parts = answers[labelled]
    classes = parts.indices
    rows = np.repeat(np.arange(len(labelled)), np.diff(parts.indptr))
    weights = start.weights[labelled][rows] * parts.data * module.kind.weights[classes]
    theta = proportions(module, start.X[labelled])[rows]
    n_classes, n_components = module.coef.shape
    counts = np.bincount(classes, minlength=n_classes)
    coef = np.zeros((n_classes, n_components))
    intercept = np.log((counts + 0.5) / (len(classes) + 0.5 * n_classes))
    present = np.flatnonzero(counts)
    if len(present) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=module.C, max_iter=200)
            model.fit(theta, classes, sample_weight=weights)
        found, offset = model.coef_, model.intercept_
        if len(present) == 2:
            # One row of log odds, shared out to both classes.
            found = np.concatenate([-found, found]) / 2
            offset = np.concatenate([-offset, offset]) / 2
        coef[present] = found
        # Classes without a row stay as far below the others as their number says.
        intercept -= intercept[present].mean()
        intercept[present] = offset
    module.coef.data.copy_(torch.from_numpy(coef))
    module.intercept.data.copy_(torch.from_numpy(intercept))


def start_regressor(module, start, init):
    """Set the topics, and the coefficients by a ridge regression on proportions."""
    answers = start.arrays["answers"][:, 0]
    is_known = ~np.isnan(answers)
    # As words there are two, "high" and "low", each as far as the answer is so.
    high = np.where(is_known, scipy.special.ndtr(np.nan_to_num(answers)), 0.0)
    both = np.column_stack([high, np.where(is_known, 1 - high, 0.0)])
    start_topics(module, start, init, both)
    if not is_known.any():
        # Those with an answer are not among the first rows.
        return
    theta, weights = proportions(module, start.X[is_known]), start.weights[is_known]
    model = Ridge(alpha=1 / module.C)
    model.fit(theta, answers[is_known], sample_weight=weights)
    module.coef.data.copy_(torch.from_numpy(model.coef_[np.newaxis]))
    module.intercept.data.fill_(float(model.intercept_))
