"""
Listeners and artists
=====================

What people play says what they would like to play. A
:class:`~skdeepfactor.PoissonFactorization` of play counts finds tastes, groups of
artists whose listeners are the same people, and ranks for each listener the artists
that they have not played. A fifth of the plays is hidden first, so that the ranking can
be put to the test.

The data are 1,892 listeners of Last.fm and the artists that each played most (Cantador,
Brusilovsky and Kuflik, HetRec 2011; GroupLens hands them out at
``grouplens.org/datasets/hetrec-2011`` for non-commercial use). To run this page, put
the counts as a SciPy sparse matrix of listeners by artists in
``lastfm_hetrec2k/all.npz``, and the names of the artists, one in a line, in
``lastfm_hetrec2k/vocab.txt``, below the folder that the environment variable
``SKDEEPFACTOR_DATA`` names.
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse

from skdeepfactor import PoissonFactorization
from skdeepfactor.inspection import top_features
from skdeepfactor.plotting import TopicsDisplay

folder = Path(os.environ["SKDEEPFACTOR_DATA"]) / "lastfm_hetrec2k"
plays = scipy.sparse.load_npz(folder / "all.npz")
artists = np.array((folder / "vocab.txt").read_text(encoding="utf-8").split("\n"))
has_listeners = np.asarray((plays > 0).sum(axis=0)).ravel() >= 5
plays, artists = plays[:, has_listeners].tocsr(), artists[: len(has_listeners)]
artists = artists[has_listeners]
print(f"{plays.shape[0]} listeners, {plays.shape[1]} artists with five or more of them")
quantiles = np.quantile(plays.data, [0, 0.5, 0.99, 1]).astype(int)
print("plays of one artist by one listener, least, median, 99 %, most:", *quantiles)

# %%
# A fifth of what each listener played is hidden
# ----------------------------------------------

is_hidden = np.random.default_rng(0).random(plays.nnz) < 0.2


def only(mask):
    """The entries of the mask alone."""
    part = plays.astype(float)
    part.data *= mask
    part.eliminate_zeros()
    return part


known, hidden = only(~is_hidden), only(is_hidden)

# %%
# How to count
# ------------
# Half of the entries are below 290 plays and the largest is 352,698. To a Poisson model
# a count of a thousand is a thousand events, so that a few fans rule the fit. Three
# ways to feed the model: the plays, their logarithms, or whether there were any. What
# is measured is the share of the hidden artists among the 20 that are ranked first (of
# those not known to be played), and beside it the same for the 20 most popular ones.


def recall(ranked):
    """Mean share of the hidden artists that are ranked, 20 being all there can be."""
    shares = []
    for row, best in enumerate(ranked):
        wanted = hidden[row].indices
        if len(wanted):
            found = np.isin(best, wanted).sum()
            shares.append(found / min(len(wanted), len(best)))
    return np.mean(shares)


popularity = np.asarray((known > 0).sum(axis=0)).ravel()
popular = np.tile(popularity, (plays.shape[0], 1))
popular[known.nonzero()] = -1
recalls = {"most popular": recall(np.argsort(-popular, kind="stable")[:, :20])}

ways = {
    "plays": known,
    "played or not": (known > 0).astype(float),
    "log2(1 + plays)": (known.log1p() / np.log(2)).rint(),
}
models = {}
for way, X in ways.items():
    models[way] = PoissonFactorization(30, factor_shape=1.0, random_state=0).fit(X)
    recalls[way] = recall(models[way].recommend(X, 20))

figure, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
bars = ax.barh(list(recalls), list(recalls.values()))
ax.bar_label(bars, fmt="%.3f", padding=3)
ax.set(xlabel="share of hidden artists among the first 20", xlim=(0, 0.35))
ax.invert_yaxis()

# %%
# Tastes
# ------
# The logarithms rank best, by a little. (To rank rare artists well too, which are left
# out here, fit with few steps: see the guide to Poisson factorization.) The largest
# weights of the first twelve of their 30 factors:

model = models["log2(1 + plays)"]
display = TopicsDisplay.from_estimator(
    model, feature_names=artists, n_top=7, n_components=12
)

# %%
# Artists that are played by everyone come up in many of them; ``by="frex"`` names those
# that a taste has for itself.

table = top_features(model, 5, feature_names=artists, by="frex")
for taste in table.index[:12]:
    print(f"{taste:3d}  {', '.join(table.loc[taste])}")

# %%
# What one listener gets
# ----------------------
# The first five artists that the model ranks for a listener, and whether they were
# among the hidden ones.

X = ways["log2(1 + plays)"]
for row in (1, 9, 38):
    most = known[row].indices[np.argsort(-known[row].data)[:5]]
    print("plays most  ", ", ".join(artists[most]))
    wanted = set(hidden[row].indices)
    ranked = model.recommend(X[row], 5)[0]
    marks = [f"{artists[a]}{' (hidden!)' if a in wanted else ''}" for a in ranked]
    print("gets        ", ", ".join(marks), "\n")

plt.show()
