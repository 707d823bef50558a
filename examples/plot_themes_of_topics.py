"""
Themes of topics
================

Topics come in families: those on linear algebra, those on probability. A
:class:`~skdeepfactor.SparseGammaDEF` with two layers finds topics of words and, in the
same fit, themes of topics: units of the second layer are groups of topics that are
active in the same documents. Here are those of the docstrings of numpy, scipy,
scikit-learn and torch.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import train_test_split

from skdeepfactor import SparseGammaDEF
from skdeepfactor.datasets import load_docstrings
from skdeepfactor.inspection import factor_shares, hierarchy
from skdeepfactor.plotting import HierarchyDisplay

corpus = load_docstrings()
train, test, _, target_test = train_test_split(
    corpus.data, corpus.target, random_state=0
)
counter = CountVectorizer(
    stop_words="english", min_df=5, max_df=0.2, token_pattern=r"\b[a-z][a-z0-9_]+\b"
)
X_train = counter.fit_transform(train)
X_test = counter.transform(test)
words = counter.get_feature_names_out()

# %%
# Two layers
# ----------
# 30 topics, made of 6 themes. ``init="kmeans"`` starts from clusters of documents, as
# suits texts (the default, ``"parts"``, suits images); where counts are as small as
# here, over-relaxed steps without acceleration are quick enough.

settings = {
    "init": "kmeans",
    "acceleration": 0,
    "over_relaxation": 1.8,
    "max_iter": 150,
    "tol": 1e-5,
    "random_state": 0,
}
model = SparseGammaDEF((30, 6), **settings).fit(X_train)
print(hierarchy(model, words, n=4))

# %%
# The same as a graph: themes on the left, topics on the right, and lines as wide as the
# share of the topic in the theme.

display = HierarchyDisplay.from_estimator(model, feature_names=words)

# %%
# Two of the themes are single topics that have little to do with the rest: polynomials,
# and the sizes of convolutions ("padding", "h\_"). Learning, probability and neural
# networks are groups of four or five. The theme of arrays and tensors is thin and wide,
# and some topics belong to no theme by a share of a twentieth.
#
# Do the themes say anything?
# ---------------------------
# One layer of 30 topics is the same model without themes. It needs a prior for its
# topics, and 0.1 is the same for all documents; the second layer learns which topics go
# together. Rows that were not fitted tell which is the better prior.

flat = SparseGammaDEF((30,), **settings).fit(X_train)
for name, fitted in (("30 topics", flat), ("30 topics in 6 themes", model)):
    print(
        f"{name:22} mean bound of a held-out row {fitted.score(X_test):7.1f} nats, "
        f"perplexity {fitted.perplexity(X_test):5.0f}"
    )

# %%
# Themes by package
# -----------------
# With ``transform_layer=2`` the factors of a document are its themes, and
# :func:`~skdeepfactor.inspection.factor_shares` gives how much of it comes from each.
# Nobody told the model where a docstring comes from; these are the mean shares of the
# held-out ones of each package. The wide theme of arrays is common to all four. Two
# thirds of scikit-learn are the theme of learning, a quarter of SciPy that of
# distributions; modules and padding are found in torch alone, and NumPy's own are the
# polynomials.

shares = factor_shares(model.set_params(transform_layer=2), X_test)
of_package = np.array([shares[target_test == index].mean(axis=0) for index in range(4)])
figure, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
left = np.zeros(4)
for theme, unit in enumerate(hierarchy(model, words, n=3)):
    ax.barh(
        corpus.target_names,
        of_package[:, theme],
        left=left,
        label=" ".join(unit["features"]),
    )
    left += of_package[:, theme]
ax.set(xlabel="mean share of the theme", xlim=(0, 1))
ax.invert_yaxis()
figure.legend(loc="outside right upper", frameon=False)
plt.show()
