"""`gatehouse cert get` against the real certificate service: what it gets, keeps, renews, and says."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from app.agent.certificate_folder import BUNDLE, CHAIN, KEY, CertificateFolder
from app.agent.keep_fresh import AgentOptions, CertificateAgent, identity_of, read_token
from app.authority.certificates.mint_tokens import TokenSubject
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain
from tests.support.ca import Served, make_world, serve
from tests.support.loopback_servers import stream_server
from tests.support.raw_server import hang_up

CART = "spiffe://cluster.local/ns/shop/sa/cart"


class Enough(Exception):  # noqa: N818 - how a test ends a watch
    """As many pauses as the test wanted."""


class Agent:
    """An agent on a folder, with its own time and a word for every pause."""

    def __init__(self, served: Served, directory: Path, **options: Any) -> None:
        self.served, self.directory = served, directory
        self.token_file = directory / "token"
        self.write_token()
        roots = directory / "roots.pem"
        roots.write_bytes(served.roots_pem)
        self.folder = directory / "tls"
        self.said: list[str] = []
        self.pauses: list[float] = []
        self.on_pause: Callable[[int], None] = lambda _: None
        defaults = {"address": served.address, "roots_file": roots, "token_file": self.token_file}
        self.options = AgentOptions(**(defaults | options))  # type: ignore[arg-type]

    def write_token(self, **subject: str) -> None:
        now = self.served.world.clock.now()
        who = TokenSubject(**({"namespace": "shop", "service_account": "cart"} | subject))
        minted = self.served.world.tokens.mint(who, token_id="t", now=now, lifetime=timedelta(hours=1))
        self.token_file.write_text(minted.token + "\n")

    def agent(self, pauses: int = 0) -> CertificateAgent:
        async def sleep(seconds: float) -> None:
            self.pauses.append(seconds)
            if len(self.pauses) >= pauses:
                raise Enough
            self.on_pause(len(self.pauses))

        return CertificateAgent(
            self.options, CertificateFolder(self.folder), self.said.append,
            now=self.served.world.clock.now, sleep=sleep, uniform=lambda low, high: (low + high) / 2,
        )  # fmt: skip

    async def watch(self, pauses: int) -> None:
        with pytest.raises(Enough):
            await self.agent(pauses).watch()

    @property
    def serial(self) -> int:
        return x509.load_pem_x509_certificate((self.folder / CHAIN).read_bytes()).serial_number


@pytest.fixture(name="served")
async def _served() -> AsyncIterator[Served]:
    async with serve(make_world()) as served:
        yield served


async def test_a_token_gets_a_certificate_into_files(served: Served, tmp_path: Path) -> None:
    """Of the identity that the token names, with intermediates and roots where they belong."""
    made = Agent(served, tmp_path)
    svid = await made.agent().once()
    chain = x509.load_pem_x509_certificates((made.folder / CHAIN).read_bytes())
    roots = x509.load_pem_x509_certificates((made.folder / BUNDLE).read_bytes())

    assert CART == svid.identity
    assert [*served.world.pki.authority.intermediates] == chain[1:]
    assert [served.world.pki.root] == roots
    assert {"sds-certificate.yaml", "sds-bundle.yaml", CHAIN, KEY, BUNDLE} <= {
        path.name for path in made.folder.iterdir()
    }


async def test_a_watch_renews_at_half_of_the_life(served: Served, tmp_path: Path) -> None:
    """A new key and certificate each time; the roots it was given are enough for the next connection."""
    made = Agent(served, tmp_path, ttl_seconds=3600)
    serials: list[int] = []

    def on_pause(number: int) -> None:
        serials.append(made.serial)
        (tmp_path / "roots.pem").write_bytes(served.roots_pem)
        served.world.clock.advance(minutes=30)
        made.write_token()

    made.on_pause = on_pause
    await made.watch(3)

    assert 2 == len(set(serials))
    assert all(abs(pause - 1740) < 60 for pause in made.pauses), made.pauses
    assert 3 == len([line for line in made.said if "will renew at" in line])


async def test_what_is_in_the_folder_is_kept_until_it_is_due(served: Served, tmp_path: Path) -> None:
    """A restart asks nobody."""
    made = Agent(served, tmp_path)
    await made.agent().once()
    before, asked = made.serial, len(served.world.ledger.entries)
    await made.watch(1)

    assert (before, asked) == (made.serial, len(served.world.ledger.entries))


async def test_a_failure_keeps_the_old_one_backs_off_and_says_so(served: Served, tmp_path: Path) -> None:
    """As ztunnel does: 1 s, doubled, up to 150 s; the token is in no line."""
    made = Agent(served, tmp_path)
    await made.agent().once()
    before = made.serial
    served.world.clock.advance(hours=13)
    secret = made.token_file.read_text().strip()
    await made.watch(12)  # its token has expired

    # The first pause was until the moment of renewal, which has passed.
    assert [1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 150.0, 150.0, 150.0] == made.pauses
    assert before == made.serial
    assert "holds until" in made.said[-1]
    assert "request" in made.said[-1]
    assert not any(secret in line for line in made.said)


async def test_a_token_is_read_again_for_each_request(served: Served, tmp_path: Path) -> None:
    """Whoever rotates it needs to tell nobody."""
    made = Agent(served, tmp_path)
    made.token_file.write_text("not.a.token")
    made.options = replace(made.options, identity=CART)
    made.on_pause = lambda _: made.write_token()
    await made.watch(2)

    assert "not renewed" in made.said[0]
    assert CART in made.said[1]


async def test_an_identity_that_is_not_the_tokens_is_not_accepted(served: Served, tmp_path: Path) -> None:
    """The authority refuses; and had it not, the agent would."""
    made = Agent(served, tmp_path, identity="spiffe://cluster.local/ns/shop/sa/pay")
    with pytest.raises(AppError):
        await made.agent().once()

    assert not (made.folder / CHAIN).exists()


async def test_a_service_under_other_roots_gets_no_token(served: Served, tmp_path: Path) -> None:
    """Somebody else's server; the files stay as they were."""
    made = Agent(served, tmp_path)
    (tmp_path / "roots.pem").write_text(make_world().pki.bundle.pem)
    with pytest.raises(AppError) as failure:
        await made.agent().once()

    assert ErrorCode.UNAVAILABLE is failure.value.code
    assert [] == served.world.ledger.entries


