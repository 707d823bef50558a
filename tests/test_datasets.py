import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sklearn
from scipy import sparse as sp

from skdeepfactor import datasets
from skdeepfactor.datasets import (
    load_docstrings,
    make_poisson_factors,
    make_topics,
    make_zipf_counts,
)
from tests.forked import PATIENCE

GENERATORS = {
    "poisson": lambda seed: make_poisson_factors(40, 30, 3, random_state=seed),
    "topics": lambda seed: make_topics(40, 30, 3, random_state=seed),
    "zipf": lambda seed: make_zipf_counts(40, 30, 300, random_state=seed),
}


def assert_canonical(X):
    assert X.format == "csr"
    assert X.dtype == np.int64
    assert X.data.min() > 0
    columns = np.split(X.indices, X.indptr[1:-1])
    assert all((np.diff(row) > 0).all() for row in columns)


def assert_close(values, mean, variance):
    """Assert that an average differs from its mean by 5 standard errors at most."""
    values = np.asarray(values, dtype=float).ravel()
    assert abs(values.mean() - mean) < 5 * np.sqrt(variance / values.size)


# The corpus. Reading it takes seconds, so that it is read once, and the tests of the
# cache read a corpus of a few documents.


@pytest.fixture(scope="module")
def corpus_and_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("cache")
    return load_docstrings(data_home=home), home


@pytest.fixture
def few_documents(monkeypatch):
    """Replace the reading of the sources; the list returned counts the calls."""
    documents = [("numpy.one", 0, "one é"), ("torch.two", 3, "two")]
    calls = []

    def read():
        calls.append(1)
        return list(documents)

    monkeypatch.setattr(datasets, "_read_documents", read)
    return calls


def test_corpus_is_large_and_unique(corpus_and_home):
    corpus, _ = corpus_and_home
    assert corpus.target_names == ["numpy", "scipy", "sklearn", "torch"]
    assert len(corpus.data) == len(corpus.names) == len(corpus.target)
    assert corpus.target.dtype == np.int64
    assert (np.bincount(corpus.target, minlength=4) > [500, 1000, 800, 1500]).all()
    assert len({" ".join(text.split()) for text in corpus.data}) == len(corpus.data)
    assert min(len(text.split()) for text in corpus.data) >= 20
    assert (np.diff(corpus.target) >= 0).all()
    assert "torch" in corpus.DESCR


def test_corpus_names_public_objects(corpus_and_home):
    corpus, _ = corpus_and_home
    assert not [name for name in corpus.names if name.rpartition(".")[2][:1] == "_"]
    assert not [name for name in corpus.names if ".tests." in name]
    assert not [name for name in corpus.names if ".externals." in name]
    for name, target in zip(corpus.names, corpus.target, strict=True):
        assert name.startswith(corpus.target_names[target] + ".")
    # One of each way to document: def, method, and text attached to compiled code.
    assert {
        "numpy.linalg._linalg.svd",
        "scipy.special.expn",
        "sklearn.decomposition._nmf.NMF.fit_transform",
        "torch.nn.modules.linear.Linear",
        "torch.matmul",
        "torch.Tensor.scatter_",
        "torch.special.xlogy",
    } <= set(corpus.names)
    # Which of its modules has it depends on the release of NumPy.
    assert any(name.endswith(".ndarray.astype") for name in corpus.names)


def test_corpus_has_text_and_no_markup(corpus_and_home):
    corpus, _ = corpus_and_home
    text = "\n".join(corpus.data)
    for markup in [
        ":math:`",
        ":class:`",
        ".. versionadded",
        "%(",
        "https://",
        "\\frac",
    ]:
        assert markup not in text
    assert "\n>>> " not in text
    words = Counter(text.lower().split())
    assert words["matrix"] > 500
    assert words["gradient"] > 100


