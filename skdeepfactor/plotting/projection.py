"""Positions of points of many dimensions in a plane."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE


def two_dimensions(embeddings, projection, random_state):
    """Positions in a plane, (n_points, 2), by "pca" or by "tsne" of the directions."""
    n_points, n_dimensions = embeddings.shape
    if n_dimensions <= 2 or n_points == 1:
        positions = np.zeros((n_points, 2))
        positions[:, :n_dimensions] = embeddings[:, :2]
        return positions
    points = embeddings
    if projection == "tsne":
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        points = np.divide(
            embeddings, lengths, out=np.zeros_like(embeddings), where=lengths > 0
        )
    if np.ptp(points, axis=0).max() <= 1e-12 * np.abs(points).max():
        # All are one, except for rounding. scikit-learn's t-SNE would divide by their
        # spread, and where that is 0 the whole process ends.
        return np.zeros((n_points, 2))
    if projection == "pca":
        projector = PCA(2, svd_solver="full")
    else:
        perplexity = min(30.0, (n_points - 1) / 3)
        projector = TSNE(perplexity=perplexity, random_state=random_state)
    # An array, whatever users have set scikit-learn to give.
    return projector.set_output(transform="default").fit_transform(points)
