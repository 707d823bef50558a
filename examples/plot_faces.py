"""
Faces from parts
================

A grey value is how much light fell on a pixel, and light adds up: a face may be
explained as a sum of parts. :class:`~skdeepfactor.SparseGammaDEF` starts from clusters
of pixels that are bright together, and finds brows, noses, chins and the edges of hair.

The data are the 400 pictures of 40 people taken at AT&T Laboratories Cambridge, also
known as the Olivetti or ORL faces. :func:`sklearn.datasets.fetch_olivetti_faces`
downloads them once; a file ``olivetti/olivetti.npz`` below the folder that the
environment variable ``SKDEEPFACTOR_DATA`` names is taken instead where there is one.
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import fetch_olivetti_faces
from sklearn.decomposition import NMF
from sklearn.model_selection import train_test_split

from skdeepfactor import SparseGammaDEF
from skdeepfactor.inspection import sparsity

path = Path(os.environ.get("SKDEEPFACTOR_DATA", ".")) / "olivetti" / "olivetti.npz"
if path.exists():
    with np.load(path) as file:
        # Pixels are stored column by column.
        columns = np.concatenate([file["x_train"], file["x_test"]])
    images = columns.reshape(-1, 64, 64).transpose(0, 2, 1)
else:
    images = np.rint(255 * fetch_olivetti_faces().images)

X_train, X_test = train_test_split(
    images.reshape(400, -1).astype(np.float32), test_size=80, random_state=0
)


def show(figure, rows, n_columns, **how):
    """Draw rows of pixels as pictures."""
    axes = figure.subplots(len(rows) // n_columns, n_columns)
    for ax, row in zip(axes.flat, rows, strict=True):
        ax.imshow(row.reshape(64, 64), **how)
        ax.set_axis_off()


# %%
# Sixty parts
# -----------
# The expansion to second order and accelerated steps, which are the defaults, were made
# for counts as large as these: the fit takes seconds. Dark is where a part adds light.
# There is one layer: a second one would group parts that come together, but here its
# groups come out all alike and the bound below the one of a single layer, which says
# that faces have no such groups, or that this model does not see them.

model = SparseGammaDEF((60,), max_iter=80, random_state=0).fit(X_train)
print(f"{model.n_iter_} passes, {sum(model.history_['seconds']):.1f} seconds")
print(f"{sparsity(model.components_):.0%} of the weights are next to nothing")
show(
    plt.figure(figsize=(10, 4.4), layout="constrained"),
    model.components_,
    12,
    cmap="gray_r",
)

# %%
# The same number of components of NMF, which minimises squares and has no prior, after
# 250 passes (it would gain a little more by thousands).

nmf = NMF(60, init="random", tol=0, max_iter=250, random_state=0).fit(X_train)
print(f"{sparsity(nmf.components_):.0%} of the weights are next to nothing")
show(
    plt.figure(figsize=(10, 4.4), layout="constrained"),
    nmf.components_,
    12,
    cmap="gray_r",
)

# %%
# Faces that were not fitted
# --------------------------
# Above, the pictures; below, the sums of components that the models make of them, and
# how far these are off. They are equally good, and equally bad at what few people have,
# such as glasses and bared teeth: to be made of parts costs nothing here, and is what
# can be read.

expected = model.inverse_transform(model.transform(X_test))
expected_by_nmf = nmf.inverse_transform(nmf.transform(X_test))


def error(expectation):
    """Root of the mean square of what is off, in grey values."""
    return np.sqrt(np.mean((expectation - X_test) ** 2))


shown = {
    "held-out faces": X_test,
    f"SparseGammaDEF, off by {error(expected):.1f} of 255": expected,
    f"NMF, off by {error(expected_by_nmf):.1f} of 255": expected_by_nmf,
}
figure = plt.figure(figsize=(10, 4.2), layout="constrained")
parts = figure.subfigures(3, 1)
for part, (title, rows) in zip(parts, shown.items(), strict=True):
    part.suptitle(title)
    show(part, rows[:10], 10, cmap="gray", vmin=0, vmax=255)

plt.show()
