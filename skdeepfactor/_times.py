"""Times of rows: numbers, datetimes of NumPy, pandas and Python, and ISO strings."""

import re
from datetime import UTC, date, datetime
from numbers import Real

import numpy as np

from skdeepfactor._input import is_missing, received

# Strings of days, as against times of day.
DAY = re.compile(r"\d{4}-?\d{2}-?\d{2}")


def checked_times(times, n_rows):
    """Times as an array of numbers, or of datetime64 in microseconds of UTC.

    Raises
    ------
    ValueError
        If there is not one for each row, one is missing or infinite, they are neither
        numbers nor dates, or some have a time zone and others none.
    """
    values = np.asarray(received(times))
    if values.shape != (n_rows,):
        raise ValueError(
            f"times must have one entry for each of {n_rows} rows, got shape "
            f"{values.shape}."
        )
    if values.dtype.kind in "OUS":
        values = _converted(values.tolist())
    if values.dtype.kind == "M":
        if np.isnat(values).any():
            _refuse_missing(values)
        return values.astype("datetime64[us]")
    if values.dtype.kind not in "iuf":
        raise ValueError(
            "times must be numbers, datetimes or ISO strings, got the type "
            f"{values.dtype}."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"times must be finite, but {values[~np.isfinite(values)][0]} is not."
        )
    return values


def sliced(times, n_bins=None):
    """The slice of each time, and the middle and the ends of each slice.

    Slices are the distinct times, or those of ``n_bins`` intervals of equal length that
    have any time, in order: codes, (n_rows,), middles, (n_slices,), and ends,
    (n_slices, 2).
    """
    low, high = times.min(), times.max()
    if n_bins is None or low == high:
        distinct, codes = np.unique(times, return_inverse=True)
        return codes, distinct, np.stack([distinct, distinct], axis=1)
    is_date = times.dtype.kind == "M"
    # Numbers from the first time on, which floats hold without loss.
    since = (times - low) / (np.timedelta64(1, "us") if is_date else 1)
    edges = np.linspace(0, since.max(), n_bins + 1)
    bins = np.clip(np.searchsorted(edges, since, side="right") - 1, 0, n_bins - 1)
    found, codes = np.unique(bins, return_inverse=True)
    ends = np.stack([edges[found], edges[found + 1]], axis=1)
    middles = ends.mean(axis=1)
    if is_date:
        ends, middles = (
            np.rint(part).astype("timedelta64[us]") for part in (ends, middles)
        )
    return codes, low + middles, low + ends


def time_labels(times):
    """Times as texts: numbers, dates, or dates with the time of day where it is told.

    >>> import numpy as np
    >>> time_labels(np.array(["2001-02-03", "2002-01-01"], "datetime64[us]"))
    ['2001-02-03', '2002-01-01']
    >>> time_labels(np.array([2000.0, 2001.5]))
    ['2000', '2001.5']
    """
    if times.dtype.kind != "M":
        return [f"{time:.10g}" for time in times.tolist()]
    days = times.astype("datetime64[D]")
    unit = "D" if (days == times).all() or np.ptp(days).astype(int) > 60 else "m"
    return np.datetime_as_string(times.astype(f"datetime64[{unit}]")).tolist()


def _converted(values):
    """Numbers, or datetimes, from a list of Python's objects."""
    for value in values:
        if is_missing(value):
            _refuse_missing(value)
    if all(isinstance(value, Real) and not isinstance(value, bool) for value in values):
        return np.array(values, dtype=np.float64)
    moments = [_moment(value) for value in values]
    have_zones = {
        moment.tzinfo is not None for moment in moments if isinstance(moment, datetime)
    }
    if len(have_zones) > 1:
        raise ValueError(
            "times must all have a time zone, or none of them, but some have and some "
            "have not."
        )
    return np.array([_in_utc(moment) for moment in moments], dtype="datetime64[us]")


def _moment(value):
    """One of Python's dates of a string or a date; years and months as datetime64."""
    # NaT is a datetime, and unequal to itself.
    if is_missing(value) or value in ("", "NaT", "nan"):
        _refuse_missing(value)
    if isinstance(value, bytes):
        value = value.decode()
    try:
        if isinstance(value, str):
            # A day has no time zone, whatever others have.
            kind = date if DAY.fullmatch(value) else datetime
            value = kind.fromisoformat(value)
    except ValueError:
        # Years, and years with a month.
        if re.fullmatch(r"\d{4}(-(0[1-9]|1[0-2]))?", value):
            return np.datetime64(value, "us")
        raise ValueError(
            f"times must be numbers, datetimes or ISO strings, got {value!r}."
        ) from None
    if not isinstance(value, date):
        raise ValueError(
            f"times must be numbers, datetimes or ISO strings, got {value!r} of the "
            f"type {type(value).__name__}."
        )
    return value


def _in_utc(moment):
    if isinstance(moment, datetime) and moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return np.datetime64(moment, "us")


def _refuse_missing(value):
    if isinstance(value, np.ndarray):
        value = f"{np.isnat(value).sum()} of them NaT"
    raise ValueError(
        f"times must not be missing, got {value}; leave out the rows without a time."
    )
