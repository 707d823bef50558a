r"""
Topics of docstrings
====================

The docstrings of numpy, scipy, scikit-learn and torch are a corpus that needs no
download. Two models of this package and scikit-learn's latent Dirichlet allocation find
topics in three quarters of them and are measured on the rest; then a grid search
chooses the number of factors.

``python examples/plot_topics_of_docstrings.py FOLDER`` writes the plots to FOLDER, by
default to the folder of this file.
"""

import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import LatentDirichletAllocation as ScikitLearnLDA
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline

from skdeepfactor import LatentDirichletAllocation, PoissonFactorization
from skdeepfactor.datasets import load_docstrings
from skdeepfactor.metrics import completion_perplexity, npmi_coherence, scorers
from skdeepfactor.plotting import (
    ComponentSelectionDisplay,
    DocumentDisplay,
    TopicsDisplay,
    TopicsPerGroupDisplay,
    TrainingDisplay,
)

started = time.perf_counter()
folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(sys.argv[0]).parent
folder.mkdir(parents=True, exist_ok=True)


def save(figure, name):
    """Write a figure and say where it is."""
    path = folder / name
    figure.savefig(path, dpi=110)
    print(f"wrote {name} to the folder {folder.name}")


# %%
# The corpus
# ----------
# The first time the source files are read, which takes some 15 seconds.

corpus = load_docstrings()
packages = np.array(corpus.target_names)[corpus.target]
train, test, packages, _ = train_test_split(corpus.data, packages, random_state=0)
print(
    f"{len(corpus.data)} docstrings of {', '.join(corpus.target_names)}: "
    f"{len(train)} to fit, {len(test)} held out"
)


# %%
# Three pipelines
# ---------------
# They differ in the last step alone. What follows is measured on counts, so that the
# seconds are those of the models.

N_COMPONENTS = 30


def pipeline(model):
    """Counts of words, then the model."""
    counts = CountVectorizer(
        stop_words="english",
        min_df=5,
        max_df=0.2,
        token_pattern=r"\b[a-z][a-z0-9_]+\b",
    )
    return Pipeline([("counts", counts), ("factors", model)])


models = {
    "PoissonFactorization": pipeline(
        PoissonFactorization(n_components=N_COMPONENTS, random_state=0)
    ),
    "LatentDirichletAllocation": pipeline(
        LatentDirichletAllocation(n_components=N_COMPONENTS, random_state=0)
    ),
    "scikit-learn's LDA": pipeline(
        ScikitLearnLDA(n_components=N_COMPONENTS, random_state=0)
    ),
}
seconds = {}
for name, model in models.items():
    fit_started = time.perf_counter()
    model.fit(train)
    seconds[name] = time.perf_counter() - fit_started

factorization = models["PoissonFactorization"]
X_train = factorization[:-1].transform(train)
X_test = factorization[:-1].transform(test)
words = factorization[:-1].get_feature_names_out()
print(f"{X_train.shape[1]} words, {X_train.sum()} tokens to fit\n")

# %%
# The topics
# ----------

N_WORDS = 10


def top_words(model):
    """The words of largest weight in each topic, the largest first."""
    order = np.argsort(-model[-1].components_, axis=1)
    return words[order[:, :N_WORDS]]


topics = top_words(factorization)
print("Topics of PoissonFactorization:")
for index, topic in enumerate(topics):
    print(f"{index:4d}  {' '.join(topic)}")
others = top_words(models["LatentDirichletAllocation"])
common = [len(set(a) & set(b)) for a, b in zip(topics, others, strict=True)]
print(
    "LatentDirichletAllocation starts from the same clusters of documents; "
    f"{np.mean(common):.1f} of {N_WORDS} words\nin a topic are the same.\n"
)

display = TopicsDisplay.from_estimator(factorization)
save(display.figure_, "topics.png")

# %%
# Packages and words
# ------------------
# No model was told which package a docstring is from, but topics tell them apart. Here
# are those that do so most, then one held-out docstring with each word marked by the
# topic that it is most probably from.

lda = models["LatentDirichletAllocation"]
display = TopicsPerGroupDisplay.from_estimator(lda, train, packages, n_components=12)
save(display.figure_, "packages.png")

text = min(test, key=lambda text: abs(len(text) - 1200))
display = DocumentDisplay.from_estimator(lda, text)
save(display.figure_, "document.png")

# %%
# Held-out scores
# ---------------
# Completion: half the tokens of each held-out document are hidden, the same for all
# models, and predicted from the other half. Perplexity is the bound of whole documents.
# Coherence is that of each topic's ten top words in the documents that were fitted.

print(
    f"\n{'':26}{'fit':>8}{'completion':>12}{'document':>12}{'NPMI':>11}\n"
    f"{'':26}{'seconds':>8}{'perplexity':>12}{'perplexity':>12}{'coherence':>11}"
)
for name, model in models.items():
    factors = model[-1]
    completion = completion_perplexity(factors, X_test, random_state=0)
    coherence = npmi_coherence(factors.components_, X_train)
    # scikit-learn's `perplexity` is another number: it counts the topics' divergence.
    is_ours = isinstance(factors, PoissonFactorization | LatentDirichletAllocation)
    document = f"{factors.perplexity(X_test):.1f}" if is_ours else "-"
    print(
        f"{name:26}{seconds[name]:8.1f}{completion:12.1f}{document:>12}{coherence:11.3f}"
    )
print("Seconds include the counting of words. Smaller perplexities are better.\n")

# %%
# Where inference starts
# ----------------------
# The bound of one model on the same rows, from clusters of the documents and from
# random weights, and the mean bound of a tenth of them that is held out.

starts = {
    f"init={init!r}": PoissonFactorization(
        n_components=N_COMPONENTS,
        init=init,
        max_iter=30,
        validation_fraction=0.1,
        random_state=0,
    ).fit(X_train)
    for init in ("kmeans", "random")
}
display = TrainingDisplay.from_estimator(starts)
save(display.figure_, "training.png")

# %%
# The number of factors
# ---------------------
# A pipeline of texts goes into scikit-learn's grid search as it is.

search = GridSearchCV(
    factorization,
    {"factors__n_components": [10, 20, 40, 80]},
    scoring=scorers["neg_completion_perplexity"],
    cv=2,
).fit(train)
best = search.best_params_["factors__n_components"]
tried = ", ".join(str(n) for n in search.param_grid["factors__n_components"])
print(
    f"\nGrid search over n_components = {tried}: {best} is the best,\n"
    f"with a completion perplexity of {-search.best_score_:.1f} in 2 folds\n"
    "(whose vocabularies are smaller than that of the table)"
)

display = ComponentSelectionDisplay.from_search(search)
save(display.figure_, "grid_search.png")

print(f"\n{time.perf_counter() - started:.0f} seconds in all")
plt.show()
