"""
Digits as sparse codes
======================

A :class:`~skdeepfactor.VariationalSparseCoding` describes each image by few of many
patterns: for each pattern, a network predicts the probability that it is present, and
its amount. Most numbers of a code are exactly 0. This page looks at the patterns, at
what a digit is made of, and asks a linear classifier whether anything was lost.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdeepfactor import VariationalSparseCoding

# %%
# The model
# ---------
# The 1797 images of 8 by 8 pixels come with scikit-learn. The decoder is linear
# (``decoder_layers=()``), so that an image is a sum of patterns and Gaussian noise, of
# the same variance in all pixels (``noise="spherical"``). A code is to use a fifth of
# its 50 patterns (``alpha=0.2``).

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
model = VariationalSparseCoding(
    50,
    alpha=0.2,
    noise="spherical",
    decoder_layers=(),
    max_iter=100,
    batch_size=100,
    random_state=0,
).fit(X_train)
codes = model.transform(X_test)
n_used = (codes != 0).sum(axis=1)
print(
    f"{n_used.mean():.1f} of {codes.shape[1]} patterns in a held-out image on average"
)

# %%
# The patterns
# ------------
# ``components_`` as images, those in use most often first: what is added to the mean
# image in red, what is taken away in blue, and above each the share of the images that
# have it. All but one of the last dozen are next to empty: the data needed fewer than
# 50, and these stay switched on by chance, in the share that ``alpha`` names, and
# change nothing.

order = np.argsort(-model.activation_rates_)


def show(ax, values, limit, title=""):
    """Draw an image, red above zero and blue below."""
    ax.imshow(values.reshape(8, 8), cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set_title(title, fontsize=8)
    ax.set_axis_off()


figure, axes = plt.subplots(5, 10, figsize=(10, 6), layout="constrained")
limit = np.abs(model.components_).max()
for ax, pattern in zip(axes.flat, order, strict=True):
    show(
        ax, model.components_[pattern], limit, f"{model.activation_rates_[pattern]:.0%}"
    )

# %%
# What a digit is made of
# -----------------------
# Held-out images, what their codes give back, and their largest patterns, each times
# its number in the code. Eight to fourteen numbers give back a digit that a reader
# knows, smoother than it was. The patterns are no strokes of a pen: they add here and
# take away there, and only few of them mean something alone.

figure, axes = plt.subplots(5, 8, figsize=(10, 6.5), layout="constrained")
expected = model.inverse_transform(codes)
for line, row in zip(axes, [3, 5, 2, 1, 7], strict=True):
    show(line[0], X_test[row], 16, f"a {y_test[row]}")
    show(line[1], expected[row], 16, f"by {n_used[row]} patterns")
    largest = np.argsort(-np.abs(codes[row]))[:6]
    for ax, pattern in zip(line[2:], largest, strict=True):
        amount = codes[row, pattern]
        show(ax, amount * model.components_[pattern], 8, f"{amount:+.1f}")

# %%
# Are they good features?
# -----------------------
# A logistic regression on the codes, on the pixels, and on as many principal
# components, all brought to unit variance, of the same images. Nothing that a linear
# classifier needs was lost in the codes.

for name, features in {
    "64 pixels": StandardScaler(),
    "50 principal components": make_pipeline(PCA(50), StandardScaler()),
    "50 sparse codes": make_pipeline(model, StandardScaler()),
}.items():
    classifier = make_pipeline(features, LogisticRegression(max_iter=5000))
    accuracy = classifier.fit(X_train, y_train).score(X_test, y_test)
    print(f"{name:24} {accuracy:.1%} of held-out digits are told right")

plt.show()
