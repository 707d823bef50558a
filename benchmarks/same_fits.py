"""Compare what two checkouts fit: `python -m benchmarks same_fits OLD NEW`.

OLD and NEW are the root folders of two checkouts of this repository. Every entry of
`ESTIMATORS` in their `tests/conftest.py`, every exported estimator with its defaults
and every entry of `VARIANTS` below is fitted in both, on the same data with the same
seeds, in float64 and on one thread. Each checkout has a fresh process of its own that
runs this file and imports that checkout alone.

An entry is fitted in several ways (`WAYS`): as it stands, on a dense array, in
minibatches, from blocks of rows, with weights, with validation rows, with restarts,
with a warm start and by `partial_fit`; entries outside of the tests' table in some of
these only. Each fit is compared by the bounds of every pass, all numeric fitted
attributes, and `transform` and `score_samples` of held-out rows; the first two also by
the other methods, `sample` included. Matrices are multiplied from the right by three
random columns, the same in both, so that each row is compared by few numbers.

The difference of two numbers is relative to the larger of the two; in a projected
matrix it is relative to the sum of the absolute values of the row, so that
cancellation does not count as a difference. Printed for each entry are the number of
values, the largest difference and where it is. The exit status is 1 if a difference
exceeds the tolerance in an entry that --may-differ does not name.

Rounding alone, one unit in the last place of every exponential, logarithm, lgamma,
digamma and softmax, came to at most 4e-11, except in NeuralTopicDLGM-deep: its rows
take steps of Adam, which enlarge what is left of vanishing gradients to 1.5e-7.

Entries and parameters that only one checkout has are left out, and notes name them;
further notes name parameters of an entry that the checkouts set differently. A value
that NEW lacks is a difference, one that only NEW has is noted. A fit that raises the
same type of error in both is noted; one that raises in one checkout is a difference.
"""

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from scipy import sparse

TOLERANCE = 1e-10
PASSES = 3
N_TRAIN, N_VALIDATION, N_TEST, N_FEATURES = 60, 15, 15, 30

# What neither the tests' table nor the defaults cover: class and parameters.
VARIANTS = {
    "SparseGammaDEF-bernoulli": (
        "SparseGammaDEF",
        {"layer_sizes": (3, 2), "likelihood": "bernoulli"},
    ),
    "SparseGammaDEF-gradient-bernoulli": (
        "SparseGammaDEF",
        {"layer_sizes": (3, 2), "likelihood": "bernoulli", "solver": "gradient"},
    ),
    "SparseGammaDEF-gradient-gaussian": (
        "SparseGammaDEF",
        {"layer_sizes": (3, 2), "likelihood": "gaussian", "solver": "gradient"},
    ),
    "PoissonFactorization-random": (
        "PoissonFactorization",
        {"n_components": 3, "init": "random"},
    ),
    "LatentDirichletAllocation-random": (
        "LatentDirichletAllocation",
        {"n_components": 3, "init": "random"},
    ),
    "NeuralTopicDLGM-dirichlet_multinomial": (
        "NeuralTopicDLGM",
        {
            "n_components": 3,
            "likelihood": "dirichlet_multinomial",
            "encoder_layers": (8,),
            "refine_steps": 0,
            "free_bits": 0.1,
        },
    ),
    "NeuralTopicDLGM-negative_binomial": (
        "NeuralTopicDLGM",
        {
            "n_components": 3,
            "likelihood": "negative_binomial",
            "encoder_layers": (8,),
            "objective": "renyi",
            "n_particles": 2,
        },
    ),
    "VariationalAutoencoder-bernoulli": (
        "VariationalAutoencoder",
        {
            "n_components": 3,
            "likelihood": "bernoulli",
            "free_bits": 0.1,
            "kl_warmup": 0.5,
        },
    ),
    "VariationalAutoencoder-poisson": (
        "VariationalAutoencoder",
        {
            "n_components": 3,
            "likelihood": "poisson",
            "prior": "mixture",
            "n_pseudo_inputs": 2,
            "objective": "iwae",
            "n_particles": 2,
        },
    ),
    "VariationalSparseCoding-bernoulli": (
        "VariationalSparseCoding",
        {"n_components": 3, "likelihood": "bernoulli", "alpha": 0.3},
    ),
    "VariationalSparseCoding-multinomial": (
        "VariationalSparseCoding",
        {"n_components": 3, "likelihood": "multinomial", "alpha": 0.3},
    ),
}

