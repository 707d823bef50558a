"""Local parameters of rows, and copies of the state to go back to."""

import torch


class Memory:
    """Local parameters of rows: a table with one row for each sample, for one run.

    With ``takes_notes``, notes of the module about rows are kept beside it, by the part
    of all rows that they are about: passes over all rows have the same parts.
    """

    def __init__(self, n_samples, width, *, dtype, device, takes_notes=False):
        self.table = torch.empty(n_samples, width, dtype=dtype, device=device)
        self.notes = {} if takes_notes else None
        self.is_warm = False

    def resume(self, rows):
        """Remembered parameters of the rows, for training to resume from.

        With ``takes_notes``, a pair: these, and the note about the rows or None. None
        before the first pass has ended.
        """
        local = self.recall(rows)
        if local is None or self.notes is None:
            return local
        return local, self.notes.get(_part(rows))

    def recall(self, rows):
        """Remembered parameters of the rows; None before the first pass has ended."""
        return self.kept(rows) if self.is_warm else None

    def kept(self, rows):
        """Parameters that the last pass left for the rows."""
        return self.table[self._index(rows)]

    def keep(self, rows, local):
        """Remember local parameters of the rows; with ``takes_notes``, a pair."""
        if self.notes is not None:
            local, note = local
            if note is not None:
                # Rows of a stream, which are no slice, are not to be held in memory.
                is_held = isinstance(rows, slice)
                self.notes[_part(rows)] = note if is_held else note.state
        self.table[self._index(rows)] = local

    def state_dict(self):
        """All that is remembered."""
        notes = (self.notes or {}).items()
        states = {part: getattr(note, "state", note) for part, note in notes}
        return {"table": self.table, "is_warm": self.is_warm, "notes": states}

    def load_state_dict(self, state):
        """Remember what another memory did."""
        self.table.copy_(torch.as_tensor(state["table"]))
        self.is_warm = state["is_warm"]
        if self.notes is not None:
            notes = state.get("notes", {}).items()
            self.notes = {part: torch.as_tensor(note) for part, note in notes}

    def _index(self, rows):
        if isinstance(rows, slice):
            return rows
        return torch.from_numpy(rows).to(self.table.device)


def _part(rows):
    """A name for a part of all rows, whose numbers rise, by its first row and last."""
    if isinstance(rows, slice):
        return f"{rows.start}-{rows.stop - 1}"
    return f"{rows[0]}-{rows[-1]}"


class Snapshot:
    """A copy of a module's state, and of the table of local parameters if given.

    ``without`` names the entries that are left out of the state.
    """

    def __init__(self, module, memory=None, without=()):
        state = module.state_dict().items()
        self.state = {name: x.clone() for name, x in state if name not in without}
        self.table = None if memory is None else memory.table.clone()

    def renew(self, module, memory=None):
        """Copy the current state, to the same place, which saves time."""
        copy_all(self.state, module.state_dict())
        if memory is not None:
            self.table.copy_(memory.table)

    def restore(self, module, memory=None):
        """Restore the copied state."""
        state = module.state_dict()
        copy_all({name: state[name] for name in self.state}, self.state)
        if memory is not None:
            memory.table.copy_(self.table)
        module.refresh()

    def state_dict(self):
        """The copies, as a dict."""
        table = {} if self.table is None else {"table": self.table}
        return {"module": self.state, **table}

    def load_state_dict(self, state):
        """Take over copies from a dict."""
        copy_all(self.state, state["module"])
        if self.table is not None:
            self.table.copy_(torch.as_tensor(state["table"]))


def copy_all(tensors, arrays):
    """Write arrays to the tensors of the same names."""
    for name, tensor in tensors.items():
        tensor.copy_(torch.as_tensor(arrays[name]))
