"""`gatehouse ca converge`."""

from __future__ import annotations

import json

import pytest


def test_start_show_and_cancel(run, live):
    """Each says how it stands; JSON is what the API says."""
    idle = run("ca", "converge")
    started = run("ca", "converge", "--by", "2h", "--reason", "rotation")
    shown = run("ca", "converge", "-o", "json")
    cancelled = run("ca", "converge", "--cancel")

    assert [0] * 4 == [each.code for each in (idle, started, shown, cancelled)]
    assert idle.out == cancelled.out == "nothing converges: certificates live as long as the settings say\n"
    assert "seconds left          7200" in started.out
    assert "will renew too late   0" in started.out
    assert json.loads(shown.out)["reason"] == "rotation"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--by", "2h", "--cancel"), "exclude each other"),
        (("--reason", "why"), "--reason goes with --by or --cancel"),
        (("--by", "soon"), "neither a duration such as 2h or 90m nor a time"),
        (("--by", "2026-11-23T18:00:00"), "names no time zone; end it with Z"),
    ],
)
def test_what_is_not_meant_so_is_a_usage_error(run, live, arguments, said):
    """Exit code 2, one line that says what would be right."""
    refused = run("ca", "converge", *arguments)

    assert refused.code == 2
    assert said in refused.err


def test_nothing_to_cancel(run, live):
    """Not found, in one line."""
    refused = run("ca", "converge", "--cancel")

    assert refused.code != 0
    assert "nothing converges now" in refused.err