# Methods of held-out rows, read where an estimator has them.
ROW_METHODS = (
    *("transform", "score_samples", "bound", "predictive", "topic_assignments"),
    *("activations", "predict", "predict_proba", "predict_log_proba"),
)


# In each checkout's process.


def fit_all():
    """Fit one checkout's entries; runs in a process of its own.

    Prints a line of JSON that gives every entry's parameters, reads the names of the
    parameters that may be set of every entry to be fitted, and writes what it finds
    to the file named by the last argument.
    """
    checkout, path = map(Path, sys.argv[1:])
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    import skdeepfactor
    import tests.conftest

    for module in (skdeepfactor, tests.conftest):
        if not Path(module.__file__).resolve().is_relative_to(checkout):
            raise ImportError(f"{module.__file__} is not in {checkout}")
    estimators = _estimators(skdeepfactor, tests.conftest.ESTIMATORS)
    parameters = {
        name: {key: repr(value) for key, value in estimator.get_params().items()}
        for name, estimator in estimators.items()
    }
    print(json.dumps(parameters), flush=True)
    found = {}
    for name, shared in json.loads(sys.stdin.readline()).items():
        estimator = estimators[name]
        if name in VARIANTS:
            ways = FEW_WAYS
        else:
            ways = WAYS if name in tests.conftest.ESTIMATORS else MAIN_WAYS
        for way, values in _ways(estimator, ways, set(shared)):
            found |= {f"{name}|{way}: {key}": value for key, value in values.items()}
    np.savez(path, **found)


def _estimators(package, table):
    """Return the estimators to fit by the name of their entry."""
    from sklearn.base import BaseEstimator

    exported = {name: getattr(package, name) for name in package.__all__}
    classes = {
        name: value
        for name, value in exported.items()
        if isinstance(value, type) and issubclass(value, BaseEstimator)
    }
    few = {"max_iter": PASSES, "random_state": 0}
    wanted = {f"{name}-defaults": (name, few) for name in classes}
    wanted |= {name: (kind, params | few) for name, (kind, params) in VARIANTS.items()}
    estimators = {}
    for name, (kind, params) in wanted.items():
        if kind in classes:
            known = inspect.signature(classes[kind]).parameters
            chosen = {key: value for key, value in params.items() if key in known}
            estimators[name] = classes[kind](**chosen)
    return {**estimators, **table}


def _counts():
    """Return sparse counts of three topics as CSR in float64, and each row's topic.

    Among the training rows are an empty one and an empty column.
    """
    rng = np.random.default_rng(17)
    topics = rng.dirichlet(np.full(N_FEATURES, 0.2), size=3)
    n_rows = N_TRAIN + N_VALIDATION + N_TEST
    shares = rng.dirichlet(np.full(3, 0.3), size=n_rows)
    rates = shares @ topics * rng.gamma(3, 15, (n_rows, 1))
    rates[7] = 0
    rates[:, 11] = 0
    return sparse.csr_matrix(rng.poisson(rates), dtype=np.float64), shares.argmax(1)


def _data_for(parameters):
    """Return CSR, the same dense, perhaps with gaps, and labels, for an estimator."""
    X, y = _counts()
    likelihood = parameters.get("likelihood")
    if likelihood == "bernoulli" and "layer_sizes" in parameters:
        X.data[:] = 1
    elif likelihood == "bernoulli":
        X /= X.max()
    elif likelihood == "gaussian":
        signs = np.where(np.arange(N_FEATURES) % 5 == 0, -1, 1)
        X = sparse.csr_matrix(X.log1p() @ sparse.diags_array(signs))
    dense = X.toarray()
    if parameters.get("missing_values") == "ignore":
        dense[np.random.default_rng(3).random(dense.shape) < 0.1] = np.nan
    return X, dense, y


