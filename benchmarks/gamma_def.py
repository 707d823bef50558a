"""Sparse gamma deep exponential families: bounds against seconds, and predictions.

Each contender runs alone in a fresh process (`measure`). Seconds include the model's
start, but neither imports nor the evaluation of the bound; a fit ends with the first
pass beyond ``--seconds``, or earlier where its tolerance says so. They are of the wall
clock; where other work shares the machine, ``--threads 1 --clock process`` counts the
seconds that this process computed.

ELBO
    The evidence lower bound of the training data and its standard error, by
    `monte_carlo`: draws of all factors and weights from q, and all densities by
    torch.distributions and SciPy, nothing of this package and nothing left out. Beside
    it the estimator's own ``lower_bound_``, and whether the two agree within four
    standard errors of their difference. "closed" is the bound with auxiliary counts.
olivetti
    Faces (`x_train`), 100-40-15, the defaults, ``covariance_type="full"`` and
    ``solver="auxiliary"``.
depth
    1, 2 and 3 layers, after a third of the seconds, and with tol=1e-5 in at most ten
    times as many.
families
    Two layers, 40-15, by gradients with posteriors of each family, of each image and by
    a network, ``--max-iter`` passes (150 by default), beside the closed forms. Seconds
    of ``transform`` are those of the test images, for 1,000 rows.
pyro
    Ours and a log-normal guide in Pyro, by Adam with one draw a step, after a twelfth,
    a sixth, a third, two thirds and all of the seconds. Step size and first scale are
    the best of those tried for Pyro (.01 to .1, e^-3 and e^-1.5; .05 is less stable).
nips
    Words of NIPS papers (nips305_ars, train), CSR, from both kinds of clusters.
images
    Test images; q is fitted to the whole image under the weights found on the training
    images. Mean over 100 draws of factors and weights of log p(x | z, W) a pixel; and
    of factors alone, with the weights at their mean.
text
    20news_2000: plug-in completion perplexity of the test rows. The settings of each
    contender are those of its grid that do best on a tenth of the training rows, drawn
    with seed 1; it is then fitted to all of them, and the test rows are used once.
layers
    Whether upper layers carry themes: 3,000 training rows of 20news_2000 and of
    nyt_topmost, 60 passes from clusters of rows. The bound a row, the completion
    perplexity of 500 validation rows, and the effective number of units of each layer,
    exp of the entropy of their shares of the counts explained. "planted": rows drawn
    from the model itself, with 20 themes of five topics each.
cells
    pbmc1k_v3, a fifth of the molecules held out by binomial thinning (seed 0): mean log
    likelihood of a cell's held-out counts, Poisson with a quarter of the fitted rates,
    and of a held-out molecule, multinomial; rates are at least 1e-4 in training. The
    settings are chosen by thinning the training molecules once more.
"""

import argparse
import time
from unittest import mock

import numpy as np
from scipy import sparse

from benchmarks import data, measure

SHAPE, TOP_RATE, WEIGHT_RATE = 0.1, 0.1, 0.3
MOMENTS = (1 / 12, 1 / 6, 1 / 3, 2 / 3, 1)
LAYERS = {"one layer": (100,), "two layers": (100, 40), "three layers": (100, 40, 15)}
FLOOR = 1e-4
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}

# By section and contender the arguments of `bound`; "share" is that of the seconds.
BOUNDS = {
    "olivetti": {
        "defaults": {"corpus": "olivetti"},
        "full": {"corpus": "olivetti", "parameters": {"covariance_type": "full"}},
        "auxiliary": {"corpus": "olivetti", "parameters": {"solver": "auxiliary"}},
    },
    "depth": {
        f"{name}, {moment}": {
            "corpus": "olivetti",
            "share": share,
            "parameters": {"layer_sizes": sizes, "tol": 1e-5},
        }
        for moment, share in (("equal time", 1 / 3), ("converged", 10))
        for name, sizes in LAYERS.items()
    },
    "pyro": {
        f"ours, {share:.2f}": {"corpus": "olivetti", "share": share}
        for share in MOMENTS
    },
    "nips": {
        init: {"corpus": "nips305_ars", "parameters": {"init": init}}
        for init in ("parts", "kmeans")
    },
}
BOUND_COLUMNS = {
    "fit s": ("train_seconds", 1),
    "passes": ("passes", 0),
    "ELBO": ("elbo", 0),
    "error": ("error", 0),
    "lower_bound_": ("lower_bound", 0),
    "its error": ("lower_bound_error", 0),
    "agrees": ("agrees", 0),
    "closed": ("closed", 0),
}

