"""The suite's CPU seconds: a budget for each entry, and what keeps to it."""

from types import SimpleNamespace

import pytest
from sklearn.base import clone

from tests import budget
from tests.conftest import BUDGETS, ESTIMATORS, MOST_SECONDS


@pytest.fixture
def meter(monkeypatch):
    monkeypatch.setattr(budget, "work", lambda: sum(range(1000)))
    return budget.Meter(ESTIMATORS, BUDGETS)


def test_every_entry_has_a_budget():
    assert BUDGETS.keys() == {*ESTIMATORS, budget.REST}
    assert min(BUDGETS.values()) > 0
    assert sum(BUDGETS.values()) <= MOST_SECONDS


def item(**params):
    return SimpleNamespace(callspec=SimpleNamespace(params=params))


def test_tests_are_of_an_entry_by_name_or_model(meter):
    assert len(meter.names) == len(ESTIMATORS)
    for name, model in ESTIMATORS.items():
        assert meter.entry_of(item(dtype="f4", estimator=model)) == name
        quick = clone(model).set_params(max_iter=1)
        assert meter.entry_of(item(model=quick)) == name
        assert meter.entry_of(item(world=2, name=name)) == name
    other = clone(model).set_params(random_state=7)
    for rest in (item(model=other, name="x"), SimpleNamespace()):
        assert meter.entry_of(rest) == budget.REST


def test_an_entry_that_takes_too_long_fails_the_session(meter):
    name = "LatentDirichletAllocation"

    def report(entry, seconds):
        properties = [(budget.PROPERTY, [entry, seconds]), ("other", 1)]
        return SimpleNamespace(user_properties=properties, location=("a.py", 1, "a"))

    session = SimpleNamespace(exitstatus=pytest.ExitCode.OK)
    meter.pytest_runtest_logreport(report(name, 0.6 * BUDGETS[name]))
    meter.pytest_runtest_logreport(report("VariationalAutoencoder", 0.1))
    meter.pytest_sessionfinish(session)
    assert session.exitstatus == pytest.ExitCode.OK
    meter.pytest_runtest_logreport(report(name, 0.6 * BUDGETS[name]))
    meter.pytest_sessionfinish(session)
    assert meter.exceeded() == [name]
    assert session.exitstatus == pytest.ExitCode.TESTS_FAILED
    lines = []
    meter.pytest_terminal_summary(
        SimpleNamespace(section=lines.append, write_line=lines.append)
    )
    (shown,) = (line for line in lines if "exceeds" in line)
    assert name in shown
    assert sum("a.py" in line for line in lines) == 1
