"""Files that are either complete or absent."""

import contextlib
import os


def check_place(name, path):
    """Raise a ``ValueError`` unless a file can be at a path, or is."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ValueError(f"{name}={path!r} is in a folder that does not exist.")
    if os.path.exists(path) and not os.path.isfile(path):
        # Devices and pipes would be read for ever, or replaced.
        raise ValueError(
            f"{name}={path!r} must be a file, but is a folder or a device."
        )


@contextlib.contextmanager
def whole_file(path, before=None):
    """Open a file that takes its place once it is complete and on the disk.

    An existing file moves to ``before``, if that is given. An error changes nothing.
    """
    # A link remains a link, and its target is replaced.
    path = os.path.realpath(path)
    partial = f"{path}.partial"
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if before is not None and os.path.exists(path):
            os.replace(path, before)
        os.replace(partial, path)
        _sync_folder(path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(partial)
        raise


def _sync_folder(path):
    """Make sure that the name of a new file is on the disk, if possible."""
    with contextlib.suppress(OSError):
        folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
