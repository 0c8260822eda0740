"""The link over real sockets: both ends of it, and what happens to each when the other one is wrong or away."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from app.decision.ports import StatusAnswer
from app.errors import AppError, ErrorCode
from app.limits import CheckLimits
from app.link.client import LinkClient
from app.link.remembered_checkpoint import RememberedCheckpoint
from app.link.signing import ManifestSigningKey, ManifestVerifier
from app.link.wire import ServingChain
from app.policy.snapshot import PartRef, parse_part
from tests.support.link_authority import LINK_LIMITS, Authority
from tests.support.pki import TestAuthority
from tests.support.snapshots import policy, verifier


@asynccontextmanager
async def _client(
    authority: Authority,
    *,
    token: str = "good",
    pinned: ManifestVerifier | None = None,
    limits: CheckLimits = LINK_LIMITS,
) -> AsyncIterator[LinkClient]:
    async with LinkClient.connect(authority.url, token=token, verifier=pinned or verifier(), limits=limits) as client:
        yield client


async def test_a_worker_fetches_the_manifest_and_then_every_part() -> None:
    """What arrives is what was published."""
    async with Authority().serving() as authority, _client(authority) as client:
        authority.source.put(*[policy(f"p{i}") for i in range(30)])
        await authority.publisher.refresh()
        signed = await client.fetch_manifest("", wait_seconds=0)
        assert signed is not None
        assert (await authority.publisher.current()).manifest == signed.manifest
        parts = await client.fetch_parts(signed.manifest.parts)
        documents = [key for part in parts if part.ref.kind == "documents" for key in parse_part(part)]
        assert sorted(f"AuthorizationPolicy/shop/p{i}" for i in range(30)) == sorted(documents)


async def test_a_known_manifest_is_not_sent_again_and_a_long_poll_wakes_for_the_next() -> None:
    """304 at once without a wait; with one, the answer comes with the change and not with the timeout."""
    async with Authority().serving() as authority, _client(authority) as client:
        authority.source.put(policy("a"))
        await authority.publisher.refresh()
        first = await client.fetch_manifest("", wait_seconds=0)
        assert first is not None
        assert await client.fetch_manifest(first.etag, wait_seconds=0) is None
        started = time.monotonic()
        assert await client.fetch_manifest(first.etag, wait_seconds=0.2) is None
        assert 0.15 <= time.monotonic() - started
        waiting = asyncio.create_task(client.fetch_manifest(first.etag, wait_seconds=120))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        authority.source.put(policy("b"))
        await authority.publisher.refresh()
        async with asyncio.timeout(60):
            second = await waiting
        assert second is not None
        assert 2 == second.manifest.number


async def test_a_manifest_of_another_authority_is_not_believed() -> None:
    """The pinned key decides, whoever answers at the address."""
    stranger = ManifestVerifier.parse(ManifestSigningKey(ManifestSigningKey.new_seed()).public_text)
    async with Authority().serving() as authority, _client(authority, pinned=stranger) as client:
        await authority.publisher.refresh()
        with pytest.raises(AppError) as caught:
            await client.fetch_manifest("", wait_seconds=0)
        assert ErrorCode.UNAUTHENTICATED == caught.value.code


async def test_parts_with_other_bytes_than_the_manifest_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is believed by its hash: changed, shorter or longer bytes are not used."""
    async with Authority().serving() as authority, _client(authority) as client:
        authority.source.put(policy("a"))
        await authority.publisher.refresh()
        signed = await client.fetch_manifest("", wait_seconds=0)
        assert signed is not None
        ref = signed.manifest.parts[0]
        right = authority.publisher.part(ref.sha256)
        assert right is not None
        for wrong in (right.replace(b"shop", b"shoq"), right[:-1], right + b" ", right * 1000):
            with monkeypatch.context() as patched:
                patched.setattr(authority.publisher, "part", lambda *_args, wrong=wrong: wrong)
                with pytest.raises(AppError) as caught:
                    await client.fetch_parts([ref])
            assert ErrorCode.MALFORMED == caught.value.code
        assert right == (await client.fetch_parts([ref]))[0].data


async def test_a_part_that_no_current_manifest_names_is_not_found() -> None:
    """The worker asks for the manifest again; guessing hashes or paths shows nothing."""
    async with Authority().serving() as authority, _client(authority) as client:
        await authority.publisher.refresh()
        for name in ("0" * 64, "..", "..%2f..%2fetc%2fpasswd"):
            with pytest.raises(AppError) as caught:
                await client.fetch_parts([PartRef("documents/00", name, 10)])
            assert ErrorCode.UNAVAILABLE == caught.value.code


