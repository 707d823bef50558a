"""Where paths start: topics that do not change, and the variance of the walk."""

import numpy as np
import torch
from sklearn.utils import gen_batches

from skdeepfactor._math.batch import Batch, compute_dtype, to_tensor
from skdeepfactor._math.ops import scaled, transposed_products
from skdeepfactor._math.topics import Admixture, Topics, in_slices
from skdeepfactor.models.dynamic_topic_model.paths import climb, log_normalizers

# Passes over the rows by which topics that do not change are found, steps on each row
# in them, and rows at once.
N_PASSES, N_STEPS, N_ROWS = 4, 5, 2000

# Variances to choose from, and steps on the paths for each of them.
VARIANCES, N_PATH_STEPS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0), 8

# One of so many rows is held out, and so many numbers of paths are enough to choose by.
HELD_OUT, ENOUGH = 5, 2**21

# The variance where nothing can be held out.
DEFAULT_VARIANCE = 0.1


class StaticRows:
    """Rows that are allocated to topics that do not change.

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
        self.local = [None] * len(self.parts)

    def passed(self, counts):
        """Counts of the topics, (n_topics, n_features), after a pass of updates."""
        new = torch.zeros_like(counts)
        for part, allocation, weights in self._allocations(counts, N_STEPS):
            allocation.add_feature_counts(new, weights, self.weights[part])
        return new

    def by_slice(self, counts, topics, weights):
        """Counts of some topics in each slice, (n_slices, n_features, n_topics).

        Rows count by ``weights``.
        """
        n_features = counts.shape[1]
        new = counts.new_zeros(self.n_slices * n_features, len(topics))
        for part, allocation, words in self._allocations(counts, 0):
            ratio = in_slices(allocation.ratio, self.numbers[part], self.n_slices)
            z = scaled(allocation.z[:, topics], weights[part])
            for features, product in transposed_products(ratio, z):
                columns = (features.start + torch.arange(len(product))) % n_features
                new[features] += product * words.scaled[columns][:, topics]
        return new.view(self.n_slices, n_features, len(topics))

    def _allocations(self, counts, n_steps):
        """Yield rows, the allocation of their words, and the weights of the topics."""
        topics = Topics(counts, self.eta)
        rows = Admixture(topics, self.alpha, is_collapsed=True)
        for number, (part, batch) in enumerate(
            zip(self.parts, self.batches, strict=True)
        ):
            if n_steps:
                self.local[number] = rows.solve(
                    batch, self.local[number], max_steps=n_steps, tol=0.0
                )
            # Patterns of sparse rows are moved to slices.
            sparse = Batch(batch.counts)
            _, allocation, weights, _ = rows.expectations(sparse, self.local[number])
            yield part, allocation, weights


def static_counts(rows, counts):
    """Counts of topics, (n_topics, n_features), after some passes."""
    for _ in range(N_PASSES):
        counts = rows.passed(counts)
    return counts


def best_variance(rows, counts, paths, prior, gaps, random_state):
    """The variance of the walk by which rows held out are predicted best.

    Parameters
    ----------
    rows : StaticRows
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
    held, known = (
        rows.by_slice(counts, topics, rows.weights * some)
        for some in (is_held, ~is_held)
    )
    if held.sum() == 0 or known.sum() == 0:
        return DEFAULT_VARIANCE
    paths, scores = paths[..., topics], []
    for variance in VARIANCES:
        steps = [variance * gap for gap in gaps]
        climb(paths, known, prior(topics), steps, N_PATH_STEPS)
        log_p = paths - log_normalizers(paths)[:, None]
        scores.append(float((held * log_p).sum(dtype=torch.float64)))
    return float(np.exp(_maximum(np.log(VARIANCES), scores)))


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
