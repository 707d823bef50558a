"""Labels as classifiers are given them."""

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_array_equal
from sklearn.exceptions import DataConversionWarning
from sklearn.preprocessing import MultiLabelBinarizer

from skdeepfactor._estimator.labels import (
    Target,
    joined_label_sizes,
    known_labels,
    label_sizes,
    read_labels,
    right_rows,
)
from skdeepfactor._training.distributed import Share
from skdeepfactor._training.rows import MatrixRows

NAN = float("nan")
SETS = [["b", "a"], [], ["c"], None, ("a",), {"c", "b"}]


def rows_of(n_rows, share=None):
    return MatrixRows(np.ones((n_rows, 2)), *([] if share is None else [share]))


def found(y, unlabeled=None, **said):
    """The classes, whether there may be several, and the indicator."""
    rows, target = rows_of(np.shape(y)[0] if scipy.sparse.issparse(y) else len(y)), None
    target = Target(y, **said)
    sizes = label_sizes(rows, target, unlabeled)
    indicator = known_labels(rows, target, sizes, unlabeled)
    return sizes["classes"].tolist(), sizes["is_multilabel"], indicator.toarray()


@pytest.mark.parametrize(
    "y",
    [
        [2, 0, 2, 1],
        (2, 0, 2, 1),
        np.array([2, 0, 2, 1], dtype=np.int8),
        np.array([2.0, 0.0, 2.0, 1.0]),
        np.array([2, 0, 2, 1], dtype=object),
    ],
)
def test_classes_are_numbers(y):
    classes, is_multilabel, indicator = found(y)
    assert classes == [0, 1, 2]
    assert not is_multilabel
    assert_array_equal(indicator, [[0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize("kind", [list, np.array, lambda y: np.array(y, dtype=object)])
def test_classes_are_strings(kind):
    classes, is_multilabel, indicator = found(kind(["b", "a", "b"]))
    assert classes == ["a", "b"]
    assert not is_multilabel
    assert_array_equal(indicator, [[0, 1], [1, 0], [0, 1]])


def test_a_column_of_classes_is_taken_with_a_warning():
    with pytest.warns(DataConversionWarning, match="column-vector"):
        assert read_labels(np.array([[1], [0]]), None).values.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("y", "unlabeled"),
    [
        ([1, None, 0, None], None),
        ([1.0, NAN, 0.0, NAN], None),
        (np.array([1.0, NAN, 0.0, NAN]), None),
        (np.array([1, None, 0, NAN], dtype=object), None),
        ([1, -1, 0, -1], -1),
        (np.array([1, -1, 0, -1]), -1),
        (np.array([1.0, -1.0, 0.0, NAN]), -1),
        ([[1], [], [0], None], None),
        ([[1], [-1], [0], NAN], -1),
    ],
)
def test_rows_without_a_label(y, unlabeled):
    classes, _, indicator = found(y, unlabeled)
    assert classes == [0, 1]
    assert_array_equal(indicator, [[0, 1], [0, 0], [1, 0], [0, 0]])


def test_minus_one_is_a_class_unless_it_is_said_not_to_be():
    assert found([-1, 1])[0] == [-1, 1]


def test_missing_labels_of_pandas():
    pandas = pytest.importorskip("pandas")
    for y in (
        pandas.Series(["b", None, "a"]),
        pandas.Series(["b", pandas.NA, "a"], dtype="string"),
        pandas.Series(["b", None, "a"], dtype="category"),
    ):
        classes, _, indicator = found(y)
        assert classes == ["a", "b"]
        assert_array_equal(indicator, [[0, 1], [0, 0], [1, 0]])
    classes, is_multilabel, _ = found(pandas.DataFrame({"x": [0, 1], "y": [1, 1]}))
    assert classes == [0, 1]
    assert is_multilabel
    assert found(pandas.Series([["a"], ["b", "a"]]))[0] == ["a", "b"]


def test_lists_of_labels_are_the_indicator_of_scikit_learn():
    classes, is_multilabel, indicator = found(SETS)
    binarizer = MultiLabelBinarizer().fit([labels or [] for labels in SETS])
    assert classes == binarizer.classes_.tolist()
    assert is_multilabel
    assert_array_equal(indicator, binarizer.transform([row or [] for row in SETS]))
    for y in (indicator.astype(int), indicator.astype(bool), indicator.tolist()):
        classes, is_multilabel, again = found(y)
        assert classes == [0, 1, 2]
        assert is_multilabel
        assert_array_equal(again, indicator)
    for kind in (scipy.sparse.csr_matrix, scipy.sparse.coo_array):
        assert_array_equal(found(kind(indicator))[2], indicator)


def test_a_label_named_twice_is_one():
    assert_array_equal(found([["a", "a"], ["b"]])[2], [[1, 0], [0, 1]])


def test_stored_zeros_of_an_indicator_are_no_labels():
    y = scipy.sparse.csr_matrix(([1, 0, 1], [0, 1, 1], [0, 2, 3]), shape=(2, 2))
    assert_array_equal(found(y)[2], [[1, 0], [0, 1]])


def test_lists_of_zeros_and_ones_are_rows_of_an_indicator():
    assert_array_equal(found([[0, 1], [1, 1]])[2], [[0, 1], [1, 1]])
    # Of another length, or of other numbers, they are labels.
    assert_array_equal(found([[0, 1], [1]])[2], [[1, 1], [0, 1]])
    assert_array_equal(found([[0, 2], [0, 1]])[2], [[1, 0, 1], [1, 1, 0]])
    assert_array_equal(found([{0, 1}, {0, 1}])[2], [[1, 1], [1, 1]])
    assert_array_equal(found([[0], [1]])[2], [[1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed, but the target y is None"),
        ([0.5, 1.0], "continuous"),
        ([np.inf, 1.0], "infinity|continuous"),
        ([NAN, NAN], "no label"),
        ([None, []], "no label"),
        (np.zeros((2, 3)), "no label"),
        (["a", 1], "all strings or all numbers"),
        ([["a"], [1]], "all strings or all numbers"),
        ([["a"], "b"], "a list of labels for each row, or one label for each"),
        ([0, [1]], "a list of labels for each row, or one label for each"),
        (np.array([[0, 2], [1, 0]]), "an indicator, of zeros and ones"),
        (np.array([["a", "b"], ["b", "c"]]), "an indicator, of zeros and ones"),
        (np.array([[0, NAN], [1, 0]]), "an indicator, of zeros and ones"),
        ([1 + 1j, 2], "strings or numbers"),
        ([{"a": 1}, {"b": 1}], "strings or numbers"),
        (np.zeros((2, 3, 4)), "dim 3"),
    ],
)
def test_y_that_is_none(y, message):
    target = Target(y)
    with pytest.raises(ValueError, match=message):
        known_labels(rows_of(2), target, label_sizes(rows_of(2), target, None), None)


def test_y_of_another_length():
    with pytest.raises(ValueError, match="y has labels for 2 rows, but X has 3"):
        label_sizes(rows_of(3), Target([0, 1]), None)


def test_chunks_bring_the_classes_along():
    assert found([1, 1], classes=[2, 1], is_chunk=True)[0] == [1, 2]
    assert found(np.eye(2), is_chunk=True)[0] == [0, 1]
    assert found(np.eye(2), classes=["a", "b"], is_chunk=True)[0] == ["a", "b"]
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        found([0, 1], is_chunk=True)
    with pytest.raises(ValueError, match="3 columns, but there are 2 labels"):
        found(np.eye(3), classes=["a", "b"], is_chunk=True)
    with pytest.raises(ValueError, match="classes must be sorted if y is an ind"):
        found(np.eye(2), classes=["b", "a"], is_chunk=True)
    for classes in ([], 3, [["a"]]):
        with pytest.raises(ValueError, match="classes must be a list of labels"):
            found([0, 1], classes=classes, is_chunk=True)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["c", "a"], "labels that the model does not know, such as 'c'"),
        ([1, 2], "labels that the model does not know, such as 1"),
        ([["a"], ["b"]], "fitted to one label for each row"),
        (np.eye(2), "fitted to one label for each row"),
    ],
)
def test_later_labels_must_be_among_the_first(y, message):
    sizes = {"classes": np.array(["a", "b"]), "is_multilabel": False}
    with pytest.raises(ValueError, match=message):
        known_labels(rows_of(2), Target(y, is_chunk=True), sizes, None)
    chunk = Target(["a", None], classes=["b", "a"], is_chunk=True)
    assert known_labels(rows_of(2), chunk, sizes, None).nnz == 1
    chunk = Target(["a", None], classes=["c", "a"], is_chunk=True)
    with pytest.raises(ValueError, match="differ from those of the first call"):
        known_labels(rows_of(2), chunk, sizes, None)


