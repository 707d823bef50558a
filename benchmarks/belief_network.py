"""Poisson-gamma belief networks: held-out words, depth, seconds of a sweep.

completion
    20news_sh, whose test rows are split 80/20: training rows and the observed part of
    test rows are fitted together, and the perplexity is that of the hidden part, over
    all its tokens. One layer and three, beside our LDA.
depth
    The protocol of Zhou, Cong and Chen (2016): *all* rows of 20news_2000, of each the
    nearest number to 30 % of its tokens, at least one, to fit; the rest is scored. Five
    layers beside one. Their vocabulary is another, so that only the gain of depth
    compares. ``--every 2`` takes every other row.
sweep
    Seconds of CPU of a sweep of the training rows and observed parts of 20news_sh, one
    layer of 128: the median of those after the first.

"perplexity" is that of ``predictive``: a chain for each row at the fitted weights.
"chain" is had as in that paper: the weights and units that a sweep of training has
drawn, of every fifth one after the burn-in, are multiplied, and averaged.

Every contender runs alone in a fresh process, with two threads or ``--threads``
(`measure`). "fit" is training, its start
included, and the averages of "chain", a product for each of these sweeps.
"""

import argparse
import time
from contextlib import contextmanager, nullcontext

import numpy as np
from scipy import sparse

from benchmarks import data, measure

PARTS = ("completion", "depth", "sweep")

COLUMNS = {
    "fit s": ("fit_seconds", 1),
    "CPU s": ("cpu_seconds", 1),
    "predict s": ("predict_seconds", 1),
    "peak MiB": ("peak_mib", 0),
    "perplexity": ("perplexity", 1),
    "chain": ("chain", 1),
    "top units": ("n_top", 0),
}
SWEEP_COLUMNS = {"tokens": ("n_tokens", 0), "CPU s": ("cpu_seconds", 3)}

# Units of the layers; those of --quick.
COMPLETION = {"one layer": (128,), "three layers": (128, 64, 32)}
DEPTH = {"one layer": 1, "five layers": 5}
QUICK = 4
# Share of the tokens that are fitted in the second protocol.
SEEN = 0.3
# Rows of which predictions are held at a time.
N_ROWS = 1000
# Sweeps after the burn-in, of which one counts in the predictions of the chain.
THINNING = 5


def layers(k, depth):
    """Units of layers that shrink from k: each has four fifths of the one below."""
    return tuple(max(1, round(k * 0.8**layer)) for layer in range(depth))


def tokens_seen(X, seed):
    """Tokens to fit, and the others, of each row: a share drawn without repetition."""
    rng = np.random.default_rng(seed)
    X = sparse.csr_matrix(X, dtype=np.int64)
    seen = X.copy()
    for start, stop in zip(X.indptr[:-1], X.indptr[1:], strict=True):
        counts = X.data[start:stop]
        total = counts.sum()
        n_seen = min(total, max(1, round(SEEN * total)))
        seen.data[start:stop] = rng.multivariate_hypergeometric(counts, n_seen)
    hidden = X - seen
    seen.eliminate_zeros()
    hidden.eliminate_zeros()
    return seen, sparse.csr_matrix(hidden)


def perplexity(model, observed, hidden):
    """Perplexity of hidden tokens, given the observed ones of the same rows."""
    log_p = 0.0
    for start in range(0, observed.shape[0], N_ROWS):
        rows = slice(start, start + N_ROWS)
        if hasattr(model, "predictive"):
            expected = model.predictive(observed[rows])
        else:
            expected = model.inverse_transform(model.transform(observed[rows]))
        expected = expected / expected.sum(axis=1, keepdims=True)
        part = hidden[rows].tocoo()
        log_p += part.data @ np.log(expected[part.row, part.col])
    return float(np.exp(-log_p / hidden.sum()))


