"""
Clusters of short texts
=======================

Titles, queries and posts hold a dozen words about one thing. That is too little to tell
the proportions of several topics from, and just right for a mixture, which gives each
text one component. Here the texts are the first sentences of the docstrings of numpy,
scipy, scikit-learn and torch, which need no download.
"""

import re

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from skdeepfactor import LatentDirichletAllocation, MultinomialMixture
from skdeepfactor.datasets import load_docstrings
from skdeepfactor.inspection import top_features
from skdeepfactor.plotting import TrainingDisplay

corpus = load_docstrings()
paragraphs = [re.sub(r"\A[\w.]+\(.*\n+", "", text) for text in corpus.data]
sentences = [
    " ".join(re.split(r"(?<=[.:])\s|\n\n", text, maxsplit=1)[0].split())
    for text in paragraphs
]
counter = CountVectorizer(
    stop_words="english", min_df=3, token_pattern=r"\b[a-z][a-z0-9_]+\b"
)
X = counter.fit_transform(sentences)
known = np.flatnonzero(X.sum(axis=1) >= 3)
X, sentences = X[known], [sentences[i] for i in known]
words = counter.get_feature_names_out()
print(
    f"{X.shape[0]} sentences, {X.shape[1]} words, {X.sum(1).mean():.1f} in a sentence"
)

# %%
# An upper bound in the place of a number
# ---------------------------------------
# How many clusters there are is not known, and need not be. ``n_components`` is an
# upper bound for collapsed inference: components that lose their rows stay empty.

mixture = MultinomialMixture(300, random_state=0)
labels = mixture.fit_predict(X)
sizes = np.bincount(labels, minlength=300)
print(
    f"{mixture.n_active_components_} of 300 components hold rows; the largest holds "
    f"{sizes.max()}, half of them at most {np.median(sizes[sizes > 0]):.0f}"
)

figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
axes[0].bar(np.arange((sizes > 0).sum()), np.sort(sizes[sizes > 0])[::-1], width=1)
axes[0].set(xlabel="components by size", ylabel="sentences")
TrainingDisplay.from_estimator(mixture, ax=axes[1])

# %%
# The first passes are softened by a temperature, so that the bound need not rise in
# them.
#
# What is in the clusters
# -----------------------
# The words of some of the largest clusters, and three sentences of each, from the one
# that the model is surest of to one that it is hardly sure of.

table = top_features(mixture, 6, feature_names=words, by="frex")
responsibilities = mixture.transform(X)
for component in np.argsort(sizes)[::-1][:24:3]:
    rows = np.flatnonzero(labels == component)
    sure = rows[np.argsort(-responsibilities[rows, component], kind="stable")]
    print(f"\n{sizes[component]:4d}  {' '.join(table.iloc[component])}")
    for row in sure[[0, len(sure) // 2, -1]]:
        print(f"        {sentences[row][:74]}")

# %%
# Beside topics
# -------------
# LDA mixes topics in each sentence, though a handful of words says little of the
# proportions. Both models see nine tenths of the sentences; the perplexity is of the
# words of the others, given their number. That of the mixture is exact, that of LDA an
# upper bound, which is loose where rows are short.

rng = np.random.default_rng(0)
is_test = rng.random(X.shape[0]) < 0.1
for model in (
    MultinomialMixture(300, random_state=0),
    LatentDirichletAllocation(30, random_state=0),
    LatentDirichletAllocation(100, random_state=0),
):
    model.fit(X[~is_test])
    perplexity = model.perplexity(X[is_test], average="corpus")
    name = type(model).__name__
    print(f"{name:26s} {model.n_components:4d}  perplexity {perplexity:.0f}")
plt.show()
