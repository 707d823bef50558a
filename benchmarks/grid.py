"""Time a grid search in two processes against one.

``GridSearchCV(n_jobs=2)`` against ``n_jobs=1`` for this package's LDA, over
n_components on 20 Newsgroups, three folds and a refit. Each runs in a fresh process;
the time is that of ``GridSearchCV.fit``, the start of the workers included. The
number of threads is left to torch and joblib, as a user has it: setting
OMP_NUM_THREADS would override joblib's limit of threads per worker. The ratio of the
times, n_jobs=2 / n_jobs=1, must be at most 1; both must choose and score alike.
"""

import argparse

import numpy as np

from benchmarks import data, measure


def search(meter, n_jobs, rows, k, max_iter):
    """Search once; runs in its own process."""
    from sklearn.model_selection import GridSearchCV

    from skdeepfactor import LatentDirichletAllocation

    X = data.counts("20news_2000", "train", n_rows=rows)
    parameters = {} if max_iter is None else {"max_iter": max_iter}
    est = LatentDirichletAllocation(random_state=0, **parameters)
    grid = GridSearchCV(
        est, {"n_components": k}, n_jobs=n_jobs, cv=3, error_score="raise"
    )
    with meter("fit"):
        grid.fit(X)
    return {
        "best": grid.best_params_,
        "scores": grid.cv_results_["mean_test_score"].tolist(),
    }


def main(argv):
    """Time both searches and print the ratio."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks grid",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, help="training rows; all unless given")
    parser.add_argument("--k", nargs="+", type=int, default=[20, 50, 100, 200])
    parser.add_argument("--max-iter", type=int, help="the estimator's unless given")
    parser.add_argument("--repeats", type=int, default=1)
    chosen = parser.parse_args(argv)
    data.folder()
    setting = {"rows": chosen.rows, "k": chosen.k, "max_iter": chosen.max_iter}
    rows = []
    for _ in range(chosen.repeats):
        for n_jobs in (1, 2):
            asked = {"n_jobs": n_jobs, **setting}
            measured = measure.run("benchmarks.grid:search", asked, threads=None)
            rows.append({**asked, **measured})
    measure.print_table(
        ["n_jobs", "seconds", "torch threads", "best"],
        [
            [
                str(row["n_jobs"]),
                measure.spread([row], "fit_seconds", 1),
                measure.spread([row], "torch_threads", 0),
                str(row.get("best", {}).get("n_components", "-")),
            ]
            for row in rows
        ],
    )
    measure.print_notes(rows, "n_jobs")
    one, two = ([r for r in rows if r["n_jobs"] == n_jobs] for n_jobs in (1, 2))
    ratio = measure.mean(two, "fit_seconds") / measure.mean(one, "fit_seconds")
    print(f"n_jobs=2 / n_jobs=1: {ratio:.2f} (must be at most 1)")
    if all("scores" in row for row in rows):
        apart = np.ptp([row["scores"] for row in rows], axis=0).max()
        print(f"largest difference of a mean test score between searches: {apart:.2g}")
    measure.write_results("grid", argv, rows, seeds=[0], ratio=ratio)
