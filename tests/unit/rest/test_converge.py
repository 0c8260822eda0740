"""The convergence of the mesh over the API."""

from __future__ import annotations

from datetime import timedelta

import pytest

PATH = "/v1/ca/convergence"


async def test_start_show_and_cancel(api):
    """201 with the status; the same to look at; cancelled it is over, and to cancel it again is 404."""
    before = await api.client.get(PATH)
    started = await api.client.post(PATH, json={"withinSeconds": 7_200, "reason": "rotation"})
    shown = await api.client.get(PATH)
    cancelled = await api.client.delete(PATH, params={"reason": "done"})
    again = await api.client.delete(PATH)

    assert (before.status_code, before.json()["active"]) == (200, False)
    assert started.status_code == 201
    assert shown.json() == started.json()
    assert (shown.json()["secondsLeft"], shown.json()["startedBy"]) == (7_200, "admin:alice")
    assert (cancelled.status_code, cancelled.json()["active"]) == (200, False)
    assert again.status_code == 404


async def test_a_moment_may_be_named(api):
    """RFC 3339 with a zone, in place of seconds."""
    deadline = api.clock.now() + timedelta(hours=3)
    started = await api.client.post(PATH, json={"by": deadline.isoformat()})

    assert (started.status_code, started.json()["secondsLeft"]) == (201, 10_800)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"withinSeconds": 7_200, "by": "2026-11-23T18:00:00Z"},
        {"withinSeconds": 0},
        {"withinSeconds": 5},
        {"withinSeconds": 10**8},
        {"by": "2026-11-23T18:00:00"},
        {"by": "soon"},
        {"withinSeconds": 7_200, "reason": "two\nlines"},
        {"withinSeconds": 7_200, "force": True},
    ],
)
async def test_what_names_no_deadline_that_can_be_kept_is_422(api, body):
    """And nothing converges."""
    refused = await api.client.post(PATH, json=body)

    assert refused.status_code == 422
    assert (await api.client.get(PATH)).json()["active"] is False


async def test_without_a_token_nobody_sees_or_starts_it(api):
    """401 for every method."""
    async with api.anonymous() as client:
        answers = [await client.get(PATH), await client.post(PATH, json={}), await client.delete(PATH)]

    assert [answer.status_code for answer in answers] == [401, 401, 401]
