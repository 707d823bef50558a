r"""
Topics of packages
==================

Some words of a docstring belong to its package, and others are common to all packages.
:class:`~skdeepfactor.LabeledLDA` gives each package topics of its own, adds shared
ones, and lets a docstring use those of its package and the shared ones alone. This page
shows the topics of numpy, scipy, scikit-learn and torch, and how well new docstrings
are told apart, with all labels and with few.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from skdeepfactor import LabeledLDA
from skdeepfactor.datasets import load_docstrings
from skdeepfactor.inspection import name_components, top_features
from skdeepfactor.plotting import DocumentDisplay

corpus = load_docstrings()
packages = np.array(corpus.target_names)[corpus.target]
train, test, y_train, y_test = train_test_split(
    corpus.data, packages, random_state=0, stratify=packages
)
counter = CountVectorizer(
    stop_words="english", min_df=5, max_df=0.2, token_pattern=r"\b[a-z][a-z0-9_]+\b"
)
X_train = counter.fit_transform(train)
X_test = counter.transform(test)
words = counter.get_feature_names_out()

# %%
# Four topics for each package, six for all
# -----------------------------------------
# The topics of a package start from clusters of its docstrings, the shared ones from
# clusters of all.

model = LabeledLDA(topics_per_label=4, n_shared=6, random_state=0).fit(X_train, y_train)
tops = np.asarray(top_features(model, 7, words))
for label, top in zip(model.topic_labels_, tops, strict=True):
    print(f"{label or 'shared':8}", " ".join(top))

# %%
# Which package is it?
# --------------------
# ``predict`` compares the words of a docstring with those of each package, as its
# topics smooth them.

print(
    f"accuracy {model.score(X_test, y_test):.3f} of {len(y_test)} held-out docstrings"
)

# %%
# ``transform`` does not ask for the label: a docstring may then use all topics. Those
# of other packages take a part of it, as functions of the same kind are in several. A
# row of the picture is the mean over the held-out docstrings of a package.

theta = model.transform(X_test)
shares = np.array([theta[y_test == name].mean(axis=0) for name in model.classes_])
labels = [label or "shared" for label in model.topic_labels_]
columns = [*model.classes_, "shared"]
grouped = np.array(
    [shares[:, [label == name for label in labels]].sum(axis=1) for name in columns]
)
figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
image = ax.imshow(grouped.T, cmap="Blues", vmin=0)
ax.set(
    xticks=range(len(columns)),
    xticklabels=columns,
    yticks=range(len(model.classes_)),
    yticklabels=model.classes_,
    xlabel="topics of",
    ylabel="docstrings of",
)
for (row, column), share in np.ndenumerate(grouped.T):
    color = "white" if share > 0.4 else "black"
    ax.text(column, row, f"{share:.2f}", ha="center", va="center", color=color)
figure.colorbar(image, label="mean share")

# %%
# Which words are from which package
# ----------------------------------
# ``topic_assignments`` gives the topic of each word, and with it its package. A
# docstring that speaks of two packages shows this best. Topics are named by their label
# and their top words. The docstring drawn is the held-out one with the most even words
# of two packages, among those of some length.

names = [
    f"{label}: {' '.join(top[:3])}" for label, top in zip(labels, tops, strict=True)
]
named = make_pipeline(counter, name_components(model, names))
by_package = np.array(
    [
        theta[:, [label == name for label in labels]].sum(axis=1)
        for name in model.classes_
    ]
).T
second = np.sort(by_package, axis=1)[:, -2]
is_long = np.array([500 < len(text) < 900 for text in test])
chosen = test[np.argmax(second * is_long)]
DocumentDisplay.from_estimator(named, chosen, n_components=6)

# %%
# Few labels
# ----------
# Where a label is ``None``, the docstring may use all topics, in training too, and
# helps to find them. With the labels of a part of the docstrings only:

rng = np.random.default_rng(0)
place = rng.permutation(len(y_train))
for share in (1.0, 0.2, 0.05, 0.02):
    is_shown = place < share * len(y_train)
    few = np.where(is_shown, y_train, None)
    both = LabeledLDA(4, 6, random_state=0).fit(X_train, few)
    alone = LabeledLDA(4, 6, random_state=0).fit(X_train[is_shown], few[is_shown])
    print(
        f"{is_shown.sum():5} labels: accuracy {both.score(X_test, y_test):.3f}, "
        f"perplexity {both.perplexity(X_test):.0f}; without the docstrings that have "
        f"none {alone.score(X_test, y_test):.3f}, {alone.perplexity(X_test):.0f}"
    )

# %%
# Docstrings without a label improve the topics: if they stay, 117 labels explain the
# words of others nearly as well as all labels do. They do not help to tell packages
# apart, for which a few hundred labels show enough of the words of each package.

plt.show()
