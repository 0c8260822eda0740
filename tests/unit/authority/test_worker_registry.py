"""What the authority remembers of its workers."""

from datetime import UTC, datetime, timedelta

from app.authority.worker_registry import WorkerRegistry

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_newest_report_of_each_worker_is_kept() -> None:
    """A worker is its name under its token; a second report replaces the first."""
    registry = WorkerRegistry()
    registry.record("edge", {"worker": "node-a/1", "number": 1}, now=NOW)
    registry.record("edge", {"worker": "node-a/2", "number": 1}, now=NOW)
    registry.record("edge", {"worker": "node-a/1", "number": 2}, now=NOW + timedelta(seconds=1))
    statuses = registry.statuses(now=NOW + timedelta(seconds=3))
    assert [("node-a/1", 2), ("node-a/2", 1)] == [(status.worker, status.report["number"]) for status in statuses]
    expected = {"worker": "node-a/1", "token": "edge", "seenSecondsAgo": 2.0, "number": 2}
    assert expected == statuses[0].to_json(NOW + timedelta(seconds=3))


def test_a_worker_that_went_silent_is_forgotten_and_the_number_of_workers_is_bounded() -> None:
    """Dead workers do not pile up, and a worker with a thousand names does not either."""
    registry = WorkerRegistry(max_workers=10, forget_after=timedelta(minutes=1))
    for i in range(50):
        registry.record("edge", {"worker": f"w{i:02}"}, now=NOW)
    assert 10 == len(registry.statuses(now=NOW))
    assert [] == registry.statuses(now=NOW + timedelta(minutes=2))
