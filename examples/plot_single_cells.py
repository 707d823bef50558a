"""
Kinds of cells
==============

Blood has monocytes, T cells, B cells, natural killers, platelets. A single-cell
experiment counts, for each cell, how many molecules of each gene's RNA were caught.
:class:`~skdeepfactor.PoissonFactorization` takes these counts as they are, without
logarithms or scaling, and finds programmes of genes whose names a biologist knows.

The data are some 900 peripheral blood cells of a healthy donor, published by 10x
Genomics as "1k PBMCs from a Healthy Donor (v3 chemistry)". To run this page, put the
counts as a SciPy sparse matrix of cells by genes in ``pbmc1k_v3/all.npz``, and the
names of the genes, one in a line, in ``pbmc1k_v3/vocab.txt``, below the folder that the
environment variable ``SKDEEPFACTOR_DATA`` names.
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse

from skdeepfactor import PoissonFactorization
from skdeepfactor.inspection import factor_shares, top_features
from skdeepfactor.plotting import EmbeddingDisplay

folder = Path(os.environ["SKDEEPFACTOR_DATA"]) / "pbmc1k_v3"
counts = scipy.sparse.load_npz(folder / "all.npz")
genes = np.array((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())

# %%
# Genes to keep
# -------------
# Those found in ten cells or more. Mitochondrial and ribosomal genes are in every cell,
# and say more of its health than of its kind.

is_seen = np.asarray((counts > 0).sum(axis=0)).ravel() >= 10
is_everywhere = np.array(
    [gene.startswith(("MT-", "RPL", "RPS", "MALAT1")) for gene in genes]
)
X = counts[:, is_seen & ~is_everywhere]
genes = genes[is_seen & ~is_everywhere]
totals = np.asarray(X.sum(axis=1)).ravel()
print(
    f"{X.shape[0]} cells, {X.shape[1]} genes; {X.nnz / np.prod(X.shape):.0%} not zero"
)
print(f"molecules in a cell: {totals.min():.0f} to {totals.max():.0f}")

# %%
# Twelve programmes
# -----------------
# Some cells were read ten times as deeply as others, which is chance and not biology:
# ``exposure="total"`` puts it into the model, and programmes speak of what is in a
# cell. The genes that are both frequent in a programme and exclusive to it
# (``by="frex"``) name it: 2 is S100A8 and S100A9 of monocytes, 7 the granules (GNLY,
# NKG7, PRF1) of natural killers, 6 platelet factor 4, 9 the TCF7 and CCR7 of T cells
# that have met nothing yet.

model = PoissonFactorization(12, exposure="total", random_state=0).fit(X)
table = top_features(model, 7, feature_names=genes, by="frex")
for programme in table.index:
    print(f"{programme:3d}  {' '.join(table.loc[programme])}")

# %%
# Textbook markers
# ----------------
# Where do the genes that biologists go by have their weight? Each column is divided by
# its largest entry. Most have one programme, or programmes of one kind: FCGR3A, which
# is CD16, marks both natural killers (7) and the lesser kind of monocytes (8), and the
# T cells of CD3D are spread over 9, 1, 3 and 11. B cells fill three programmes, by the
# light chain of their antibodies: kappa in 4, lambda in 0 and 10.

markers = {
    "CD14": "monocytes",
    "FCGR3A": "CD16 monocytes, NK",
    "CD3D": "T cells",
    "CD8A": "CD8 T cells",
    "CCR7": "naive T cells",
    "KLRB1": "NK, MAIT",
    "NKG7": "NK",
    "MS4A1": "B cells",
    "PPBP": "platelets",
}
columns = [np.flatnonzero(genes == gene)[0] for gene in markers]
weights = model.components_[:, columns]
figure, ax = plt.subplots(figsize=(7.5, 5), layout="constrained")
image = ax.imshow(weights / weights.max(axis=0), cmap="Blues", aspect="auto")
labels = [f"{gene} ({kind})" for gene, kind in markers.items()]
ax.set_xticks(range(len(markers)), labels, rotation=35, ha="right")
ax.set_yticks(range(12))
ax.set(ylabel="programme")
figure.colorbar(image, label="weight, of the largest")

# %%
# A map of the cells
# ------------------
# By the shares that the programmes have in them, coloured by the largest. Monocytes run
# from one kind (2) into the other (8), as T cells do from 9 to 3. Natural killers (7)
# lie beside the T cells that kill (1), B cells stand apart, and the few platelets are
# one dot. Nothing here was told which cell is which.

shares = factor_shares(model, X)
names = np.array([f"{k:2d} {' '.join(table.loc[k][:2])}" for k in table.index])
display = EmbeddingDisplay.from_embeddings(
    shares, groups=names[shares.argmax(axis=1)], projection="tsne", random_state=0
)
plt.show()
