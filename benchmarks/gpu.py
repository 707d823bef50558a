"""Seconds of a pass on CPU and GPU, and how near that is to what memory allows.

Synthetic Zipf counts (10,000 columns, 100 nonzeros a row), K=100, for every estimator,
with its own defaults except ``max_iter``: the median of ``history_["seconds"]`` but
for the first pass, each in a fresh process. Neural models get a tenth of the nonzeros.

"moved" is what a pass of a closed-form model must move at least, in one inner step:
the nonzeros (8 bytes) twice, and for each nonzero the K factors of its feature, once
for the product at the nonzeros, once for the rows' statistics, and once more to add to
the features' statistics (4 K bytes each), and the rows' factors read and written. The
roofline is that over the bandwidth of the device, which is measured by a copy of 1 GiB
(256 MiB on the CPU); "share" is roofline / seconds of an inner step. Aim: a third.

Where torch sees no GPU, the lines of the GPU say so.

--first-hour: what to run first on a machine with a GPU, in ten minutes at most. The
tests of the torch layer with ``--device cuda``, for four minutes at most, if there is a
GPU; the passes above on a tenth of the nonzeros; and "agreement": every estimator is
fitted on the CPU, and its transform and bounds of rows on each device, in float32 and
float64, are compared with those of the CPU in float64, as the largest difference
relative to the largest value.
"""

import argparse
import itertools
import subprocess
import sys
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
# The tests that compare numbers of torch, those of a device among them.
TESTS = (
    *("ops", "conjugate", "gaussian", "likelihoods", "topics"),
    *("bounds_by_particles", "contract"),
)
TEST_SECONDS = 240


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


def agree(meter, path, estimator, parameters, devices):
    """Fit on the CPU, and compare what devices and types infer with it."""
    import torch

    import skdeepfactor

    X = sparse.load_npz(path)[:2000].astype(np.float64)
    kind = getattr(skdeepfactor, estimator)
    est = kind(max_iter=2, tol=None, random_state=0, **parameters).fit(X)

    def inferred(device, dtype):
        est.set_params(device=device)
        rows = X.astype(dtype)
        return est.transform(rows), est.score_samples(rows)

    exact, found = inferred("cpu", np.float64), {}
    for device, dtype in itertools.product(devices, ("float32", "float64")):
        if device == "cuda" and not torch.cuda.is_available():
            found["note"] = "not compared: torch sees no GPU here"
            continue
        pairs = zip(inferred(device, dtype), exact, strict=True)
        for name, (values, true) in zip(("transform", "bound"), pairs, strict=True):
            error = np.abs(values - true).max() / np.abs(true).max()
            found[f"{device} {dtype} {name}"] = float(error)
    return found


def run_tests(seconds=TEST_SECONDS):
    """Run the tests of the torch layer on the GPU; say how they ended."""
    import torch

    if not torch.cuda.is_available():
        return "tests not run: torch sees no GPU here"
    folder = Path(__file__).parents[1]
    names = [f"tests/test_{name}.py" for name in TESTS]
    command = [sys.executable, "-m", "pytest", "-q", "--device", "cuda", *names]
    try:
        process = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return f"cut short after {seconds} s"
    return "\n".join(process.stdout.strip().splitlines()[-20:])


def compare_devices(devices, n_nonzeros):
    """Print and return how far devices and types are from the CPU in float64."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "counts.npz")
        n_samples = max(20, n_nonzeros // 100)
        write_counts(
            path, {"n_samples": n_samples, "n_features": 1000, "nnz": n_nonzeros}
        )
        for estimator, parameters in {**CLOSED, **DEEP, **NEURAL}.items():
            asked = {"path": path, "estimator": estimator, "devices": devices}
            asked["parameters"] = parameters
            found = measure.run("benchmarks.gpu:agree", asked)
            rows.append({"estimator": estimator, **found})
    columns = [
        " ".join(parts)
        for parts in itertools.product(
            devices, ("float32", "float64"), ("transform", "bound")
        )
    ]
    measure.print_table(
        ["agreement", *columns],
        [
            [
                row["estimator"],
                *(f"{row[name]:.1e}" if name in row else "-" for name in columns),
            ]
            for row in rows
        ],
    )
    measure.print_notes(rows, "estimator")
    return rows


def main(argv):
    """Measure every estimator on both devices and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nonzeros", type=int, default=10_000_000)
    parser.add_argument("--devices", nargs="+", default=["cpu", "cuda"])
    parser.add_argument("--first-hour", action="store_true", help="see above")
    chosen = parser.parse_args(argv)
    rows = []
    if chosen.first_hour:
        print(run_tests() if "cuda" in chosen.devices else "no tests without cuda")
        chosen.nonzeros //= 10
        rows = compare_devices(chosen.devices, min(chosen.nonzeros, 200_000))
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
    passes = [row for row in rows if "device" in row]
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
            for row in passes
        ],
    )
    measure.print_notes(passes, "estimator")
    measure.write_results("gpu", argv, rows)
