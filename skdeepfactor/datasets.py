"""Data to try factor models on: a real corpus without a download, and simulated data.

The corpus is read from the source files of packages that are installed anyway. The
generators draw from the generative models, and return the true factors, too.
"""

import ast
import gzip
import importlib.util
import inspect
import json
import os
import re
import tempfile
import warnings
import zlib
from importlib.metadata import version
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse as sp
from scipy.optimize import brentq
from sklearn import get_config
from sklearn.utils import Bunch, check_random_state

__all__ = ["load_docstrings", "make_poisson_factors", "make_topics", "make_zipf_counts"]

_DISTRIBUTIONS = {
    "numpy": "numpy",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "torch": "torch",
}
# Raise it whenever the reading below changes: caches of older numbers are not read.
_CACHE_FORMAT = 1
_MIN_WORDS = 20

# Not the packages' own public code: tests, builds, typing, and other people's projects.
_SKIPPED_FOLDERS = re.compile(
    r"tests?|_test_common|_?examples|benchmarks|_?extern|externals|_?vendor|_lib|_utils|"
    r"_?typing|_internal|_build_utils|__\w+|_precompute|_pyinstaller|distutils|f2py"
)
_SKIPPED_FILES = re.compile(
    r"(?:conftest|setup|(?:test|_test|bench)_.*|_\w*testutils|__(?!init__).*)\.py"
)

# Functions that attach the text in their last argument to the object that the others
# name, or to the one that the first names in the class or package given here.
_ATTACHING = {
    "add_newdoc": None,
    "add_newdoc_for_scalar_type": "numpy",
    "array_method_doc": "numpy.ndarray",
    "add_docstr": None,
    "add_docstr_all": "torch.Tensor",
}
_PLACEHOLDER = re.compile(r"(?<!\{)\{\w*\}(?!\})")
_DROPPED_SECTION = re.compile(
    r"^(?:Examples?|References)[ \t]*\n-{3,}.*?(?=^\S[^\n]*\n-{3,}|\Z)", re.M | re.S
)
_DROPPED_BLOCK = re.compile(
    r"^([ \t]*)(?:(?:Examples?|References)\b[^\n]{0,40}:|\.\. (?:rubric:: References|"
    r"plot::|code::|code-block::|testcode|doctest|image::|figure::|_\S+:|\[))[^\n]*\n"
    r"(?:\s*\n|\1[ \t]+\S[^\n]*(?:\n|\Z))*",
    re.M,
)
# Cut one after the other; the text that remains was written to be read.
_MARKUP = (
    # A doctest, its output included.
    (re.compile(r"^[ \t]*(?:>>>|\.\.\. )[^\n]*(?:\n[ \t]*\S[^\n]*)*", re.M), ""),
    # numpydoc's headings, underlined, and Google's, on a line of their own.
    (re.compile(r"^[ \t]*\S[^\n]*\n[ \t]*[-=]{3,}[ \t]*$", re.M), ""),
    (
        re.compile(
            r"^[ \t]*(?:Args|Arguments|Attributes|Inputs?|Keyword arg(?:ument)?s|"
            r"Notes?|Outputs?|Parameters|Raises|Returns?|Shape|Warnings?|Yields):",
            re.M | re.I,
        ),
        "",
    ),
    (re.compile(r"Read more in the\s+:ref:`[^`]*`\.?"), ""),
    # Versions and deprecations; other directives lose the mark and keep their text.
    (re.compile(r"^[ \t]*\.\. +(?:version\w+|deprecated)::[^\n]*", re.M), ""),
    (re.compile(r"\.\. +[\w-]+::"), ""),
    (re.compile(r":[a-z]+(?::[a-z]+)?:(?=`)"), ""),
    (re.compile(r"https?://\S+|\\[A-Za-z]+|%\(\w+\)s|`_+"), " "),
    (re.compile(r"\n\s*\n+"), "\n\n"),
)

_DESCRIPTION = """\
Docstrings of the scientific Python stack
-----------------------------------------
One document per public function, class or method of the installed numpy, scipy,
scikit-learn and torch, read from their source files. Examples, references, headings and
markup are cut away; documents of fewer than {min_words} words and repeated ones are
left out. `target` is the package. Documents differ with the installed versions:
{versions}.
"""


