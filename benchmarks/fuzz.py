"""The contract, on many ugly matrices: `python -m benchmarks fuzz [--examples N]`.

Draws matrices as the tests do (`tests.test_contract.matrices`), with fresh seeds, and
checks that whatever comes out of each estimator of the table is finite and in range.
Rows are inferred to a tolerance of .01 at best, which takes a third of the time where
the default is finer; the tests draw 100 matrices with the default.
"""

import argparse
import time

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.conftest import ESTIMATORS
from tests.test_contract import check_outputs, fresh, matrices


def main(argv):
    """Run the fuzzer over every estimator."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks fuzz")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=ESTIMATORS, default=ESTIMATORS)
    options = parser.parse_args(argv)
    for name in options.only:
        started = time.perf_counter()
        n_tried = _fuzz(ESTIMATORS[name], options.examples, options.seed)
        seconds = time.perf_counter() - started
        print(f"{name}: {n_tried} matrices, no failure, {seconds:.0f} s", flush=True)


def _fuzz(estimator, n_examples, number):
    n_tried = 0
    changes = {"max_iter": 2}
    if "inner_tol" in estimator.get_params():
        changes["inner_tol"] = max(0.01, estimator.inner_tol)

    @seed(number)
    @settings(
        max_examples=n_examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(X=matrices(), n_components=st.integers(1, 10))
    def check(X, n_components):
        nonlocal n_tried
        n_tried += 1
        check_outputs(fresh(estimator, n_components=n_components, **changes), X)

    check()
    return n_tried
