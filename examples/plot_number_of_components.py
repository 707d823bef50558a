"""
Choosing the number of components
=================================

How many topics does a corpus have? No number is the true one: it has as many topics as
you care to tell apart. But some numbers predict better than others, some read better,
and some come out alike whatever the seed. This page measures all three on the
docstrings of numpy, scipy, scikit-learn and torch, which need no download.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GridSearchCV, train_test_split

from skdeepfactor import LatentDirichletAllocation
from skdeepfactor.datasets import load_docstrings
from skdeepfactor.inspection import stability, top_features
from skdeepfactor.metrics import completion_perplexity, scorers
from skdeepfactor.plotting import ComponentSelectionDisplay

train, test = train_test_split(load_docstrings().data, random_state=0)
counter = CountVectorizer(
    stop_words="english", min_df=5, max_df=0.2, token_pattern=r"\b[a-z][a-z0-9_]+\b"
)
X_train = counter.fit_transform(train)
X_test = counter.transform(test)
words = counter.get_feature_names_out()
print(f"{X_train.shape[0]} docstrings to fit, {X_train.shape[1]} words")

# %%
# Three measures in one search
# ----------------------------
# ``metrics.scorers`` is a dict, and a grid search takes it as it is. Completion hides
# half of the words of each held-out docstring and predicts them; NPMI coherence asks
# whether the top words of a topic occur together; diversity, whether topics share top
# words. Larger is better for all of them, hence the minus of the perplexity.

sizes = [3, 5, 10, 20, 40, 80, 160]
search = GridSearchCV(
    LatentDirichletAllocation(random_state=0),
    {"n_components": sizes},
    scoring=scorers,
    refit="neg_completion_perplexity",
    cv=3,
).fit(X_train)

shown = ["neg_completion_perplexity", "npmi_coherence", "topic_diversity"]
figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
for metric, ax in zip(shown, axes, strict=True):
    ComponentSelectionDisplay.from_search(search, metric=metric, ax=ax)

# %%
# They disagree. Prediction still gains at 160 topics, though ever less: docstrings of
# one family repeat each other's sentences, and a topic for each family predicts these
# well. Coherence is best around 40, but the bars of one standard deviation over three
# folds overlap from 10 to 40, so that nothing is decided among these. Diversity only
# ever falls; it is a warning (below a half, most top words serve several topics), not a
# target.
#
# Does another seed find the same topics?
# ---------------------------------------
# Five fits of each size; :func:`~skdeepfactor.inspection.stability` pairs the topics of
# each two of them and averages the cosines of the pairs. 1 would be the same topics
# every time. Three topics are found again by every seed; from 5 to 160 the cosine is
# between 0.80 and 0.86, so that here it does not help to choose.

agreement = []
for size in sizes:
    fits = [
        LatentDirichletAllocation(size, random_state=seed).fit(X_train)
        for seed in range(5)
    ]
    agreement.append(stability(fits))

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.plot(sizes, agreement, marker="o")
ax.set(
    xscale="log",
    xlabel="n_components",
    ylabel="mean cosine of paired topics",
    ylim=(0, 1),
)
ax.set_xticks(sizes, sizes)
ax.minorticks_off()
print(dict(zip(sizes, np.round(agreement, 2).tolist(), strict=True)))

# %%
# What the numbers look like
# --------------------------
# The same corpus in 10 topics and in 40; of the 40, every fourth. With 10, the first is
# a drawer for what fits nowhere, and one topic holds what several of the 40 tell apart.
# For a map of a corpus to be read by people 20 to 40 topics would do here; as features,
# or to find similar docstrings, take more.

for size, step in ((10, 1), (40, 4)):
    model = clone(search.best_estimator_).set_params(n_components=size).fit(X_train)
    perplexity = completion_perplexity(model, X_test, random_state=0)
    print(f"\n{size} topics, completion perplexity of held-out texts {perplexity:.0f}")
    table = top_features(model, 6, feature_names=words, by="frex")
    for topic in table.index[::step]:
        print(f"{topic:4d}  {' '.join(table.loc[topic])}")
plt.show()
