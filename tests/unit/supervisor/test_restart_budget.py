"""How soon a process that ended is started again."""

from app.limits import ProcessLimits
from app.supervisor.restart_budget import RestartBudget

LIMITS = ProcessLimits(restart_burst=3, restart_window_seconds=60.0, restart_backoff_max_seconds=4.0)


def test_rare_restarts_are_immediate_and_frequent_ones_wait_longer_and_longer() -> None:
    """The burst is free, then the pause doubles up to its bound."""
    budget = RestartBudget(LIMITS)
    pauses = [budget.pause_before_restart(float(second)) for second in range(8)]
    assert [0.0, 0.0, 0.0, 0.5, 1.0, 2.0, 4.0, 4.0] == pauses
    assert budget.is_spent(8.0)


def test_the_window_forgets() -> None:
    """Old restarts do not count."""
    budget = RestartBudget(LIMITS)
    for second in range(5):
        budget.pause_before_restart(float(second))
    assert not budget.is_spent(100.0)
    assert budget.pause_before_restart(100.0) == 0.0
