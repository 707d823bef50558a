"""Deep latent Gaussian topic models: held-out perplexity, completion, features.

Each setting runs alone in a fresh process with two threads (`measure`). Data:
20news_2000, whose test rows are used once, for the figures below; what is chosen is
chosen on 500 training rows drawn with seed 1, which no setting is fitted to. Documents
are `fit` for the time shown, validation rows left out.

perplexity
    exp(- mean over documents of bound / words), the divergence included, no
    coefficient; posteriors refined at evaluation. "validation" is the same on the 500
    rows. "/ unigram" divides by that of the words' shares in the training data.
completion, predictive
    ``metrics.completion_perplexity``: hidden halves, plug-in, and with the model's
    own predictive distribution.
accuracy
    Logistic regression on ``transform`` of training and test rows, as it is, C chosen
    by three folds of the training rows out of .003, .01, .02, .03, .1 and .3; and on
    raw counts and their tf-idf, out of .01, .1, 1 and 10.

--only refine: the bound of 500 rows against steps and seconds, for this package's
second-order steps and for Adam with sampled gradients as in the paper (step size
.008, one draw a step), from the same start and for the same fitted decoder.
--only paper: the eight rows of the paper's table, 1 or 3 (two hidden layers of 400)
for the decoder, M1 or M100 for refinement in training, norm or tfidf for the input.
Deep decoders have skip connections, unless they are a "plain" stack of layers as in the
paper, refined by Adam.
"singular" counts the singular values above 1 of the Jacobian embeddings, as the paper
measures how much of the latent space is in use.
--only collapse: remedies for posterior collapse, where the plain model (a deep decoder
that follows its network's posteriors) collapses. "active" counts the dimensions whose
posterior mean varies by more than .01 over the validation rows, "KL" is the mean
divergence of a row in nats; both of the network's posteriors, as "network" is.
--only speed: seconds an epoch, of the same model (linear decoder, encoder 400-400,
batches of 200, no refinement) here, in a plain torch loop over dense batches, and in
Pyro, in the style of its VAE example; and of our defaults, which refine.
--only predictive: completion and predictive on small corpora, by the defaults.
nips305_ars and reuters395_lda: hidden words of the rows fitted, in the files' own
halves or in those of ``split_tokens``; bbc_news_octis: those of test rows.
"whole" averages over all of the posteriors' variance, "spread"
is the share of it that was chosen.
"""

import argparse
import time

import numpy as np
from scipy import sparse

from benchmarks import data, measure

FULL = {"covariance_type": "full", "prior": "mixture", "n_pseudo_inputs": 50}
URN = {"likelihood": "dirichlet_multinomial"}
WIDE = {"covariance_type": "diag", "weight_scale": 0.25}
SETTINGS = {
    "defaults": {},
    "multinomial 100": {"n_components": 100, **FULL},
    "multinomial 300": {"n_components": 300, **FULL, "covariance_type": "diag"},
    "urn 200": {"n_components": 200, **URN, **FULL},
    "urn 300": {"n_components": 300, **URN, **FULL, **WIDE},
    "urn 300, normal": {"n_components": 300, **URN},
}
BASELINES = ("counts", "tfidf")

COLLAPSING = {
    "decoder_layers": (400, 400),
    "skip_connections": False,
    "refine_steps": 0,
}
COLLAPSE = {
    "plain": {},
    "kl_warmup": {"kl_warmup": 0.5},
    "free_bits": {"free_bits": 0.1},
    "skip_connections": {"skip_connections": True},
    "posterior_variance": {"posterior_variance": 0.1},
    "mixture prior": {"prior": "mixture"},
    "vamp prior": {"prior": "vamp"},
    "refinement": {"refine_steps": 10},
    "linear": {"decoder_layers": ()},
    "linear, refinement": {"decoder_layers": (), "refine_steps": 3},
}
COLLAPSE = {f"{k} (collapse)": {**COLLAPSING, **v} for k, v in COLLAPSE.items()}

SPEED = ("ours", "dense torch", "pyro", "ours, defaults")

SMALL = ("nips305_ars", "reuters395_lda", "bbc_news_octis")

