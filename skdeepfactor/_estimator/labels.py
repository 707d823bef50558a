"""Labels given to classifiers as y: classes, indicators and lists of labels."""

from numbers import Number
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from sklearn.utils.validation import column_or_1d

from skdeepfactor._estimator.validation import checked_weights, weighted_average
from skdeepfactor._input import is_missing, received, with_none

# Types that hold the labels of a row with several.
COLLECTIONS = (list, tuple, set, frozenset, np.ndarray)


class Target(NamedTuple):
    """``y`` as it was given: to fit, or as a chunk, with the classes that will come."""

    y: Any
    classes: Any = None
    is_chunk: bool = False


class Labels(NamedTuple):
    """Labels of rows: row ``rows[i]`` has the label ``values[i]``.

    These are the numbers of the columns of an indicator that has ``n_columns``.
    ``is_multilabel`` is whether a row may have several.
    """

    rows: np.ndarray
    values: np.ndarray
    n_rows: int
    is_multilabel: bool
    n_columns: int | None = None

    def columns(self, classes):
        """Index of each label among the sorted classes, -1 for unknown labels.

        Labels of an indicator are such indices already.
        """
        if self.n_columns is not None:
            if self.n_columns != len(classes):
                raise ValueError(
                    f"y has {self.n_columns} columns, but there are {len(classes)} "
                    "labels."
                )
            return self.values
        is_text = classes.dtype.kind == "U"
        if len(self.values) == 0 or is_text != (self.values.dtype.kind == "U"):
            return np.full(len(self.values), -1)
        places = np.searchsorted(classes, self.values).clip(max=len(classes) - 1)
        return np.where(classes[places] == self.values, places, -1)

    def check_length(self, n_rows):
        """Raise a ``ValueError`` unless there are labels for so many rows."""
        if self.n_rows != n_rows:
            raise ValueError(
                f"y has labels for {self.n_rows} rows, but X has {n_rows}."
            )

    def check_kind(self, is_multilabel):
        """Raise a ``ValueError`` unless it is of the kind that the model was fitted to.

        Rows without labels are not checked.
        """
        if self.is_multilabel == is_multilabel or len(self.values) == 0:
            return
        one, several = "one label for each row", "several labels for a row"
        expected, got = (several, one) if is_multilabel else (one, several)
        raise ValueError(f"The model was fitted to {expected}, but y has {got}.")


def label_sizes(rows, target, unlabeled):
    """Sizes that labels determine: ``classes`` and ``is_multilabel``.

    ``target`` is a ``Target``, ``unlabeled`` a value that stands for no label besides
    None and NaN. Where processes have rows of their own, ``joined_label_sizes`` comes
    next.
    """
    labels = read_labels(target.y, unlabeled)
    labels.check_length(rows.n_visible)
    if target.classes is not None:
        classes = _checked_classes(target.classes)
        is_sorted = np.array_equal(classes, target.classes)
        if labels.n_columns is not None and not is_sorted:
            raise ValueError(
                "classes must be sorted if y is an indicator, whose columns they name."
            )
    elif labels.n_columns is not None:
        classes = np.arange(labels.n_columns)
    elif target.is_chunk:
        raise ValueError("classes must be passed on the first call to partial_fit.")
    else:
        classes = np.unique(labels.values)
    if not rows.share.is_sharded and len(classes) == 0:
        refuse_without_labels()
    return {"classes": classes, "is_multilabel": labels.is_multilabel}


def joined_label_sizes(sizes):
    """Sizes for the rows of all processes: the labels that any of them has."""
    kinds = {own["is_multilabel"] for own in sizes if len(own["classes"])}
    classes = [label for own in sizes for label in own["classes"].tolist()]
    if not classes:
        refuse_without_labels()
    if len(kinds) > 1:
        raise ValueError(
            "The processes have different kinds of y: in some a row has one label, in "
            "others it may have several."
        )
    return {"classes": np.unique(_label_array(classes)), "is_multilabel": kinds.pop()}


