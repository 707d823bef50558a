"""Files from which a run of training can be resumed.

A file is a zip archive of ``.npy`` arrays, as ``numpy.savez`` writes it, one of them
the text of a JSON object: reading it runs no code. It is written beside its place and
then moved there, so that a complete file exists at any time.
"""

import contextlib
import hashlib
import inspect
import json
import os
import time
import warnings
import zipfile
import zlib

import joblib
import numpy as np
import torch
from sklearn.base import BaseEstimator

from skdeepfactor._files import whole_file

FORMAT = 3
DAMAGE = (zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError, EOFError)


class CheckpointFile:
    """The state of a run, in a file.

    Parameters
    ----------
    path : str or path-like
        Where the file is, or will be.
    every : int or float
        Number of passes between two writes, or, as a float, of seconds at least.
    is_alone : bool
        Whether this is the only process, and need not keep the last file but one, for
        others that are a file behind.
    """

    def __init__(self, path, every=1, *, is_alone=True):
        self.path = os.fspath(path)
        self.every, self.is_alone = every, is_alone
        self._last = time.monotonic()
        self._notes, self._identity = {}, {}

    def exists(self):
        """Whether there is a state to resume from."""
        return any(map(os.path.exists, self._paths()))

    def _paths(self):
        """The file and, with several processes, the one before it."""
        return [self.path] if self.is_alone else [self.path, f"{self.path}.before"]

    def remember(self, name, value):
        """Value noted in the file under a name; if none, note and return ``value``."""
        if self.exists():
            path = next(filter(os.path.exists, self._paths()))
            value = self.read(path)["notes"].get(name, value)
        self._notes[name] = value
        return value

    def identify(self, identity):
        """Set the identity of this run; files of other runs are not resumed from."""
        self._identity = identity

    def is_due(self, n_passes):
        """Whether the state after so many passes is to be written."""
        if isinstance(self.every, float):
            return time.monotonic() - self._last >= self.every
        return n_passes % self.every == 0

    def write(self, state):
        """Write a nested dict of tensors, arrays and JSON values.

        Warns
        -----
        RuntimeWarning
            If the file cannot be written; the previous one is then kept.
        """
        arrays, rest = {}, {}
        for name, value in _flat(state):
            if isinstance(value, torch.Tensor):
                value = value.detach().cpu().numpy()
            (arrays if isinstance(value, np.ndarray) else rest)[name] = value
        text = json.dumps(
            {
                "format": FORMAT,
                "notes": self._notes,
                "identity": self._identity,
                "state": rest,
            }
        )
        before = None if self.is_alone else f"{self.path}.before"
        try:
            with whole_file(self.path, before) as file:
                np.savez(
                    file,
                    **{f"array/{name}": a for name, a in arrays.items()},
                    text=np.array(text),
                )
        except OSError as error:
            warnings.warn(
                f"The checkpoint {self.path!r} could not be written ({error}); "
                "training continues, and the previous file is kept.",
                RuntimeWarning,
                stacklevel=2,
            )
        self._last = time.monotonic()

    def read(self, path):
        """Read what was written to a path, with arrays in place of tensors.

        Raises
        ------
        ValueError
            If the file is damaged, or is not a checkpoint.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                # All of it: NumPy would not check parts that it need not read.
                if archive.testzip() is not None:
                    raise ValueError("a checksum is wrong")
            with np.load(path, allow_pickle=False) as archive:
                text = json.loads(str(archive["text"]))
                if text["format"] != FORMAT:
                    raise ValueError(f"its format is {text['format']}, not {FORMAT}")
                arrays = {
                    name.removeprefix("array/"): archive[name]
                    for name in archive.files
                    if name != "text"
                }
        except DAMAGE as error:
            raise ValueError(
                f"The checkpoint {path!r} is damaged or not a checkpoint "
                f"({error}): delete it to start anew, or pass another path."
            ) from error
        state = _nested({**text["state"], **arrays})
        return {"notes": text["notes"], "state": state, "identity": text["identity"]}

    def states(self):
        """The states to resume from, the latest first.

        Raises
        ------
        ValueError
            If a file is damaged, or belongs to another run.
        """
        states = []
        for path in filter(os.path.exists, self._paths()):
            found = self.read(path)
            theirs, ours = (dict(_flat(x)) for x in (found["identity"], self._identity))
            names = sorted(
                name
                for name in theirs.keys() | ours.keys()
                if theirs.get(name) != ours.get(name)
            )
            if names:
                raise ValueError(
                    f"The checkpoint {path!r} belongs to another fit (it differs in "
                    f"{', '.join(names)}): delete it to start anew, or pass another "
                    "path."
                )
            states.append(found["state"])
        return states


def canonical(value):
    """A parameter in the types of JSON, equal for values that mean the same.

    Numbers of NumPy are those of Python, and lists, tuples and arrays are alike. An int
    and a float are not.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return repr(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, dict):
        return [[canonical(part) for part in item] for item in sorted(value.items())]
    if isinstance(value, np.ndarray | list | tuple):
        with contextlib.suppress(ValueError, TypeError):
            return _array_digest(np.asarray(value, dtype=np.float64))
        return [canonical(part) for part in value]
    if isinstance(value, type) or inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    name = canonical(type(value))
    if isinstance(value, BaseEstimator):
        return [name, canonical(value.get_params(deep=False))]
    return [name, joblib.hash(value)]


def _array_digest(array):
    """The shape of an array and a checksum of its numbers."""
    numbers = np.ascontiguousarray(array + 0.0)
    return [list(array.shape), hashlib.sha256(numbers.tobytes()).hexdigest()]


def _flat(state, prefix=""):
    """Pairs of the path and the value of each leaf of a nested dict."""
    for key, value in state.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _nested(flat):
    """The nested dict of such pairs."""
    state: dict = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        inner = state
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return state