def _ways(estimator, ways, shared):
    """Yield the names of ways to fit an estimator, each with what came out."""
    X, dense, y = _data_for(estimator.get_params())
    for way in ways:
        fit, changes, is_dense = WAYS[way]
        if not changes.keys() <= shared:
            continue
        model = type(estimator)(**{**estimator.get_params(), **changes})
        if way != "plain" and "max_iter" in shared:
            model.set_params(max_iter=min(PASSES, model.max_iter))
        try:
            given = dense if is_dense else X
            values = fit(model, given[:N_TRAIN], y[:N_TRAIN], given[N_TRAIN:-N_TEST])
            if values is None:
                continue
            values = _readings(model, given[-N_TEST:])
            if way in ("plain", "dense"):
                values |= _more_readings(model, given[-N_TEST:], y[-N_TEST:])
        except Exception as error:  # the other checkout must fail alike
            values = {"error": f"{type(error).__name__}: {error}"}
        yield way, values


def _takes(method, name):
    return name in inspect.signature(method).parameters


def _plainly(model, X, y, X_val):
    return model.fit(X, y)


def _with_validation_rows(model, X, y, X_val):
    return model.fit(X, y, X_val=X_val) if _takes(model.fit, "X_val") else None


def _weighted(model, X, y, X_val):
    if not _takes(model.fit, "sample_weight"):
        return None
    weights = np.random.default_rng(5).choice([0, 0.5, 1, 2, 3], X.shape[0])
    return model.fit(X, y, sample_weight=weights)


def _from_blocks(model, X, y, X_val):
    from skdeepfactor.data import RowBlocks

    # Labels come with rows; models that need them read no blocks.
    return model.fit(RowBlocks([X[:13], X[13:40], X[40:]]))


def _with_restarts(model, X, y, X_val):
    # Starts from k-means end alike, so that rounding would decide which is kept.
    if "init" in model.get_params():
        model.set_params(init="random")
    return model.fit(X, y)


def _twice(model, X, y, X_val):
    return model.fit(X, y).fit(X, y)


def _in_parts(model, X, y, X_val):
    classes = {"classes": np.unique(y)} if _takes(model.partial_fit, "classes") else {}
    for start in range(0, X.shape[0], 20):
        rows = slice(start, start + 20)
        model.partial_fit(X[rows], y[rows], **classes)
        classes = {}
    return model


# Functions that fit, each with the parameters it changes and whether data are dense.
# All but the first make few passes; of all but the first two less is read.
WAYS = {
    "plain": (_plainly, {}, False),
    "dense": (_plainly, {}, True),
    "batches": (_plainly, {"batch_size": 16}, True),
    "blocks": (_from_blocks, {"batch_size": 16}, False),
    "weights": (_weighted, {}, False),
    "weighted batches": (_weighted, {"batch_size": 16}, True),
    "validation": (_with_validation_rows, {"n_iter_no_change": 1}, False),
    "restarts": (_with_restarts, {"n_init": 2, "validation_fraction": 0.1}, False),
    "warm start": (_twice, {"warm_start": True}, False),
    "partial_fit": (_in_parts, {}, False),
}
# For variants, and for the classes with their defaults.
FEW_WAYS = ("plain", "dense", "batches")
MAIN_WAYS = (*FEW_WAYS, "weights", "validation", "partial_fit")


def _readings(model, X):
    """Return what is compared of every fitted model, as arrays by name."""
    values = {
        name: value
        for name, value in vars(model).items()
        if name.endswith("_") and not name.startswith("_")
    }
    history = values.pop("history_", {})
    values |= {f"history_ {k}": v for k, v in history.items() if k != "seconds"}
    return _numbers({**values, **_of_rows(model, X, ROW_METHODS[:2])})


