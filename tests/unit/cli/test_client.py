"""The API as the command line calls it."""

from __future__ import annotations

import httpx2
import pytest

from app.cli import client
from app.cli.client import ApiClient
from app.cli.context import Context
from app.errors import AppError, ErrorCode


def answering(*answers: httpx2.Response | Exception) -> ApiClient:
    """A client whose server gives these answers, one after the other."""
    left = list(answers)

    def answer(_request: httpx2.Request) -> httpx2.Response:
        found = left.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    context = Context(name="test", url="http://127.0.0.1:1", token="t", ca_file="")
    return ApiClient(context, transport=httpx2.MockTransport(answer))


def problem(status: int, code: str) -> httpx2.Response:
    return httpx2.Response(status, json={"code": code, "detail": "so it is"})


def test_who_waits_goes_on_waiting_while_gatehouse_is_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Restarted, starting, overloaded: said once, and asked again."""
    monkeypatch.setattr(client, "_AGAIN_SECONDS", 0.0)
    away = httpx2.ConnectError("refused")
    api = answering(away, away, problem(503, "unavailable"), httpx2.Response(200, json={"done": True}))

    assert {"done": True} == api.get_patiently("/v1/authorities/1")
    assert 1 == capsys.readouterr().err.count("waiting on")


def test_what_waiting_does_not_mend_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that was revoked, an authority that is gone."""
    monkeypatch.setattr(client, "_AGAIN_SECONDS", 0.0)
    api = answering(problem(503, "unavailable"), problem(404, "not_found"))
    with pytest.raises(AppError) as caught:
        api.get_patiently("/v1/authorities/1")
    assert ErrorCode.NOT_FOUND is caught.value.code