async def test_without_roots_or_token_the_advice_is_named(served: Served, tmp_path: Path) -> None:
    """Before anybody is asked."""
    for options, sentence in (
        ({"roots_file": None}, "--ca-file"),
        ({"roots_file": tmp_path / "missing"}, "missing"),
        ({"token_file": tmp_path / "missing"}, "missing"),
        ({"token_file": None, "identity": CART}, "neither a token nor a valid certificate"),
    ):
        with pytest.raises(AppError) as failure:
            await Agent(served, tmp_path, **options).agent().once()
        assert sentence in failure.value.detail


async def test_a_command_runs_after_each_change_without_a_shell(served: Served, tmp_path: Path) -> None:
    """Its arguments are its arguments; its failure changes nothing about the files."""
    script = tmp_path / "hook.py"
    script.write_text("import sys; open(sys.argv[1], 'a').write(sys.argv[2]); sys.exit(3)")
    made = Agent(served, tmp_path, hook=(sys.executable, str(script), str(tmp_path / "ran"), "$HOME; x"))
    await made.agent().once()

    assert "$HOME; x" == (tmp_path / "ran").read_text()
    assert [f"the command {sys.executable} failed with exit code 3"] == made.said
    made.options = replace(made.options, hook=("/nonexistent/program",))
    await made.agent().once()
    assert "cannot be run" in made.said[-1]


async def test_renewal_over_mutual_tls_falls_back_to_the_token(served: Served, tmp_path: Path) -> None:
    """While nothing answers on the renewal port."""
    async with stream_server(hang_up) as port:
        made = Agent(served, tmp_path, renew_address=f"127.0.0.1:{port}")
        await made.agent().once()
        assert [] == made.said  # the first has no certificate to renew with
        before = made.serial
        await made.agent().once()

    assert before != made.serial
    assert "not renewed over mutual TLS" in made.said[0]


def test_the_identity_in_a_token(served: Served, tmp_path: Path) -> None:
    """Of a service account; anything else needs the identity to be named."""
    made = Agent(served, tmp_path)
    assert CART == identity_of(read_token(made.token_file), TrustDomain("cluster.local"))
    for token in ("", "a", "a.b.c", "a.e30.c", "a.eyJzdWIiOiAxfQ.c", "a.eyJzdWIiOiAiYTpiOi4uOmQifQ.c"):
        with pytest.raises(AppError, match="--identity"):
            identity_of(token, TrustDomain("cluster.local"))
    for text in ("", " \n", "two tokens", "a\nb"):
        made.token_file.write_text(text)
        with pytest.raises(AppError, match="exactly one token"):
            read_token(made.token_file)
    assert isinstance(served.world.clock.now(), datetime)
