"""Steps along gradients: natural ones, and those of Adam with a falling step size."""

import math

import torch
from torch.optim.adam import adam


class NaturalGradient:
    """Steps on expected statistics: p <- (1 - rate) p - rate p.grad.

    The natural gradient is the parameter minus its optimum. Modules write minus the
    optimum to ``.grad`` and the optimizer adds the rest, so that a full step is exact
    in floating point. The step size is size * (1 + learning_offset + t) **
    -learning_decay at step t; a decay of 0 and a size of 1 make every step full, which
    is coordinate ascent on full batches. A larger size, below 2, over-relaxes. The
    parameters are first scaled to the sums of their optimum over the last dimension:
    counts of many rows, as after a warm start, would take those of few below 0.

    It has the methods of a ``torch.optim.Optimizer`` that training uses, but does not
    derive from it: the first such optimizer loads torch's compiler, which takes longer
    than many fits.

    Hoffman, Blei, Wang and Paisley (2013), Stochastic variational inference.
    """

    #: Whether its state is as large as the parameters.
    has_moments = False

    def __init__(self, params, *, learning_offset=0.0, learning_decay=0.0, size=1.0):
        self.params = list(params)
        self.size = size
        self.learning_offset = learning_offset
        self.learning_decay = learning_decay
        self.n_steps = torch.zeros((), dtype=torch.float32)

    @torch.no_grad()
    def step(self):
        """Take one step."""
        base = 1 + self.learning_offset + self.n_steps.item()
        rate = self.size * base**-self.learning_decay
        for p in self.params:
            if self.size > 1:
                sums, goal = (v.sum(-1, keepdim=True) for v in (p, -p.grad))
                p.mul_(torch.where(sums.abs() < 1e-30, 1, goal / sums))
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

    Like ``NaturalGradient`` it has the methods of an optimizer that training uses, and
    leaves torch's compiler alone. ``groups`` are those of ``torch.optim.Adam``, whose
    steps these are, to the last bit.
    """

    #: Whether its state is as large as the parameters.
    has_moments = True

    #: The share of ``n_updates`` after which steps are a tenth of the first at most.
    share_of_large_steps = 0.8

    def __init__(self, groups, n_updates=None):
        self.groups = [{**group, "params": list(group["params"])} for group in groups]
        self.params = [p for group in self.groups for p in group["params"]]
        self.is_fused = self.params[0].device.type in ("cpu", "cuda")
        self.n_updates = n_updates
        self.n_steps = 0.0
        # Those of each parameter that has had a gradient, by torch's names.
        self.moments = {}

    @torch.no_grad()
    def step(self):
        """Take one step."""
        share = self.n_steps / self.n_updates if self.n_updates else 0.0
        factor = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        for group in self.groups:
            params = [p for p in group["params"] if p.grad is not None]
            moments = [self._moments_of(p) for p in params]
            for p in params:
                if p.grad.is_sparse:
                    p.grad = p.grad.to_dense()
            adam(
                params,
                [p.grad for p in params],
                [each["exp_avg"] for each in moments],
                [each["exp_avg_sq"] for each in moments],
                [],
                [each["step"] for each in moments],
                fused=self.is_fused,
                lr=group["lr"] * factor,
                beta1=0.9,
                beta2=0.99,
                eps=1e-8,
                weight_decay=0.0,
                amsgrad=False,
                maximize=False,
            )
        self.n_steps += 1

    def _moments_of(self, p):
        if p not in self.moments:
            # Without a fused kernel, steps are counted on the CPU.
            device = p.device if self.is_fused else "cpu"
            self.moments[p] = {
                "step": torch.zeros((), dtype=torch.float32, device=device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }
        return self.moments[p]

    def zero_grad(self):
        """Set the gradients to 0, in place, since fresh memory is slow."""
        for p in self.params:
            if p.grad is not None:
                p.grad.zero_()

    def state_dict(self):
        """The moments of the gradients, by the number of the parameter."""
        numbered = enumerate(self.params)
        state = {n: dict(self.moments[p]) for n, p in numbered if p in self.moments}
        return {"state": state, "param_groups": []}

    def load_state_dict(self, state_dict):
        """Restore the moments."""
        self.moments, self.n_steps = {}, 0.0
        for number, state in state_dict["state"].items():
            moments = self._moments_of(self.params[number])
            for name, value in state.items():
                moments[name].copy_(value)
            self.n_steps = max(self.n_steps, float(state["step"]))


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