# By contender the sizes and shapes of layers of "layers".
CARRIED = {
    "one layer": ((50,), 0.1),
    "one unit above": ((50, 1), 0.1),
    "three above": ((50, 3), 0.1),
    "two layers": ((50, 20), 0.1),
    "three layers": ((50, 20, 8), 0.1),
    "three layers, shapes .3, .1, .1": ((50, 20, 8), (0.3, 0.1, 0.1)),
    "three layers, shapes 1": ((50, 20, 8), 1.0),
    "planted, one unit above": ((50, 1), 0.1),
    "planted, two layers": ((50, 20), 0.1),
}

# Settings to choose from, on rows or molecules that are not the test's.
GRIDS = {
    "text": {
        "three layers": [
            {"layer_sizes": (100, 30, 15), "init": init, "max_iter": n_passes}
            for init in ("kmeans", "parts")
            for n_passes in (50, 100, 200)
        ],
        "one layer": [
            {"layer_sizes": (100,), "init": init, "max_iter": n_passes}
            for init in ("kmeans", "parts")
            for n_passes in (50, 100, 200)
        ],
        "PoissonFactorization": [{"n_components": 100}],
    },
    "cells": {
        # With layer_shape=.1 and 200 passes, 40 units and clusters of rows did worse.
        "three layers": [
            {"layer_sizes": (20, 10, 4), "layer_shape": shape, "max_iter": n_passes}
            for shape in (0.1, 1.0)
            for n_passes in (200, 400)
        ],
        "one layer": [
            {"layer_sizes": (20,), "layer_shape": shape, "max_iter": n_passes}
            for shape in (0.1, 1.0)
            for n_passes in (200, 400)
        ],
        "NMF": [
            {"n_components": k, "max_iter": n_passes}
            for k in (5, 10, 20, 40)
            for n_passes in (50, 200)
        ],
    },
}
SCORES = {"text": ("completion", -1), "cells": ("poisson", 1)}


class Clock:
    """A callback of scikit-learn's that ends a fit after some seconds."""

    def __init__(self, seconds, clock):
        self.seconds, self.now = seconds, CLOCKS[clock]

    def setup(self, estimator, context):
        """Start the clock."""
        self.start = self.now()

    def on_fit_task_begin(self, estimator, context):
        """Nothing to do before a pass."""

    def on_fit_task_end(self, estimator, context):
        """Note when a pass ended, and say whether time is up."""
        if context.task_name == "pass":
            self.elapsed = self.now() - self.start
        return self.elapsed >= self.seconds

    def teardown(self, estimator, context):
        """Nothing to tidy up."""


def matrix(corpus):
    """Training data of a corpus, float32, dense for images."""
    if corpus == "olivetti":
        return faces("x_train")
    return data.counts(corpus, "train").astype(np.float32)


def faces(split):
    """Images of faces, one to a row."""
    with np.load(data.folder() / "olivetti" / "olivetti.npz") as arrays:
        return arrays[split].astype(np.float32)


