"""Families of posteriors of positive numbers, of two parameters each.

gamma, weibull
    log of the mean, log of the shape;
lognormal
    log of the mean, log of the standard deviation of log y.

``log_draw`` makes log y from noise by the quantile function, so that draws are
differentiable; of gammas by that of shape + 1 and y_s = y_{s+1} u^{1/s}, so that small
shapes do not underflow. E[y], E[log y] and the entropy have closed forms.
``spread_range`` bounds the second parameter; ``least_log_shape`` is the bound above
which E[1 / y] is finite, as it always is for log-normals.
"""

import math

import torch
from torch.distributions import Gamma, LogNormal, Weibull

EULER = 0.5772156649015329


class GammaFamily:
    """Log of the mean, log of the shape."""

    spread_range, least_log_shape = (-8.0, 16.0), math.log(1.2)

    @staticmethod
    def of_mean(mean, shape):
        """Parameters of a mean and about as much spread as a gamma of that shape."""
        return mean.log(), shape.log()

    @staticmethod
    def mean(first, second):
        return first.exp()

    @staticmethod
    def relative_variance(second):
        """Variance of y over the square of its mean."""
        return (-second).exp()

    @staticmethod
    def mean_log(first, second):
        return first + torch.digamma(second.exp()) - second

    @staticmethod
    def entropy(first, second):
        shape = second.exp()
        rest = torch.lgamma(shape) + (1 - shape) * torch.digamma(shape)
        return shape - second + first + rest

    @staticmethod
    def log_draw(first, second, noise):
        shape = second.exp()
        return noise.log_gamma(shape + 1) + noise.log_uniform() / shape + first - second

    @staticmethod
    def distribution(first, second):
        shape = second.exp()
        return Gamma(shape, shape / first.exp(), validate_args=False)


class LogNormalFamily:
    """Log of the mean, log of the standard deviation of the logarithm."""

    spread_range, least_log_shape = (-8.0, 2.0), None

    @staticmethod
    def of_mean(mean, shape):
        return mean.log(), 0.5 * torch.log1p(1 / shape).log()

    @staticmethod
    def mean(first, second):
        return first.exp()

    @staticmethod
    def relative_variance(second):
        """Variance of y over the square of its mean."""
        return torch.expm1((2 * second).exp())

    @staticmethod
    def mean_log(first, second):
        return first - 0.5 * (2 * second).exp()

    @staticmethod
    def entropy(first, second):
        mean_log = LogNormalFamily.mean_log(first, second)
        return mean_log + second + 0.5 * math.log(2 * math.pi * math.e)

    @staticmethod
    def log_draw(first, second, noise):
        mean_log = LogNormalFamily.mean_log(first, second)
        return mean_log + second.exp() * noise.normal()

    @staticmethod
    def distribution(first, second):
        mean_log = LogNormalFamily.mean_log(first, second)
        return LogNormal(mean_log, second.exp(), validate_args=False)


class WeibullFamily:
    """Log of the mean, log of the shape."""

    spread_range, least_log_shape = (-2.5, 8.0), math.log(1.2)

    @staticmethod
    def of_mean(mean, shape):
        return mean.log(), 0.5 * shape.log()

    @staticmethod
    def mean(first, second):
        return first.exp()

    @staticmethod
    def log_scale(first, second):
        return first - torch.lgamma(1 + (-second).exp())

    @staticmethod
    def relative_variance(second):
        """Variance of y over the square of its mean."""
        power = (-second).exp()
        return torch.expm1(torch.lgamma(1 + 2 * power) - 2 * torch.lgamma(1 + power))

    @staticmethod
    def mean_log(first, second):
        return WeibullFamily.log_scale(first, second) - EULER * (-second).exp()

    @staticmethod
    def entropy(first, second):
        log_scale = WeibullFamily.log_scale(first, second)
        return EULER * (1 - (-second).exp()) + log_scale - second + 1

    @staticmethod
    def log_draw(first, second, noise):
        log_scale = WeibullFamily.log_scale(first, second)
        return log_scale + (-noise.log_uniform()).log() / second.exp()

    @staticmethod
    def distribution(first, second):
        scale = WeibullFamily.log_scale(first, second).exp()
        return Weibull(scale, second.exp(), validate_args=False)


FAMILIES = {
    "gamma": GammaFamily,
    "lognormal": LogNormalFamily,
    "weibull": WeibullFamily,
}