async def test_a_narrow_token_sees_only_its_scope() -> None:
    """Neither in its manifest nor by asking for a part by name."""
    async with Authority().serving() as authority, _client(authority, token="narrow") as narrow:
        authority.source.put(policy("a", "shop"), policy("b", "bank"))
        await authority.publisher.refresh()
        signed = await narrow.fetch_manifest("", wait_seconds=0)
        assert signed is not None
        items = [
            key
            for part in await narrow.fetch_parts(signed.manifest.parts)
            if part.ref.kind == "documents"
            for key in parse_part(part)
        ]
        assert ["AuthorizationPolicy/shop/a"] == items
        async with _client(authority) as wide:
            everything = await wide.fetch_manifest("", wait_seconds=0)
            assert everything is not None
        hidden = next(ref for ref in everything.manifest.parts if ref not in signed.manifest.parts)
        with pytest.raises(AppError) as caught:
            await narrow.fetch_parts([hidden])
        assert ErrorCode.UNAVAILABLE == caught.value.code


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", "bearer  good", "Basic good", "good"])
async def test_without_a_worker_token_there_is_nothing(header: str | None) -> None:
    """One opaque 401 for each path, whatever is wrong with the token."""
    async with Authority().serving() as authority, httpx2.AsyncClient(trust_env=False) as http:
        await authority.publisher.refresh()
        headers = {} if header is None else {"authorization": header}
        for method, path in (
            ("GET", "/link/v1/manifest"),
            ("GET", "/link/v1/parts/" + "0" * 64),
            ("POST", "/link/v1/status"),
            ("POST", "/link/v1/serving-certificate"),
        ):
            response = await http.request(method, authority.url + path, headers=headers)
            assert (401, "a worker token is wanted") == (response.status_code, response.json()["detail"])
        assert [] == authority.csrs


async def test_a_revoked_token_is_told_so() -> None:
    """The worker knows that it is not the network."""
    async with Authority().serving() as authority, _client(authority) as client:
        await authority.publisher.refresh()
        authority.tokens.clear()
        with pytest.raises(AppError) as caught:
            await client.fetch_manifest("", wait_seconds=0)
        assert ErrorCode.UNAUTHENTICATED == caught.value.code


async def test_a_worker_remembers_the_newest_checkpoint_and_says_so(tmp_path: Path) -> None:
    """What the authority answers is kept across restarts and told back before it is replaced."""
    async with Authority().serving() as authority, _client(authority) as client:
        assert StatusAnswer() == await client.send_status({"worker": "w"})
        authority.checkpoint = "first\n"
        memory = RememberedCheckpoint(tmp_path / "w")
        for expected in ("first\n", "second\n"):
            status = {"worker": "w", **({"checkpoint": memory.note} if memory.note else {})}
            told = await client.send_status(status)
            assert StatusAnswer(checkpoint=expected) == told
            await memory.keep(expected)
            assert expected == RememberedCheckpoint(tmp_path / "w").note
            authority.checkpoint = "second\n"
        assert [("first\n", "the worker 'w'")] == authority.heard
        (status_kept,) = authority.registry.statuses(now=authority.now())
        assert "checkpoint" not in status_kept.report
        await memory.keep("x" * 10_000)  # more than a checkpoint can be
        assert "second\n" == memory.note


async def test_status_reports_arrive_and_are_bounded() -> None:
    """A report is kept under the token's name; what is too long or no object is refused, and that does no harm."""
    async with Authority().serving() as authority, _client(authority) as client:
        await client.send_status({"worker": "node-a/1", "number": 7})
        (status,) = authority.registry.statuses(now=authority.now())
        assert ("good", "node-a/1", 7) == (status.token_name, status.worker, status.report["number"])
        await client.send_status({"worker": "x" * 100_000})
        assert 1 == len(authority.registry.statuses(now=authority.now()))
        async with httpx2.AsyncClient(trust_env=False, headers={"authorization": "Bearer good"}) as http:
            url = f"{authority.url}/link/v1/status"
            assert 413 == (await http.post(url, content=b"x" * 100_000)).status_code
            for body in (b"", b"[]", b"{", b"[" * 50_000, b'"x"'):
                assert 400 == (await http.post(url, content=body)).status_code


async def test_a_report_says_whose_keys_are_wanted_anew() -> None:
    """The names reach who fetches keys and are not kept with the report; what is no list of names does no harm."""
    async with Authority().serving() as authority, _client(authority) as client:
        for wanted in (["a", 5, None, "b"], "c", {"d": 1}, None):
            await client.send_status({"worker": "w", "keysWanted": wanted})
        (status,) = authority.registry.statuses(now=authority.now())
        assert (["a", "b"], False) == (authority.wanted, "keysWanted" in status.report)


async def test_a_serving_certificate_is_issued_for_the_worker_that_asks() -> None:
    """The CSR goes to the issuer with the worker's name; refusals come back as errors without inner text."""
    async with Authority().serving() as authority, _client(authority) as client:
        assert ServingChain(chain=["leaf", "root"]) == await client.request_serving_certificate("csr")
        assert [("good", "csr")] == authority.csrs
        for csr in ("bad", "crash"):
            with pytest.raises(AppError) as caught:
                await client.request_serving_certificate(csr)
            assert ErrorCode.UNAVAILABLE == caught.value.code
        async with httpx2.AsyncClient(trust_env=False, headers={"authorization": "Bearer good"}) as http:
            response = await http.post(f"{authority.url}/link/v1/serving-certificate", json={"csr": "crash"})
            assert 500 == response.status_code
            assert "secret" not in response.text


