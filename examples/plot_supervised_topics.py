r"""
Topics that tell packages apart
===============================

Topics found without labels describe the subjects of docstrings, and these need not tell
one package from another. :class:`~skdeepfactor.SupervisedLDAClassifier` finds a few
topics that do, and shows which topic speaks for which package.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from skdeepfactor import LatentDirichletAllocation, SupervisedLDAClassifier
from skdeepfactor.datasets import load_docstrings
from skdeepfactor.inspection import top_features
from skdeepfactor.metrics import completion_perplexity

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
# Ten topics with labels, and without
# -----------------------------------
# Both models infer proportions of topics from words alone. Completion is the perplexity
# of a hidden half of the words: lower is better.

model = SupervisedLDAClassifier(10, supervision=30, word_dropout=0.5, random_state=0)
model.fit(X_train, y_train)
lda = LatentDirichletAllocation(10, max_iter=10, random_state=0).fit(X_train)
plain = LogisticRegression(C=100, max_iter=500)
plain.fit(lda.transform(X_train), y_train)
for name, accuracy, topics in (
    ("with labels", model.score(X_test, y_test), model),
    ("without", plain.score(lda.transform(X_test), y_test), lda),
):
    completion = completion_perplexity(topics, X_test, random_state=0)
    print(f"{name:12} accuracy {accuracy:.3f}, completion {completion:.0f}")

# %%
# Why a package
# -------------
# A prediction adds up coefficients of topics, times their proportions. Blue topics
# speak for a package, red ones against it.

tops = np.asarray(top_features(model, 5, words))
coef = model.coef_ - model.coef_.mean(axis=0)
order = np.argsort(coef.argmax(axis=0), kind="stable")
limit = np.abs(coef).max()
figure, ax = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
image = ax.imshow(coef[:, order].T, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
ax.set(
    xticks=range(len(model.classes_)),
    xticklabels=model.classes_,
    yticks=range(len(order)),
    yticklabels=[" ".join(top) for top in tops[order]],
)
figure.colorbar(image, label="coefficient")

# %%
# One docstring
# -------------
# The contributions of its topics to the log odds of the predicted package.

theta = model.transform(X_test[:1])[0]
predicted = model.predict(X_test[:1])[0]
shares = theta * coef[model.classes_ == predicted][0]
print(f"predicted {predicted}, from {y_test[0]}")
for topic in np.argsort(-np.abs(shares))[:3]:
    print(f"{shares[topic]:+.2f}  {theta[topic]:.2f} of", " ".join(tops[topic]))

plt.show()
