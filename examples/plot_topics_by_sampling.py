"""
Topics of topics, by sampling
=============================

A :class:`~skdeepfactor.PoissonGammaBeliefNetwork` has layers of topics: a document is
made of topics, and a few topics of topics decide which topics are possible in it. It is
fitted by Gibbs sampling, and its predictions are averages over draws. Here are the
docstrings of numpy, scipy, scikit-learn and torch.
"""

import matplotlib.pyplot as plt
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import train_test_split

from skdeepfactor import (
    LatentDirichletAllocation,
    PoissonGammaBeliefNetwork,
    SparseGammaDEF,
)
from skdeepfactor.datasets import load_docstrings
from skdeepfactor.inspection import hierarchy
from skdeepfactor.metrics import completion_perplexity
from skdeepfactor.plotting import HierarchyDisplay, TrainingDisplay

corpus = load_docstrings()
train, test = train_test_split(corpus.data, random_state=0)
counter = CountVectorizer(
    stop_words="english", min_df=5, max_df=0.2, token_pattern=r"\b[a-z][a-z0-9_]+\b"
)
X_train = counter.fit_transform(train)
X_test = counter.transform(test)
words = counter.get_feature_names_out()

# %%
# A chain
# -------
# 30 topics under 6 topics of topics. The log likelihood of the words, given what each
# sweep has drawn, shows when the chain has settled. It need not rise in each sweep,
# since a sampler does not climb. Before the first of them, documents have had ten
# sweeps under the topics of the start.

settings = {"max_iter": 150, "n_burn_in": 75, "random_state": 0}
model = PoissonGammaBeliefNetwork((30, 6), **settings).fit(X_train)
display = TrainingDisplay.from_estimator(model)
display.ax_[0].set(ylabel="log likelihood given the draws")
print(hierarchy(model, words, n=4))

# %%
# The same as a graph: topics of topics on the left, topics on the right, and lines as
# wide as the share of the topic.

HierarchyDisplay.from_estimator(model, feature_names=words)

# %%
# What depth is worth
# -------------------
# Half of each held-out document is hidden and predicted from the other half: by one
# layer and by two, by the gamma DEF with the same layers, whose upper units give means
# rather than shapes, and by LDA.

contenders = {
    "two layers": model,
    "one layer": PoissonGammaBeliefNetwork((30,), **settings),
    "gamma DEF, two layers": SparseGammaDEF(
        (30, 6),
        init="kmeans",
        acceleration=0,
        over_relaxation=1.8,
        max_iter=150,
        tol=1e-5,
        random_state=0,
    ),
    "LDA": LatentDirichletAllocation(30, random_state=0),
}
found = {}
for name, contender in contenders.items():
    if contender is not model:
        contender.fit(X_train)
    found[name] = completion_perplexity(contender, X_test, random_state=0)
    print(f"{name:22} perplexity of hidden halves {found[name]:6.1f}")

figure, ax = plt.subplots(figsize=(7, 2.2), layout="constrained")
ax.plot(list(found.values()), list(found), "o")
ax.set(xlabel="perplexity of hidden halves; smaller is better")
ax.grid(axis="y")
ax.margins(y=0.15)
ax.invert_yaxis()
plt.show()
