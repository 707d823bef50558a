"""Count data from the folder that SKDEEPFACTOR_DATA names."""

import os
import sys
from pathlib import Path

import numpy as np
from scipy import sparse


def folder():
    """Return the data folder, or say that it is not set and exit with 2."""
    if "SKDEEPFACTOR_DATA" not in os.environ:
        print(
            "SKDEEPFACTOR_DATA is not set: it must name the folder that holds the "
            "benchmark data (20news_2000, lastfm_hetrec2k, ...).",
            file=sys.stderr,
        )
        raise SystemExit(2)
    return Path(os.environ["SKDEEPFACTOR_DATA"])


def counts(name, split, *, n_rows=None):
    """Load a split as CSR; with `n_rows`, that many of its rows, drawn with seed 0.

    Files are sorted by class, so the first rows would not do as a subset.
    """
    X = sparse.csr_matrix(sparse.load_npz(folder() / name / f"{split}.npz"))
    if n_rows is not None and n_rows < X.shape[0]:
        rng = np.random.default_rng(0)
        X = X[np.sort(rng.choice(X.shape[0], n_rows, replace=False))]
    return X
