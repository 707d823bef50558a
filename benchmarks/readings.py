"""Measures of components against other implementations, and of planted factors.

--only coherence: NPMI, C_V and U_Mass of topics of 20 Newsgroups (20news_2000), the
same numbers by gensim, whose window is longer than the longest text, and the largest
difference over topics. Topics are those of LDA with 50 components; the reference corpus
is the training rows.

--only disentanglement: DCI of codes of 2,000 rows, each of them a linear mixture of
five planted factors that it has with a probability of .3, plus noise. Variational
sparse coding against autoencoders with the divergence weighed 1 to 8 times; all have
five dimensions, one hidden layer of 64 in the encoder and a linear decoder.
"""

import argparse

import numpy as np

from benchmarks import data, measure

COHERENCES = {
    "c_npmi": "npmi_coherence",
    "c_v": "c_v_coherence",
    "u_mass": "u_mass_coherence",
}
NETWORKS = {
    "encoder_layers": (64,),
    "decoder_layers": (),
    "learning_rate": 0.01,
    "max_iter": 30,
}
SPARSE = {"alpha": 0.3, "prior": "fixed"}
CODES = {
    "sparse coding": ("VariationalSparseCoding", SPARSE),
    "sparse coding, best of 4 by its bound": (
        "VariationalSparseCoding",
        {**SPARSE, "n_init": 4},
    ),
    **{
        f"VAE, beta {beta:g}": ("VariationalAutoencoder", {"beta": beta})
        for beta in (1.0, 2.0, 4.0, 8.0)
    },
}
COLUMNS = {
    "coherence": {
        "gensim": ("gensim", 6),
        "ours": ("ours", 6),
        "difference": ("difference", 12),
        "gensim s": ("gensim_seconds", 1),
        "ours s": ("ours_seconds", 2),
    },
    "disentanglement": {
        "disentanglement": ("disentanglement", 3),
        "completeness": ("completeness", 3),
        "informativeness": ("informativeness", 3),
        "fit s": ("fit_seconds", 1),
    },
}


def coherence(meter, name, seed, n_components=50, top_n=10):
    """One coherence by gensim and here, and the largest difference over topics."""
    from gensim.corpora import Dictionary
    from gensim.models import CoherenceModel

    from skdeepfactor import LatentDirichletAllocation, metrics

    X = data.counts("20news_2000", "train")
    model = LatentDirichletAllocation(n_components, random_state=seed).fit(X)
    # Words need no counts, which make texts long.
    texts = [list(map(str, row.indices)) for row in X]
    order = np.argsort(-model.components_, axis=1, kind="stable")[:, :top_n]
    there = CoherenceModel(
        topics=[list(map(str, row)) for row in order],
        texts=texts,
        dictionary=Dictionary(texts),
        window_size=1 + max(map(len, texts)),
        coherence=name,
        topn=top_n,
        processes=1,
    )
    with meter("gensim"):
        expected = np.array(there.get_coherence_per_topic())
    with meter("ours"):
        found = getattr(metrics, COHERENCES[name])(
            model.components_, X, top_n=top_n, average=False
        )
    return {
        "gensim": expected.mean(),
        "ours": found.mean(),
        "difference": np.abs(found - expected).max(),
    }


def disentanglement(meter, name, seed, n_rows=2000):
    """DCI of the codes of one model."""
    import skdeepfactor
    from skdeepfactor import metrics

    rng = np.random.default_rng(0)
    planted = rng.normal(size=(n_rows, 5)) * (rng.random((n_rows, 5)) < 0.3)
    X = planted @ rng.normal(size=(5, 20)) + 0.3 * rng.normal(size=(n_rows, 20))
    kind, parameters = CODES[name]
    model = getattr(skdeepfactor, kind)(5, random_state=seed, **NETWORKS, **parameters)
    with meter("fit"):
        model.fit(X)
    scores = metrics.disentanglement(model.transform(X), planted, random_state=0)
    names = ("disentanglement", "completeness", "informativeness")
    return {name: scores[name] for name in names}


def main(argv):
    """Run what was asked for, one after the other."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks readings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ["coherence", "disentanglement"]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    chosen = parser.parse_args(argv)
    if "coherence" in chosen.only:
        data.folder()
    jobs = [("coherence", name, 0) for name in COHERENCES]
    jobs += [("disentanglement", name, seed) for name in CODES for seed in chosen.seeds]
    rows = []
    for kind, name, seed in jobs:
        if kind not in chosen.only:
            continue
        setting = {"name": name, "seed": seed}
        measured = measure.run(f"benchmarks.readings:{kind}", setting)
        rows.append({"kind": kind, "contender": name, "seed": seed, **measured})
        # A long run that is cut short keeps what it has.
        measure.write_results("readings", argv, rows, seeds=chosen.seeds)
    for kind in chosen.only:
        print(f"\n{kind}")
        measure.print_contenders(
            [row for row in rows if row["kind"] == kind], COLUMNS[kind]
        )
