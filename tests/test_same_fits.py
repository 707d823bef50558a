"""The comparison of two checkouts finds what differs, and only that."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.same_fits import compare, difference, main

ROOT = Path(__file__).parent.parent


def test_differences_are_relative():
    old = np.array([1.0, 1e6, 0.0, np.nan, np.inf])
    new = old * (1 + np.array([0, 1e-9, 0, 0, 0]))
    assert difference(old, new) == pytest.approx(1e-9, rel=1e-6)
    assert difference(old, old) == 0
    # The last column of a matrix is the size of its rows.
    row = np.array([[1e-9, 3.0], [1.0, 3.0]])
    assert difference(row, row + np.array([[3e-9, 0], [0, 0]])) == pytest.approx(1e-9)


@pytest.mark.parametrize("other", [[1.0], [1.0, np.nan], [1.0, np.inf], [1.0, -2.0]])
def test_what_cannot_be_compared_differs(other):
    assert difference(np.array([1.0, 2.0]), np.array(other)) > 1


def test_what_is_lost_or_fails_anew_differs():
    one, error = np.ones(2), np.array("ValueError: no")
    differences, n_values, notes = compare(
        {"plain: a": one, "plain: b": one, "weights: a": one, "dense: error": error},
        {
            "plain: a": one,
            "plain: c": one,
            "weights: error": error,
            "dense: error": np.array("ValueError: in other words"),
        },
    )
    assert differences == {
        "plain: a": 0,
        "plain: b": np.inf,
        "weights: error": np.inf,
        "dense: error": 0,
    }
    assert n_values == 2
    assert len(notes) == 4


def test_a_checkout_fits_as_it_does_itself(capsys):
    name = "LatentDirichletAllocation"
    with pytest.raises(SystemExit) as status:
        main([str(ROOT), str(ROOT), "--only", name])
    assert status.value.code == 0
    shown = capsys.readouterr().out
    assert f"\n{name} " in shown
    assert "0 of 1 entries differ" in shown