def fitted(X, seconds, clock, seed, **parameters):
    """The estimator, its seconds of training, its module, the factors of the rows.

    An estimator forgets what it inferred of the rows that it was fitted to, so it is
    caught on its way to the bound.
    """
    import torch

    from skdeepfactor import SparseGammaDEF
    from skdeepfactor._math.batch import Batch, to_tensor
    from skdeepfactor.models.sparse_gamma_def.closed import GammaBelief

    caught = []
    data_bound = GammaBelief.data_bound

    def catch(module, batches):
        caught[:] = [start for _, start in batches()]
        return data_bound(module, batches)

    clock = Clock(seconds, clock)
    est = SparseGammaDEF(
        **{"max_iter": 10**6, "random_state": seed, **parameters}
    ).set_callbacks(clock)
    with mock.patch.object(GammaBelief, "data_bound", catch):
        est.fit(X)
    module = est._load(torch.float32)
    with torch.no_grad():
        if not caught:
            x = to_tensor(X, slice(None), dtype=torch.float32, device="cpu")
            caught = [module._pack(module.posterior(Batch(x)).factors)]
        factors = module._unpack(torch.cat(caught))
    return est, clock.elapsed, module, factors


class InverseGaussian:
    """SciPy's generalised inverse Gaussian, with the methods of a torch distribution.

    The density is proportional to y^(order - 1) exp(-rho y - tau / y).
    """

    def __init__(self, order, rho, tau):
        rho, tau = rho.double().numpy(), tau.double().numpy()
        self.parameters = (order, 2 * np.sqrt(rho * tau))
        self.scale = np.sqrt(tau / rho)

    def sample(self, shape=()):
        """Draws, an array of shape + the parameters' shape."""
        import torch
        from scipy.stats import geninvgauss

        size = (*shape, *self.scale.shape)
        draws = geninvgauss.rvs(
            *self.parameters,
            scale=self.scale,
            size=size,
            random_state=int(torch.randint(2**31, ())),
        )
        return torch.from_numpy(draws)

    def log_prob(self, value):
        """Log density of each value."""
        import torch
        from scipy.stats import geninvgauss

        values = value.numpy()
        return torch.from_numpy(
            geninvgauss.logpdf(values, *self.parameters, scale=self.scale)
        )


class LogNormals:
    """Gammas of which some are correlated log-normals, by torch.distributions.

    ``logs`` are a ``CorrelatedLogs``, of which only the precisions of logarithms and
    their places are used. The array may be transposed.
    """

    def __init__(self, gamma, logs, is_transposed=False):
        import torch
        from torch.distributions import MultivariateNormal

        self.gamma, self.is_transposed, self.blocks = gamma, is_transposed, []
        for block, (factor, _) in zip(logs.blocks, logs.factors, strict=True):
            covariance = torch.cholesky_inverse(factor)
            variance = covariance.diagonal(dim1=1, dim2=2)
            mean = torch.where(block.is_in, block.mean.log() - variance / 2, 0.0)
            place = block.rows[:, None].expand_as(block.columns), block.columns
            normal = MultivariateNormal(mean, precision_matrix=factor @ factor.mT)
            self.blocks.append((place, block.is_in, normal))

    def _by_row(self, values):
        return values.T if self.is_transposed else values

    def sample(self):
        """A draw of the array."""
        draw = self.gamma.sample()
        values = self._by_row(draw)
        for place, is_in, normal in self.blocks:
            values[place] = normal.sample().exp().where(is_in, values[place])
        return draw

    def log_prob(self, value):
        """Log density: of gammas, and of log-normals the sum in their first place."""
        result = self.gamma.log_prob(value)
        density, values = self._by_row(result), self._by_row(value)
        for (rows, columns), is_in, normal in self.blocks:
            logs = values[rows, columns].log().where(is_in, 0.0)
            of_padding = 0.5 * np.log(2 * np.pi) * (~is_in).sum(1)
            density[rows, columns] = density[rows, columns].where(~is_in, 0.0)
            own = normal.log_prob(logs) - logs.sum(1) + of_padding
            density[rows[:, 0], columns[:, 0]] += own
        return result


