"""
Words as vectors, by the decoder's Jacobian
===========================================

A model of documents knows something of words, too: how the expected frequency of each
changes when the factors of a document change. These slopes are a vector for every word.
Words that gain and lose from the same factors point the same way, which makes
neighbours of words that mean alike, without a window over the text or a pretrained
network.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from skdeepfactor import NeuralTopicDLGM
from skdeepfactor.datasets import load_docstrings
from skdeepfactor.inspection import jacobian_embeddings, latent_usage, nearest_features
from skdeepfactor.plotting import EmbeddingDisplay

# %%
# The model
# ---------
# Docstrings come with numpy, scipy, scikit-learn and torch. Each gets a Gaussian vector
# of 50 numbers, from which a linear map makes the logits of its words.

corpus = load_docstrings()
counter = CountVectorizer(
    stop_words="english", min_df=20, max_df=0.2, token_pattern=r"\b[a-z][a-z0-9_]+\b"
)
X = counter.fit_transform(corpus.data)
words = counter.get_feature_names_out()
model = NeuralTopicDLGM(50, max_iter=10, random_state=0).fit(X)
print(f"{X.shape[0]} docstrings, {X.shape[1]} words")

# %%
# Neighbours
# ----------
# By cosine. The slopes are averaged over documents that the model could make up
# (``at="prior_mean"``, the default), which is the meaning of a word in general; given
# rows, they are those of a word in these.

embeddings = jacobian_embeddings(model, random_state=0)
for word in ("eigenvalues", "gpu", "forest", "fourier", "csr", "gaussian", "nan"):
    neighbours = nearest_features(embeddings, word, 6, feature_names=words)
    print(
        f"{word:12}", ", ".join(f"{name} {cosine:.2f}" for name, cosine in neighbours)
    )

# %%
# The functions of one family stand together ("rfft", "irfft", "dft"), and so do things
# that come up in one breath ("gpu", "cuda"). Words of no clear subject, such as
# "gaussian", have neighbours at half the cosine: read these lists with the number
# beside the name.
#
# A map
# -----
# t-SNE of the directions of the 400 most frequent words, with names where there is
# room. Statistics, learning, devices and processes, signals, shapes and axes have each
# a part of the map of their own. What is far apart on such a map need not be far apart
# in the model: t-SNE keeps neighbours, not distances.

frequent = np.argsort(-np.asarray(X.sum(axis=0)).ravel())[:400]
display = EmbeddingDisplay.from_embeddings(
    embeddings[frequent],
    names=words[frequent],
    labelled=np.arange(400),
    n_labels=120,
    projection="tsne",
    random_state=0,
)

# %%
# How many of the 50 directions are used?
# ---------------------------------------
# A step of one standard deviation in a direction moves the log frequencies of the words
# by a vector whose length is the singular value. Directions below 1 say next to
# nothing, as many do where a deep decoder has collapsed. With a network beside the
# linear map (``decoder_layers``) the slopes of a word differ from document to document;
# the figure shows the mean slopes. Such a decoder starts level with a linear one; how
# many directions each has in use is printed.

deep = NeuralTopicDLGM(50, decoder_layers=(100,), max_iter=10, random_state=0).fit(X)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True, layout="constrained")
for ax, fitted, title in zip(axes, (model, deep), ("linear", "deep"), strict=True):
    values = latent_usage(jacobian_embeddings(fitted, random_state=0))
    n_used = (values > 1).sum()
    print(f"{title}: {n_used} of {len(values)} singular values above 1")
    ax.bar(np.arange(1, len(values) + 1), values)
    ax.axhline(1, color="black", linewidth=1, linestyle="--")
    ax.set(xlabel="direction", title=f"{title} decoder")
axes[0].set_ylabel("singular value")
plt.show()