def test_a_chunk_may_have_no_label():
    sizes = {"classes": np.array(["a", "b"]), "is_multilabel": False}
    chunk = Target([None, None], is_chunk=True)
    assert known_labels(rows_of(2), chunk, sizes, None).nnz == 0
    with pytest.raises(ValueError, match="no label"):
        known_labels(rows_of(2), Target([None, None]), sizes, None)


def test_labels_of_shards_are_joined():
    share = Share(0, 2, is_sharded=True)
    parts = [
        label_sizes(rows_of(2, share), Target(y), None)
        for y in (["b", "a"], [None, None], ["c", "a"])
    ]
    joined = joined_label_sizes(parts)
    assert joined["classes"].tolist() == ["a", "b", "c"]
    assert joined["is_multilabel"] is False
    with pytest.raises(ValueError, match="no label"):
        joined_label_sizes(parts[1:2])
    several = label_sizes(rows_of(2, share), Target([["a"], ["b"]]), None)
    with pytest.raises(ValueError, match="different kinds of y"):
        joined_label_sizes([parts[0], several])


def test_right_rows_have_all_their_labels_and_no_others():
    classes = np.array(["a", "b", "c"])
    predicted = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 1, 0], [0, 0, 1]])
    y = [["b", "a"], ["a", "b"], ["c"], None, ["d", "c"]]
    is_right, has_label = right_rows(y, predicted, classes, None)
    assert is_right.tolist() == [True, False, False, False, False]
    assert has_label.tolist() == [True, True, True, False, True]
    predicted = np.array(["a", "b", "c", "c"])
    is_right, has_label = right_rows(["a", "c", "z", None], predicted, classes, None)
    assert is_right.tolist() == [True, False, False, False]
    assert has_label.tolist() == [True, True, True, False]
    # Labels of another kind are none that the model knows.
    assert not right_rows([0, 1, 2, 3], predicted, classes, None)[0].any()