def load_docstrings(
    *,
    return_X_y: bool = False,
    cache: bool = True,
    data_home: str | os.PathLike[str] | None = None,
) -> Any:
    r"""Load the docstrings of numpy, scipy, scikit-learn and torch.

    This real corpus needs no download: the source files of the four packages, which are
    installed wherever this package is, are parsed without being imported. Documents are
    the docstrings of public functions, classes and methods, including those that numpy,
    scipy and torch attach to compiled functions. Examples, references, headings and
    markup are removed; documents of fewer than 20 words and duplicates are left out.
    Documents are sorted by package, file and line. Reading takes about 15 seconds, or a
    tenth of a second from the cache.

    Parameters
    ----------
    return_X_y : bool, default=False
        Return `(data, target)` in place of a Bunch.
    cache : bool, default=True
        Read the documents from the cache folder if it has them, and otherwise write
        them to it. They are read anew when the version of one of the packages changes.
        A damaged file or a folder that cannot be written is no error.
    data_home : str or path-like, default=None
        The cache folder. By default it is the environment's `SKDEEPFACTOR_CACHE`, else
        `skdeepfactor` in `XDG_CACHE_HOME`, else `~/.cache/skdeepfactor`.

    Returns
    -------
    bunch : Bunch
        - data : list of str, length n_samples
        - target : ndarray of int64, shape (n_samples,), an index into `target_names`
        - names : list of str, length n_samples, the qualified name of each object
        - target_names : list of str: numpy, scipy, sklearn, torch
        - DESCR : str
    (data, target) : tuple
        Only if `return_X_y`.

    See Also
    --------
    make_topics : Word counts whose topics are known.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import CountVectorizer
    >>> from skdeepfactor.datasets import load_docstrings
    >>> corpus = load_docstrings()  # doctest: +SKIP
    >>> vectorizer = CountVectorizer(
    ...     stop_words="english",
    ...     min_df=5,
    ...     max_df=0.2,
    ...     token_pattern=r"\b[a-z][a-z0-9_]+\b",
    ... )
    >>> X = vectorizer.fit_transform(corpus.data)  # doctest: +SKIP
    """
    versions = {name: version(_DISTRIBUTIONS[name]) for name in _DISTRIBUTIONS}
    documents = None
    if cache:
        key = "-".join(f"{name}{number}" for name, number in versions.items())
        path = _cache_folder(data_home) / f"docstrings-{_CACHE_FORMAT}-{key}.json.gz"
        documents = _read_cache(path)
    if documents is None:
        documents = _read_documents()
        if cache:
            _write_cache(path, documents)

    names, targets, texts = (list(column) for column in zip(*documents, strict=True))
    target = np.array(targets, dtype=np.int64)
    if return_X_y:
        return texts, target
    return Bunch(
        data=texts,
        target=target,
        names=names,
        target_names=list(_DISTRIBUTIONS),
        DESCR=_DESCRIPTION.format(
            min_words=_MIN_WORDS,
            versions=", ".join(f"{name} {number}" for name, number in versions.items()),
        ),
    )


def _cache_folder(data_home):
    if data_home is None:
        data_home = os.environ.get("SKDEEPFACTOR_CACHE")
    if not data_home:
        base = os.environ.get("XDG_CACHE_HOME") or Path("~", ".cache")
        data_home = Path(base, "skdeepfactor")
    return Path(data_home).expanduser()