def test_corpus_reads_the_same_from_cache_and_anew(corpus_and_home, monkeypatch):
    corpus, home = corpus_and_home
    (path,) = home.iterdir()
    walk = datasets.os.walk

    def reversed_walk(root):
        # File systems list folders in orders of their own.
        for folder, subfolders, files in walk(root):
            files.reverse()
            yield folder, subfolders, files
            subfolders.reverse()

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "_read_documents", pytest.fail)
        cached = load_docstrings(data_home=home)
        texts, target = load_docstrings(return_X_y=True, data_home=home)
    assert cached.data == texts == corpus.data
    assert cached.names == corpus.names
    np.testing.assert_array_equal(cached.target, corpus.target)
    np.testing.assert_array_equal(target, corpus.target)

    # One package will do.
    path.unlink()
    monkeypatch.setattr(datasets, "_DISTRIBUTIONS", {"numpy": "numpy"})
    monkeypatch.setattr(datasets.os, "walk", reversed_walk)
    anew = load_docstrings(data_home=home)
    n_documents = np.count_nonzero(corpus.target == 0)
    assert anew.data == corpus.data[:n_documents]
    assert anew.names == corpus.names[:n_documents]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:20] + bytes(20) + content[40:],
        lambda content: b"no gzip at all",
        lambda content: b"",
        lambda content: datasets.gzip.compress(b"[[1, 2]]"),
        lambda content: datasets.gzip.compress(b'{"a": 1}'),
        lambda content: datasets.gzip.compress(b'[["name", 7, "text"]]'),
        lambda content: datasets.gzip.compress(b"[]"),
    ],
)
def test_damaged_cache_is_replaced(few_documents, tmp_path, damage):
    load_docstrings(data_home=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert load_docstrings(data_home=tmp_path).data == ["one é", "two"]
    assert len(few_documents) == 2
    load_docstrings(data_home=tmp_path)
    assert len(few_documents) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_cache_that_cannot_be_written_is_no_error(few_documents, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder is wanted")
    assert len(load_docstrings(data_home=blocked / "below").data) == 2


def test_failed_write_leaves_nothing(few_documents, tmp_path, monkeypatch):
    def fail(*_):
        raise PermissionError

    monkeypatch.setattr(datasets.os, "replace", fail)
    assert len(load_docstrings(data_home=tmp_path).data) == 2
    assert not list(tmp_path.iterdir())


def test_cache_can_be_left_alone(few_documents, tmp_path):
    load_docstrings(cache=False, data_home=tmp_path)
    assert not list(tmp_path.iterdir())


def test_cache_is_keyed_by_versions(few_documents, tmp_path, monkeypatch):
    load_docstrings(data_home=tmp_path)
    monkeypatch.setattr(datasets, "version", lambda name: "99")
    assert "torch 99" in load_docstrings(data_home=tmp_path).DESCR
    assert len(few_documents) == 2


def test_cache_folder(few_documents, tmp_path, monkeypatch):
    monkeypatch.delenv("SKDEEPFACTOR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    load_docstrings()
    assert list((tmp_path / "xdg" / "skdeepfactor").iterdir())
    monkeypatch.setenv("SKDEEPFACTOR_CACHE", str(tmp_path / "own"))
    load_docstrings()
    assert list((tmp_path / "own").iterdir())
    load_docstrings(data_home=tmp_path / "given")
    assert list((tmp_path / "given").iterdir())
    assert len(few_documents) == 3


def test_sources_are_not_imported(tmp_path):
    code = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("datasets_alone", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
before = set(sys.modules)
assert "torch" not in before and "sklearn.manifold" not in before
for package in module._DISTRIBUTIONS:
    root = module.Path(module.importlib.util.find_spec(package).origin).parent
    for path in module._source_files(root)[:10]:
        module._docstrings(root, path)
new = {name.partition(".")[0] for name in set(sys.modules) - before}
assert not new & set(module._DISTRIBUTIONS), new
"""
    subprocess.run(
        [sys.executable, "-c", code, datasets.__file__],
        check=True,
        cwd=tmp_path,
        timeout=PATIENCE,
    )


def test_docstrings_of_a_file(tmp_path):
    root = tmp_path / "torch"
    path = root / "nn" / "_thing.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        '''"""Not the module's."""
def public():
    """A function."""
    def inner():
        """Not what is inside."""
def _private():
    """Not this."""
class Thing:
    """A class."""
    def __init__(self):
        """Not this."""
    def method(self):
        """A method."""
class _Hidden:
    def method(self):
        """Not this."""
if True:
    async def later():
        """Under a condition."""
add_docstr(torch.sum, "sum({input}) " + r"of {{x}}".format(input=1))
add_docstr_all("sum_", """In place.""")
add_docstr(torch._hidden, "Not this.")
add_newdoc("torch.place", "Name", ("method", "A tuple."))
add_newdoc("torch.place", "_Name", ("method", "Not this."))
product = _add_docstr(_C.thing_product, "Assigned.")
'''
    )
    assert datasets._docstrings(root, path) == [
        ("torch.nn._thing.public", "A function."),
        ("torch.nn._thing.Thing", "A class."),
        ("torch.nn._thing.Thing.method", "A method."),
        ("torch.nn._thing.later", "Under a condition."),
        ("torch.sum", "sum({input}) of {x}"),
        ("torch.Tensor.sum_", "In place."),
        ("torch.place.Name.method", "A tuple."),
        ("torch.nn.product", "Assigned."),
    ]
    path.write_text("def broken(:")
    assert datasets._docstrings(root, path) == []


def test_clean():
    docstring = r"""Sum of :class:`~a.Thing` and :math:`\alpha x`.

    .. versionadded:: 1.2

    .. note:: Kept.

    Parameters
    ----------
    x : int
        The value.

        >>> doctest(x)
        output

    Examples
    --------
    >>> f(1)
    cut

    Notes
    -----
    Kept as well [1]_.

    References
    ----------
    .. [1] Cut, https://example.org

    Example::

        cut()

    Args:
        y (int): the end
    """
    words = datasets._clean(docstring).split()
    assert "cut" not in " ".join(words).lower()
    assert " ".join(words) == (
        "Sum of `~a.Thing` and ` x`. Kept. x : int The value. Kept as well [1]_."
    )
    google = (
        "Short.\n\nExample::\n\n    cut()\n\n    cut()\n\nArgs:\n    y (int): end\n"
    )
    assert datasets._clean(google).split() == ["Short.", "y", "(int):", "end"]


# The generators.


@pytest.mark.parametrize("name", GENERATORS)
def test_same_seed_same_bits(name):
    make = GENERATORS[name]
    first, second, other = make(0), make(0), make(1)
    for key in first:
        values = [bunch[key] for bunch in (first, second, other)]
        values = [v.toarray() if sp.issparse(v) else v for v in values]
        assert values[0].tobytes() == values[1].tobytes()
        assert key == "rates" or values[0].tobytes() != values[2].tobytes()


@pytest.mark.parametrize("name", GENERATORS)
def test_global_state_is_left_alone(name):
    before = np.random.get_state()  # noqa: NPY002 - the global state is the point
    GENERATORS[name](0)
    GENERATORS[name](np.random.RandomState(3))
    after = np.random.get_state()  # noqa: NPY002 - the global state is the point
    assert before[2:] == after[2:]
    np.testing.assert_array_equal(before[1], after[1])


@pytest.mark.parametrize("name", GENERATORS)
def test_counts_are_canonical_csr(name):
    data = GENERATORS[name](0).data
    assert data.shape == (40, 30)
    assert_canonical(data)
    assert isinstance(data, sp.csr_matrix)
    if "sparse_interface" in sklearn.get_config():
        with sklearn.config_context(sparse_interface="sparray"):
            array = GENERATORS[name](0).data
        assert isinstance(array, sp.csr_array)
        np.testing.assert_array_equal(array.toarray(), data.toarray())


@pytest.mark.parametrize("make", [make_poisson_factors, make_topics])
def test_dense_counts_are_the_sparse_ones(make, monkeypatch):
    sparse = make(40, 30, 3, random_state=0).data
    dense = make(40, 30, 3, sparse=False, random_state=0).data
    assert isinstance(dense, np.ndarray)
    assert dense.dtype == np.int64
    np.testing.assert_array_equal(dense, sparse.toarray())
    monkeypatch.setattr(
        datasets, "_blocks", lambda n, _: map(slice, range(n), range(1, n + 1))
    )
    blocks = make(40, 30, 3, random_state=0).data
    np.testing.assert_array_equal(dense, blocks.toarray())


def test_poisson_factors_agree_with_the_story():
    a, b, c, d, k = 0.7, 0.5, 0.4, 2.0, 4
    planted = make_poisson_factors(
        3000,
        100,
        k,
        factor_shape=a,
        factor_rate=b,
        weight_shape=c,
        weight_rate=d,
        sparse=False,
        random_state=0,
    )
    assert_close(planted.factors, a / b, a / b**2)
    assert_close(planted.components, c / d, c / d**2)
    mean = planted.factors @ planted.components
    residual = planted.data - mean
    assert_close(residual, 0, mean.mean())
    # A Poisson's fourth central moment is m + 3 m^2, hence var((x - m)^2) = m + 2 m^2.
    assert_close(residual**2 - mean, 0, (mean + 2 * mean**2).mean())


def test_topics_agree_with_the_story():
    alpha, eta, k, v = 0.2, 0.3, 4, 20
    planted = make_topics(
        4000,
        v,
        k,
        doc_topic_prior=alpha,
        topic_word_prior=eta,
        n_tokens=50,
        sparse=False,
        random_state=0,
    )
    theta, beta = planted.topic_proportions, planted.components
    assert theta.shape == (4000, k)
    assert beta.shape == (k, v)
    np.testing.assert_allclose(theta.sum(axis=1), 1)
    np.testing.assert_allclose(beta.sum(axis=1), 1)
    # Each proportion is Beta(alpha, (k - 1) alpha).
    assert_close(theta[:, 0], 1 / k, (k - 1) / k**2 / (k * alpha + 1))
    square = (alpha + 1) / (k * (k * alpha + 1))
    assert_close(theta[:, 0] ** 2, square, square)
    lengths = planted.data.sum(axis=1)
    assert_close(lengths, 50, 50)
    assert_close((lengths - 50) ** 2, 50, 50 + 2 * 50**2)
    words = theta @ beta
    expected = lengths[:, np.newaxis] * words
    variance = expected * (1 - words)
    standardised = (planted.data - expected).sum(axis=0) / np.sqrt(variance.sum(axis=0))
    assert np.abs(standardised).max() < 5
    assert_close(((planted.data - expected) ** 2 - variance).sum(axis=1), 0, 3 * 50**2)


def test_topics_keep_given_lengths():
    lengths = np.array([0, 1, 7, 1000])
    data = make_topics(4, 30, n_tokens=lengths, random_state=0).data
    np.testing.assert_array_equal(np.asarray(data.sum(axis=1)).ravel(), lengths)


def test_topics_take_tiny_priors():
    planted = make_topics(
        200, 30, 3, doc_topic_prior=1e-5, topic_word_prior=1e-4, random_state=0
    )
    theta = planted.topic_proportions
    np.testing.assert_allclose(theta.max(axis=1), 1)
    assert_close(theta[:, 0], 1 / 3, 2 / 9)
    assert planted.data.sum() > 0


@pytest.mark.parametrize(
    ("shape", "nnz", "exponent"),
    [
        ((2000, 3000), 100_000, 1.0),
        ((2000, 300), 500_000, 1.0),
        ((50, 20_000), 30_000, 0.5),
        ((5000, 40), 150_000, 2.0),
        ((1, 5000), 1000, 1.0),
        ((5000, 1), 1000, 1.0),
    ],
)
def test_zipf_counts_agree_with_the_story(shape, nnz, exponent):
    planted = make_zipf_counts(*shape, nnz, exponent=exponent, random_state=0)
    X, rates = planted.data, planted.rates
    assert X.shape == shape
    assert_canonical(X)
    assert abs(X.nnz - nnz) < 5 * np.sqrt(nnz)
    ranks = np.arange(1, shape[1] + 1)
    np.testing.assert_allclose(rates * ranks**exponent, rates[0])
    n = shape[0]
    filled = -np.expm1(-rates)
    np.testing.assert_allclose(n * filled.sum(), nnz)
    totals = np.asarray(X.sum(axis=0)).ravel()
    common = n * rates > 20
    standardised = (totals - n * rates) / np.sqrt(n * rates)
    assert np.abs(standardised[common]).max(initial=0) < 6
    assert abs(totals.sum() - n * rates.sum()) < 5 * np.sqrt(n * rates.sum())
    rows = np.asarray((X > 0).sum(axis=1)).ravel()
    assert_close(
        (rows - filled.sum()) ** 2, (filled * (1 - filled)).sum(), 4 * nnz**2 / n**2
    )


def test_zipf_counts_are_poisson_in_every_column():
    # On both sides of the border between the two ways to draw.
    planted = make_zipf_counts(20_000, 60, 300_000, random_state=0)
    X, rates = planted.data.toarray(), planted.rates
    assert rates.min() < 0.4 < rates.max()
    error = ((X - rates) ** 2).mean(axis=0) - rates
    scale = np.sqrt((rates + 2 * rates**2) / len(X))
    assert np.abs(error / scale).max() < 5


def test_zipf_counts_take_little_more_than_they_return():
    # 99.9 per cent full: to draw cells until so many are hit would take far more draws.
    planted = make_zipf_counts(300, 1000, 299_700, random_state=0)
    assert abs(planted.data.nnz - 299_700) < 5 * np.sqrt(300)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (make_poisson_factors, {"n_samples": 0}, "n_samples must be .* got 0"),
        (make_poisson_factors, {"n_features": 2.5}, "n_features must be .* got 2.5"),
        (make_poisson_factors, {"n_components": -1}, "n_components must be .* got -1"),
        (make_poisson_factors, {"factor_shape": 0}, "factor_shape must be .* got 0"),
        (make_poisson_factors, {"weight_rate": "a"}, "weight_rate must be .* got 'a'"),
        (make_topics, {"doc_topic_prior": -1.0}, "doc_topic_prior must be .* got -1.0"),
        (make_topics, {"topic_word_prior": np.nan}, "topic_word_prior .* got nan"),
        (make_topics, {"n_tokens": 0}, "n_tokens must be .* got 0"),
        (
            make_topics,
            {"n_tokens": [1, 2]},
            r"shape \(500,\), got int64 of shape \(2,\)",
        ),
        (make_topics, {"n_samples": 1, "n_tokens": [1.5]}, "got float64 of shape"),
        (make_topics, {"n_samples": 2, "n_tokens": [3, -4]}, "negative, got -4"),
    ],
)
def test_wrong_arguments(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments, random_state=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 10, 0), "nnz must be .* got 0"),
        ((10, 10, 100), "nnz must be below .* = 100, got 100"),
        ((10, 0, 5), "n_features must be .* got 0"),
    ],
)
def test_wrong_sizes_of_zipf_counts(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_zipf_counts(*arguments)


def test_wrong_exponents_of_zipf_counts():
    with pytest.raises(ValueError, match=r"exponent must be .* got 0"):
        make_zipf_counts(10, 10, 20, exponent=0)
    with pytest.raises(ValueError, match="beyond 1e15"):
        make_zipf_counts(10, 1000, 5000, exponent=20)


def test_module_reads_no_torch():
    source = Path(datasets.__file__).read_text(encoding="utf-8")
    assert "import torch" not in source
    assert "pickle" not in source