def _more_readings(model, X, y):
    """Return what the other methods of a fitted model give, as arrays by name."""
    values = _of_rows(model, X, ROW_METHODS[2:])
    if hasattr(model, "inverse_transform"):
        values["inverse_transform"] = model.inverse_transform(model.transform(X))
    if hasattr(model, "score"):
        values["score"] = model.score(X, y)
    if hasattr(model, "score_samples") and _takes(model.score_samples, "metric"):
        values["score_samples iwae"] = model.score_samples(
            X, metric="iwae", n_particles=5
        )
    if hasattr(model, "perplexity"):
        values["perplexity"] = np.array(
            [model.perplexity(X, average=kind) for kind in ("document", "corpus")]
        )
    if hasattr(model, "sample"):
        values["sample"] = model.sample(10, random_state=0)
    return _numbers(values)


def _of_rows(model, X, methods):
    return {name: getattr(model, name)(X) for name in methods if hasattr(model, name)}


def _numbers(values):
    """Project what is numbers, or a list of arrays of them, and drop the rest."""
    numbers = {}
    for name, value in values.items():
        is_several = isinstance(value, list) and np.ndim(value[0]) > 0
        parts = value if is_several else [value]
        for i, part in enumerate(parts):
            numbers[f"{name}[{i}]" if is_several else name] = _projected(part)
    return {name: part for name, part in numbers.items() if part is not None}


def _projected(value):
    """Return a matrix times random directions, fewer dimensions as they are.

    A last column holds each row's sum of absolute values, the size that differences
    are relative to. None stands for what is not numbers.
    """
    value = np.asarray(value.toarray() if sparse.issparse(value) else value)
    if value.dtype.kind not in "biuf":
        return None
    value = value.astype(np.float64)
    if value.ndim < 2:
        return value
    directions = np.random.default_rng(0).uniform(0.5, 1, (value.shape[-1], 3))
    return np.concatenate([value @ directions, np.abs(value).sum(-1)[..., None]], -1)


# In the process that compares.


