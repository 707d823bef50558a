"""Which topics the words of rows are from."""


def row_shares(module, batch):
    """Shares of the topics in each row, (n_rows, k)."""
    return module.row_shares(batch)


def word_shares(module, batch):
    """Shares of the topics in each entry of a batch, (n_entries, k)."""
    return module.word_shares(batch)


def assignments(
    estimator, X, by, row_shares=row_shares, word_shares=word_shares, side=None
):
    """Shares of the topics in the words of rows, or in each word of a row.

    By the module's methods, or by other functions like those above. ``side`` is what is
    known of rows beside X.

    Raises
    ------
    ValueError
        If ``by`` is neither "row" nor "word".
    """
    functions = {"row": row_shares, "word": word_shares}
    if by not in functions:
        raise ValueError(f"by must be 'row' or 'word', got {by!r}.")
    return estimator._infer(X, functions[by], side=side)