PAPER = {
    f"{depth}-M{steps}-{name}": {
        "n_components": 100,
        "decoder_layers": () if depth == 1 else (400, 400),
        "refine_steps": 0 if steps == 1 else (5 if depth == 1 else 3),
        "input_transform": transform,
        "max_refine_steps": 100,
        "max_iter": 40,
    }
    for depth in (1, 3)
    for steps in (1, 100)
    for name, transform in (("norm", "normalize"), ("tfidf", "tfidf"))
}
PAPER |= {
    f"3-M{steps}-tfidf, plain": {
        **PAPER[f"3-M{steps}-tfidf"],
        "skip_connections": False,
        "refine_steps": 0 if steps == 1 else 20,
    }
    for steps in (1, 100)
}

COLUMNS = {
    "fit s": ("fit_seconds", 1),
    "score s": ("score_seconds", 1),
    "peak MiB": ("peak_mib", 0),
    "validation": ("validation", 1),
    "network": ("network", 1),
    "perplexity": ("perplexity", 1),
    "/ unigram": ("ratio", 3),
    "completion": ("completion", 1),
    "predictive": ("predictive", 1),
    "accuracy": ("accuracy", 4),
    "singular": ("singular", 0),
    "active": ("active", 0),
    "KL": ("kl", 1),
}


def split(corpus):
    """Training and validation rows of a corpus, float32."""
    X = data.counts(corpus, "train").astype(np.float32)
    order = np.random.RandomState(1).permutation(X.shape[0])
    return X[order[500:]], X[order[:500]], order


def unigram_perplexity(train, test):
    """Perplexity per document of the words' shares in the training rows."""
    totals = np.asarray(train.sum(axis=0)).ravel() + 0.01
    log_p = np.log(totals / totals.sum())
    bounds = test @ log_p / np.asarray(test.sum(axis=1)).ravel()
    return float(np.exp(-bounds.mean()))


