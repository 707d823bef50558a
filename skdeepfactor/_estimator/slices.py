"""Slices of time: which there are, and to which of them each row belongs."""

import warnings
from numbers import Real

import numpy as np

from skdeepfactor._input import received
from skdeepfactor._times import checked_times, nearest, since, sliced

# Range of the distances of neighbouring slices, where the median is 1.
NEAREST, FARTHEST = 1e-6, 1e6


def slice_sizes(rows, times, n_slices, weights=None):
    """The slices that the times of rows make, and the times from which they follow.

    Rows of weight 0 make none.
    """
    times = checked_times(times, rows.n_visible)
    distinct = np.unique(times[_count(times, weights)])
    if not rows.share.is_sharded:
        return _slices(distinct, n_slices)
    # The slices follow from the times of all processes.
    return {"distinct": distinct}


def joined_slice_sizes(sizes, n_slices):
    """The slices of the rows of all processes, from the times of each."""
    if all(own is None for own in sizes):
        return None
    if any(own is None for own in sizes):
        raise ValueError("Some processes have times, and others have none.")
    times = [own["distinct"] for own in sizes if len(own["distinct"])]
    if len({values.dtype.kind == "M" for values in times}) > 1:
        raise ValueError("Some processes have dates for times, and others numbers.")
    return _slices(np.unique(np.concatenate(times)), n_slices)


def first_times(times, n_rows, sizes):
    """The slices and the times of the first rows of a stream, as named arrays.

    ``"slice"`` is that of ``known_slices``, and may yet change; ``"time"`` is int64 or
    float64, (n_rows, 1).
    """
    times = checked_like(times, n_rows, sizes)
    kept = times.view(np.int64) if times.dtype.kind == "M" else times
    return {"time": kept[:, np.newaxis], "slice": _numbers(times, sizes)}


def resized_slices(kept, sizes, n_slices):
    """The slices of all first rows of a stream, and the slice of each, by its times.

    ``sizes`` are the slices of the first of them.
    """
    times = kept[:, 0]
    if sizes["middles"].dtype.kind == "M":
        times = times.view("datetime64[us]")
    sizes = _slices(np.unique(times), n_slices)
    return sizes, {"slice": _numbers(times, sizes)}


def known_slices(times, n_rows, sizes, weights=None):
    """The number of the slice nearest to each row, (n_rows, 1), as ``"slice"``.

    Warns
    -----
    UserWarning
        If times of rows that count are before or after all of those that the slices are
        made of.
    """
    times = checked_like(times, n_rows, sizes)
    low, high = sizes["ends"]
    is_beyond = ((times < low) | (times > high)) & _count(times, weights)
    if is_beyond.any():
        warnings.warn(
            f"{is_beyond.sum()} of {n_rows} times are outside of those of the fit, "
            f"{low} to {high}: these rows get the topics of the nearest slice.",
            UserWarning,
            stacklevel=2,
        )
    return {"slice": _numbers(times, sizes)}


def checked_like(times, n_rows, sizes):
    """Times of the kind of those that were fitted."""
    if sizes is None:
        raise ValueError("times are given, but the model was fitted without times.")
    times = checked_times(times, n_rows)
    is_date = sizes["middles"].dtype.kind == "M"
    if (times.dtype.kind == "M") != is_date:
        kinds = ("dates", "numbers") if is_date else ("numbers", "dates")
        raise ValueError(
            f"The model was fitted with {kinds[0]} for times, and these are {kinds[1]}."
        )
    return times


def positions(times, sizes):
    """Times as multiples of the median distance of neighbouring slices, float64."""
    return since(times, sizes["middles"][0]) / _unit(sizes["middles"])


def times_and_gaps(sizes):
    """Times of the slices, and distances of neighbours, of which the median is 1.

    No times and no distances of a model without times.
    """
    if sizes is None:
        return np.zeros(0), []
    places = positions(sizes["middles"], sizes)
    return sizes["middles"], np.clip(np.diff(places), NEAREST, FARTHEST).tolist()


def n_slices(sizes):
    """Number of slices; 1 for a model without times."""
    return 1 if sizes is None else len(sizes["middles"])


def _slices(distinct, n_slices):
    """Slices of distinct times: their middles, and the first and the last time."""
    if len(distinct) == 0:
        raise ValueError("No row with a weight has a time.")
    if not np.isfinite(since(distinct, distinct[0])).all():
        raise ValueError("times are too far apart for their differences to be numbers.")
    _, middles, _ = sliced(distinct, n_slices)
    return {"middles": middles, "ends": distinct[[0, -1]]}


def _numbers(times, sizes):
    """The number of the nearest slice of each time, (n_times, 1)."""
    return nearest(times, sizes["middles"])[:, np.newaxis]


def _count(times, weights):
    """Whether the row of each time counts; weights of a wrong shape are named later."""
    if weights is not None and not isinstance(weights, Real):
        weights = np.asarray(received(weights))
        if weights.shape == times.shape:
            return weights != 0
    return np.ones(len(times), bool)


def _unit(middles):
    if len(middles) == 1:
        return 1.0
    return float(np.median(np.diff(since(middles, middles[0]))))
