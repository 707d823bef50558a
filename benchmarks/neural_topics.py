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
    Logistic regression (C chosen by three folds out of .01, .1, 1) on ``transform`` of
    training and test rows; raw counts and tf-idf are in the table.

--only refine: the bound of 500 rows against steps and seconds, for this package's
second-order steps and for Adam with sampled gradients as in the paper (step size
.008, one draw a step), from the same start and for the same fitted decoder.
--only paper: the eight rows of the paper's table, 1 or 3 (two hidden layers of 400)
for the decoder, M1 or M100 for refinement in training, norm or tfidf for the input.
"""

import argparse
import ast
import time

import numpy as np
from scipy import sparse

from benchmarks import data, measure

SETTINGS = {
    "defaults": {},
    "multinomial 100": {"n_components": 100, "covariance_type": "full"},
    "urn 200": {
        "n_components": 200,
        "likelihood": "dirichlet_multinomial",
        "covariance_type": "full",
    },
}
BASELINES = ("counts", "tfidf")

PAPER = {
    f"{depth}-M{steps}-{name}": {
        "n_components": 100,
        "decoder_layers": () if depth == 1 else (400, 400),
        "refine_steps": 0 if steps == 1 else (5 if depth == 1 else 20),
        "input_transform": transform,
        "max_refine_steps": 100,
        "max_iter": 40,
    }
    for depth in (1, 3)
    for steps in (1, 100)
    for name, transform in (("norm", "normalize"), ("tfidf", "tfidf"))
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
    "active": ("active", 0),
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
    if not sparse.issparse(train):
        scale = train.std(axis=0) + 1e-9
        train, test = train / scale, test / scale
    search = GridSearchCV(
        LogisticRegression(max_iter=200), {"C": [0.01, 0.1, 1.0]}, cv=3
    )
    search.fit(train, labels)
    return float(search.score(test, np.load(folder / "test_labels.npy")))


def contend(meter, name, parameters, corpus, seed, is_tested):
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
        est.fit(train)
    results = {"validation": est.perplexity(valid), "active": est.n_active_components_}
    refined = est._fitted_with["max_refine_steps"]
    est._fitted_with["max_refine_steps"] = 0
    results["network"] = est.perplexity(valid)
    est._fitted_with["max_refine_steps"] = refined
    if not is_tested:
        return results
    with meter("score"):
        results["perplexity"] = est.perplexity(test)
    results["ratio"] = results["perplexity"] / unigram_perplexity(train, test)
    for key, is_predictive in (("completion", False), ("predictive", True)):
        results[key] = completion_perplexity(
            est, test.astype(int), predictive=is_predictive, random_state=0
        )
    est._fitted_with["covariance_type"] = "diag"
    features = [est.transform(X) for X in (sparse.vstack([train, valid]), test)]
    order = [*order[500:], *order[:500]]
    results["accuracy"] = accuracy(*features, corpus, order)
    return results


def refine(meter, corpus, seed, k):
    """The bound of rows against steps and seconds, for both kinds of steps."""
    import torch

    from skdeepfactor import NeuralTopicDLGM
    from skdeepfactor.data import to_tensor
    from skdeepfactor.models.neural_topic_dlgm import Posterior

    train, valid, _ = split(corpus)
    est = NeuralTopicDLGM(k, random_state=seed)
    with meter("fit"):
        est.fit(train)
    module = est._load(torch.float32, torch.device("cpu"))
    x = to_tensor(valid, slice(None), dtype=torch.float32, device="cpu")
    dense = x.to_dense()
    totals = dense.sum(1)
    with torch.no_grad():
        mean, log_var = module._encode(x)
        start = Posterior(mean, log_var.exp())
    curve = []

    def note(kind, steps, seconds, q):
        with torch.no_grad():
            bounds = module._bounds(x, q)
            value = float((bounds / totals).mean().neg().exp())
        curve.append(
            {"steps of": kind, "steps": steps, "seconds": seconds, "perplexity": value}
        )

    note("none", 0, 0.0, start)
    for steps in (1, 2, 3, 5, 8, 12, 20, 40, 100):
        module.max_refine_steps = steps
        begin = time.perf_counter()
        q = module._infer(x)
        note("ours", steps, time.perf_counter() - begin, q)
    # The paper's: every row's own Adam, one draw a step.
    state = torch.cat([mean, log_var], 1)
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


def main(argv):
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks neural_topics",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [*SETTINGS, *BASELINES, "refine", "paper"]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--data", default="20news_2000")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--no-test", action="store_true", help="validation rows only")
    parser.add_argument(
        "--set", nargs="+", default=[], help="NAME=VALUE for all settings, in Python"
    )
    chosen = parser.parse_args(argv)
    data.folder()
    pairs = (item.split("=", 1) for item in chosen.set)
    changes = {key: ast.literal_eval(value) for key, value in pairs}
    asked = {name: SETTINGS.get(name, {}) for name in chosen.only}
    for name in ("refine", "paper"):
        asked.pop(name, None)
    if "paper" in chosen.only:
        asked |= PAPER
    rows = []
    for name, parameters in asked.items():
        seeds = [0] if name in BASELINES or name in PAPER else chosen.seeds
        for seed in seeds:
            setting = {
                "name": name,
                "parameters": {**parameters, **changes},
                "corpus": chosen.data,
                "seed": seed,
                "is_tested": not chosen.no_test,
            }
            measured = measure.run("benchmarks.neural_topics:contend", setting)
            rows.append({"contender": name, **setting, **measured})
            measure.write_results("neural_topics", argv, rows, seeds=chosen.seeds)
    if rows:
        measure.print_contenders(rows, COLUMNS)
    if "refine" in chosen.only:
        setting = {"corpus": chosen.data, "seed": 0, "k": 50}
        measured = measure.run("benchmarks.neural_topics:refine", setting)
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
        rows.append({"contender": "refine", **setting, **measured})
        measure.write_results("neural_topics", argv, rows, seeds=chosen.seeds)