def accuracy(train, test, corpus, order):
    """Accuracy of a logistic regression on features of both splits."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    folder = data.folder() / corpus
    labels = np.load(folder / "train_labels.npy")[order]
    is_raw = sparse.issparse(train)
    grid = [0.01, 0.1, 1.0, 10.0] if is_raw else [0.003, 0.01, 0.02, 0.03, 0.1, 0.3]
    search = GridSearchCV(LogisticRegression(max_iter=200), {"C": grid}, cv=3)
    search.fit(train, labels)
    return float(search.score(test, np.load(folder / "test_labels.npy")))


def validated(est, valid):
    """Measures on the validation rows."""
    import torch

    from skdeepfactor._math.batch import Batch, to_tensor
    from skdeepfactor._math.gaussian import Posterior
    from skdeepfactor._math.sampled import ACTIVE_VARIANCE
    from skdeepfactor.inspection import jacobian_embeddings, latent_usage

    results = {"validation": est.perplexity(valid)}
    embeddings = jacobian_embeddings(est, random_state=0)
    results["singular"] = int((latent_usage(embeddings) > 1).sum())
    refined = est._fitted_with["max_refine_steps"]
    est._fitted_with["max_refine_steps"] = 0
    results["network"] = est.perplexity(valid)
    module = est._load(torch.float32)
    x = to_tensor(valid, slice(None), dtype=torch.float32, device="cpu")
    with torch.no_grad():
        q = Posterior.of(module.posterior(Batch(x)))
        results["kl"] = float(module._kl(q).mean())
    results["active"] = int((q.mean.var(0) > ACTIVE_VARIANCE).sum())
    est._fitted_with["max_refine_steps"] = refined
    return results


def contend(
    meter,
    name,
    parameters,
    corpus,
    seed,
    is_tested,
    is_refitted=False,
    is_brief=False,
):
    """Fit and evaluate one setting; runs in its own process."""
    from skdeepfactor import NeuralTopicDLGM
    from skdeepfactor.metrics import completion_perplexity

    train, valid, order = split(corpus)
    test = data.counts(corpus, "test").astype(np.float32)
    if name in BASELINES:
        from sklearn.feature_extraction.text import TfidfTransformer

        both = sparse.vstack([train, valid])
        if name == "tfidf":
            transformer = TfidfTransformer().fit(both)
            both, test = transformer.transform(both), transformer.transform(test)
        return {"accuracy": accuracy(both, test, corpus, [*order[500:], *order[:500]])}
    est = NeuralTopicDLGM(random_state=seed, **parameters)
    with meter("fit"):
        est.fit(sparse.vstack([train, valid]) if is_refitted else train)
    results = {} if is_refitted else validated(est, valid)
    if not is_tested:
        return results
    with meter("score"):
        results["perplexity"] = est.perplexity(test)
    results["ratio"] = results["perplexity"] / unigram_perplexity(train, test)
    if is_brief:
        return results
    # What follows needs means alone, which are as good with diagonal covariances.
    est._fitted_with["covariance_type"] = "diag"
    for key, is_predictive in (("completion", False), ("predictive", True)):
        results[key] = completion_perplexity(
            est, test.astype(int), predictive=is_predictive, random_state=0
        )
    features = [est.transform(X) for X in (sparse.vstack([train, valid]), test)]
    order = [*order[500:], *order[:500]]
    results["accuracy"] = accuracy(*features, corpus, order)
    return results


def halves(corpus):
    """Training rows of a small corpus, and words of rows that are seen and hidden."""
    from skdeepfactor.metrics import split_tokens

    if corpus == "nips305_ars":
        seen = data.counts(corpus, "train")
        return seen, seen, data.counts(corpus, "test")
    if corpus == "reuters395_lda":
        seen, hidden = split_tokens(data.counts(corpus, "all"), random_state=0)
        return seen, seen, hidden
    train = data.counts(corpus, "train")
    return train, *split_tokens(data.counts(corpus, "test"), random_state=0)


def predict(meter, corpus, seed):
    """Perplexity of hidden words, by means and by averages over posteriors."""
    from skdeepfactor import NeuralTopicDLGM

    train, seen, hidden = (X.astype(np.float32) for X in halves(corpus))
    est = NeuralTopicDLGM(random_state=seed)
    with meter("fit"):
        est.fit(train)
    hidden = hidden.tocoo()

    def perplexity(shares):
        log_p = np.log(shares[hidden.row, hidden.col])
        return float(np.exp(-(hidden.data @ log_p) / hidden.data.sum()))

    results = {"spread": float(est._parameters["spread"])}
    results["completion"] = perplexity(est.inverse_transform(est.transform(seen)))
    results["predictive"] = perplexity(est.predictive(seen))
    est._parameters = {**est._parameters, "spread": np.ones((), np.float32)}
    results["whole"] = perplexity(est.predictive(seen))
    return results


def refine(meter, corpus, seed, k):
    """The bound of rows against steps and seconds, for both kinds of steps."""
    import torch

    from skdeepfactor import NeuralTopicDLGM
    from skdeepfactor._math.batch import Batch, to_tensor
    from skdeepfactor._math.gaussian import Posterior

    train, valid, _ = split(corpus)
    est = NeuralTopicDLGM(k, random_state=seed)
    with meter("fit"):
        est.fit(train)
    module = est._load(torch.float32)
    x = to_tensor(valid, slice(None), dtype=torch.float32, device="cpu")
    rows, likelihood = Batch(x), module.likelihood
    dense = x.to_dense()
    totals = dense.sum(1)
    with torch.no_grad():
        start = module._encode(rows)
        mean, log_var = start.mean, start.var.log()
    curve = []

    def note(kind, steps, seconds, q):
        with torch.no_grad():
            bounds = module._bounds(rows, likelihood, q)
            value = float((bounds / totals).mean().neg().exp())
        curve.append(
            {"steps of": kind, "steps": steps, "seconds": seconds, "perplexity": value}
        )

    note("none", 0, 0.0, start)
    for steps in (1, 2, 3, 5, 8, 12, 20, 40, 100):
        module.max_refine_steps = steps
        begin = time.perf_counter()
        q = module._infer(rows, likelihood)
        note("ours", steps, time.perf_counter() - begin, q)
    # The paper's: every row's own Adam, one draw a step.
    state = torch.cat([mean, log_var], 1).to(module.decoder.weight)
    first, second = torch.zeros_like(state), torch.zeros_like(state)
    generator = torch.Generator().manual_seed(seed)
    weight, bias = module.decoder.weight.detach(), module.decoder.bias.detach()
    begin = time.perf_counter()
    for step in range(1, 201):
        state = state.detach().requires_grad_()
        mean, log_var = state.chunk(2, 1)
        draw = torch.randn(mean.shape, generator=generator)
        logits = torch.addmm(bias, mean + (log_var / 2).exp() * draw, weight.T)
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum()
        ((dense * logits.log_softmax(1)).sum() - kl).backward()
        first = 0.9 * first + 0.1 * state.grad
        second = 0.999 * second + 0.001 * state.grad.square()
        move = first / (1 - 0.9**step)
        move /= (second / (1 - 0.999**step)).sqrt() + 1e-8
        state = state.detach() + 0.008 * move
        if step in (10, 20, 50, 100, 200):
            mean, log_var = state.chunk(2, 1)
            seconds = time.perf_counter() - begin
            note("Adam", step, seconds, Posterior(mean, log_var.exp()))
    return {"curve": curve}


def speed(meter, name, corpus, n_epochs=4, k=50, batch_size=200):
    """Seconds of each epoch of one way to fit the model."""
    from skdeepfactor import NeuralTopicDLGM

    train, _, _ = split(corpus)
    if name.startswith("ours"):
        parameters = {} if name.endswith("defaults") else {"refine_steps": 0}
        est = NeuralTopicDLGM(k, max_iter=n_epochs, random_state=0, **parameters)
        seconds = est.fit(train).history_["seconds"]
    else:
        seconds = _dense_epochs(name, train, n_epochs, k, batch_size)
    return {"first": seconds[0], "later": float(np.median(seconds[1:]))}


def _dense_epochs(name, X, n_epochs, k, batch_size):
    """The model in torch's layers, and with Pyro's inference around them."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    n_features = X.shape[1]
    encoder = nn.Sequential(
        *(nn.Dropout(0.2), nn.Linear(n_features, 400), nn.ReLU()),
        *(nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 2 * k)),
    )
    decoder = nn.Linear(k, n_features)
    if name == "pyro":
        step = _pyro_step(encoder, decoder, k)
    else:
        parameters = [*encoder.parameters(), *decoder.parameters()]
        adam = torch.optim.Adam(parameters, lr=0.003)

        def step(x):
            mean, log_var = encoder(x / x.norm(dim=1, keepdim=True)).chunk(2, 1)
            z = mean + (log_var / 2).exp() * torch.randn_like(mean)
            kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum()
            loss = kl - (x * decoder(z).log_softmax(1)).sum()
            adam.zero_grad()
            (loss / len(x)).backward()
            adam.step()

    rng = np.random.RandomState(0)
    seconds = []
    for _ in range(n_epochs):
        begin = time.perf_counter()
        order = rng.permutation(X.shape[0])
        for start in range(0, len(order), batch_size):
            rows = X[order[start : start + batch_size]]
            step(torch.from_numpy(rows.toarray()))
        seconds.append(time.perf_counter() - begin)
    return seconds


