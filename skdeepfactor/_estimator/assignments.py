"""Which topics the words of rows are from."""


def assignments(estimator, X, by, row_shares, word_shares, side=None):
    """Shares of the topics in the words of rows, or in each word of a row.

    ``row_shares(module, batch)`` gives those of rows, (n_rows, k), and ``word_shares``
    those of the entries of a batch, (n_entries, k). ``side`` is what is known of rows
    beside X.

    Raises
    ------
    ValueError
        If ``by`` is neither "row" nor "word".
    """
    functions = {"row": row_shares, "word": word_shares}
    if by not in functions:
        raise ValueError(f"by must be 'row' or 'word', got {by!r}.")
    return estimator._infer(X, functions[by], side=side)
