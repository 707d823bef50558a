r"""
Topics that go together
=======================

Some topics are found in the same documents, and some come with the source of a
document. :class:`~skdeepfactor.CorrelatedTopicModel` learns both: a covariance of the
topics, and a regression of the topics on covariates. Here are the docstrings of numpy,
scipy, scikit-learn and torch, with their package as the covariate.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OneHotEncoder

from skdeepfactor import CorrelatedTopicModel, LatentDirichletAllocation
from skdeepfactor.datasets import load_docstrings
from skdeepfactor.inspection import topic_graph
from skdeepfactor.metrics import completion_perplexity
from skdeepfactor.plotting import TopicGraphDisplay

corpus = load_docstrings()
packages = np.array(corpus.target_names)[corpus.target]
train, test, p_train, p_test = train_test_split(
    corpus.data, packages, random_state=0, stratify=packages
)
counter = CountVectorizer(
    stop_words="english", min_df=5, max_df=0.2, token_pattern=r"\b[a-z][a-z0-9_]+\b"
)
X_train = counter.fit_transform(train)
X_test = counter.transform(test)
words = counter.get_feature_names_out()

# %%
# Which topics go together?
# -------------------------
# Thirty topics. Lines are correlations of the logarithms of their proportions; the
# wider, the larger. Topics without a line are at the bottom.

model = CorrelatedTopicModel(30, random_state=0).fit(X_train)
display = TopicGraphDisplay.from_estimator(
    model, feature_names=words, threshold=0.2, n_edges=40
)

# %%
# Signal processing, the parts of an estimator and what torch keeps on a device form
# groups of their own. The strongest pairs, by three words of each topic:

names = [" ".join(words[np.argsort(-topic)[:3]]) for topic in model.components_]
pairs, correlations = topic_graph(model, n_edges=6)
for (one, other), correlation in zip(pairs, correlations, strict=True):
    print(f"{correlation:.2f}  {names[one]}  -  {names[other]}")

# %%
# Does it predict better?
# -----------------------
# Half of the words of each held-out docstring are hidden, and predicted from the other
# half. Topics that go together help to predict each other.

lda = LatentDirichletAllocation(30, random_state=0).fit(X_train)
for name, fitted in (("LDA", lda), ("correlated topics", model)):
    perplexity = completion_perplexity(fitted, X_test, random_state=0)
    print(f"{name:18} perplexity of hidden words {perplexity:.0f}")

# %%
# What does the package change?
# -----------------------------
# The package of a docstring is known before its words are. As a covariate, it says
# which topics to expect; if it is unknown, the mean of the packages is used.

encoder = OneHotEncoder().fit(p_train[:, np.newaxis])
C_train = encoder.transform(p_train[:, np.newaxis])
C_test = encoder.transform(p_test[:, np.newaxis])
with_package = CorrelatedTopicModel(30, random_state=0)
with_package.fit(X_train, covariates=C_train)
for name, covariates in (("unknown", None), ("known", C_test)):
    perplexity = completion_perplexity(
        with_package, X_test, random_state=0, covariates=covariates
    )
    print(f"package {name:8} perplexity of hidden words {perplexity:.0f}")

# %%
# Half of the words also reveal the package, so knowing it helps these predictions
# little: covariates matter for documents of few words, and for their own effects.
# ``effect`` says by how much the logarithm of a topic is above or below its mean over
# packages, with intervals of 90 %. Here are the five topics that differ most.

each = np.eye(len(encoder.categories_[0]))
mean = each.mean(axis=0, keepdims=True)
found = with_package.effect(each, baseline=mean)
most = np.argsort(-np.ptp(found.mean, axis=0))[:5]
figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
n_packages = len(each)
for row, package in enumerate(encoder.categories_[0]):
    y = np.arange(len(most)) + (row - (n_packages - 1) / 2) * 0.16
    middle = found.mean[row, most]
    ends = [middle - found.lower[row, most], found.upper[row, most] - middle]
    ax.errorbar(middle, y, xerr=ends, fmt="o", ms=4, label=package)
tops = [words[np.argsort(-with_package.components_[k])[:3]] for k in most]
ax.set_yticks(range(len(most)), [" ".join(top) for top in tops])
ax.axvline(0, color="0.8", zorder=0)
ax.invert_yaxis()
ax.set_xlabel("logarithm of the topic's proportion, above the mean of the packages")
ax.legend(frameon=False)
plt.show()
