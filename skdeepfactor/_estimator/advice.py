"""What to do about data that scikit-learn refuses."""

import numpy as np
import scipy.sparse


def advice(estimator, X, error):
    """What to do about data that scikit-learn refused, None where it says so itself."""
    if error.startswith("Negative values"):
        return (
            f"{error} Counts cannot be negative: leave out what centres them, such as "
            "StandardScaler, or take a model of real numbers, such as "
            "VariationalAutoencoder."
        )
    is_sparse = scipy.sparse.issparse(X)
    if "contains NaN" in error and not is_sparse:
        if "missing_values" not in estimator.get_params(deep=False):
            return None
        return (
            "Input X contains NaN. missing_values='ignore' takes such entries to be "
            "missing, leaves them out, and lets inverse_transform say what they may be."
        )
    if "features as input" in error:
        n_features = estimator.n_features_in_
        n_rows = X.shape[0] if is_sparse else len(X)
        hint = f" It has {n_features} rows: is it transposed?"
        return error + hint if n_rows == n_features else None
    if is_sparse or not _holds_objects(X):
        return None
    values = np.asarray(X, dtype=object)
    is_text = np.array([isinstance(value, str) for value in values.flat], dtype=bool)
    if values.ndim == 2 and is_text.any():
        names = vars(estimator).get("feature_names_in_")
        if names is None:
            return (
                "X holds words where counts must be. CountVectorizer(analyzer=list) "
                "makes counts of lists of words."
            )
        columns = names[is_text.reshape(values.shape).any(axis=0)]
        return (
            f"X has text in {', '.join(map(repr, columns[:3]))}. Take the columns that "
            "hold counts, or make counts of the texts by a ColumnTransformer with a "
            "CountVectorizer for each such column."
        )
    if is_text.any():
        return (
            "X holds texts, and not counts of their words. "
            f"make_pipeline(CountVectorizer(), {type(estimator).__name__}()) takes a "
            "list of texts."
        )
    if any(isinstance(value, list | tuple) for value in values.flat):
        return (
            "X holds lists of different lengths, where each row must have a number for "
            "each feature. CountVectorizer(analyzer=list) makes counts of lists of "
            "words, gensim.matutils.corpus2csc(corpus, num_terms=...).T of a corpus of "
            "gensim's."
        )
    return None


def _holds_objects(X):
    """Whether data are anything but numbers."""
    try:
        return np.asarray(X).dtype.kind not in "biufc"
    except ValueError:
        # Rows of different lengths.
        return True
