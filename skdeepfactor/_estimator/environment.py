"""Undo, while a method runs, the settings of torch that the caller has made.

The data and the parameters of an estimator alone decide what comes out, not whether it
is called in a forked process, without gradients, or under autocast.
"""

import contextlib
import functools
import os

import torch
from threadpoolctl import ThreadpoolController

from skdeepfactor._math.threads import one_thread

# In a child that was forked from this process, threads that it had do not exist.
_IMPORTED_BY = os.getpid()

# Devices for which autocast may be on.
_DEVICE_TYPES = ("cpu", "cuda", "mps")


@contextlib.contextmanager
def own_environment():
    """Compute with default settings, and restore those of the caller afterwards.

    Gradients can be taken, autocast is off, and tensors without a device of their own
    are the CPU's. A forked process computes on one thread: it would wait for ever for
    those that its parent has. All of it is this thread's alone. torch's default type is
    every thread's and stays as it is: outside of the constructors of modules, which are
    given a type afterwards, tensors of floats must name theirs.
    """
    if _is_own():
        yield
        return
    with contextlib.ExitStack() as stack:
        if os.getpid() != _IMPORTED_BY:
            stack.enter_context(_one_forked_thread())
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device_type in _DEVICE_TYPES:
            if torch.is_autocast_enabled(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def _is_own():
    """Whether all is set by default, as it is for most callers."""
    return (
        os.getpid() == _IMPORTED_BY
        and torch.is_grad_enabled()
        and not torch.is_inference_mode_enabled()
        and not any(map(torch.is_autocast_enabled, _DEVICE_TYPES))
        and torch.get_default_device().type == "cpu"
    )


# Numbers that a second thread is not worth being woken for: those in rows, and those in
# parameters that are changed.
TINY_ROWS, TINY_PARAMETERS = 2**16, 2**18


@contextlib.contextmanager
def _one_forked_thread():
    """Compute on the thread that calls, in torch and in all else that uses OpenMP.

    This is set for each thread by itself: of several that are inside, one may leave
    before the others do.
    """
    with one_thread(), _openmp(os.getpid()).limit(limits=1):
        yield


# By process, since a child may load other libraries.
@functools.cache
def _openmp(process):
    return ThreadpoolController().select(user_api="openmp")


def memory():
    """Bytes of memory that the machine has; None where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
