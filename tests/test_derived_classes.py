"""Classes derived by users, whose constructors take fewer parameters."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone

from skdeepfactor import PoissonFactorization, SparseGammaDEF, VariationalAutoencoder


class TwoFactors(PoissonFactorization):
    def __init__(self, factor_shape=0.3):
        super().__init__(2, factor_shape=factor_shape, max_iter=4, random_state=0)


class TwoLayers(SparseGammaDEF):
    def __init__(self, layer_shape=0.3):
        super().__init__((3, 2), layer_shape=layer_shape, max_iter=4, random_state=0)


class Incomplete(SparseGammaDEF):
    def __init__(self, layer_sizes=(3, 2)):
        super().__init__(
            layer_sizes, missing_values="ignore", max_iter=4, random_state=0
        )


class Encoded(VariationalAutoencoder):
    def __init__(self, n_components=2):
        super().__init__(n_components, likelihood="poisson", max_iter=2, random_state=0)


class Wider(PoissonFactorization):
    """One whose constructor has a name of its own."""

    def __init__(self, width=2):
        super().__init__(width, max_iter=4, random_state=0)
        self.width = width


DERIVED = [TwoFactors, TwoLayers, Incomplete, Encoded, Wider]


@pytest.mark.parametrize("kind", DERIVED)
def test_derived_classes_do_what_their_base_does(kind, counts, tmp_path):
    model = kind()
    base = kind.__mro__[1]
    names = base().get_params()
    plain = base(**{name: getattr(model, name) for name in names})
    for each in (model, plain):
        each.fit(counts)
    assert_array_equal(model.components_, plain.components_)
    Z = plain.transform(counts)
    assert_array_equal(model.transform(counts), Z)
    assert_array_equal(model.inverse_transform(Z), plain.inverse_transform(Z))
    assert model.score(counts) == plain.score(counts)
    assert len(model.get_feature_names_out()) == Z.shape[1]
    assert_array_equal(pickle.loads(pickle.dumps(model)).transform(counts), Z)
    assert_array_equal(clone(model).fit(counts).components_, model.components_)
    path = tmp_path / "run.checkpoint"
    kind().fit(counts, checkpoint=path)
    resumed = kind().fit(counts, checkpoint=path)
    assert_array_equal(resumed.components_, plain.components_)
    for each in (model, plain):
        each.partial_fit(counts)
    assert_array_equal(model.components_, plain.components_)


def test_missing_entries_are_left_out_where_a_class_says_so(counts):
    X = counts.toarray().astype(np.float64)
    X[3, 4] = np.nan
    model = Incomplete().fit(X)
    assert np.isfinite(model.transform(X)).all()
    assert np.isfinite(model.partial_fit(X).score(X))
    with pytest.raises(ValueError, match="contains NaN"):
        TwoLayers().fit(X)
