"""Time and memory of one contender, alone in a fresh process.

A contender is a function ``f(meter, **arguments)`` that returns a JSON-able dict.
`run` starts a new interpreter for it, with two threads for OpenMP, MKL and OpenBLAS
(and so for torch), and waits: one contender at a time. Variables that have OpenBLAS
take other kernels than it would choose are unset. The kernels that were used, and the
machine's load before the run, are among the results. In there, the blocks under
``with meter("fit"):`` are timed by the wall clock, and the peak of resident memory
over all blocks is taken relative to a baseline: the resident memory where the first
block begins, or where `meter.mark` was called. Contenders import and convert data to
their own format before that, so that neither counts.

On Linux the peak is the kernel's own high-water mark, reset where a block begins.
Where it may not be reset, a thread reads resident memory every 5 ms, and can miss
a peak inside a call that holds the interpreter's lock.
"""

import ast
import ctypes
import gc
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

THREADS = 2
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# These change the kernels of NumPy and SciPy, and so the peers', more than ours.
KERNEL_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
PACKAGES = (
    *("skdeepfactor", "numpy", "scipy", "scikit-learn", "torch"),
    *("tomotopy", "gensim", "hpfrec", "poismf", "pyro-ppl"),
)
MIB = 2**20


def resident(field="VmRSS"):
    """Resident memory of this process in bytes: now, or with "VmHWM" its peak."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", status).group(1))


class Meter:
    """Seconds of named blocks and the peak of resident memory above a baseline."""

    def __init__(self):
        self.seconds = {}
        self.peak = 0
        self.baseline = None

    def mark(self):
        """Take the present resident memory as the baseline."""
        gc.collect()
        if sys.platform == "linux":
            # What the allocator has kept after a free would hide later allocations.
            ctypes.CDLL(None).malloc_trim(0)
        self.baseline = resident()

    @contextmanager
    def __call__(self, name):
        """Measure a block."""
        if self.baseline is None:
            self.mark()
        with peak_memory() as peak:
            start = time.perf_counter()
            yield
            self.seconds[name] = time.perf_counter() - start
        self.peak = max(self.peak, peak[0])

    def results(self):
        """Return seconds per block and the peak above the baseline in MiB."""
        seconds = {f"{name}_seconds": value for name, value in self.seconds.items()}
        if self.baseline is None:
            return seconds
        return {**seconds, "peak_mib": (self.peak - self.baseline) / MIB}


@contextmanager
def peak_memory():
    """Yield a list whose only entry is, after the block, its peak in bytes."""
    peak = [resident()]
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        done = threading.Event()

        def sample():
            while not done.wait(0.005):
                peak[0] = max(peak[0], resident())

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            yield peak
        finally:
            done.set()
            sampler.join()
    else:
        yield peak
        peak[0] = resident("VmHWM")


def run(contender, arguments, *, threads=THREADS):
    """Run a contender in a fresh process and return its results.

    Parameters
    ----------
    contender : str
        ``module:function``.
    arguments : dict
        Keyword arguments of the function; JSON-able.
    threads : int or None
        Threads per process; None leaves the libraries to their own defaults.

    Returns
    -------
    results : dict
        What the function returned, with what its meter measured, and the load of the
        machine before, as its mean number of busy processes in the last minute. Where
        it failed or a package is missing: the reason only, under "note".
    """
    environment = dict(os.environ)
    for name in KERNEL_VARIABLES:
        environment.pop(name, None)
    load = os.getloadavg()[0]
    if threads is not None:
        environment.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        code = "from benchmarks.measure import child; child()"
        process = subprocess.run(
            [sys.executable, "-c", code, contender, json.dumps(arguments), answer],
            cwd=Path(__file__).parents[1],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if answer.exists():
            return {**json.loads(answer.read_text()), "load": load}
    print(process.stderr, file=sys.stderr)
    last = (process.stderr.strip().splitlines() or ["no message"])[-1]
    return {"note": f"failed with exit status {process.returncode}: {last}"}


def child():
    """Run the contender that `run` named and write its results; the child's side."""
    contender, arguments, path = sys.argv[1:]
    module, function = contender.split(":")
    meter = Meter()
    try:
        results = getattr(importlib.import_module(module), function)(
            meter, **json.loads(arguments)
        )
    except ModuleNotFoundError as error:
        results = {"note": f"{error.name} is not installed"}
    else:
        results = {**results, **meter.results()}
    results["blas"] = blas_kernels()
    if "torch" in sys.modules:
        results["torch_threads"] = sys.modules["torch"].get_num_threads()
    Path(path).write_text(json.dumps(results, default=float))


