"""Times of rows: numbers, datetimes of NumPy, pandas and Python, and ISO strings."""

import math
import re
from datetime import UTC, date, datetime
from numbers import Real

import numpy as np

from skdeepfactor._input import is_missing, received

# Strings of days, as against times of day.
DAY = re.compile(r"\d{4}-?\d{2}-?\d{2}")


def checked_times(times, n_rows):
    """Times as int64 or float64, or as datetime64 in microseconds of UTC.

    ``n_rows`` is None where there may be any number of them.

    Raises
    ------
    ValueError
        If there is not one for each row, one is missing or infinite, they are neither
        numbers nor dates, or some have a time zone and others none.
    """
    given = received(times)
    values = np.asarray(given)
    if n_rows is None and values.ndim != 1:
        raise ValueError(
            f"times must be one-dimensional, such as [2007], got shape {values.shape}."
        )
    if n_rows is not None and values.shape != (n_rows,):
        raise ValueError(
            f"times must have one entry for each of {n_rows} rows, got shape "
            f"{values.shape}."
        )
    if values.dtype.kind in "OUS":
        # NumPy makes strings of the numbers in a list that has strings too.
        values = _converted(
            list(given) if isinstance(given, list | tuple) else values.tolist()
        )
    if values.dtype.kind == "M":
        return _in_microseconds(values)
    if values.dtype.kind not in "iuf":
        raise ValueError(
            "times must be numbers, datetimes or ISO strings, got the type "
            f"{values.dtype}."
        )
    return _widened(values)


def _in_microseconds(values):
    """Dates as datetime64[us], which holds 292,000 years before and after 1970."""
    if np.isnat(values).any():
        _refuse_missing(values)
    found = values.astype("datetime64[us]")
    # Units as short as that, or shorter, always fit.
    is_longer = np.promote_types(values.dtype, found.dtype) == found.dtype
    if is_longer and (found.astype(values.dtype) != values).any():
        raise ValueError(
            "times must be within 292,000 years of 1970, which datetime64[us] holds; "
            "give others as numbers."
        )
    return found


def _widened(values):
    """Numbers as int64 or float64, of which differences can be taken."""
    if values.dtype.kind == "u" and (values > np.iinfo(np.int64).max).any():
        raise ValueError(f"times must be below 2**63 if integers, got {values.max()}.")
    values = values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
    if not np.isfinite(values).all():
        value = values[~np.isfinite(values)][0]
        hint = "; leave out the rows without a time" if np.isnan(value) else ""
        raise ValueError(f"times must be finite, but {value} is not{hint}.")
    return values


def since(times, start):
    """Checked times from one of them on, float64: in microseconds, if they are dates.

    Differences are taken before they are rounded, unless they overflow.
    """
    if times.dtype.kind == "M":
        return (times - start) / np.timedelta64(1, "us")
    with np.errstate(over="ignore"):
        rough = times.astype(np.float64) - np.float64(start)
        return np.where(np.abs(rough) < 2.0**62, times - start, rough)


def nearest(times, middles):
    """The number of the slice with the nearest middle, for each checked time."""
    places, middles = (since(part, middles[0]) for part in (times, middles))
    borders = middles[:-1] + np.diff(middles) / 2
    return np.searchsorted(borders, places, side="right")


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
    places = since(times, low)
    edges = np.linspace(0, places.max(), n_bins + 1)
    bins = np.clip(np.searchsorted(edges, places, side="right") - 1, 0, n_bins - 1)
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
    >>> time_labels(np.array([1809.166667, 1847.5]))
    ['1809.2', '1847.5']
    """
    if times.dtype.kind != "M":
        n_decimals = _n_decimals(times)
        # Moments as numbers of milliseconds have 13 digits.
        return [
            str(time)
            if isinstance(time, int)
            else f"{round(time, n_decimals):.{_n_digits(time)}g}"
            for time in times.tolist()
        ]
    days = times.astype("datetime64[D]")
    unit = "D" if (days == times).all() or np.ptp(days).astype(int) > 60 else "m"
    return np.datetime_as_string(times.astype(f"datetime64[{unit}]")).tolist()


def _n_decimals(times):
    """Decimals that show times to a hundredth of the smallest gap, at least one."""
    gaps = np.diff(np.unique(times.astype(np.float64)))
    return max(1, math.ceil(2 - math.log10(gaps.min()))) if len(gaps) else 16


def _n_digits(time):
    """How many digits of a float to show."""
    return 10 if abs(time) < 1e10 else 16


def _converted(values):
    """Numbers, or datetimes, from a list of Python's objects."""
    for value in values:
        if is_missing(value):
            _refuse_missing(value)
    numbers, others = [], []
    for value in values:
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        (numbers if is_number else others).append(value)
    if not others:
        return np.array(values, dtype=np.float64)
    if numbers:
        raise ValueError(
            f"times must all be numbers, or none of them, but {numbers[0]!r} is one "
            f"and {others[0]!r} is not."
        )
    moments = [_moment(value) for value in values]
    have_zones = {
        moment.tzinfo is not None for moment in moments if isinstance(moment, datetime)
    }
    if len(have_zones) > 1:
        raise ValueError(
            "times must all have a time zone, or none of them, but some do and some do "
            "not."
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
    elif isinstance(value, str):
        value = repr(value)
    raise ValueError(
        f"times must not be missing, got {value}; leave out the rows without a time."
    )