def posterior(module, factors, X=None):
    """Distributions of the factors of each layer, and of the weights below each.

    With correlated posteriors, which depend on the rows X.
    """
    import torch
    from torch.distributions import Gamma

    from skdeepfactor._math.batch import Batch
    from skdeepfactor.models.sparse_gamma_def import drawn_bound

    def gamma(shape, mean):
        shape, mean = shape.double(), mean.double()
        return Gamma(shape, shape / mean)

    def uppers(values):
        return [InverseGaussian(SHAPE, value.rho, value.tau) for value in values]

    weights = gamma(module.lowest.weight_concentration.T, module.lowest.weight_mean.T)
    lowest = gamma(factors.shape, factors.mean)
    if module.is_correlated:
        batch, local = Batch(torch.from_numpy(dense(X))), module._pack(factors)
        logs = drawn_bound.correlated_weights(module, lambda: [(batch, local)])
        weights = LogNormals(weights, logs, is_transposed=True)
        logs = drawn_bound.correlated_rows(module, batch, factors)
        lowest = LogNormals(lowest, logs)
    return (
        [lowest, *uppers(factors.uppers)],
        [weights, *uppers(module.uppers)],
    )


def log_joint(x, factors, weights):
    """Log density of counts, of factors from the data to the top, and of weights."""
    import torch
    from torch.distributions import Gamma, Poisson

    # Else these distributions would round what they are given to float32.
    shape, top_rate, weight_rate = torch.tensor(
        [SHAPE, TOP_RATE, WEIGHT_RATE], dtype=torch.float64
    )
    terms = [
        Poisson(factors[0] @ weights[0]).log_prob(x),
        Gamma(shape, top_rate).log_prob(factors[-1]),
        *(Gamma(shape, weight_rate).log_prob(w) for w in weights),
    ]
    for below, above, w in zip(factors[:-1], factors[1:], weights[1:], strict=True):
        terms.append(Gamma(shape, shape / (above @ w)).log_prob(below))
    return sum(term.sum() for term in terms)


def monte_carlo(X, q_factors, q_weights, n_draws, seed):
    """The evidence lower bound of counts, and its standard error, by draws from q."""
    import torch

    torch.manual_seed(seed)
    x = torch.from_numpy(dense(X).astype(np.float64))
    both = [*q_factors, *q_weights]
    drawn = [
        q.sample((n_draws,)) if isinstance(q, InverseGaussian) else None for q in both
    ]
    bounds = []
    for draw in range(n_draws):
        values = [
            q.sample() if draws is None else draws[draw]
            for q, draws in zip(both, drawn, strict=True)
        ]
        log_q = sum(q.log_prob(v).sum() for q, v in zip(both, values, strict=True))
        n_layers = len(q_factors)
        log_p = log_joint(x, values[:n_layers], values[n_layers:])
        bounds.append(float(log_p - log_q))
    return mean_and_error(bounds)


def mean_and_error(values):
    """The mean of draws and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)


def dense(X):
    """The array of a sparse matrix, or what is one already."""
    return X.toarray() if sparse.issparse(X) else X


def bound(meter, corpus, seconds, clock, seed, n_draws, parameters):
    """Fit for some seconds, and evaluate the bound."""
    X = matrix(corpus)
    est, train_seconds, module, factors = fitted(X, seconds, clock, seed, **parameters)
    elbo, error = monte_carlo(X, *posterior(module, factors, X), n_draws, seed)
    lower_bound_error = est.lower_bound_std_error_
    is_drawn = lower_bound_error > 0
    difference = abs(elbo - est.lower_bound_)
    agrees = difference < 4 * np.hypot(error, lower_bound_error)
    return {
        "train_seconds": train_seconds,
        "passes": est.n_iter_,
        "elbo": elbo,
        "error": error,
        "lower_bound": est.lower_bound_ if is_drawn else None,
        "lower_bound_error": lower_bound_error if is_drawn else None,
        "agrees": int(agrees) if is_drawn else None,
        "closed": float(est.score_samples(X).sum() - module.global_kl()),
        "history": est.history_["lower_bound"],
        "median_pass_seconds": float(np.median(est.history_["seconds"])),
    }


def families(meter, parameters, max_iter, seed):
    """The estimator's own bound of faces after some passes."""
    from skdeepfactor import SparseGammaDEF

    parameters = {"max_iter": max_iter, "tol": 0, "random_state": seed, **parameters}
    est = SparseGammaDEF((40, 15), **parameters)
    with meter("fit"):
        est.fit(faces("x_train"))
    X = faces("x_test")
    with meter("transform"):
        est.transform(X)
    return {
        "transform_per_1000": 1000 * meter.seconds["transform"] / len(X),
        "passes": est.n_iter_,
        "lower_bound": est.lower_bound_,
        "lower_bound_error": est.lower_bound_std_error_,
    }


