"""How time and memory grow with the data, for this package's count models.

Synthetic counts whose columns are as frequent as words (``make_zipf_counts``), float32
with 32-bit indices: eight bytes per nonzero. Each figure comes from a fresh process
with two threads that has fitted a tiny matrix first, so that what is imported and
started on first use is neither in the times nor in the memory.

passes
    ``max_iter=3, tol=0, init="random"``: wall-clock seconds of fit by the number of
    passes, the model's start included. Against nonzeros at K=50, with 100 nonzeros a
    row and 10,000 columns, and against K at a million nonzeros. A slope is that of log
    seconds on log nonzeros (or K): least squares over all points, and between the last
    two, where fixed costs weigh least. 1 is linear. SparseGammaDEF has two layers, of K
    and of K / 2 units.
memory
    100,000 x 50,000, ten million nonzeros. The peak of resident memory in fit above a
    baseline that holds the imports but not the data, against the sum of four parts:
    data (CSR as given), parameters (what the module saves), table (remembered local
    parameters of all rows) and one chunk (the rows worked on at once: their CSR and
    their local parameters). The ratio must be below 2.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy import sparse

from benchmarks import measure

ESTIMATORS = ("PoissonFactorization", "LatentDirichletAllocation")
DEEP = "SparseGammaDEF"
SIZES = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
WIDTHS = (10, 20, 50, 100, 200)
SETTINGS = {"max_iter": 3, "tol": 0, "init": "random", "random_state": 0}
PARTS = ("data", "parameters", "table", "chunk")
KINDS = ("passes", "memory", "streams", "processes")
STREAMED = {"max_iter": 5, "tol": 0, "random_state": 0}
BLOCK, MEMORY_LIMIT = 10_000, 2 * 10**9


def generate(meter, path, n_samples, n_features, nnz):
    """Write the counts to a file, apart from the process that is measured."""
    from skdeepfactor.datasets import make_zipf_counts

    X = make_zipf_counts(n_samples, n_features, nnz, random_state=0).data
    sparse.save_npz(path, sparse.csr_matrix(X, dtype=np.float32), compressed=False)
    return {"nnz": X.nnz}


def write_counts(path, shape):
    """Generate in a process of its own, and stop if that fails."""
    made = measure.run("benchmarks.scale:generate", {"path": path, **shape})
    if "note" in made:
        raise SystemExit(f"the counts could not be made: {made['note']}")
    return {"nnz": made["nnz"]}


def fit(meter, path, estimator, k):
    """Fit an estimator to the counts in a file."""
    import skdeepfactor

    size = {"layer_sizes": (k, k // 2)} if estimator == DEEP else {"n_components": k}
    est = getattr(skdeepfactor, estimator)(**size, **SETTINGS)
    est.fit(sparse.csr_matrix(np.eye(30, 20, dtype=np.float32)))  # imports, threads
    meter.mark()
    X = sparse.load_npz(path)
    with meter("fit"):
        est.fit(X)
    seconds = meter.seconds["fit"] / est.n_iter_
    return {
        "n_iter": est.n_iter_,
        "pass_seconds": seconds,
        "history_seconds": est.history_["seconds"],
        **parts(est, X),
    }


def parts(est, X):
    """Bytes of the four parts that memory is compared with."""
    from skdeepfactor._training.rows import chunks

    module = est._build({"n_features": X.shape[1]})
    rows = next(chunks(X, None, module.local_width))
    csr_bytes = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
    table = module.local_width * X.shape[0] * X.dtype.itemsize
    return {
        "data": csr_bytes,
        "parameters": sum(value.nbytes for value in module.state_dict().values()),
        "table": table,
        "chunk": (csr_bytes + table) * (rows.stop - rows.start) / X.shape[0],
    }


def slopes(sizes, seconds):
    """Slope of log seconds on log size: over all points, and of the last two."""
    if len(sizes) < 2:
        return float("nan"), float("nan")
    x, y = np.log(sizes), np.log(seconds)
    return np.polyfit(x, y, 1)[0], (y[-1] - y[-2]) / (x[-1] - x[-2])


def measure_passes(folder, estimators, sizes, widths, width_size):
    """Time passes over growing data, and with growing K; print and return the rows."""
    rows = []
    for nnz in sorted({*sizes, width_size}):
        path = str(Path(folder) / "counts.npz")
        shape = {"n_samples": nnz // 100, "n_features": 10_000, "nnz": nnz}
        made = write_counts(path, shape)
        ks = {50} if nnz in sizes else set()
        if nnz == width_size:
            ks.update(widths)
        for estimator in estimators:
            for k in sorted(ks):
                asked = {"path": path, "estimator": estimator, "k": k}
                measured = measure.run("benchmarks.scale:fit", asked)
                row = {"estimator": estimator, "k": k, **shape, **made, **measured}
                rows.append({**row, "asked_nnz": nnz})
    measure.print_table(
        ["estimator", "nonzeros", "K", "s/pass"],
        [
            [
                row["estimator"],
                f"{row['nnz']:,}",
                str(row["k"]),
                measure.spread([row], "pass_seconds", 4),
            ]
            for row in rows
        ],
    )
    measure.print_notes(rows, "estimator")
    for estimator in estimators:
        done = [r for r in rows if r["estimator"] == estimator and "note" not in r]
        by_size = [r for r in done if r["k"] == 50 and r["asked_nnz"] in sizes]
        by_width = [r for r in done if r["asked_nnz"] == width_size]
        by_width = sorted(by_width, key=lambda r: r["k"])
        for word, some, key in (("nonzeros", by_size, "nnz"), ("K", by_width, "k")):
            whole, last = slopes(
                [row[key] for row in some], [row["pass_seconds"] for row in some]
            )
            print(f"{estimator}: slope in {word} {whole:.2f}, last two {last:.2f}")
    return rows


def measure_memory(folder, estimators, shape, ks):
    """Compare peaks with the sum of the parts; print and return the rows."""
    path = str(Path(folder) / "counts.npz")
    made = write_counts(path, shape)
    rows = []
    for estimator in estimators:
        for k in ks:
            asked = {"path": path, "estimator": estimator, "k": k}
            row = measure.run("benchmarks.scale:fit", asked)
            if "note" not in row:
                total = sum(row[part] for part in PARTS)
                row["ratio"] = row["peak_mib"] * measure.MIB / total
                row.update({f"{part}_mib": row[part] / measure.MIB for part in PARTS})
            rows.append({"estimator": estimator, "k": k, **shape, **made, **row})
    keys = ("peak_mib", *(f"{part}_mib" for part in PARTS))
    measure.print_table(
        ["estimator", "K", "peak MiB", *PARTS, "ratio (< 2)"],
        [
            [
                row["estimator"],
                str(row["k"]),
                *(measure.spread([row], key, 1) for key in keys),
                measure.spread([row], "ratio", 2),
            ]
            for row in rows
        ],
    )
    measure.print_notes(rows, "estimator")
    return rows


def generate_blocks(meter, folder, n_samples, n_features, nnz):
    """Write the counts in blocks of rows, one file each."""
    from skdeepfactor.datasets import make_zipf_counts

    total = 0
    for number, start in enumerate(range(0, n_samples, BLOCK)):
        n_rows = min(BLOCK, n_samples - start)
        share = nnz * n_rows // n_samples
        X = make_zipf_counts(n_rows, n_features, share, random_state=number).data
        path = f"{folder}/{number:05}.npz"
        sparse.save_npz(path, sparse.csr_matrix(X, dtype=np.float32), compressed=False)
        total += X.nnz
    return {"nnz": total}


def fit_blocks(meter, folder, estimator, k, streamed):
    """Fit an estimator to the blocks of a folder, one by one or all in memory."""
    import skdeepfactor
    from skdeepfactor.data import RowBlocks

    paths = sorted(Path(folder).glob("*.npz"))
    n_features = sparse.load_npz(paths[0]).shape[1]
    init = np.random.default_rng(0).exponential(size=(k, n_features))
    est = getattr(skdeepfactor, estimator)(k, init=init, **STREAMED)
    tiny = getattr(skdeepfactor, estimator)(k, max_iter=1)
    tiny.fit(sparse.csr_matrix(np.eye(30, 20, dtype=np.float32)))  # imports, threads
    if streamed:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    meter.mark()
    if streamed:
        X = RowBlocks(paths)
    else:
        X = sparse.vstack([sparse.load_npz(path) for path in paths], format="csr")
    with meter("fit"):
        est.fit(X)
    return {
        "pass_seconds": float(np.median(est.history_["seconds"][1:])),
        "bound_per_row": est.history_["lower_bound"][-1] / est.n_samples_seen_,
        "resident_mib": measure.resident("VmHWM") / measure.MIB,
    }


def measure_streams(sizes, large):
    """Compare fits of blocks with those in memory; print and return the rows."""
    rows = []
    for nnz in (*sizes, *large):
        shape = {"n_samples": nnz // 100, "n_features": 10_000, "nnz": nnz}
        with tempfile.TemporaryDirectory() as folder:
            asked = {"folder": folder, **shape}
            made = measure.run("benchmarks.scale:generate_blocks", asked)
            for estimator in ESTIMATORS:
                for streamed in (True, False) if nnz in sizes else (True,):
                    asked = {"folder": folder, "estimator": estimator, "k": 50}
                    asked["streamed"] = streamed
                    found = measure.run("benchmarks.scale:fit_blocks", asked)
                    rows.append({**asked, **shape, "nnz": made["nnz"], **found})
                    print(rows[-1], flush=True)
    table = []
    for row in rows:
        same = [r for r in rows if r["nnz"] == row["nnz"]]
        same = [r for r in same if r["estimator"] == row["estimator"]]
        twin = next((r for r in same if not r["streamed"]), None)
        is_compared = row["streamed"] and twin and "note" not in twin
        if is_compared and "note" not in row:
            row["throughput"] = twin["pass_seconds"] / row["pass_seconds"]
            row["gap"] = abs(row["bound_per_row"] / twin["bound_per_row"] - 1)
        table.append(
            [
                row["estimator"],
                f"{row['nnz']:,}",
                "blocks" if row["streamed"] else "memory",
                measure.spread([row], "pass_seconds", 3),
                measure.spread([row], "throughput", 2),
                measure.spread([row], "bound_per_row", 4),
                measure.spread([row], "gap", 7),
                measure.spread([row], "resident_mib", 0),
            ]
        )
    head = ["estimator", "nonzeros", "from", "s/pass", "throughput", "bound/row"]
    measure.print_table([*head, "gap", "resident MiB"], table)
    measure.print_notes(rows, "estimator")
    return rows


def process(path, estimator, k, rank, n_processes, answer):
    """Fit as one of several processes; what ``measure_processes`` starts."""
    import torch

    import skdeepfactor

    torch.set_num_threads(1)
    if n_processes > 1:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{answer}.meet",
            rank=rank,
            world_size=n_processes,
        )
    est = getattr(skdeepfactor, estimator)(k, **{**SETTINGS, "max_iter": 6})
    est.fit(sparse.load_npz(path))
    if rank == 0:
        module = est._load(torch.float32)
        found = {
            "pass_seconds": float(np.median(est.history_["seconds"][1:])),
            "bound": est.history_["lower_bound"][-1],
            "reduced_mb": sum(p.nbytes for p in module.parameters()) / 1e6,
        }
        Path(answer).write_text(json.dumps(found))


def measure_processes(folder, nnz):
    """Compare one process with two; print and return the rows."""
    path = str(Path(folder) / "counts.npz")
    shape = {"n_samples": nnz // 100, "n_features": 10_000, "nnz": nnz}
    made = write_counts(path, shape)
    environment = {**os.environ, **dict.fromkeys(measure.THREAD_VARIABLES, "1")}
    rows = []
    for estimator in ESTIMATORS:
        for n_processes in (1, 2):
            answer = f"{folder}/{estimator}.{n_processes}.json"
            code = "import sys; from benchmarks.scale import process; process("
            code += f"{path!r}, {estimator!r}, 50, int(sys.argv[1]), {n_processes}, "
            code += f"{answer!r})"
            running = [
                subprocess.Popen(
                    [sys.executable, "-c", code, str(rank)], env=environment
                )
                for rank in range(n_processes)
            ]
            if sum(one.wait() for one in running) != 0:
                raise SystemExit("a process failed")
            found = json.loads(Path(answer).read_text())
            rows.append({"estimator": estimator, "processes": n_processes, **found})
        one, two = rows[-2:]
        two["speedup"] = one["pass_seconds"] / two["pass_seconds"]
        two["gap"] = abs(two["bound"] / one["bound"] - 1)
    print(f"{made['nnz']:,} nonzeros, K=50, one thread each")
    measure.print_table(
        ["estimator", "processes", "s/pass", "speedup", "gap of bounds", "reduced MB"],
        [
            [
                row["estimator"],
                str(row["processes"]),
                measure.spread([row], "pass_seconds", 3),
                measure.spread([row], "speedup", 2),
                measure.spread([row], "gap", 9),
                measure.spread([row], "reduced_mb", 1),
            ]
            for row in rows
        ],
    )
    return rows


def main(argv):
    """Measure passes, memory, streams and processes, or some of them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument(
        "--estimators",
        nargs="+",
        choices=[*ESTIMATORS, DEEP],
        default=[*ESTIMATORS, DEEP],
        help="of passes and memory",
    )
    parser.add_argument("--large", action="store_true", help="1e8 nonzeros in blocks")
    parser.add_argument("--quick", action="store_true", help="small data throughout")
    chosen = parser.parse_args(argv)
    shape = {"n_samples": 100_000, "n_features": 50_000, "nnz": 10_000_000}
    sizes, widths, width_size, ks = SIZES, WIDTHS, 1_000_000, (50, 100)
    streams = (1_000_000, 10_000_000)
    if chosen.quick:
        shape = {"n_samples": 5000, "n_features": 2000, "nnz": 200_000}
        sizes, widths, width_size, ks = (10_000, 30_000), (5, 10), 30_000, (10,)
        streams = (200_000, 2_000_000)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        if "passes" in chosen.only:
            rows += measure_passes(folder, chosen.estimators, sizes, widths, width_size)
        if "memory" in chosen.only:
            rows += measure_memory(folder, chosen.estimators, shape, ks)
        if "streams" in chosen.only:
            large = (100_000_000,) if chosen.large else ()
            rows += measure_streams(streams, large)
        if "processes" in chosen.only:
            rows += measure_processes(folder, streams[-1])
    measure.write_results("scale", argv, rows, seeds=[0], settings=SETTINGS)
