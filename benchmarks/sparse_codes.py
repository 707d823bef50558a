"""Sparse codes of handwritten digits: accuracy, bounds, and how sparse they are.

Each setting runs alone in a fresh process (`measure`). Data: mnist, grey values in
[0, 1]; settings were chosen on 5,000 training images that they were not fitted to, and
the test images are used once, for the figures below. Bernoulli likelihood.

accuracy
    Logistic regression on ``transform`` of 20,000 training images (columns divided by
    their standard deviations), C chosen by three folds out of .01, .1 and 1, of the
    10,000 test images; and on the raw pixels.
bound
    ``score`` of the test images: minus the cross-entropy of grey values, minus the
    divergence, nats an image, with hard spikes.
nonzero
    Share of the codes of the test images that are not 0; "gamma in (.1, .9)" is the
    share of spikes' probabilities that are neither nearly 0 nor nearly 1.

--only dimensions: accuracy against the number of dimensions, 10,000 images, 20 passes,
for both models; with --plot FILE a picture.
--only planted: how many dimensions are in use on data of 18 planted positive factors,
over alpha.
--only collapse: remedies for posterior collapse in the dense model, where the plain one
collapses (three hidden layers in the decoder, 10,000 images, 20 passes). "KL" is the
mean divergence of a test image, "active" counts the dimensions whose posterior mean
varies by more than .01.
--only iwae: log likelihood of dynamically binarised digits, one stochastic layer of 50:
the importance weighted bound of 500 particles over all test images, plus what 5,000 add
on 1,000 of them. Training takes --minutes; --device and --minutes take it further.
"""

import argparse
import time

import numpy as np

from benchmarks import data, measure

VSC = {
    "n_components": 200,
    "alpha": 0.01,
    "decoder_layers": (),
    "n_pseudo_inputs": 50,
    "sparsity_penalty": 100.0,
    "max_iter": 40,
    "batch_size": 500,
}
SETTINGS = {
    "VSC 200": ("VariationalSparseCoding", VSC),
    "VSC defaults": ("VariationalSparseCoding", {}),
    "VSC(.5) 50": (
        "VariationalSparseCoding",
        {
            **VSC,
            "n_components": 50,
            "alpha": 0.5,
            "sparsity_penalty": 0.0,
            "decoder_layers": (400, 400),
            "encoder_layers": (400, 400),
        },
    ),
    "VAE 40": (
        "VariationalAutoencoder",
        {
            "n_components": 40,
            "decoder_layers": (400, 400),
            "encoder_layers": (400, 400),
            "max_iter": 60,
        },
    ),
    "VAE 200": ("VariationalAutoencoder", {"n_components": 200, "batch_size": 500}),
}
COLLAPSING = {
    "n_components": 40,
    "decoder_layers": (400, 400, 400),
    "max_iter": 20,
    "batch_size": 100,
    "learning_rate": 0.005,
}
COLLAPSE = {
    "plain": {},
    "kl_warmup": {"kl_warmup": 0.5},
    "free_bits": {"free_bits": 0.2},
    "skip_connections": {"skip_connections": True},
    "posterior_variance": {"posterior_variance": 0.1},
    "beta": {"beta": 0.5},
    "mixture prior": {"prior": "mixture"},
    "vamp prior": {"prior": "vamp"},
}
DIMENSIONS = (8, 32, 64, 128, 200)
ALPHAS = (0.005, 0.01, 0.03, 0.1)
N_PLANTED = 18

COLUMNS = {
    "fit s": ("fit_seconds", 1),
    "peak MiB": ("peak_mib", 0),
    "bound": ("bound", 2),
    "accuracy": ("accuracy", 4),
    "nonzero": ("nonzero", 4),
    "in (.1, .9)": ("undecided", 4),
    "active": ("active", 0),
    "KL": ("kl", 1),
    "log p": ("log_p", 2),
}


def digits():
    """Images in [0, 1] and labels of both splits; the training ones shuffled."""
    with np.load(data.folder() / "mnist" / "mnist.npz") as arrays:
        parts = [
            arrays[f"{name}_{split}"] for split in ("train", "test") for name in "xy"
        ]
    x_train, y_train, x_test, y_test = parts
    order = np.random.RandomState(1).permutation(len(x_train))
    flat = [(x.reshape(len(x), -1) / 255).astype(np.float32) for x in (x_train, x_test)]
    return flat[0][order], y_train[order], flat[1], y_test