def known_labels(rows, target, sizes, unlabeled):
    """An indicator of the labels of rows, CSR of shape (n_visible, n_labels)."""
    labels, classes = read_labels(target.y, unlabeled), sizes["classes"]
    labels.check_length(rows.n_visible)
    if target.classes is not None:
        given = _checked_classes(target.classes)
        if not np.array_equal(given, classes):
            raise ValueError(
                f"classes={target.classes!r} differ from those of the first call, "
                f"{classes.tolist()}."
            )
    labels.check_kind(sizes["is_multilabel"])
    columns = labels.columns(classes)
    unknown = labels.values[columns < 0].tolist()
    if unknown:
        raise ValueError(
            f"y has labels that the model does not know, such as {unknown[0]!r}. It "
            "knows those of the first fit, or the classes of the first call to "
            "partial_fit."
        )
    if len(columns) == 0 and not target.is_chunk and not rows.share.is_sharded:
        refuse_without_labels()
    return _indicator(labels.rows, columns, (rows.n_visible, len(classes)))


def right_rows(y, predicted, classes, unlabeled):
    """Whether the labels of each row are those predicted, and whether it has one.

    ``predicted`` is classes, (n_rows,), or an indicator, (n_rows, n_labels). A label
    that is not among ``classes`` is none of them.
    """
    labels = read_labels(y, unlabeled)
    labels.check_length(len(predicted))
    labels.check_kind(predicted.ndim == 2)
    if predicted.ndim == 1:
        predicted = predicted[:, np.newaxis] == classes
    columns = labels.columns(classes)
    is_known = columns >= 0
    truth = _indicator(labels.rows[is_known], columns[is_known], predicted.shape)
    n_labels = np.diff(truth.indptr)
    n_found = np.asarray(truth.multiply(predicted).sum(axis=1)).ravel()
    is_right = (n_found == n_labels) & (n_labels == predicted.sum(axis=1))
    is_right[labels.rows[~is_known]] = False
    has_label = np.zeros(len(predicted), dtype=bool)
    has_label[labels.rows] = True
    return is_right, has_label


def accuracy(estimator, X, y, sample_weight):
    """Share of the rows with a label whose labels are all predicted, and no others."""
    predicted = received(estimator.predict(X))
    classes = estimator._fitted_sizes["classes"]
    is_right, has_label = right_rows(y, predicted, classes, estimator.unlabeled)
    weights = checked_weights(sample_weight, len(predicted)) * has_label
    if not weights.any():
        raise ValueError("score needs a row with a label, but y has none.")
    return weighted_average(is_right, weights)


def mean_log_probability(estimator, X, y):
    """Mean log probability of the classes of the rows that have one."""
    labels = read_labels(y, estimator.unlabeled)
    places = labels.columns(estimator.classes_)
    is_known = places >= 0
    log_p = estimator.predict_log_proba(X)
    return float(log_p[labels.rows[is_known], places[is_known]].mean())


def read_labels(y, unlabeled):
    """The labels of rows, of whatever kind ``y`` is."""
    if y is None:
        raise ValueError(
            "A classifier requires y to be passed, but the target y is None."
        )
    if isinstance(y, np.ma.MaskedArray) and y.ndim == 1:
        # Integers stay integers, which NaN would not let them.
        y = with_none(y)
    y = received(y)
    if scipy.sparse.issparse(y):
        return _of_indicator(y)
    if isinstance(y, list | tuple):
        values = list(y)
    else:
        array = np.asarray(y)
        if array.ndim == 2 and array.shape[1] != 1:
            return _of_indicator(array)
        values = column_or_1d(array, warn=True)
        if values.dtype.kind not in "Of" and unlabeled is None:
            return Labels(
                np.arange(len(values)), _label_array(values), len(values), False
            )
        values = values.tolist()
    is_set = np.array([isinstance(value, COLLECTIONS) for value in values], dtype=bool)
    if is_set.any():
        if is_set.all() and _is_indicator(values):
            return _of_indicator(np.array(values))
        values = [_members(value) for value in values]
    else:
        values = [[value] for value in values]
    entries = [
        (row, label)
        for row, labels in enumerate(values)
        for label in labels
        if not (is_missing(label) or (unlabeled is not None and label == unlabeled))
    ]
    rows = np.array([row for row, _ in entries], dtype=np.intp)
    labels = _label_array([label for _, label in entries])
    return Labels(rows, labels, len(values), bool(is_set.any()))


