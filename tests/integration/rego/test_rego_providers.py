"""The engines as a worker knows them: they follow the snapshot, and each provider gets what it selects."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.bootstrap.rego_engines import rego_engines
from app.decision.ports import ProviderAnswer
from app.errors import AppError
from app.limits import RegoLimits
from app.policy.provider import RegoEngine
from app.rego.opa_address import OpaAddress
from app.rego.rego_providers import EmbeddedProvider, OpaProvider
from app.settings import Settings
from tests.support.decisions import Worker, worker
from tests.support.opa_stand_in import OpaStandIn, serve
from tests.support.rego import LIMITS, module_document, needs_regopy, question


def _provider(name: str = "authz", **rego: Any) -> dict[str, Any]:
    return {"apiVersion": "gatehouse.dev/v1", "kind": "Provider", "metadata": {"name": name}, "spec": {"rego": rego}}


@pytest.fixture
async def embedded() -> AsyncIterator[EmbeddedProvider]:
    provider = EmbeddedProvider(LIMITS, user="nobody")
    yield provider
    await provider.close()


async def _follow(provider: EmbeddedProvider | OpaProvider, serving: Worker, *documents: dict[str, Any]) -> None:
    await serving.put(*documents)
    assert serving.holder.state is not None
    provider.follow(serving.holder.state)


@needs_regopy
async def test_modules_are_loaded_with_the_snapshot_and_let_go_with_the_last_provider(
    embedded: EmbeddedProvider,
) -> None:
    """Before anybody asks; another module answers as soon as its snapshot serves; without a provider there is no child."""
    serving = await worker()
    await _follow(embedded, serving, module_document("authz", "package shop.authz\n\nallow := true\n"))
    assert 0 == embedded.engine.pid
    await _follow(embedded, serving, _provider(engine="embedded", path="shop/authz/allow"))
    assert ProviderAnswer(True) == await embedded.ask(question())
    first = embedded.engine.pid
    await _follow(embedded, serving, module_document("authz", "package shop.authz\n\nallow := false\n"))
    async with asyncio.timeout(20):
        while await embedded.ask(question()) != ProviderAnswer(False):
            pass
    assert first not in (0, embedded.engine.pid)
    serving.source.delete("Provider//authz")
    await _follow(embedded, serving)
    assert 0 == embedded.engine.pid


@needs_regopy
async def test_an_answer_that_is_none_denies_with_its_reason(embedded: EmbeddedProvider) -> None:
    """Never an exception."""
    serving = await worker()
    await _follow(embedded, serving)
    assert "there is no RegoModule in the set" in (await embedded.ask(question())).hint
    await _follow(embedded, serving, module_document("authz", 'package shop.authz\n\nallow := "yes"\n'))
    assert "the rule is text" in (await embedded.ask(question())).hint
    assert "no RegoModule gone" in (await embedded.ask(question(modules=("gone",)))).hint


async def test_each_server_is_asked_over_its_own_connections_and_forgotten_with_its_provider() -> None:
    """One after the other over one connection, and over another when it is named anew."""
    stand_in = OpaStandIn({"shop/authz/allow": lambda _document: True})
    provider, serving = OpaProvider(LIMITS), await worker()
    async with serve(stand_in):
        url = f"http://127.0.0.1:{stand_in.port}"
        await _follow(provider, serving, _provider(engine="opa", path="shop/authz/allow", opa={"url": url}))
        for _ in range(3):
            assert ProviderAnswer(True) == await provider.ask(question(engine=RegoEngine.OPA, url=url))
        assert 1 == len(stand_in.connections)
        serving.source.delete("Provider//authz")
        await _follow(provider, serving)
        assert ProviderAnswer(True) == await provider.ask(question(engine=RegoEngine.OPA, url=url))
        assert 2 == len(stand_in.connections)
        await provider.close()


async def test_the_token_goes_where_the_settings_say_whatever_a_document_names(tmp_path: Path) -> None:
    """Whoever may write a Provider cannot have it sent to a server of theirs, not even on the same host."""
    rules = {"shop/authz/allow": lambda _document: True}
    ours, theirs, socket = (OpaStandIn(rules) for _ in range(3))
    path = str(tmp_path / "opa.sock")
    async with serve(ours), serve(theirs), serve(socket, socket_path=path):
        url, other = (f"http://127.0.0.1:{each.port}" for each in (ours, theirs))
        listed = frozenset({OpaAddress.parse(url), OpaAddress.parse(f"unix://{path}")})
        provider = OpaProvider(LIMITS, token="t", token_for=listed)
        for rego in ({"url": url}, {"url": other}, {"unix_socket": path}):
            assert ProviderAnswer(True) == await provider.ask(question(engine=RegoEngine.OPA, **rego))
        await provider.close()

    assert [{"Bearer t"}, {""}, {"Bearer t"}] == [ours.tokens, theirs.tokens, socket.tokens]


async def test_the_roots_of_the_system_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a worker tens of milliseconds, and documents name as many servers as their authors like."""
    made: list[ssl.SSLContext] = []

    def context() -> ssl.SSLContext:
        made.append(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", context)
    provider = OpaProvider(RegoLimits(opa_connect_seconds=0.001))
    for port in (1, 2, 3):
        await provider.ask(question(engine=RegoEngine.OPA, url=f"https://127.0.0.1:{port}"))
    await provider.close()

    assert 1 == len(made)


async def test_a_server_that_wants_a_token_and_is_not_listed_says_what_to_write() -> None:
    """In the hint of each decision, and once in the log."""
    stand_in = OpaStandIn({"shop/authz/allow": lambda _document: True}, token="t")
    provider = OpaProvider(LIMITS, token="t", token_for=frozenset({OpaAddress.parse("https://opa.shop")}))
    async with serve(stand_in):
        url = f"http://127.0.0.1:{stand_in.port}"
        with capture_logs() as logs:
            answers = [await provider.ask(question(engine=RegoEngine.OPA, url=url)) for _ in range(2)]
        await provider.close()

    said = f"OPA answered 401 unauthorized; it got no token, for rego.opa_token_for does not list {url}"
    assert [ProviderAnswer(False, hint=f"shop/authz/allow: {said}")] * 2 == answers
    assert [("opa_token_not_sent", url)] == [(each["event"], each["server"]) for each in logs]


@pytest.mark.parametrize("text", [b"", b"two words", b"\xff", None])
async def test_a_token_file_that_holds_none_is_said_at_the_start(tmp_path: Path, text: bytes | None) -> None:
    """Not at the first request."""
    file = tmp_path / "token"
    if text is not None:
        file.write_bytes(text)
    settings = Settings(state_dir=tmp_path, rego={"opa_token_file": file, "opa_token_for": ["https://opa.shop"]})
    with pytest.raises(AppError, match=r"rego\.opa_token_file"):
        async with rego_engines(settings):
            pass
