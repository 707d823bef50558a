"""Steps of Adam on parameters of rows, with separate moments for each row."""

from typing import NamedTuple

import torch

# Shares of the old and of the new in the averages of slopes and of their squares.
FIRST, SECOND = (0.9, 0.1), (0.99, 0.01)


class Moments(NamedTuple):
    """Averages of slopes and of their squares, shaped like the parameters.

    ``n_steps`` is the number of steps averaged: one for all rows, or (n_rows, 1).
    """

    first: torch.Tensor
    second: torch.Tensor
    n_steps: torch.Tensor | int

    @classmethod
    def none(cls, state):
        """Moments before the first step."""
        return cls(torch.zeros_like(state), torch.zeros_like(state), 0)


def adam_step(state, moments, slope, rate):
    """Parameters of rows after a step of Adam up a slope, and the new moments."""
    n_steps = moments.n_steps + 1
    first = FIRST[0] * moments.first + FIRST[1] * slope
    second = SECOND[0] * moments.second + SECOND[1] * slope.square()
    size = (second / (1 - SECOND[0] ** n_steps)).sqrt() + 1e-8
    step = (first / (1 - FIRST[0] ** n_steps)) / size
    return state + rate * step, Moments(first, second, n_steps)