def images(meter, seconds, clock, seed, n_draws=100):
    """Log likelihood of test images at draws of q, a pixel."""
    import torch
    from torch.distributions import Poisson

    from skdeepfactor._math.batch import Batch, to_tensor

    _, train_seconds, module, _ = fitted(faces("x_train"), seconds, clock, seed)
    X = faces("x_test")
    x = to_tensor(X, slice(None), dtype=torch.float32, device="cpu")
    torch.manual_seed(seed)
    with torch.no_grad():
        q_factors, q_weights = posterior(module, module.posterior(Batch(x)).factors)
        draws = []
        for _ in range(n_draws):
            z = q_factors[0].sample()
            draws.append(
                [
                    float(Poisson(z @ weights).log_prob(x.double()).mean())
                    for weights in (q_weights[0].sample(), q_weights[0].mean)
                ]
            )
    drawn, at_mean = zip(*draws, strict=True)
    per_pixel, error = mean_and_error(drawn)
    return {
        "train_seconds": train_seconds,
        "per_pixel": per_pixel,
        "pixel_error": error,
        "at_mean": mean_and_error(at_mean)[0],
    }


def pyro(meter, moments, clock, seed, n_draws, learning_rate):
    """The bound of a log-normal guide in Pyro after each of some seconds."""
    import pyro
    import torch
    from pyro import distributions as dist
    from pyro.infer import SVI, Trace_ELBO
    from pyro.optim import Adam

    x = torch.from_numpy(faces("x_train"))
    n_samples, n_features = x.shape
    sizes = LAYERS["three layers"]
    z_shapes = {f"z{layer}": (n_samples, size) for layer, size in enumerate(sizes)}
    w_shapes = {
        f"w{layer}": (size, below)
        for layer, (size, below) in enumerate(
            zip(sizes, (n_features, *sizes[:-1]), strict=True)
        )
    }
    # Rates of about the size of the counts, and upper layers of about that of z0.
    level = float((x.mean() / sizes[0]).sqrt())
    starts = {"z0": level, "w0": level}

    def drawn(name, distribution):
        return pyro.sample(name, distribution.to_event(2))

    def model():
        weights = [
            drawn(name, dist.Gamma(SHAPE, WEIGHT_RATE).expand(shape))
            for name, shape in w_shapes.items()
        ]
        z = drawn("z2", dist.Gamma(SHAPE, TOP_RATE).expand(z_shapes["z2"]))
        z = drawn("z1", dist.Gamma(SHAPE, SHAPE / (z @ weights[2])))
        z = drawn("z0", dist.Gamma(SHAPE, SHAPE / (z @ weights[1])))
        pyro.sample("x", dist.Poisson(z @ weights[0]).to_event(2), obs=x)

    def guide():
        for name, shape in {**w_shapes, **z_shapes}.items():
            middle = np.log(starts.get(name, 0.3))
            start = middle + 0.3 * torch.randn(shape)
            location = pyro.param(f"{name} location", start)
            log_scale = pyro.param(f"{name} log scale", torch.full(shape, -3.0))
            drawn(name, dist.LogNormal(location, log_scale.exp()))

    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    optimizer = Adam({"lr": learning_rate, "betas": (0.9, 0.99)})
    inference = SVI(model, guide, optimizer, loss=Trace_ELBO())
    curve, elapsed, n_steps, now = [], 0.0, 0, CLOCKS[clock]
    for moment in moments:
        begin = now()
        while elapsed + now() - begin < moment:
            inference.step()
            n_steps += 1
        elapsed += now() - begin
        elbo, error = mean_and_error(
            [-inference.evaluate_loss() for _ in range(n_draws)]
        )
        curve.append(
            {
                "train_seconds": elapsed,
                "passes": n_steps,
                "elbo": elbo,
                "error": error,
            }
        )
    return {"curve": curve}


