"""Passes of NeuralTopicDLGM over wide vocabularies, against a floor.

Each step of training needs at least one dense softmax over all columns, forward and
backward, for the decoder, and an encoder of sparse rows, forward and backward. The
floor is a pass of just these, on the same rows, in batches of the same size, without
an optimizer. The ratio is that of the last pass of a fit to the floor, in wall seconds;
the two are measured in alternation.

zipf
    Synthetic counts (``make_zipf_counts``): 5,000 rows, a hundred nonzeros a row,
    50,000 and 100,000 columns.
gowalla
    Visits of 29,858 users to 40,981 places.
"""

import argparse
import time

import numpy as np
import torch
from scipy import sparse

from benchmarks import data, measure

SHAPES = {"zipf_50": (5000, 50_000), "zipf_100": (5000, 100_000)}
PARTS = (*SHAPES, "gowalla")
SETTINGS = {"n_components": 50, "tol": None, "random_state": 0}


def counts(part, n_rows=None):
    """Rows of a part, float32 CSR."""
    from skdeepfactor.datasets import make_zipf_counts

    if part == "gowalla":
        X = data.counts("gowalla", "train")
    else:
        shape = SHAPES[part]
        X = make_zipf_counts(*shape, 100 * shape[0], random_state=0).data
    return sparse.csr_matrix(X[:n_rows], dtype=np.float32)


def floor_seconds(X, n_components, batch_size):
    """Seconds of a pass of an encoder and a dense softmax, both with gradients."""
    from skdeepfactor._math.batch import to_tensor
    from skdeepfactor._math.networks import Encoder

    n_features = X.shape[1]
    generator = torch.Generator().manual_seed(0)
    encoder = Encoder(n_features, (400, 400), n_components, dropout=0.0)
    encoder.initialize(generator)
    weight = 0.1 * torch.randn(n_features, n_components, generator=generator)
    weight.requires_grad_()
    bias = torch.zeros(n_features, requires_grad=True)
    like = {"dtype": torch.float32, "device": torch.device("cpu")}
    begun = time.perf_counter()
    for start in range(0, X.shape[0], batch_size):
        batch = to_tensor(X, slice(start, start + batch_size), **like)
        mean, _ = encoder(batch)
        log_shares = torch.log_softmax(torch.addmm(bias, mean, weight.T), 1)
        of_entries = log_shares[*entries(batch)] @ batch.values()
        of_entries.backward()
        for parameter in (*encoder.parameters(), weight, bias):
            parameter.grad = None
    return time.perf_counter() - begun


def entries(batch):
    """Rows and columns of the entries of a CSR batch."""
    from skdeepfactor._math.ops import row_indices

    return row_indices(batch), batch.col_indices().long()


def contend(meter, part, n_rows, settings, repeats):
    """Alternate floors and fits of two passes; ratios and bounds of the second."""
    from skdeepfactor import NeuralTopicDLGM

    X = counts(part, n_rows)
    model = NeuralTopicDLGM(**{**SETTINGS, **settings})
    meter.mark()
    floors, passes = [], []
    for _ in range(repeats):
        floors.append(floor_seconds(X, model.n_components, model.batch_size))
        with meter("fit"):
            model.fit(X)
        passes.append(model.history_["seconds"][-1])
    ratios = np.array(passes) / floors
    return {
        "floor_seconds": float(np.median(floors)),
        "pass_seconds": float(np.median(passes)),
        "ratio": float(np.median(ratios)),
        "ratios": ratios.tolist(),
        "bound": model.lower_bound_ / X.sum(),
    }


def main(argv):
    """Measure the passes of some parts."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks wide",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rows", type=int, help="the first rows alone")
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    measure.add_settings(parser, "--set", "all settings")
    chosen = parser.parse_args(argv)
    settings = dict(chosen.set)
    settings["max_iter"] = chosen.passes
    rows = []
    for part in chosen.only:
        asked = {"part": part, "n_rows": chosen.rows, "repeats": chosen.repeats}
        asked["settings"] = settings
        found = measure.run("benchmarks.wide:contend", asked, threads=chosen.threads)
        rows.append({"data": part, **asked, **found})
    keys = ("floor_seconds", "pass_seconds", "ratio", "bound", "peak_mib")
    measure.print_table(
        ["data", "floor s", "pass s", "ratio (<= 3)", "nats a word", "peak MiB"],
        [
            [row["data"], *(measure.spread([row], key, 3) for key in keys)]
            for row in rows
        ],
    )
    measure.print_notes(rows, "data")
    measure.write_results("wide", argv, rows, seeds=[0], settings=SETTINGS)
