"""CPU seconds that the suite takes, by entry of ESTIMATORS: ``pytest --budget``.

Seconds are those of the machine that the budgets were set on. Machines differ
threefold, so a fixed piece of work is timed before the tests.
"""

import collections
import os
import time

import pytest
import torch

from skdeepfactor._estimator.base import BaseFactorModel
from tests import children

# CPU seconds of ``work`` on the machine that the budgets were set on.
OF_WORK = 0.076

# What all tests that are of no entry count for.
REST = "(no entry)"

PROPERTY = "cpu_seconds"


def work():
    """Small steps of torch, as the tests take."""
    x, w = torch.ones(60, 3), torch.ones(3, 30)
    for _ in range(10_000):
        (x @ w).log().sum().item()


def speed():
    """How many CPU seconds of the machine of the budgets one of this machine is."""
    taken = []
    for _ in range(3):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return OF_WORK / min(taken)


def cpu_seconds():
    """CPU seconds of this process, and of its children that have ended."""
    times = os.times()
    own = times.user + times.system
    return own + times.children_user + times.children_system + children.cpu_seconds()


def identity(model):
    """What tells a model from others, however many passes it makes and where."""
    parameters = model.get_params(deep=False)
    rest = {k: v for k, v in parameters.items() if k not in ("max_iter", "device")}
    return type(model).__name__, repr(rest)


class Meter:
    """A plugin of pytest that notes the CPU seconds of each test.

    Parameters
    ----------
    estimators : dict
        Entries by name.
    budgets : dict
        The seconds that each of them, and ``REST``, may take.
    """

    def __init__(self, estimators, budgets):
        self.names = {identity(model): name for name, model in estimators.items()}
        self.budgets, self.speed = budgets, speed()
        self.by_entry, self.by_file = collections.Counter(), collections.Counter()
        self.before = cpu_seconds()

    def entry_of(self, item):
        """The name of the entry that a test is of, ``REST`` for none."""
        call = getattr(item, "callspec", None)
        for value in call.params.values() if call else ():
            if isinstance(value, BaseFactorModel):
                value = self.names.get(identity(value))
            if isinstance(value, str) and value in self.budgets:
                return value
        return REST

    def pytest_runtest_logstart(self):
        self.before = cpu_seconds()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item):
        report = yield
        # Of the setup, the call or the teardown. Processes of xdist send it along.
        now = cpu_seconds()
        taken = (now - self.before) * self.speed
        self.before = now
        report.user_properties.append((PROPERTY, [self.entry_of(item), taken]))
        return report

    def pytest_runtest_logreport(self, report):
        for name, value in report.user_properties:
            if name == PROPERTY:
                entry, taken = value
                self.by_entry[entry] += taken
                self.by_file[report.location[0]] += taken

    def exceeded(self):
        """Names of the entries that took longer than they may."""
        return [
            name for name, most in self.budgets.items() if self.by_entry[name] > most
        ]

    def pytest_sessionfinish(self, session):
        if self.exceeded() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        write = terminalreporter.write_line
        terminalreporter.section(f"CPU seconds, of this machine times {self.speed:.2f}")
        for name, taken in self.by_file.most_common(15):
            write(f"{taken:8.1f}  {name}")
        write("")
        for name, most in self.budgets.items():
            taken = self.by_entry[name]
            note = "  exceeds its budget" if taken > most else ""
            write(f"{taken:8.1f} of {most:5}  {name}{note}")
        write(f"{self.by_entry.total():8.1f} of {sum(self.budgets.values()):5}  in all")