def text(meter, name, parameters, seed, is_test):
    """Completion perplexity of validation or of test rows, and themes."""
    import skdeepfactor
    from skdeepfactor.metrics import completion_perplexity

    X = data.counts("20news_2000", "train").astype(np.float32)
    if is_test:
        test = data.counts("20news_2000", "test")
    else:
        order = np.random.RandomState(1).permutation(X.shape[0])
        n_valid = X.shape[0] // 10
        X, test = X[order[n_valid:]], X[order[:n_valid]].astype(int)
    is_deep = name != "PoissonFactorization"
    make = skdeepfactor.SparseGammaDEF if is_deep else skdeepfactor.PoissonFactorization
    est = make(random_state=seed, **parameters)
    with meter("fit"):
        est.fit(X)
    completion = completion_perplexity(est, test, random_state=0)
    return {
        "completion": completion,
        "themes": themes(est, X[::10]) if is_deep and is_test else [],
    }


def uses(est, X):
    """By layer, the shares of its units in the counts of X, and what they contribute.

    A unit's use is its share of the counts that all units of its layer explain.
    """
    sizes = [len(weights) for weights in est.weights_]
    units = est.set_params(transform_layer="all").transform(X)
    est.set_params(transform_layer=1)
    units = np.split(units, np.cumsum(sizes)[:-1], axis=1)
    below, found = None, []
    for of_layer, weights in zip(units, est.weights_, strict=True):
        below = weights if below is None else weights @ below
        use = of_layer.mean(0) * below.sum(1)
        found.append((use / use.sum(), below))
    return found


def layers(meter, name, corpus, sizes, shape, seed, n_rows=3000, max_iter=60):
    """Bound, completion, and how many units of each layer are in use."""
    from scipy.special import entr

    from skdeepfactor import SparseGammaDEF
    from skdeepfactor.metrics import completion_perplexity

    X = data.counts(corpus, "train").astype(np.float32)
    order = np.random.RandomState(1).permutation(X.shape[0])
    n_valid = X.shape[0] // 10
    X, valid = X[order[n_valid:]][:n_rows], X[order[:n_valid]][:500].astype(int)
    settings = {"init": "kmeans", "max_iter": max_iter, "tol": None}
    if name.startswith("planted"):
        X = planted(SparseGammaDEF((50,), random_state=seed, **settings).fit(X), n_rows)
    est = SparseGammaDEF(sizes, layer_shape=shape, random_state=seed, **settings)
    with meter("fit"):
        est.fit(X)
    in_use = [np.exp(entr(use).sum()) for use, _ in uses(est, X)]
    found = {f"layer_{layer}": in_use[layer - 1] for layer in range(1, len(sizes) + 1)}
    if not name.startswith("planted"):
        found["completion"] = completion_perplexity(est, valid, random_state=0)
    return {"of_row": est.lower_bound_ / X.shape[0], **found}


def planted(est, n_rows):
    """Rows of about 100 words, from 20 themes of five of a model's topics each."""
    rng = np.random.default_rng(0)
    topics = est.components_ / est.components_.sum(1, keepdims=True)
    themes = np.full((20, len(topics)), 0.003)
    for theme in themes:
        theme[rng.choice(len(topics), 5, replace=False)] = 1
    mean = rng.gamma(0.3, 1, (n_rows, 20)) @ themes
    units = rng.gamma(SHAPE, mean / SHAPE)
    X = rng.poisson(units @ topics * (100 / units.sum(1).mean()))
    return X[X.sum(1) > 0].astype(np.float32)


