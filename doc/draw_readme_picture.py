r"""Draw the picture of the README: topics of the docstrings of four packages.

``python doc/draw_readme_picture.py`` writes ``doc/_static/topics.png``. The corpus and
the model are those of ``make demo``.
"""

from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from skdeepfactor import LatentDirichletAllocation
from skdeepfactor.datasets import load_docstrings
from skdeepfactor.plotting import EmbeddingDisplay, TopicsDisplay

N_TOPICS = 30
N_WORDS = 7
COLORS = {
    "numpy": "#6699cc",
    "scipy": "#e8a33d",
    "sklearn": "#5aa469",
    "torch": "#d1605e",
}
PATH = Path(__file__).parent / "_static" / "topics.png"

corpus = load_docstrings()
counts = CountVectorizer(
    stop_words="english",
    min_df=5,
    max_df=0.2,
    token_pattern=r"\b[a-z][a-z0-9_]+\b",
)
X = counts.fit_transform(corpus.data)
lda = LatentDirichletAllocation(N_TOPICS, random_state=0)
shares = lda.fit_transform(X)
words = counts.get_feature_names_out()
top = np.argsort(-lda.components_, axis=1)[:, :N_WORDS]

# The area of a topic is its share of all words; its colour is that of the package with
# the most of it, relative to what there is of the package.
tokens = shares * np.asarray(X.sum(axis=1))
size = tokens.sum(axis=0) / tokens.sum()
packages = list(corpus.target_names)
uses = np.array([tokens[corpus.target == n].sum(axis=0) for n in range(len(packages))])
uses /= uses.sum(axis=1, keepdims=True)
package = uses.argmax(axis=0)

plt.rcParams.update({"font.size": 9, "savefig.dpi": 120, "figure.dpi": 120})
figure = plt.figure(figsize=(12, 5.6))

# On the left a map, on which topics are near each other if they share words.
ax = figure.add_axes((0.008, 0.015, 0.49, 0.90))
names = []
for first, *others in words[top]:
    # The second word is not a form of the first.
    second = next(other for other in others if other[:4] != first[:4])
    names.append(f"{first} {second}")
positions = EmbeddingDisplay.from_embeddings(
    np.sqrt(lda.components_), projection="tsne", random_state=0, ax=ax
).positions
# Names stand to the right of their points, so that those on the right come first.
from_the_right = np.argsort(-positions[:, 0])
EmbeddingDisplay(positions, names, ranking=from_the_right).plot(ax=ax)
ax.scatter(
    *positions.T,
    s=9000 * size,
    color=[COLORS[packages[n]] for n in package],
    alpha=0.55,
    linewidths=0,
    zorder=0,
)
ax.set_title(
    f"{N_TOPICS} topics of {X.shape[0]:,} docstrings; "
    "near each other where they share words",
    loc="left",
    fontsize=11,
)
for spine in ax.spines.values():
    spine.set_color("#cccccc")

# On the right, the words of two topics of each package: those that are most its own,
# among the larger half.
own_share = uses.max(axis=0) / uses.sum(axis=0)
own_share[size < np.median(size)] = 0
for column, (name, color) in enumerate(COLORS.items()):
    own = np.flatnonzero(package == packages.index(name))
    for row, topic in enumerate(own[np.argsort(-own_share[own])][:2]):
        left, bottom = 0.512 + 0.1225 * column, 0.475 - 0.46 * row
        axis = figure.add_axes((left, bottom, 0.115, 0.44))
        weights = lda.components_[topic, top[topic]]
        TopicsDisplay(words[top[[topic]]], weights[np.newaxis]).plot(ax=axis)
        axis.set_title(name if row == 0 else "", loc="left", fontsize=11, color=color)
        for bar in axis.patches:
            bar.set(facecolor=color, alpha=0.45)

PATH.parent.mkdir(exist_ok=True)
figure.savefig(PATH)
print(f"wrote {PATH.name}, {PATH.stat().st_size / 1000:.0f} kB")