def accuracy(train, labels, test, test_labels):
    """Accuracy of a logistic regression on codes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    scale = train.std(axis=0) + 1e-6
    classifier = LogisticRegression(max_iter=200)
    search = GridSearchCV(classifier, {"C": [0.01, 0.1, 1.0]}, cv=3)
    search.fit(train / scale, labels)
    return float(search.score(test / scale, test_labels))


def contend(meter, kind, parameters, seed, n_images, verbose=False):
    """Fit and evaluate one setting; runs in its own process."""
    import skdeepfactor

    X, y, X_test, y_test = digits()
    settings = {"likelihood": "bernoulli", "random_state": seed, **parameters}
    model = getattr(skdeepfactor, kind)(**settings)
    with meter("fit"):
        model.fit(X[:n_images])
    n_labelled = min(20_000, n_images)
    codes, test_codes = model.transform(X[:n_labelled]), model.transform(X_test)
    results = {
        "bound": model.score(X_test),
        "accuracy": accuracy(codes, y[:n_labelled], test_codes, y_test),
        "nonzero": float((test_codes != 0).mean()),
        "active": model.n_active_components_,
    }
    if kind == "VariationalSparseCoding":
        gamma = model.activations(X_test)
        results["undecided"] = float(((gamma > 0.1) & (gamma < 0.9)).mean())
        results["gamma"] = (np.histogram(gamma, 10, (0, 1))[0] / gamma.size).tolist()
    return results


def remedied(meter, kind, parameters, seed, n_images):
    """Fit one remedy for collapse, and see what the codes say."""
    from skdeepfactor import VariationalAutoencoder

    X, _, X_test, _ = digits()
    model = VariationalAutoencoder(
        likelihood="bernoulli", random_state=seed, **parameters
    )
    with meter("fit"):
        model.fit(X[:n_images])
    kl = model._infer(X_test, lambda module, batch: module.kl(module.posterior(batch)))
    active = model.transform(X_test).var(axis=0) > 0.01
    return {"bound": model.score(X_test), "kl": kl.mean(), "active": int(active.sum())}


def raw(meter, kind, parameters, seed, n_images):
    """The classifier on pixels instead of codes."""
    X, y, X_test, y_test = digits()
    n = min(20_000, n_images)
    return {"accuracy": accuracy(X[:n], y[:n], X_test, y_test)}


def planted(meter, kind, parameters, seed, n_images):
    """Dimensions in use, of data with known factors."""
    import skdeepfactor

    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(N_PLANTED, 100)) * (rng.random((N_PLANTED, 100)) < 0.3)
    is_on = rng.random((5000, N_PLANTED)) < 0.1
    X = (is_on * rng.uniform(1, 2, is_on.shape)) @ weights
    X = np.tanh(X) + 0.1 * rng.normal(size=X.shape)
    settings = {"likelihood": "gaussian", "random_state": seed, "noise": "spherical"}
    model = getattr(skdeepfactor, kind)(**{**settings, **parameters})
    with meter("fit"):
        codes = model.fit_transform(X)
    return {
        "active": model.n_active_components_,
        "nonzero": float((codes != 0).mean()),
        "bound": model.score(X),
    }


def importance(meter, kind, parameters, seed, n_images, minutes, device):
    """Train on fresh binary images, first with one particle, then with more."""
    from skdeepfactor import VariationalAutoencoder

    X, _, X_test, _ = digits()
    rng = np.random.default_rng(seed)
    model = VariationalAutoencoder(
        50,
        likelihood="bernoulli",
        encoder_layers=(300, 300),
        decoder_layers=(300, 300),
        batch_size=100,
        random_state=seed,
        device=device,
    )
    test = (rng.random(X_test.shape) < X_test).astype(np.float32)
    # Shares of the time, particles, and step sizes at the end and the start of each.
    plan = ((0.35, 1, 1e-3, 5e-4), (0.3, 5, 5e-4, 2.5e-4), (0.35, 50, 3e-4, 2e-5))
    history = []
    with meter("fit"):
        for share, n_particles, first, last in plan:
            seconds, started = 60 * minutes * share, time.perf_counter()
            objective = "elbo" if n_particles == 1 else "iwae"
            model.set_params(objective=objective, n_particles=n_particles)
            while (past := (time.perf_counter() - started) / seconds) < 1:
                model.set_params(learning_rate=first * (last / first) ** past)
                order = rng.permutation(len(X))
                # In parts, so that the step size falls within a pass too.
                for rows in np.array_split(order, 10):
                    binary = rng.random((len(rows), X.shape[1])) < X[rows]
                    model.partial_fit(binary.astype(np.float32), total_samples=len(X))
                    past = (time.perf_counter() - started) / seconds
                    model.set_params(
                        learning_rate=first * (last / first) ** min(1, past)
                    )
                    if past >= 1:
                        break
            bound = model.score(test[:1000], metric="iwae", n_particles=100)
            history.append([n_particles, model.n_samples_seen_ / len(X), bound])
            print(history[-1], flush=True)
    # All images with few particles, and what more of them add on some of the images.
    log_p = model.score(test, metric="iwae", n_particles=500)
    few, many = (
        model.score(test[:1000], metric="iwae", n_particles=n) for n in (500, 5000)
    )
    bound = model.score(test)
    return {"log_p": log_p + many - few, "bound": bound, "history": history}


def main(argv):
    """Run the benchmark for command-line arguments `argv`."""
    parser = argparse.ArgumentParser("python -m benchmarks sparse_codes")
    names = [*SETTINGS, "pixels", "dimensions", "planted", "collapse", "iwae"]
    parser.add_argument("--only", nargs="+", choices=names, default=names[:-1])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--threads", type=int, default=measure.THREADS)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--plot", help="where the picture of --only dimensions goes")
    arguments = parser.parse_args(argv)
    rows = []
    for name, function, parameters in _jobs(arguments):
        for seed in arguments.seeds:
            settings = {"seed": seed, "n_images": arguments.images, **parameters}
            found = measure.run(
                f"benchmarks.sparse_codes:{function}",
                settings,
                threads=arguments.threads,
            )
            rows.append({"contender": name, "seed": seed, **found})
            print(rows[-1], flush=True)
    measure.print_contenders(rows, COLUMNS)
    measure.write_results("sparse_codes", argv, rows)
    if arguments.plot:
        _draw(rows, arguments.plot)


def _jobs(arguments):
    """Name, contender and arguments of each run."""
    for name in arguments.only:
        if name == "pixels":
            yield name, "raw", {"kind": "", "parameters": {}}
        elif name == "iwae":
            own = {"minutes": arguments.minutes, "device": arguments.device}
            yield name, "importance", {"kind": "", "parameters": {}, **own}
        elif name == "collapse":
            for remedy, own in COLLAPSE.items():
                job = {"kind": "", "parameters": {**COLLAPSING, **own}}
                yield f"{remedy} (collapse)", "remedied", {**job, "n_images": 10_000}
        elif name == "planted":
            yield from _planted_jobs()
        elif name == "dimensions":
            shared = {"max_iter": 20, "batch_size": 100}
            for n in DIMENSIONS:
                vsc = {**VSC, **shared, "n_components": n}
                sparse = {"kind": "VariationalSparseCoding", "parameters": vsc}
                yield f"VSC, {n} dimensions", "contend", {**sparse, "n_images": 10_000}
                vae = {**shared, "n_components": n}
                dense = {"kind": "VariationalAutoencoder", "parameters": vae}
                yield f"VAE, {n} dimensions", "contend", {**dense, "n_images": 10_000}
        else:
            kind, parameters = SETTINGS[name]
            yield name, "contend", {"kind": kind, "parameters": parameters}


def _planted_jobs():
    shared = {"n_components": 60, "batch_size": 100, "max_iter": 60}
    for alpha in ALPHAS:
        own = {**shared, "alpha": alpha, "prior": "fixed"}
        job = {"kind": "VariationalSparseCoding", "parameters": own}
        yield f"VSC, alpha={alpha}", "planted", job
    yield "VAE", "planted", {"kind": "VariationalAutoencoder", "parameters": shared}


def _draw(rows, path):
    """Accuracy against dimensions, of both models."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    for kind in ("VSC", "VAE"):
        points = [
            (int(row["contender"].split()[1]), row["accuracy"])
            for row in rows
            if row["contender"].startswith(f"{kind}, ") and "accuracy" in row
        ]
        axes.plot(*zip(*points, strict=True), marker="o", label=kind)
    axes.set(xlabel="Dimensions", ylabel="Accuracy of a linear classifier")
    axes.legend()
    figure.savefig(path, dpi=150)