def _read_cache(path):
    """Return the documents kept in `path`, or None if they cannot be trusted."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            documents = json.load(file)
        for name, target, text in documents:
            if not isinstance(name, str) or not isinstance(text, str):
                return None
            if target not in range(len(_DISTRIBUTIONS)):
                return None
    except (OSError, EOFError, ValueError, TypeError, zlib.error):
        return None
    return documents or None


def _write_cache(path, documents):
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Under another name first, so that no other process reads half a file.
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with (
            os.fdopen(descriptor, "wb") as raw,
            gzip.open(raw, "wt", 6, "utf-8") as file,
        ):
            json.dump(documents, file)
        os.replace(temporary, path)
    except OSError:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _read_documents():
    """Return `(name, target, text)` of each document, in order."""
    documents, seen = [], set()
    for target, package in enumerate(_DISTRIBUTIONS):
        root = Path(importlib.util.find_spec(package).submodule_search_locations[0])
        for path in _source_files(root):
            for name, docstring in _docstrings(root, path):
                text = _clean(docstring)
                words = text.split()
                content = " ".join(words)
                if len(words) >= _MIN_WORDS and content not in seen:
                    seen.add(content)
                    documents.append((name, target, text))
    return documents


def _source_files(root):
    paths = []
    for folder, subfolders, files in os.walk(root):
        # numpy, scipy and scikit-learn define their public functions in private folders
        # and import them into public ones; torch's private folders are internals.
        subfolders[:] = [
            name
            for name in subfolders
            if not _SKIPPED_FOLDERS.fullmatch(name)
            and not (root.name == "torch" and name.startswith("_"))
        ]
        paths += [
            Path(folder, name)
            for name in files
            if name.endswith(".py") and not _SKIPPED_FILES.fullmatch(name)
        ]
    return sorted(paths, key=lambda path: path.relative_to(root).parts)


def _docstrings(root, path):
    """Return `(name, docstring)` of the public objects in one file, in its order."""
    with warnings.catch_warnings():
        # Invalid escapes in other people's files are not ours to report.
        warnings.simplefilter("ignore")
        try:
            body = ast.parse(path.read_bytes()).body
        except (SyntaxError, ValueError, OSError):
            return []
    parts = (root.name, *path.relative_to(root).with_suffix("").parts)
    module = parts[:-1] if parts[-1] == "__init__" else parts
    return list(_defined(body, ".".join(module)))


def _defined(body, owner):
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.startswith("_"):
                continue
            name = f"{owner}.{node.name}"
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                yield name, docstring
            if isinstance(node, ast.ClassDef):
                yield from _defined(node.body, name)
        elif isinstance(node, ast.Expr | ast.Assign) and isinstance(
            node.value, ast.Call
        ):
            name, docstring = _attached(node, owner)
            if docstring and not name.rpartition(".")[2].startswith("_"):
                yield name, docstring
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from _defined(node.body, owner)
            yield from _defined(getattr(node, "orelse", []), owner)


def _attached(node, owner):
    """Return the name and text of `add_newdoc(place, name, text)` and its relatives."""
    function = ast.unparse(node.value.func).rpartition(".")[2].lstrip("_")
    arguments = node.value.args
    if function not in _ATTACHING or len(arguments) < 2:
        return "", ""
    *places, text = arguments
    if isinstance(text, ast.Tuple) and len(text.elts) == 2:
        method, text = text.elts
        places.append(method)
    if isinstance(node, ast.Assign):
        places = node.targets
    parts = [_constant_text(place) or ast.unparse(place) for place in places]
    if any(part.startswith("_") for part in parts):
        return "", ""
    if _ATTACHING[function]:
        name = f"{_ATTACHING[function]}.{parts[0]}"
    else:
        name = ".".join(parts)
        if not name.startswith(owner.partition(".")[0] + "."):
            public = [part for part in owner.split(".") if not part.startswith("_")]
            name = ".".join([*public, name])
    return name, _constant_text(text)


def _constant_text(node):
    """Return the constant part of a string expression."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.BinOp):
        # In "text % values" the right side has none.
        return _constant_text(node.left) + _constant_text(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        text = _constant_text(node.func.value)
        if node.func.attr == "format":
            text = _PLACEHOLDER.sub("", text).replace("{{", "{").replace("}}", "}")
        return text
    return ""


def _clean(docstring):
    text = inspect.cleandoc(docstring)
    text = _DROPPED_SECTION.sub("", text)
    text = _DROPPED_BLOCK.sub("", text)
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return text.strip()


def make_poisson_factors(
    n_samples: int = 500,
    n_features: int = 200,
    n_components: int = 5,
    *,
    factor_shape: float = 0.3,
    factor_rate: float = 0.3,
    weight_shape: float = 0.3,
    weight_rate: float = 3.0,
    sparse: bool = True,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    r"""Draw counts from a gamma-Poisson factor model.

    With :math:`a, b` the shape and rate of the factors and :math:`c, d` those of the
    weights,

    .. math::

        z_{ik} \sim \mathrm{Gamma}(a, b), \quad
        w_{kv} \sim \mathrm{Gamma}(c, d), \quad
        x_{iv} \sim \mathrm{Poisson}\Bigl(\sum_k z_{ik} w_{kv}\Bigr),

    so that a count has mean :math:`K a c / (b d)`: with the defaults 0.5, hence about
    100 counts in a row. Rates are computed for a few rows at a time, so no more memory
    is needed than for the result.

    Parameters
    ----------
    n_samples, n_features, n_components : int, default=500, 200 and 5
        Number of rows, columns and factors, at least 1.
    factor_shape, factor_rate : float, default=0.3
        Shape and rate of the factors' prior, positive.
    weight_shape, weight_rate : float, default=0.3 and 3.0
        Shape and rate of the weights' prior, positive.
    sparse : bool, default=True
        Return CSR; otherwise a dense array of the same counts.
    random_state : int, RandomState instance or None, default=None
        What to draw with.

    Returns
    -------
    Bunch
        - data : CSR matrix or ndarray of int64, shape (n_samples, n_features)
        - factors : ndarray of shape (n_samples, n_components), z
        - components : ndarray of shape (n_components, n_features), w

    Raises
    ------
    ValueError
        If a size is not a positive integer, or a shape or rate is not positive.

    See Also
    --------
    make_topics : Counts of words, given their number.
    skdeepfactor.PoissonFactorization : The model that finds the factors.

    Examples
    --------
    >>> from skdeepfactor.datasets import make_poisson_factors
    >>> planted = make_poisson_factors(100, 30, 4, random_state=0)
    >>> planted.data.shape, planted.factors.shape, planted.components.shape
    ((100, 30), (100, 4), (4, 30))
    """
    _check_sizes(n_samples=n_samples, n_features=n_features, n_components=n_components)
    _check_positive(
        factor_shape=factor_shape,
        factor_rate=factor_rate,
        weight_shape=weight_shape,
        weight_rate=weight_rate,
    )
    rng = check_random_state(random_state)
    factors = rng.gamma(factor_shape, 1 / factor_rate, (n_samples, n_components))
    components = rng.gamma(weight_shape, 1 / weight_rate, (n_components, n_features))
    rows = (
        rng.poisson(factors[part] @ components)
        for part in _blocks(n_samples, n_features)
    )
    return Bunch(data=_stack(rows, sparse), factors=factors, components=components)


def make_topics(
    n_samples: int = 500,
    n_features: int = 200,
    n_components: int = 5,
    *,
    doc_topic_prior: float = 0.1,
    topic_word_prior: float = 0.05,
    n_tokens: float | ArrayLike = 100,
    sparse: bool = True,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    r"""Draw word counts from latent Dirichlet allocation.

    .. math::

        \theta_i \sim \mathrm{Dirichlet}(\alpha, \ldots, \alpha), \quad
        \beta_k \sim \mathrm{Dirichlet}(\eta, \ldots, \eta), \quad
        x_i \sim \mathrm{Multinomial}\Bigl(N_i, \sum_k \theta_{ik} \beta_k\Bigr),

    where the number of tokens is :math:`N_i \sim \mathrm{Poisson}(\nu)` or given.

    Parameters
    ----------
    n_samples, n_features, n_components : int, default=500, 200 and 5
        Number of documents, words and topics, at least 1.
    doc_topic_prior : float, default=0.1
        The prior of the topic proportions, alpha, positive.
    topic_word_prior : float, default=0.05
        The prior of the topics, eta, positive.
    n_tokens : float or array-like of int, shape (n_samples,), default=100
        The mean number of tokens in a row, nu, or the number in each row. With a mean,
        rows without tokens can occur.
    sparse : bool, default=True
        Return CSR; otherwise a dense array of the same counts.
    random_state : int, RandomState instance or None, default=None
        What to draw with.

    Returns
    -------
    Bunch
        - data : CSR matrix or ndarray of int64, shape (n_samples, n_features)
        - topic_proportions : ndarray of shape (n_samples, n_components), theta; rows
          sum to 1
        - components : ndarray of shape (n_components, n_features), beta; rows sum to 1

    Raises
    ------
    ValueError
        If a size is not a positive integer, a prior is not positive, or `n_tokens` is
        neither a positive number nor `n_samples` non-negative integers.

    See Also
    --------
    make_poisson_factors : Counts whose totals come from the factors, too.
    skdeepfactor.LatentDirichletAllocation : The model that finds the topics.

    Examples
    --------
    >>> from skdeepfactor.datasets import make_topics
    >>> planted = make_topics(3, 50, n_tokens=[10, 20, 30], random_state=0)
    >>> planted.data.toarray().sum(axis=1).tolist()
    [10, 20, 30]
    """
    _check_sizes(n_samples=n_samples, n_features=n_features, n_components=n_components)
    _check_positive(doc_topic_prior=doc_topic_prior, topic_word_prior=topic_word_prior)
    rng = check_random_state(random_state)
    if np.ndim(n_tokens) == 0:
        _check_positive(n_tokens=n_tokens)
        lengths = rng.poisson(n_tokens, n_samples)
    else:
        lengths = np.asarray(n_tokens)
        if lengths.shape != (n_samples,) or lengths.dtype.kind not in "iu":
            raise ValueError(
                f"n_tokens must be a number or integers of shape ({n_samples},), got "
                f"{lengths.dtype} of shape {lengths.shape}."
            )
        if lengths.min() < 0:
            raise ValueError(f"n_tokens must not be negative, got {lengths.min()}.")
    proportions = _dirichlet(rng, doc_topic_prior, (n_samples, n_components))
    components = _dirichlet(rng, topic_word_prior, (n_components, n_features))

    def rows():
        for part in _blocks(n_samples, n_features):
            words = proportions[part] @ components
            words /= words.sum(axis=1, keepdims=True)
            draws = zip(lengths[part], words, strict=True)
            yield np.array([rng.multinomial(n, p) for n, p in draws], dtype=np.int64)

    return Bunch(
        data=_stack(rows(), sparse),
        topic_proportions=proportions,
        components=components,
    )


def make_zipf_counts(
    n_samples: int,
    n_features: int,
    nnz: int,
    *,
    exponent: float = 1.0,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    r"""Draw a large sparse matrix of counts whose columns follow Zipf's law.

    Columns come from the most frequent to the rarest:

    .. math::

        x_{iv} \sim \mathrm{Poisson}(\lambda_v), \quad
        \lambda_v = \lambda_0 \, v^{-s}, \quad v = 1, \ldots, V,

    where :math:`\lambda_0` solves
    :math:`n \sum_v (1 - e^{-\lambda_v}) = \mathtt{nnz}`: the number of stored entries
    has mean `nnz` and a standard deviation below `sqrt(nnz)`. Time and memory are
    proportional to `nnz + n_features`.

    Parameters
    ----------
    n_samples, n_features : int
        Number of rows and columns, at least 1.
    nnz : int
        Expected number of stored entries, at least 1 and below
        `n_samples * n_features`.
    exponent : float, default=1.0
        The s of Zipf's law, positive.
    random_state : int, RandomState instance or None, default=None
        What to draw with.

    Returns
    -------
    Bunch
        - data : CSR matrix of int64, shape (n_samples, n_features), canonical
        - rates : ndarray of shape (n_features,), the mean count of each column

    Raises
    ------
    ValueError
        If an argument is out of range, or if `nnz` entries would need counts beyond
        1e15 in the first column.

    See Also
    --------
    make_topics : Counts with topics to be found.

    Examples
    --------
    >>> from skdeepfactor.datasets import make_zipf_counts
    >>> planted = make_zipf_counts(1000, 500, 20_000, random_state=0)
    >>> planted.data.shape, abs(planted.data.nnz - 20_000) < 600
    ((1000, 500), True)
    """
    _check_sizes(n_samples=n_samples, n_features=n_features, nnz=nnz)
    _check_positive(exponent=exponent)
    if nnz >= n_samples * n_features:
        raise ValueError(
            f"nnz must be below n_samples * n_features = {n_samples * n_features}, "
            f"got {nnz}."
        )
    rng = check_random_state(random_state)
    rates = _zipf_rates(nnz / n_samples, n_features, exponent)

    # Columns that fill more than a third of their rows are drawn cell by cell. In the
    # others few draws hit a cell twice, so that drawing cells wastes next to nothing.
    n_full = int(np.count_nonzero(rates > 0.4))
    triples = []
    index = np.int32 if max(n_samples, n_features) < 2**31 else np.int64
    for part in _blocks(n_full, n_samples):
        size = (part.stop - part.start, n_samples)
        block = rng.poisson(rates[part, np.newaxis], size)
        columns, rows = np.nonzero(block)
        counts = block[columns, rows].astype(np.int64, copy=False)
        columns += part.start
        triples.append((rows.astype(index), columns.astype(index), counts))
    n_draws = rng.poisson(n_samples * rates[n_full:])
    columns = np.repeat(np.arange(n_full, n_features, dtype=index), n_draws)
    rows = rng.randint(0, n_samples, size=columns.size, dtype=index)
    triples.append((rows, columns, np.ones(columns.size, dtype=np.int64)))

    rows, columns, counts = map(np.concatenate, zip(*triples, strict=True))
    shape = (n_samples, n_features)
    data = _csr_type()(sp.coo_array((counts, (rows, columns)), shape=shape))
    data.sum_duplicates()
    return Bunch(data=data, rates=rates)


def _zipf_rates(n_filled, n_features, exponent):
    """Return Zipf's rates by which a row has `n_filled` filled cells on average."""
    log_ranks = np.log(np.arange(1, n_features + 1))

    def excess(log_first):
        with np.errstate(over="ignore"):
            rates = np.exp(log_first - exponent * log_ranks)
        return -np.expm1(-rates).sum() - n_filled

    # A column fills no more cells than it has counts, and no less than the rarest one.
    low = np.log(n_filled / np.exp(-exponent * log_ranks).sum())
    high = np.log(-np.log1p(-n_filled / n_features)) + exponent * log_ranks[-1]
    log_first = brentq(excess, low - 1, high + 1)
    if log_first > np.log(1e15):
        raise ValueError(
            f"So many entries need counts beyond 1e15 in the first column: expected a "
            f"smaller nnz or exponent, got {n_filled:g} of {n_features} entries in a "
            f"row and exponent={exponent}."
        )
    return np.exp(log_first - exponent * log_ranks)


def _dirichlet(rng, concentration, size):
    # By logarithms: gammas of small shape underflow, and a row of zeros has no sum.
    log_gamma = np.log(rng.gamma(concentration + 1, size=size))
    log_gamma -= rng.standard_exponential(size) / concentration
    gamma = np.exp(log_gamma - log_gamma.max(axis=1, keepdims=True))
    return gamma / gamma.sum(axis=1, keepdims=True)


def _blocks(n_rows, width):
    """Yield slices that cover the rows, each of some four million cells at most."""
    step = max(1, 2**22 // width)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def _stack(blocks, sparse):
    if not sparse:
        return np.concatenate([block.astype(np.int64, copy=False) for block in blocks])
    rows = [sp.csr_array(block.astype(np.int64, copy=False)) for block in blocks]
    return _csr_type()(sp.vstack(rows, format="csr"))


def _csr_type():
    if get_config().get("sparse_interface") == "sparray":
        return sp.csr_array
    return sp.csr_matrix


def _check_sizes(**sizes):
    for name, value in sizes.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")


def _check_positive(**values):
    for name, value in values.items():
        if not isinstance(value, Real) or not 0 < value < np.inf:
            raise ValueError(f"{name} must be a positive number, got {value!r}.")
