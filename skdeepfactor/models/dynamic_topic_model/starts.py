"""Where paths start: topics that do not change, and the variance of the walk."""

import numpy as np
import torch
from sklearn.utils import gen_batches

from skdeepfactor._math.batch import Batch, compute_dtype, to_tensor
from skdeepfactor._math.ops import scaled, transposed_products
from skdeepfactor._math.topics import ALL, Admixture, Topics, in_slices
from skdeepfactor.models.dynamic_topic_model.paths import (
    PointTopics,
    climb,
    log_normalizers,
)

# Passes over the rows by which topics that do not change are found, steps on each row
# in them, and rows at once.
N_PASSES, N_STEPS, N_ROWS = 4, 5, 2000

# Variances to choose from, and steps on the paths for each of them.
VARIANCES, N_PATH_STEPS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0), 5

# One of so many rows is held out, and so many numbers of paths are enough to choose by.
HELD_OUT, ENOUGH = 5, 2**21

# By how much the variance may come out lower or higher the second time.
LOWER, HIGHER = 6, 15

# The variance where nothing can be held out.
DEFAULT_VARIANCE = 0.1


class StartRows:
    """Rows that are allocated to topics before training.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_rows, n_features)
    numbers : ndarray of int of shape (n_rows,)
        The slice of each row.
    weights : ndarray of shape (n_rows,)
        How often each row counts.
    n_slices : int
    alpha : Tensor of shape (n_topics,)
        Concentration of the prior of the proportions.
    eta : Tensor
        That of the prior of the topics, of a shape that broadcasts to (n_topics,
        n_features).
    """

    def __init__(self, X, numbers, weights, n_slices, alpha, eta):
        self.n_slices, self.alpha, self.eta = n_slices, alpha, eta
        self.numbers = torch.from_numpy(numbers)
        self.weights = torch.from_numpy(weights)
        self.parts = list(gen_batches(len(numbers), N_ROWS))
        dtype = compute_dtype(X)
        self.batches = [
            Batch(to_tensor(X, part, dtype=dtype, device="cpu")) for part in self.parts
        ]
        self.local = {}

    def passed(self, counts):
        """Counts of the topics, (n_topics, n_features), after a pass of updates."""
        new = torch.zeros_like(counts)
        rows = self._rows(Topics(counts, self.eta))
        for part, batch in self._solved(rows):
            _, allocation, weights, _ = rows.expectations(batch, self.local[part.start])
            allocation.add_feature_counts(new, weights, self.weights[part])
        return new

    def allocated(self, counts=None, paths=None):
        """Yield the words of rows, in the columns of their slices, and the topics'.

        The topics are counts that do not change, or paths, to which rows are moved
        first.
        """
        if paths is None:
            rows = self._rows(Topics(counts, self.eta))
            known = zip(self.parts, self.batches, strict=True)
        else:
            rows = self._rows(PointTopics.of_paths(paths))
            known = self._solved(rows, is_in_slices=True)
        for part, batch in known:
            # Patterns of sparse rows are moved to slices.
            batch = Batch(batch.counts)
            found = rows.expectations(batch, self.local[part.start])
            _, allocation, weights, _ = found
            ratio = allocation.ratio
            if paths is None:
                ratio = in_slices(ratio, self.numbers[part], self.n_slices)
            yield part, allocation.z, ratio, weights.scaled

    def by_slice(self, allocated, weights, topics=ALL):
        """Counts of some topics in each slice, (n_slices, n_features, n_topics).

        Rows count by ``weights``.
        """
        new = None
        for part, z, ratio, words in allocated:
            z = scaled(z[:, topics], weights[part])
            if new is None:
                new = z.new_zeros(ratio.shape[1], z.shape[1])
            for features, product in transposed_products(ratio, z):
                columns = (features.start + torch.arange(len(product))) % len(words)
                new[features] += product * words[columns][:, topics]
        return new.view(self.n_slices, -1, new.shape[1])

    def _solved(self, rows, *, is_in_slices=False):
        """Yield rows and their batches, after some updates of what is known of them."""
        for part, batch in zip(self.parts, self.batches, strict=True):
            if is_in_slices:
                numbers = self.numbers[part]
                batch = Batch(in_slices(batch.counts, numbers, self.n_slices))
            self.local[part.start] = rows.solve(
                batch, self.local.get(part.start), max_steps=N_STEPS, tol=0.0
            )
            yield part, batch

    def _rows(self, topics):
        return Admixture(topics, self.alpha, is_collapsed=True)


def static_counts(rows, counts):
    """Counts of topics, (n_topics, n_features), after some passes."""
    for _ in range(N_PASSES):
        counts = rows.passed(counts)
    return counts


def best_variance(rows, counts, paths, prior, gaps, random_state):
    """The variance of the walk by which rows held out are predicted best.

    Parameters
    ----------
    rows : StartRows
    counts : Tensor of shape (n_topics, n_features)
    paths : Tensor of shape (n_slices, n_features, n_topics)
        Where paths start; left as it is.
    prior : callable
        Counts that the prior adds to each slice, for the topics that it is given.
    gaps : list of float
        Distances of neighbouring slices.
    random_state : numpy.random.RandomState
    """
    n_slices, n_features, k = paths.shape
    n_topics = max(1, ENOUGH // (n_slices * n_features))
    topics = torch.from_numpy(np.sort(random_state.permutation(k)[:n_topics]))
    is_held = torch.arange(len(rows.weights)) % HELD_OUT == HELD_OUT - 1
    weights = rows.weights * ~is_held, rows.weights * is_held
    if not all(some.any() for some in weights):
        return DEFAULT_VARIANCE

    def chosen(allocated, variances):
        # Allocated once, since it is much for all rows.
        allocated = list(allocated)
        known, held = (rows.by_slice(allocated, some, topics) for some in weights)
        return _predictive(
            paths[..., topics], known, held, prior(topics), gaps, variances
        )

    first = chosen(rows.allocated(counts), VARIANCES)
    known, moved = rows.by_slice(rows.allocated(counts), weights[0]), paths.clone()
    climb(moved, known, prior(ALL), [first * gap for gap in gaps], N_PATH_STEPS)
    near = [v for v in VARIANCES if first / LOWER < v < HIGHER * first]
    return chosen(rows.allocated(paths=moved), near)


def _predictive(paths, known, held, prior, gaps, variances):
    """The variance by which paths of known counts make those held out most probable.

    ``paths`` are moved.
    """
    scores = []
    for variance in variances:
        steps = [variance * gap for gap in gaps]
        climb(paths, known, prior, steps, N_PATH_STEPS)
        log_p = paths - log_normalizers(paths)[:, None]
        scores.append(float((held * log_p).sum(dtype=torch.float64)))
    best = np.exp(_maximum(np.log(variances), scores))
    return float(np.clip(best, variances[0], variances[-1]))


def _maximum(x, y):
    """Where a parabola through the largest value and its neighbours is largest."""
    best = int(np.argmax(y))
    if best in (0, len(x) - 1):
        return x[best]
    some = slice(best - 1, best + 2)
    square, slope, _ = np.polyfit(x[some], y[some], 2)
    return (
        np.clip(-slope / (2 * square), x[best - 1], x[best + 1]) if square else x[best]
    )