async def test_a_worker_hears_of_a_deadline_and_says_what_it_put_away() -> None:
    """With each report and each certificate; what is no list of serial numbers is refused."""
    deadline = datetime(2026, 1, 1, 2, tzinfo=UTC)
    async with Authority(converge_by=deadline).serving() as authority, _client(authority) as client:
        assert StatusAnswer(converge_by=deadline) == await client.send_status({"worker": "w"})
        made = await client.request_serving_certificate("csr", replaced=["4a01", "4a02"])
        assert (deadline, ["4a01", "4a02"]) == (made.converges_by, authority.replaced)
        async with httpx2.AsyncClient(trust_env=False, headers={"authorization": "Bearer good"}) as http:
            for wrong in ("4a01", [1], ["4A01"], [""], ["1" * 41], ["1"] * 65, {"1": 1}, None):
                url, body = f"{authority.url}/link/v1/serving-certificate", {"csr": "csr", "replaced": wrong}
                assert 400 == (await http.post(url, json=body)).status_code


@pytest.mark.parametrize("wait", ["-1", "nan", "inf", "x", ""])
async def test_a_wait_that_is_no_number_of_seconds_is_refused(wait: str) -> None:
    """Nobody holds a connection for ever."""
    async with Authority().serving() as authority, httpx2.AsyncClient(trust_env=False) as http:
        await authority.publisher.refresh()
        response = await http.get(
            f"{authority.url}/link/v1/manifest", params={"wait": wait}, headers={"authorization": "Bearer good"}
        )
        assert 400 == response.status_code


async def test_an_authority_that_is_away_is_unavailable_within_the_timeout() -> None:
    """Nobody listens, and somebody listens but never answers."""
    authority = Authority()
    async with authority.serving():
        pass
    limits = CheckLimits(link_timeout_seconds=0.3)
    async with _client(authority, limits=limits) as client:
        with pytest.raises(AppError) as caught:
            await client.fetch_manifest("", wait_seconds=0)
        assert ErrorCode.UNAVAILABLE == caught.value.code
        await client.send_status({"worker": "x"})  # best effort: no exception

    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, nobody answers
        authority.url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with _client(authority, limits=limits) as client:
            started = time.monotonic()
            with pytest.raises(AppError) as caught:
                await client.fetch_manifest("", wait_seconds=0.2)
            assert ErrorCode.UNAVAILABLE == caught.value.code
            assert time.monotonic() - started < 30


async def test_a_snapshot_over_the_bounds_is_refused_before_it_is_fetched() -> None:
    """The manifest names the sizes; too much is an error, not memory."""
    async with Authority().serving() as authority:
        authority.source.put(*[policy(f"p{i}") for i in range(30)])
        await authority.publisher.refresh()
        for limits in (CheckLimits(max_snapshot_bytes=1_000), CheckLimits(max_part_bytes=50)):
            async with _client(authority, limits=limits) as client:
                with pytest.raises(AppError) as caught:
                    await client.fetch_manifest("", wait_seconds=0)
                assert ErrorCode.TOO_LARGE == caught.value.code


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker speaks to its authority and to nobody else."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with Authority().serving() as authority, _client(authority) as client:
        await authority.publisher.refresh()
        assert await client.fetch_manifest("", wait_seconds=0) is not None


async def test_over_https_the_server_must_prove_who_it_is(tmp_path: Path) -> None:
    """With the right roots the link works as over http; with others, or without any, nothing is sent."""
    pki = TestAuthority(tmp_path)
    served = pki.issue(None, file_name="link", dns="localhost", ip="127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(served.certificate, served.private_key)
    stranger = TestAuthority(tmp_path, name="stranger")
    async with Authority().serving(tls=context) as authority:
        await authority.publisher.refresh()
        assert authority.url.startswith("https://")
        for roots, reason in (
            (pki.bundle, None),
            (stranger.bundle, "CERTIFICATE_VERIFY"),
            (None, "CERTIFICATE_VERIFY"),
        ):
            tls = None if roots is None else ssl.create_default_context(cafile=str(roots))
            async with LinkClient.connect(
                authority.url, token="good", verifier=verifier(), limits=LINK_LIMITS, tls=tls
            ) as client:
                if reason is None:
                    assert await client.fetch_manifest("", wait_seconds=0) is not None
                else:
                    with pytest.raises(AppError) as caught:
                        await client.fetch_manifest("", wait_seconds=0)
                    assert ErrorCode.UNAVAILABLE == caught.value.code
                    assert reason in caught.value.diagnosis