def blas_kernels():
    """The BLAS libraries in this process, with the kernels that they have chosen."""
    from threadpoolctl import threadpool_info

    found = {
        " ".join(
            str(library[key])
            for key in ("internal_api", "version", "architecture")
            if library.get(key)
        )
        for library in threadpool_info()
        if library["user_api"] == "blas"
    }
    return ", ".join(sorted(found)) or "none seen"


def setting(text):
    """Name and value of an argument NAME=VALUE, the value in Python."""
    name, value = text.split("=", 1)
    return name, ast.literal_eval(value)


def add_settings(parser, flag, whose):
    """Add an argument of several NAME=VALUE: a list of pairs, empty by default."""
    parser.add_argument(
        flag,
        nargs="+",
        type=setting,
        default=[],
        help=f"NAME=VALUE for {whose}, in Python",
    )


def mean(rows, key):
    """Mean of `key` over the rows that have it, NaN where none has."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return float(np.mean(values)) if values else float("nan")


def spread(rows, key, digits):
    """Write the mean, and with several seeds the standard deviation, of `key`."""
    values = [row[key] for row in rows if row.get(key) is not None]
    if not values:
        return "-"
    text = f"{np.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {np.std(values, ddof=1):.{digits}f}"


def print_table(header, rows):
    """Print rows of strings in aligned columns, the first to the left."""
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for first, *others in table:
        cells = map(str.rjust, others, widths[1:])
        print("  ".join([first.ljust(widths[0]), *cells]))


def print_contenders(rows, columns):
    """Print one line per contender, means over seeds, and below them the notes.

    `columns` maps a title to the key in the rows and the number of decimals.
    """
    table = []
    for name in dict.fromkeys(row["contender"] for row in rows):
        runs = [row for row in rows if row["contender"] == name]
        cells = [spread(runs, key, digits) for key, digits in columns.values()]
        table.append([name, *cells])
    print_table(["contender", *columns], table)
    print_notes(rows, "contender")
    print_conditions(rows)


def print_conditions(rows):
    """Print the load before the runs, and the BLAS kernels that were used."""
    loads = [row["load"] for row in rows if "load" in row]
    if loads:
        print(f"load before a run: {min(loads):.1f} to {max(loads):.1f}")
    for blas in sorted({row["blas"] for row in rows if "blas" in row}):
        names = dict.fromkeys(
            row["contender"] for row in rows if row.get("blas") == blas
        )
        print(f"BLAS of {', '.join(names)}: {blas}")


def print_notes(rows, key):
    """Print, once each, why contenders have no figures."""
    notes = [f"{row[key]}: {row['note']}" for row in rows if "note" in row]
    print("\n".join(dict.fromkeys(notes)), end="\n" if notes else "")


def write_results(name, argv, rows, *, suffix="", **facts):
    """Write rows, command and machine to ``benchmarks/results/NAME[SUFFIX].json``."""
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    document = {
        "command": shlex.join(["python", "-m", "benchmarks", name, *argv]),
        **facts,
        "machine": machine(),
        "rows": rows,
    }
    path = folder / f"{name}{suffix}.json"
    path.write_text(json.dumps(document, indent=1, default=float) + "\n")
    print(f"written: benchmarks/results/{path.name}")


def machine():
    """Return what of the machine and the packages may matter to the figures."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {
        "python": platform.python_version(),
        "packages": versions,
        "processor": model.group(1) if model else platform.machine(),
        "n_cpus": os.cpu_count(),
        "threads": THREADS,
    }