def _pyro_step(encoder, decoder, k):
    """A step of Pyro's stochastic variational inference."""
    import pyro
    import torch
    from pyro import distributions as dist
    from pyro.infer import SVI, Trace_ELBO
    from pyro.optim import Adam

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("rows", len(x)):
            prior = dist.Normal(torch.zeros(len(x), k), torch.ones(len(x), k))
            z = pyro.sample("z", prior.to_event(1))
            # Rows have different totals, of which Pyro must be told the largest.
            words = dist.Multinomial(
                int(x.sum(1).max()), logits=decoder(z), validate_args=False
            )
            pyro.sample("x", words, obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("rows", len(x)):
            mean, log_var = encoder(x / x.norm(dim=1, keepdim=True)).chunk(2, 1)
            pyro.sample("z", dist.Normal(mean, (log_var / 2).exp()).to_event(1))

    return SVI(model, guide, Adam({"lr": 0.003}), loss=Trace_ELBO()).step


def main(argv):
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks neural_topics",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    groups = {"paper": PAPER, "collapse": COLLAPSE}
    tables = {"refine": _refine_table, "speed": _speed_table}
    tables["predictive"] = _predictive_table
    names = [*SETTINGS, *BASELINES, *groups, *tables]
    parser.add_argument(
        "--only", nargs="+", choices=[*names, *PAPER, *COLLAPSE], default=names
    )
    parser.add_argument("--data", default="20news_2000")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--no-test", action="store_true", help="validation rows only")
    parser.add_argument(
        "--perplexity",
        action="store_true",
        help="neither completion nor accuracy, which take long with deep decoders",
    )
    parser.add_argument(
        "--refit",
        action="store_true",
        help="fit to the validation rows too, for the figures of test rows alone",
    )
    parser.add_argument("--threads", type=int, default=measure.THREADS)
    measure.add_settings(parser, "--set", "all settings")
    chosen = parser.parse_args(argv)
    data.folder()
    changes = dict(chosen.set)
    asked = {}
    for name in chosen.only:
        if name not in tables:
            asked |= groups.get(name, {name: parameters_of(name)})
    rows = []
    for name, parameters in asked.items():
        is_once = name not in SETTINGS
        for seed in [0] if is_once else chosen.seeds:
            setting = {
                "name": name,
                "parameters": {**parameters, **changes},
                "corpus": chosen.data,
                "seed": seed,
                "is_tested": not (chosen.no_test or name in COLLAPSE),
                "is_refitted": chosen.refit,
                "is_brief": chosen.perplexity,
            }
            measured = measure.run(
                "benchmarks.neural_topics:contend", setting, threads=chosen.threads
            )
            rows.append({"contender": name, **setting, **measured})
            measure.write_results("neural_topics", argv, rows, seeds=chosen.seeds)
            measure.print_contenders(rows[-1:], COLUMNS)
    if rows:
        measure.print_contenders(rows, COLUMNS)
    for name in tables:
        if name in chosen.only:
            rows += tables[name](chosen.data, chosen.threads)
            measure.write_results("neural_topics", argv, rows, seeds=chosen.seeds)


def parameters_of(name):
    """Parameters of the estimator in a setting; none for a baseline."""
    return {**SETTINGS, **PAPER, **COLLAPSE}.get(name, {})


def _refine_table(corpus, threads):
    """Run and print the curves of refinement."""
    setting = {"corpus": corpus, "seed": 0, "k": 50}
    measured = measure.run("benchmarks.neural_topics:refine", setting, threads=threads)
    header = ["steps of", "steps", "seconds", "perplexity"]
    table = [
        [
            row["steps of"],
            str(row["steps"]),
            f"{row['seconds']:.2f}",
            f"{row['perplexity']:.1f}",
        ]
        for row in measured.get("curve", [])
    ]
    measure.print_table(header, table)
    print(measured.get("note", ""))
    return [{"contender": "refine", **setting, **measured}]


def _speed_table(corpus, threads):
    """Run and print the seconds of epochs."""
    rows = []
    for name in SPEED:
        setting = {"name": name, "corpus": corpus}
        measured = measure.run(
            "benchmarks.neural_topics:speed", setting, threads=threads
        )
        rows.append({"contender": name, **setting, **measured, "seed": 0})
    measure.print_contenders(rows, {"first s": ("first", 2), "later s": ("later", 2)})
    return rows


def _predictive_table(corpus, threads):
    """Run and print predictions of hidden words, on corpora of its own."""
    names = ("completion", "predictive", "whole")
    columns = {"spread": ("spread", 2), **{name: (name, 1) for name in names}}
    rows = []
    for name in SMALL:
        setting = {"corpus": name, "seed": 0}
        measured = measure.run(
            "benchmarks.neural_topics:predict", setting, threads=threads
        )
        rows.append({"contender": name, **setting, **measured})
        measure.print_contenders(rows[-1:], columns)
    return rows
