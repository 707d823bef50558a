"""The base of models that predict an answer y, learnt by gradients."""

import math
import os
from abc import abstractmethod
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.utils._param_validation import Interval, StrOptions

from skdeepfactor._estimator.assignments import assignments
from skdeepfactor._estimator.base import BaseFactorModel, naming_itself
from skdeepfactor._estimator.conjugate import INIT, INPUT_SCALE
from skdeepfactor._estimator.fitting import input_scale
from skdeepfactor._estimator.labels import Target
from skdeepfactor._estimator.validation import weighted_average
from skdeepfactor._input import received
from skdeepfactor._training.optimizers import AnnealedAdam
from skdeepfactor._training.plan import TrainingPlan
from skdeepfactor._training.progress import with_callbacks
from skdeepfactor._training.rows import MatrixRows
from skdeepfactor.data import new_random_state

# Weights of an answer that "auto" tries, times the mean number of words of a row.
CANDIDATES = (0.1, 0.3, 1.0, 3.0)
# Share of the rows on which they are compared.
HELD_OUT = 0.2
# By how much the perplexity of held-out words may exceed the smallest.
MOST_EXCESS = 1.03


class SupervisedFactorModel(BaseFactorModel):
    """A model of rows and an answer for each, all of whose parameters have gradients.

    Its ``score`` is that of the answers; ``bound`` is that of the words. A model adds
    how answers are read, in ``_sizes`` and ``_known_of_rows``, and how well they are
    predicted, in ``_answer_score``.
    """

    _parameter_constraints: ClassVar[dict] = {
        **BaseFactorModel._parameter_constraints,
        "supervision": [
            Interval(Real, 0, None, closed="neither"),
            StrOptions({"auto"}),
        ],
        "C": [Interval(Real, 0, None, closed="neither")],
        "count_power": [Interval(Real, 0, 1, closed="both")],
        "word_dropout": [Interval(Real, 0, 1, closed="left")],
        "unlabeled": [Integral, str, None],
        "doc_topic_prior": [Interval(Real, 0, None, closed="neither"), "array-like"],
        "topic_word_prior": [Interval(Real, 0, None, closed="neither"), "array-like"],
        "input_scale": INPUT_SCALE,
        "init": INIT,
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_inner_iter": [Interval(Integral, 1, None, closed="left")],
        "inner_tol": [Interval(Real, 0, None, closed="left")],
    }

    @with_callbacks
    @naming_itself
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        X_val: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: float = 1,
        sharded: bool = False,
    ) -> Self:
        """Fit the model to the rows of X and their answers.

        Training passes over all rows, in batches, until ``max_iter``, ``tol`` or early
        stopping ends it. An earlier fit is forgotten unless ``warm_start`` is set.

        If processes have joined a ``torch.distributed`` group, each of them must call
        ``fit``, and all get the same model.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)
            Counts, or other non-negative numbers. Data larger than memory come as
            :class:`~skdeepfactor.data.RowBlocks`; backed AnnData and the arrays of
            h5py, zarr and dask are read as such; ``y`` has the answers of all rows.
        y : array-like of shape (n_samples,)
            The answer of each row: a class, or a number in a regression. None, NaN and
            ``unlabeled`` stand for no answer; at least one row has one.
        X_val : {array-like, sparse matrix} of shape (n_val, n_features), default=None
            Rows to watch for early stopping, in place of ``validation_fraction``. They
            are scored by their words alone.
        checkpoint : path-like, default=None
            File for the state of training. If it exists, training resumes from it: the
            same call, made again after the process has died, ends as if it had not.
            With several processes each writes its own, with its rank appended.
        checkpoint_every : int or float, default=1
            Number of passes between two writes; a float is seconds, at least.
        sharded : bool, default=False
            Whether each process has rows of its own in X (and y and X_val), instead of
            taking its share of rows that all of them have.

        Returns
        -------
        object
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data, the answers or a parameter are invalid, or the checkpoint is
            damaged or belongs to another fit. The estimator is then left unchanged.
        KeyboardInterrupt
            On an interrupt. The estimator then keeps the parameters after the last
            complete pass. Before the first, or if a warm fit has fallen below its
            beginning, it is left unchanged.

        See Also
        --------
        partial_fit : Steps on data that arrive in chunks.

        Examples
        --------
        >>> from skdeepfactor import SupervisedLDAClassifier
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = SupervisedLDAClassifier(2, random_state=0)
        >>> model.fit(X, ["a", "b", None, "b"]).predict(X).tolist()
        ['a', 'b', 'a', 'b']
        """
        return self._fit(
            X,
            Target(y),
            X_val=X_val,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            sharded=sharded,
        )

    def bound(self, X: Any, sample_weight: ArrayLike | None = None) -> float:
        """Mean lower bound of a row's words in nats, their answer unknown.

        Use it to compare settings by how well they explain words. Larger is better.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None.

        Returns
        -------
        float
            The mean of ``score_samples(X)``.

        See Also
        --------
        score : Quality of the predicted answers.
        perplexity : The bound per word.

        Examples
        --------
        >>> from skdeepfactor import SupervisedLDAClassifier
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = SupervisedLDAClassifier(2, random_state=0).fit(X, [0, 1, 0, 1])
        >>> bool(model.bound(X) == model.score_samples(X).mean())
        True
        """
        return weighted_average(self.score_samples(X), sample_weight)

    def topic_assignments(self, X: Any, *, by: str = "row") -> np.ndarray:
        """Infer which topics the words of each row are from.

        Answers are taken to be unknown.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        by : {"row", "word"}, default="row"
            Whether to average over the words of each row, or to give the probabilities
            of each word.

        Returns
        -------
        ndarray of shape (n_samples, n_components) or (n_entries, n_components)
            Rows sum to 1; rows of X without words are 0. By word, there is one row for
            each entry of X that is not 0, in the order of
            ``scipy.sparse.csr_matrix(X).nonzero()``: row by row, and from the first
            feature to the last.

        See Also
        --------
        transform : The proportions of the topics.
        skdeepfactor.plotting.DocumentDisplay : A text with its words marked by topic.

        Examples
        --------
        >>> from skdeepfactor import SupervisedLDAClassifier
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = SupervisedLDAClassifier(2, random_state=0).fit(X, [0, 1, 0, 1])
        >>> shares = model.topic_assignments([[1, 0, 1, 0]], by="word")
        >>> model.coef_[1, shares.argmax(axis=1)] > 0
        array([False,  True])
        """
        return assignments(self, X, by)

    def sample(
        self,
        n_samples: int = 1,
        *,
        n_tokens: int | ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> scipy.sparse.csr_matrix:
        """Draw documents from the model.

        Proportions are drawn from their prior, and words from mixtures of the topics.

        Parameters
        ----------
        n_samples : int, default=1
            Number of documents.
        n_tokens : int or array-like of shape (n_samples,), default=None
            Words in each; by default drawn from the lengths of the training rows.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        CSR matrix of shape (n_samples, n_features)
            Counts.

        See Also
        --------
        inverse_transform : Expected shares of words given proportions.

        Examples
        --------
        >>> from skdeepfactor import SupervisedLDAClassifier
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = SupervisedLDAClassifier(2, random_state=0).fit(X, [0, 1, 0, 1])
        >>> drawn = model.sample(2, n_tokens=[3, 8], random_state=0)
        >>> drawn.toarray().sum(axis=1).tolist()
        [3, 8]
        """
        return self._sample(n_samples, n_tokens, random_state)

    def __sklearn_tags__(self):
        """Tags of a model that needs y."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _plan(self, module, budget):
        # A stream has no end to fall towards.
        rate = self.learning_rate * (0.2 if budget.n_updates is None else 1.0)
        groups = [{"params": list(module.parameters()), "lr": rate}]
        optimizer = AnnealedAdam(groups, budget.n_updates)
        n_large = math.ceil(optimizer.share_of_large_steps * (budget.n_passes or 0))
        return TrainingPlan(optimizer, n_warmup=n_large, remembers=False)

    @abstractmethod
    def _answer_score(self, X, y):
        """Mean log likelihood of the answers of rows, up to what all weights share."""

    def _weight_of_answers(self, rows, target, has_answer, classes=None):
        """The weight of an answer: ``supervision``, or the best on held-out rows.

        Among the weights with a perplexity of held-out words at most 3 % above the
        smallest, it is the one with the best score of held-out answers. At least one
        row of each of the ``classes`` is not held out.
        """
        if self.supervision != "auto":
            return float(self.supervision)
        check_whole(rows, target, "supervision='auto'", "a number")
        random_state = self.random_state
        if random_state is None:
            # Drawn from the data, so that a checkpoint is resumed with the same weight.
            random_state = rows.digest() % 2**32
        random_state = new_random_state(random_state)
        X = rows.X
        numbers = np.flatnonzero(has_answer & (rows.totals() > 0))
        n_held = math.ceil(HELD_OUT * len(numbers))
        order = random_state.permutation(numbers)
        if classes is not None:
            _, firsts = np.unique(classes[order], return_index=True)
            order = np.delete(order, firsts)
        if n_held >= len(numbers) or len(order) == 0:
            raise ValueError(
                "supervision='auto' needs at least two rows with words and an answer, "
                "of the same class if answers are classes, since it holds some of "
                "them out; pass a number."
            )
        held = np.sort(order[:n_held])
        rest = np.setdiff1d(np.arange(X.shape[0]), held)
        y = np.asarray(received(target.y), dtype=object).ravel()
        seed = int(random_state.randint(2**31 - 1))
        scale = input_scale(self, rows)
        length = float(max(scale * rows.totals().mean(), 1e-3))
        found = []
        for candidate in CANDIDATES:
            weight = candidate * length
            model = clone(self).set_params(supervision=weight, random_state=seed)
            model.set_params(verbose=0, warm_start=False)
            model.fit(X[rest], y[rest].tolist())
            words = model.perplexity(X[held], average="corpus")
            found.append(
                (words, model._answer_score(X[held], y[held].tolist()), weight)
            )
        limit = MOST_EXCESS * min(words for words, _, _ in found)
        good = [(score, weight) for words, score, weight in found if words <= limit]
        return max(good)[1]


def check_whole(rows, target, setting, alternative):
    """Raise a ``ValueError`` unless all rows are in memory, of one process."""
    is_whole = isinstance(rows, MatrixRows) and rows.share.n_processes == 1
    if not is_whole or target.is_chunk:
        raise ValueError(
            f"{setting} needs all rows in memory, of one process: pass "
            f"{alternative} to stream or share rows, or to call partial_fit."
        )