class Chain:
    """Predictions of hidden tokens by the draws of training, averaged over sweeps.

    ``hidden``, (n_hidden, n_features), are those of the last rows that are fitted.
    """

    def __init__(self, hidden, n_rows, n_burn_in):
        self.hidden = sparse.csr_matrix(hidden)
        self.n_rows, self.n_burn_in, self.n_sweeps = n_rows, n_burn_in, 0
        self.expected = np.zeros(self.hidden.nnz)
        self.totals = np.zeros(self.hidden.shape[0])

    @contextmanager
    def watched(self):
        """Note the draws of all sweeps of training that count, within the block."""
        from skdeepfactor.models.poisson_gamma_belief_network import module

        drawn_units, start = module.drawn_units, 0

        def noted(layers, totals, state, keys, stream, **options):
            nonlocal start
            found = drawn_units(layers, totals, state, keys, stream, **options)
            # Chains of new rows, and of the last bounds, have other streams.
            if stream == 0:
                n_kept = self.n_sweeps - self.n_burn_in
                if n_kept >= 0 and n_kept % THINNING == 0:
                    self.take(found[0].draws[0], layers.weights[0], start)
                start = (start + len(totals)) % self.n_rows
            return found

        after_step = module.PoissonGammaLayers.after_step

        def counted(layers):
            nonlocal start
            after_step(layers)
            self.n_sweeps, start = self.n_sweeps + 1, 0

        module.drawn_units, module.PoissonGammaLayers.after_step = noted, counted
        try:
            yield
        finally:
            module.drawn_units = drawn_units
            module.PoissonGammaLayers.after_step = after_step

    def take(self, units, weights, start):
        """Add the rates of a sweep, of the rows that come from ``start`` on."""
        import torch

        from skdeepfactor._math.ops import csr, product_at

        first = start - (self.n_rows - self.hidden.shape[0])
        units = units[max(0, -first) :]
        if len(units) == 0:
            return
        rows = slice(max(0, first), max(0, first) + len(units))
        part = self.hidden[rows]
        pattern = csr(
            torch.from_numpy(part.indptr),
            torch.from_numpy(part.indices),
            torch.zeros(part.nnz, dtype=weights.dtype),
            part.shape,
        )
        rates = product_at(pattern, units.to(weights.dtype), weights.T).values()
        entries = slice(*self.hidden.indptr[[rows.start, rows.stop]])
        self.expected[entries] += rates.double().numpy()
        self.totals[rows] += units.sum(1).numpy()

    def perplexity(self):
        """Perplexity of the hidden tokens."""
        totals = np.repeat(self.totals, np.diff(self.hidden.indptr))
        log_p = self.hidden.data @ np.log(self.expected / totals)
        return float(np.exp(-log_p / self.hidden.sum()))


def split_of(protocol, seed, quick, every=1):
    """Rows to fit, rows observed among them, and their hidden tokens."""
    if protocol == "completion":
        train, observed, hidden = (
            data.counts("20news_sh", name).astype(np.int32)
            for name in ("train", "test_observed", "test_hidden")
        )
        return sparse.vstack([train, observed]).tocsr(), observed, hidden
    both = [data.counts("20news_2000", name) for name in ("train", "test")]
    X = sparse.vstack(both).tocsr()[::every]
    if quick:
        X = X[:60]
    seen, hidden = tokens_seen(X, seed)
    return seen, seen, hidden


def contend(meter, protocol, layer_sizes, parameters, seed, quick, every):
    """Fit and score one model; LDA if it has no layers; in its own process."""
    from skdeepfactor import LatentDirichletAllocation, PoissonGammaBeliefNetwork

    train, observed, hidden = split_of(protocol, seed, quick, every)
    if quick:
        parameters = {"max_iter": 2}
        n_draws = {} if layer_sizes is None else {"n_draws": 2}
        parameters |= n_draws
    if layer_sizes is None:
        model = LatentDirichletAllocation(random_state=seed, **parameters)
    else:
        model = PoissonGammaBeliefNetwork(
            tuple(layer_sizes), random_state=seed, **parameters
        )
    results, chain = {}, None
    if layer_sizes is not None:
        n_burn_in = model.n_burn_in or model.max_iter // 2
        chain = Chain(hidden, train.shape[0], n_burn_in)
    started = time.process_time()
    with meter("fit"), nullcontext() if chain is None else chain.watched():
        model.fit(train)
    results["cpu_seconds"] = time.process_time() - started
    if chain is not None:
        results |= {"chain": chain.perplexity(), "n_top": int(model.n_active_[-1])}
    with meter("predict"):
        results["perplexity"] = perplexity(model, observed, hidden)
    return results