def themes(est, X, n_words=8):
    """The words of each unit above the first layer that is in use, and its use.

    Its words are those that it has more of than the layer has.
    """
    words = (data.folder() / "20news_2000" / "vocab.txt").read_text().split("\n")
    found = []
    for layer, (use, below) in list(enumerate(uses(est, X)))[1:]:
        shares = below / below.sum(1, keepdims=True)
        scores = shares * np.log(shares / (use @ shares))
        for k in np.argsort(-use)[: (use > 1e-4).sum()]:
            top = " ".join(words[v] for v in np.argsort(-scores[k])[:n_words])
            found.append(f"layer {layer + 1}, {use[k]:.4f}: {top}")
    return found


def thinned(X, seed):
    """Molecules to train on, and a fifth of them held out, each at random."""
    held_out = X.copy()
    held_out.data = np.random.default_rng(seed).binomial(X.data, 0.2)
    rest = X - held_out
    held_out.eliminate_zeros()
    rest.eliminate_zeros()
    return rest, held_out


def cells(meter, name, parameters, seed, is_test):
    """Log likelihood of held-out molecules under plug-in rates."""
    train, test = thinned(data.counts("pbmc1k_v3", "all"), 0)
    if not is_test:
        train, test = thinned(train, 1)
    train = train.astype(np.float32)
    if name == "NMF":
        from sklearn.decomposition import NMF

        est = NMF(
            beta_loss="kullback-leibler", solver="mu", random_state=seed, **parameters
        )
    else:
        from skdeepfactor import SparseGammaDEF

        est = SparseGammaDEF(random_state=seed, **parameters)
    with meter("fit"):
        est.fit(train)
    rates = np.asarray(est.inverse_transform(est.transform(train)), dtype=float)
    return likelihoods(np.maximum(rates, FLOOR), test)


def likelihoods(rates, held_out):
    """Mean log likelihood of a row's held-out counts, and of each of these."""
    from scipy.special import xlogy
    from scipy.stats import poisson

    counts = held_out.toarray()
    shares = rates / rates.sum(1, keepdims=True)
    return {
        "poisson": float(poisson.logpmf(counts, rates / 4).sum(1).mean()),
        "multinomial": float(xlogy(counts, shares).sum() / counts.sum()),
    }


def run(function, contender, chosen, **arguments):
    """Run a contender in a process of its own; what was asked for and what came."""
    arguments["seed"] = chosen.seed
    if function not in (*GRIDS, "families", "layers"):
        arguments["clock"] = chosen.clock
    measured = measure.run(
        f"benchmarks.gamma_def:{function}", arguments, threads=chosen.threads
    )
    return {"contender": contender, **arguments, **measured}


def bound_rows(section, chosen):
    """Yield the bounds of a section's contenders."""
    for contender, setting in BOUNDS[section].items():
        arguments = {"share": 1, "parameters": {}, "n_draws": chosen.draws, **setting}
        arguments["seconds"] = arguments.pop("share") * chosen.seconds
        yield run("bound", contender, chosen, **arguments)


def family_rows(section, chosen):
    """Yield the bounds of the closed forms, and of each family by gradients."""
    settings = {"closed forms": {}} | {
        f"{family}{', network' * amortized}": {
            "solver": "gradient",
            "family": family,
            "amortized": amortized,
        }
        for family in ("gamma", "lognormal", "weibull")
        for amortized in (False, True)
    }
    for contender, parameters in settings.items():
        arguments = {"parameters": parameters, "max_iter": chosen.max_iter or 150}
        yield run("families", contender, chosen, **arguments)


def pyro_rows(section, chosen):
    """Yield the bounds of ours and of Pyro at each moment."""
    yield from bound_rows(section, chosen)
    moments = [share * chosen.seconds for share in MOMENTS]
    arguments = {"moments": moments, "n_draws": chosen.draws}
    row = run("pyro", "Pyro", chosen, learning_rate=chosen.pyro_rate, **arguments)
    yield from (
        {**row, "contender": f"Pyro, {share:.2f}", **at}
        for share, at in zip(MOMENTS, row.pop("curve", [{}]), strict=False)
    )


