"""Seconds of a pass on CPU and GPU, and how near that is to what memory allows.

Synthetic Zipf counts (10,000 columns, 100 nonzeros a row), K=100, for every estimator,
with its own defaults but for ``max_iter``: the median of ``history_["seconds"]`` but
for the first pass, each in a fresh process. Neural models get a tenth of the nonzeros.

"moved" is what a pass of a closed-form model must move at least, in one inner step:
the nonzeros (8 bytes) twice, and for each nonzero the K factors of its feature, once
for the product at the nonzeros, once for the rows' statistics, and once more to add to
the features' statistics (4 K bytes each), and the rows' factors read and written. The
roofline is that over the bandwidth of the device, which is measured by a copy of 1 GiB
(256 MiB on the CPU); "share" is roofline / seconds of an inner step. Aim: a third.

Where torch sees no GPU, the lines of the GPU say so.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from scipy import sparse

from benchmarks import measure
from benchmarks.scale import write_counts

CLOSED = {
    "PoissonFactorization": {"init": "random"},
    "LatentDirichletAllocation": {"init": "random"},
}
NEURAL = {
    "NeuralTopicDLGM": {},
    "VariationalAutoencoder": {"likelihood": "multinomial"},
    "VariationalSparseCoding": {"likelihood": "multinomial"},
}
DEEP = {"SparseGammaDEF": {}}
K = 100


def bandwidth(device, n_bytes):
    """Bytes a second of a copy, reads and writes both counted."""
    import time

    import torch

    source = torch.ones(n_bytes // 4, device=device)
    target = torch.empty_like(source)

    def wait():
        if source.is_cuda:
            torch.cuda.synchronize()

    seconds = []
    for _ in range(6):
        wait()
        start = time.perf_counter()
        target.copy_(source)
        wait()
        seconds.append(time.perf_counter() - start)
    return 2 * n_bytes / min(seconds)


def contend(meter, path, estimator, parameters, device):
    """Fit for a few passes on a device."""
    import torch

    import skdeepfactor

    if device == "cuda" and not torch.cuda.is_available():
        return {"note": "not run: torch sees no GPU here"}
    X = sparse.load_npz(path)
    kind = getattr(skdeepfactor, estimator)
    size = {} if estimator == "SparseGammaDEF" else {"n_components": K}
    est = kind(max_iter=4, tol=0, device=device, random_state=0, **size, **parameters)
    est.fit(X)
    found = {
        "pass_seconds": float(np.median(est.history_["seconds"][1:])),
        "nnz": X.nnz,
    }
    if estimator in CLOSED:
        steps = est.max_inner_iter
        per_step = 2 * 8 * X.nnz + 3 * 4 * K * X.nnz + 2 * 4 * K * X.shape[0]
        rate = bandwidth(device, 2**30 if device == "cuda" else 2**28)
        found["moved_gb"] = steps * per_step / 1e9
        found["bandwidth_gb"] = rate / 1e9
        found["share"] = steps * per_step / rate / found["pass_seconds"]
    return found


def main(argv):
    """Measure every estimator on both devices and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nonzeros", type=int, default=10_000_000)
    parser.add_argument("--devices", nargs="+", default=["cpu", "cuda"])
    chosen = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for models, divisor in ((CLOSED, 1), (DEEP, 1), (NEURAL, 10)):
            nnz = chosen.nonzeros // divisor
            path = str(Path(folder) / f"{nnz}.npz")
            shape = {"n_samples": nnz // 100, "n_features": 10_000, "nnz": nnz}
            write_counts(path, shape)
            for estimator, parameters in models.items():
                for device in chosen.devices:
                    asked = {"path": path, "estimator": estimator, "device": device}
                    asked["parameters"] = parameters
                    found = measure.run("benchmarks.gpu:contend", asked)
                    rows.append({"estimator": estimator, "device": device, **found})
                    print(rows[-1], flush=True)
    measure.print_table(
        ["estimator", "device", "nonzeros", "s/pass", "GB moved", "GB/s", "share"],
        [
            [
                row["estimator"],
                row["device"],
                f"{row.get('nnz', 0):,}",
                measure.spread([row], "pass_seconds", 4),
                measure.spread([row], "moved_gb", 1),
                measure.spread([row], "bandwidth_gb", 1),
                measure.spread([row], "share", 3),
            ]
            for row in rows
        ],
    )
    measure.print_notes(rows, "estimator")
    measure.write_results("gpu", argv, rows)