def sweep(meter, k, n_sweeps, seed):
    """Time sweeps; runs in its own process."""
    from skdeepfactor import PoissonGammaBeliefNetwork
    from skdeepfactor.models.poisson_gamma_belief_network.module import (
        PoissonGammaLayers,
    )

    train, _, _ = split_of("completion", seed, quick=False)
    times = []
    after_step = PoissonGammaLayers.after_step

    def noted(module):
        after_step(module)
        times.append(time.process_time())

    PoissonGammaLayers.after_step = noted
    try:
        model = PoissonGammaBeliefNetwork((k,), max_iter=n_sweeps, random_state=seed)
        with meter("fit"):
            model.fit(train)
    finally:
        PoissonGammaLayers.after_step = after_step
    return {
        "n_tokens": int(train.sum()),
        "cpu_seconds": float(np.median(np.diff(times))),
    }


def main(argv):
    """Run the parts that were asked for, one after the other."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks belief_network",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--only", nargs="+", help="contenders, such as 'one layer'")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--k", type=int, default=100, help="lowest units of depth")
    parser.add_argument("--every", type=int, default=1, help="of rows in depth")
    parser.add_argument("--threads", type=int, default=measure.THREADS)
    parser.add_argument("--max-iter", type=int, default=300)
    parser.add_argument("--n-burn-in", type=int, default=150)
    parser.add_argument("--n-draws", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="toy sizes, two sweeps")
    chosen = parser.parse_args(argv)
    data.folder()
    results = []
    parameters = {
        name: getattr(chosen, name) for name in ("max_iter", "n_burn_in", "n_draws")
    }

    def run(function, setting, label):
        place = f"benchmarks.belief_network:{function}"
        measured = measure.run(place, setting, threads=chosen.threads)
        results.append({"contender": label, **setting, **measured})
        # A long run that is cut short keeps what it has.
        measure.write_results("belief_network", argv, results, seeds=chosen.seeds)
        return results[-1]

    def compare(protocol, contenders):
        rows = []
        for label, sizes in contenders.items():
            if chosen.only and label not in chosen.only:
                continue
            k = contenders["one layer"][0]
            for seed in chosen.seeds:
                setting = {
                    "protocol": protocol,
                    "layer_sizes": sizes,
                    "parameters": {"n_components": k} if sizes is None else parameters,
                    "seed": seed,
                    "quick": chosen.quick,
                    "every": chosen.every,
                }
                rows.append(run("contend", setting, label))
        print(f"\n{protocol}")
        measure.print_contenders(rows, COLUMNS)

    if "completion" in chosen.parts:
        sizes = dict(COMPLETION)
        if chosen.quick:
            sizes = {name: layers(QUICK, len(size)) for name, size in sizes.items()}
        compare("completion", {**sizes, "LDA": None})
    if "depth" in chosen.parts:
        k = QUICK if chosen.quick else chosen.k
        compare("depth", {name: layers(k, depth) for name, depth in DEPTH.items()})
    if "sweep" in chosen.parts:
        k, n_sweeps = (QUICK, 3) if chosen.quick else (128, 12)
        rows = [
            run("sweep", {"k": k, "n_sweeps": n_sweeps, "seed": seed}, "a sweep")
            for seed in chosen.seeds[:1]
        ]
        print("\nsweep")
        measure.print_contenders(rows, SWEEP_COLUMNS)