def _of_indicator(y):
    """The labels of an indicator, dense or sparse."""
    is_numeric = y.dtype.kind in "biuf"
    matrix = scipy.sparse.csr_matrix(y) if is_numeric else None
    if matrix is None or not np.isin(matrix.data, (0, 1)).all():
        raise ValueError(
            "y of two dimensions must be an indicator, of zeros and ones, that says "
            "which labels a row has."
        )
    rows, columns = matrix.nonzero()
    return Labels(rows, columns, matrix.shape[0], True, matrix.shape[1])


def _is_indicator(values):
    """Whether collections are rows of zeros and ones, of one length, two or more."""
    if any(isinstance(value, set | frozenset) for value in values):
        return False
    lengths = {len(value) for value in values}
    if len(lengths) > 1 or lengths.pop() < 2:
        return False
    return all(
        isinstance(label, Number | np.bool_) and label in (0, 1)
        for value in values
        for label in value
    )


def _members(value):
    """The labels of a row among rows that have collections of them."""
    if isinstance(value, COLLECTIONS):
        return list(value)
    if is_missing(value):
        return []
    raise ValueError(
        "y must have a list of labels for each row, or one label for each, got both: "
        f"{value!r} is no list."
    )


def _label_array(values):
    """Labels as an array of strings or of whole numbers."""
    kinds = {isinstance(value, str) for value in values}
    if len(kinds) > 1:
        raise ValueError("The labels must be all strings or all numbers, got both.")
    if len(values) == 0:
        return np.empty(0, dtype=np.int64)
    labels = np.asarray(values)
    if labels.dtype.kind not in "Ubiuf" or labels.ndim != 1:
        raise ValueError(f"The labels must be strings or numbers, got {values[0]!r}.")
    if labels.dtype.kind == "f" and not np.array_equal(labels, np.rint(labels)):
        raise ValueError(
            f"y is continuous, as {labels[labels != np.rint(labels)][0]:g} shows, but "
            "the labels of a classifier are strings or whole numbers."
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError("y contains infinity, which is not a label.")
    return labels


def _checked_classes(classes):
    """The classes that will come, sorted."""
    array = np.asarray(classes)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"classes must be a list of labels, got {classes!r}.")
    return np.unique(_label_array(array.tolist()))


def refuse_without_labels():
    """Raise a ``ValueError``, since no row has a label."""
    raise ValueError("y has no label: at least one row must have one.")


def _indicator(rows, columns, shape):
    """A CSR matrix of ones."""
    matrix = scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape)
    # A row may name a label twice.
    matrix.data[:] = 1
    return matrix


def class_counts(rows, target, sizes, unlabeled):
    """Number of rows of each class, and the number of each row's; -1 for none.

    Raises
    ------
    ValueError
        If rows may have several labels, or those of a first chunk have none.
    """
    if sizes["is_multilabel"]:
        raise ValueError(
            "y must have one class for each row, but has several; LabeledLDA takes "
            "those."
        )
    indicator = known_labels(rows, target, sizes, unlabeled)
    counts = np.asarray(indicator.sum(axis=0)).ravel()
    if target.is_chunk and not counts.any():
        refuse_without_labels()
    classes = np.full(indicator.shape[0], -1)
    classes[np.diff(indicator.indptr) > 0] = indicator.indices
    return counts, classes


def joined_class_counts(sizes, classes):
    """Number of rows of each class, of all processes."""
    counts = np.zeros(len(classes))
    for own in sizes:
        places = np.searchsorted(classes, own["classes"].astype(classes.dtype))
        counts[places] += own["class_counts"]
    return counts


def class_weights(class_weight, classes, counts):
    """How much an answer of each class counts, (n_classes,), by ``class_weight``."""
    if class_weight is None:
        return np.ones(len(classes))
    if isinstance(class_weight, str):
        return counts.sum() / (np.maximum(counts, 1) * max((counts > 0).sum(), 1))
    names = classes.tolist()
    unknown = [name for name in class_weight if name not in names]
    if unknown:
        raise ValueError(
            f"class_weight has the class {unknown[0]!r}, but the classes are {names}."
        )
    try:
        weights = np.array([float(class_weight.get(name, 1.0)) for name in names])
    except (TypeError, ValueError):
        weights = np.array([np.nan])
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError(
            "class_weight must have finite numbers that are not negative, and not all "
            f"0, got {class_weight!r}."
        )
    return weights
