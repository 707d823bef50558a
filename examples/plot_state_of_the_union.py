r"""
Two centuries of addresses
==========================

Presidents return to the same subjects, but the words change: the topic of Congress has
senate, session and acts at first, and speaker, tonight and laughter in the end.
:class:`~skdeepfactor.DynamicTopicModel` lets the words of each topic walk from decade
to decade. Here are the addresses of the presidents of the United States on the state of
the Union, from 1790 to 2020, in passages of three paragraphs.

The texts are in the public domain; the R package ``sotu`` collects them. To run this
page, put the counts as a SciPy sparse matrix of passages by words in ``sotu/all.npz``,
the year of each passage in ``sotu/years.npy``, a number from 0 for its fold of the
passages in ``sotu/fold.npy``, and the words, one in a line, in ``sotu/vocab.txt``,
below the folder that the environment variable ``SKDEEPFACTOR_DATA`` names.
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse

from skdeepfactor import DynamicTopicModel, LatentDirichletAllocation
from skdeepfactor.inspection import name_components, topic_evolution
from skdeepfactor.metrics import completion_perplexity
from skdeepfactor.plotting import TopicEvolutionDisplay, TopicsOverTimeDisplay

folder = Path(os.environ["SKDEEPFACTOR_DATA"]) / "sotu"
X = scipy.sparse.csr_matrix(scipy.sparse.load_npz(folder / "all.npz"))
years = np.load(folder / "years.npy")
words = (folder / "vocab.txt").read_text(encoding="utf-8").split()
is_held = np.load(folder / "fold.npy") == 0
decades = years // 10 * 10
print(f"{X.shape[0]} passages, {X.shape[1]} words, {len(np.unique(decades))} decades")

# %%
# Do topics change?
# -----------------
# The same passages are held out from a model whose topics change and from one whose
# topics stay; half of their words are predicted from the other half. By default the
# training rows decide how fast topics change (``chain_variance="auto"``).

model = DynamicTopicModel(30, random_state=0)
model.fit(X[~is_held], times=decades[~is_held])
static = LatentDirichletAllocation(30, random_state=0).fit(X[~is_held])
dynamic_perplexity = completion_perplexity(
    model, X[is_held], random_state=0, times=decades[is_held]
)
static_perplexity = completion_perplexity(static, X[is_held], random_state=0)
print(f"perplexity of hidden words: {dynamic_perplexity:.0f}", end=", ")
print(f"of topics that stay: {static_perplexity:.0f}")
print(f"variance from decade to decade: {model.chain_variance_:.2f}")

# %%
# Words of two centuries
# ----------------------
# With all topics together, the curves are shares of words in all that is said: wars,
# the question that led to one, the customs that fed the government for a century, and
# the words of late.

chosen = ["wars", "slavery", "tariff", "terrorist"]
_, axes = plt.subplots(2, 2, figsize=(9, 5), layout="constrained")
for word, ax in zip(chosen, axes.flat, strict=True):
    TopicEvolutionDisplay.from_estimator(
        model, words=[word], feature_names=words, ax=ax
    )
    ax.set_title(word)
    ax.get_legend().remove()

# %%
# One topic
# ---------
# The topic whose words change most, of those that are never small, at the beginning, in
# the middle and at the end; then the words that it lost and won.

evolution = topic_evolution(model, n_top=8, feature_names=words)
is_there = model.prevalence_.min(axis=0) > 0.005
topic = int(np.argmax(np.where(is_there, evolution.drift, 0)))
for place in np.linspace(0, len(model.times_) - 1, 5).astype(int):
    print(f"{model.times_[place]}: {', '.join(evolution.words[place][topic])}")
print("falling:", ", ".join(evolution.falling[topic]))
print("rising: ", ", ".join(evolution.rising[topic]))
TopicEvolutionDisplay.from_estimator(model, topic, n_words=8, feature_names=words)

# %%
# When topics were large
# ----------------------
# Topics are named by their three most probable words on average. These are the topics
# whose shares change most:

top = np.argsort(-model.components_, axis=1)[:, :3]
names = [" ".join(words[word] for word in of_topic) for of_topic in top]
model = name_components(model, names)
most = np.argsort(-np.ptp(model.prevalence_, axis=0))[:6]
labels = [names[place] for place in most]
TopicsOverTimeDisplay(model.times_, model.prevalence_[:, most], labels).plot()
plt.show()

# %%
# A forecast
# ----------
# ``forecast`` moves the last topics towards their mean over time, as far as would have
# predicted the last decade best from those before it. For the topic above:

topics = model.forecast([model.times_[-1] + 10])[0]
rising = np.argsort(-topics[topic])[:8]
print("next decade:", ", ".join(words[word] for word in rising))
