"""Threads of torch, which wait in a loop, and those of compiled loops."""

import contextlib
import ctypes
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

# The interpreter's lock is kept: to be given it back may take longer than the work.
_torch = ctypes.PyDLL(torch._C.__file__)
_set_openmp = getattr(_torch, "omp_set_num_threads", None)
_set_mkl = getattr(_torch, "MKL_Set_Num_Threads_Local", None)


# Tokens or variables that a thread must have if it is to be worth its start.
_LEAST_WORK = 2**14


class _Own(threading.local):
    #: Threads that ``threads_for_loops`` has left to loops.
    n_threads = None


_own = _Own()


@contextlib.contextmanager
def one_thread(*, when=True):
    """Compute on the thread that calls, where others would cost more than they help.

    Threads wait for each other in a loop, which takes a hundred times as long as tiny
    work if the processor is busy. The setting is this thread's alone, unlike that of
    ``torch.set_num_threads``, which new threads inherit. Where torch does not show how
    to set it, nothing is.
    """
    with _threads_of_torch(1 if when else None):
        yield


@contextlib.contextmanager
def _threads_of_torch(n_threads):
    """Let torch use so many threads in this one; None for as many as it does."""
    before = torch.get_num_threads()
    if n_threads in (None, before) or _set_openmp is None:
        yield
        return
    before_mkl = None
    # An interrupt may come between any two lines.
    try:
        _set_openmp(n_threads)
        if _set_mkl is not None:
            before_mkl = _set_mkl(n_threads)
        yield
    finally:
        _set_openmp(before)
        if before_mkl is not None:
            _set_mkl(before_mkl)


@contextlib.contextmanager
def threads_for_loops(*, when=True):
    """Leave all threads to ``in_parts``; torch computes on the one that calls.

    After an operation, threads of torch wait for the next one for as long as a loop
    takes, and would compete with it for the processor. The setting is this thread's
    alone.
    """
    if not when:
        yield
        return
    before = _own.n_threads
    try:
        _own.n_threads = _n_threads()
        with one_thread():
            yield
    finally:
        _own.n_threads = before


def threads_for_torch():
    """Give torch back the threads that ``threads_for_loops`` has left to loops."""
    return _threads_of_torch(_own.n_threads)


def _n_threads():
    return _own.n_threads or torch.get_num_threads()


def in_parts(draw, work):
    """Call ``draw(start, stop)`` for parts of rows, in as many threads as torch has.

    ``work``, (n_rows + 1,), is how much there is to do before each row. The threads end
    with the call: there are none that a fork would lose, nor two callers share.
    """
    n_parts = int(min(_n_threads(), 1 + work[-1] // _LEAST_WORK))
    ends = np.linspace(0, work[-1], n_parts + 1)[1:-1]
    bounds = [0, *np.searchsorted(work, ends).tolist(), len(work) - 1]
    if n_parts == 1:
        draw(*bounds)
        return
    with ThreadPoolExecutor(n_parts) as pool:
        list(pool.map(lambda part: draw(*part), itertools.pairwise(bounds)))