def image_rows(section, chosen):
    """Yield the likelihood of test images."""
    yield run("images", "defaults", chosen, seconds=chosen.seconds)


def layer_rows(section, chosen):
    """Yield what each number of layers and shape does with each corpus."""
    for corpus in ("20news_2000", "nyt_topmost"):
        for name, (sizes, shape) in CARRIED.items():
            if name.startswith("planted") and corpus != "20news_2000":
                continue
            arguments = {"corpus": corpus, "sizes": sizes, "shape": shape, "name": name}
            if chosen.max_iter is not None:
                arguments["max_iter"] = chosen.max_iter
            yield run("layers", f"{corpus}, {name}", chosen, **arguments)


def grid_rows(section, chosen):
    """Yield each contender's scores over its grid, then the test score of the best."""
    key, sign = SCORES[section]
    for contender, grid in GRIDS[section].items():
        rows = []
        for parameters in grid:
            if chosen.max_iter is not None:
                parameters = {**parameters, "max_iter": chosen.max_iter}
            shown = ", ".join(map(str, parameters.values()))
            arguments = {"name": contender, "parameters": parameters}
            rows.append(
                run(
                    section, f"{contender}: {shown}", chosen, is_test=False, **arguments
                )
            )
            yield rows[-1]
        if chosen.max_iter is not None:
            continue
        best = max(rows, key=lambda row: sign * row.get(key, -sign * np.inf))
        arguments = {"name": contender, "parameters": best["parameters"]}
        row = run(section, f"{contender}, TEST", chosen, is_test=True, **arguments)
        print("\n".join(row.get("themes", [])))
        yield row


SECTIONS = {
    "olivetti": (bound_rows, BOUND_COLUMNS),
    "depth": (bound_rows, BOUND_COLUMNS),
    "families": (
        family_rows,
        {
            "fit s": ("fit_seconds", 1),
            "passes": ("passes", 0),
            "lower_bound_": ("lower_bound", 0),
            "its error": ("lower_bound_error", 0),
            "transform s / 1,000": ("transform_per_1000", 2),
        },
    ),
    "pyro": (pyro_rows, BOUND_COLUMNS),
    "nips": (bound_rows, BOUND_COLUMNS),
    "images": (
        image_rows,
        {
            "fit s": ("train_seconds", 1),
            "nats a pixel": ("per_pixel", 4),
            "error": ("pixel_error", 4),
            "weights at their mean": ("at_mean", 4),
        },
    ),
    "layers": (
        layer_rows,
        {
            "fit s": ("fit_seconds", 1),
            "bound a row": ("of_row", 2),
            "completion": ("completion", 1),
            "layer 1": ("layer_1", 1),
            "layer 2": ("layer_2", 1),
            "layer 3": ("layer_3", 1),
        },
    ),
    "text": (grid_rows, {"fit s": ("fit_seconds", 1), "completion": ("completion", 1)}),
    "cells": (
        grid_rows,
        {
            "fit s": ("fit_seconds", 1),
            "per cell": ("poisson", 2),
            "per molecule": ("multinomial", 4),
        },
    ),
}


def main(argv):
    """Run the sections that were asked for, one contender after the other."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gamma_def",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=30, help="from q, for the ELBO")
    parser.add_argument("--threads", type=int, default=measure.THREADS)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--pyro-rate", type=float, default=0.03, help="step size")
    parser.add_argument(
        "--max-iter",
        type=int,
        help="passes of families, and of text and cells, for a look that leaves the "
        "test alone",
    )
    chosen = parser.parse_args(argv)
    data.folder()
    rows = []
    for section in chosen.only:
        rows_of_section, columns = SECTIONS[section]
        of_section = []
        for row in rows_of_section(section, chosen):
            of_section.append({"section": section, **row})
            # A long run that is cut short keeps what it has.
            measure.write_results("gamma_def", argv, rows + of_section)
        print(f"\n{section}")
        measure.print_contenders(of_section, columns)
        rows += of_section