def difference(old, new):
    """Return the largest relative difference of two arrays of `_projected`.

    Infinite where the shapes differ, or where only one has a NaN or an infinity.
    """
    if old.shape != new.shape:
        return np.inf
    scale = np.fmax(np.abs(old), np.abs(new))
    if old.ndim > 1:
        scale = scale[..., -1:]
    is_same = (old == new) | (np.isnan(old) & np.isnan(new))
    with np.errstate(all="ignore"):
        relative = np.where(is_same, 0.0, np.abs(old - new) / scale)
    return float(np.nan_to_num(relative, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _start(checkout, path):
    """Start the process of a checkout, which writes what it finds to `path`."""
    from benchmarks.measure import THREAD_VARIABLES

    environment = {
        **os.environ,
        **dict.fromkeys(THREAD_VARIABLES, "1"),
        "PYTHONPATH": str(checkout),
        "PYTHONHASHSEED": "0",
    }
    return subprocess.Popen(
        # Without -P this file's folder would stand before the checkout on the path.
        [sys.executable, "-P", Path(__file__).resolve(), checkout, path],
        cwd=checkout,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _fit_both(checkouts, only, may_differ):
    """Fit in both checkouts; return all parameters and all that was found, by each."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{side}.npz" for side in ("old", "new")]
        children = [_start(*pair) for pair in zip(checkouts, paths, strict=True)]
        # A process that failed has printed nothing.
        old, new = (json.loads(child.stdout.readline() or "{}") for child in children)
        unknown = {*only, *may_differ} - old.keys() - new.keys()
        shared = {
            name: sorted(old[name].keys() & new[name].keys())
            for name in old
            if name in new and not unknown and (not only or name in only)
        }
        # One after the other: together they would use two threads.
        for child in children:
            child.communicate(json.dumps(shared) + "\n")
        for child, checkout in zip(children, checkouts, strict=True):
            if child.returncode:
                raise SystemExit(f"{checkout}: exit status {child.returncode}")
        if unknown:
            names = ", ".join(sorted(unknown))
            raise SystemExit(f"no such entry: {names}. Entries: {', '.join(old)}")
        return old, new, *map(_by_entry, paths)


def _by_entry(path):
    """Return what a process has found: by entry, then by place."""
    found = {}
    with np.load(path) as file:
        for key, value in file.items():
            name, _, place = key.partition("|")
            found.setdefault(name, {})[place] = value
    return found


def _changes(old, new):
    """Say which parameters of an entry differ between two checkouts."""
    changes = [f"{key} only in OLD" for key in old if key not in new]
    changes += [f"{key} only in NEW" for key in new if key not in old]
    changes += [
        f"{key}: {old[key]} -> {new[key]}"
        for key in old
        if key in new and old[key] != new[key]
    ]
    return changes


def compare(old, new):
    """Compare what was found of one entry, values by place, "way: name".

    Returns
    -------
    differences : dict
        The largest relative difference at each place.
    n_values : int
        How many numbers were compared.
    notes : list of str
        What is to be said of errors and of what is missing.
    """
    differences, n_values, notes = {}, 0, []
    failed = set()
    for place in sorted(old.keys() | new.keys()):
        way, _, name = place.partition(": ")
        if name != "error":
            continue
        failed.add(way)
        texts = [str(side[place]) if place in side else "" for side in (old, new)]
        types = {text.partition(":")[0] for text in texts}
        differences[place] = 0.0 if len(types) == 1 else np.inf
        where = " and ".join(
            side for side, text in zip(("OLD", "NEW"), texts, strict=True) if text
        )
        notes.append(f"{way}: {texts[0] or texts[1]} (in {where})")
    for place in sorted(old.keys() | new.keys()):
        if place.partition(": ")[0] in failed:
            continue
        if place not in old:
            notes.append(f"{place}: only in NEW")
        elif place not in new:
            notes.append(f"{place}: only in OLD")
            differences[place] = np.inf
        else:
            differences[place] = difference(old[place], new[place])
            n_values += old[place].size
    return differences, n_values, notes


def main(argv):
    """Fit in both checkouts, print the differences, exit with 1 if one is too large."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks same_fits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", type=Path, metavar="OLD", help="root of a checkout")
    parser.add_argument("new", type=Path, metavar="NEW", help="root of another")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help="default: %(default)s"
    )
    parser.add_argument(
        "--may-differ",
        nargs="+",
        default=[],
        metavar="NAME",
        help="entries whose differences are printed but do not count",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="entries to fit; all by default",
    )
    options = parser.parse_args(argv)
    checkouts = [options.old.resolve(), options.new.resolve()]
    old, new, found_old, found_new = _fit_both(
        checkouts, options.only, options.may_differ
    )
    rows, failures, notes = [], 0, []
    for name in old:
        if name not in new or (options.only and name not in options.only):
            continue
        differences, n_values, said = compare(
            found_old.get(name, {}), found_new.get(name, {})
        )
        said = [*_changes(old[name], new[name]), *said]
        notes += [f"{name}: {note}" for note in said]
        worst = max(differences, key=differences.get, default="-")
        # Where nothing could be compared, nothing was shown to be the same.
        largest = differences[worst] if n_values else np.inf
        verdict = "same"
        if largest > options.tolerance:
            verdict = "may differ" if name in options.may_differ else "DIFFERENT"
        failures += verdict == "DIFFERENT"
        where = worst if largest else "-"
        rows.append([name, str(n_values), f"{largest:.2g}", verdict, where])
    notes += [f"{name}: only in OLD" for name in old if name not in new]
    notes += [f"{name}: only in NEW" for name in new if name not in old]
    from benchmarks import measure

    measure.print_table(["entry", "values", "difference", "verdict", "where"], rows)
    print(*notes, sep="\n", end="\n" if notes else "")
    print(
        f"{failures} of {len(rows)} entries differ by more than {options.tolerance:g}"
    )
    raise SystemExit(1 if failures or not rows else 0)


if __name__ == "__main__":
    fit_all()
