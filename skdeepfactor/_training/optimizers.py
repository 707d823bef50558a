"""Steps along gradients: natural ones, and those of Adam with a falling step size."""

import math

import torch


class NaturalGradient:
    """Steps on expected statistics: p <- (1 - rate) p - rate p.grad.

    The natural gradient is the parameter minus its optimum. Modules write minus the
    optimum to ``.grad`` and the optimizer adds the rest, so that a full step is exact
    in floating point. The step size is (1 + learning_offset + t) ** -learning_decay at
    step t; a decay of 0 makes every step full, which is coordinate ascent on full
    batches.

    It has the methods of a ``torch.optim.Optimizer`` that training uses, but does not
    derive from it: the first such optimizer loads torch's compiler, which takes longer
    than many fits.

    Hoffman, Blei, Wang and Paisley (2013), Stochastic variational inference.
    """

    #: Whether its state is as large as the parameters.
    has_moments = False

    def __init__(self, params, *, learning_offset=0.0, learning_decay=0.0):
        self.params = list(params)
        self.learning_offset = learning_offset
        self.learning_decay = learning_decay
        self.n_steps = torch.zeros((), dtype=torch.float32)

    @torch.no_grad()
    def step(self):
        """Take one step."""
        base = 1 + self.learning_offset + self.n_steps.item()
        rate = base**-self.learning_decay
        for p in self.params:
            p.mul_(1 - rate).add_(p.grad, alpha=-rate)
        self.n_steps += 1

    def zero_grad(self):
        """Forget the gradients."""
        for p in self.params:
            p.grad = None

    def state_dict(self):
        """The number of steps, as an optimizer would give it."""
        return {"state": {0: {"n_steps": self.n_steps.clone()}}, "param_groups": []}

    def load_state_dict(self, state_dict):
        """Restore the number of steps."""
        self.n_steps = state_dict["state"][0]["n_steps"].clone()


class AnnealedAdam:
    """Adam whose step size falls to 0 along a cosine over ``n_updates``, if given.

    Like ``NaturalGradient`` it has the methods of an optimizer that training uses.
    """

    #: Whether its state is as large as the parameters.
    has_moments = True

    #: The share of ``n_updates`` after which steps are a tenth of the first at most.
    share_of_large_steps = 0.8

    def __init__(self, groups, n_updates=None):
        is_fused = groups[0]["params"][0].device.type in ("cpu", "cuda")
        self.adam = torch.optim.Adam(groups, betas=(0.9, 0.99), fused=is_fused)
        self.n_updates = n_updates
        self.rates = [group["lr"] for group in groups]
        self.n_steps = 0.0

    def step(self):
        """Take one step."""
        share = self.n_steps / self.n_updates if self.n_updates else 0.0
        factor = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.adam.step()
        self.n_steps += 1

    def zero_grad(self):
        """Forget the gradients."""
        self.adam.zero_grad()

    def state_dict(self):
        """The moments of the gradients."""
        return self.adam.state_dict()

    def load_state_dict(self, state_dict):
        """Restore the moments."""
        self.adam.load_state_dict(state_dict)
        self.n_steps = 0.0
        for state in state_dict["state"].values():
            self.n_steps = float(state["step"])


def optimizer_arrays(optimizer):
    """The state of an optimizer as a flat dict of arrays."""
    return {
        f"{index}.{name}": value.detach().cpu().numpy().copy()
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_optimizer(optimizer, arrays):
    """Give an optimizer the state that ``optimizer_arrays`` took from one."""
    state = {}
    for key, array in arrays.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = torch.tensor(array)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
