"""Verification of tokens: cache, rotation, several issuers, keys that cannot be had."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from structlog.testing import capture_logs

from app.authority.certificates.mint_tokens import TokenSubject
from app.authority.ports import TokenCaller
from app.errors import AppError, ErrorCode
from app.limits import CertificateLimits
from app.tokens.builtin_issuer import BuiltinIssuer
from app.tokens.jwks_authenticator import Issuer, JwksAuthenticator
from app.tokens.key_cache import KeyCache
from app.tokens.token_issuers import TokenIssuers
from tests.support.jwks import jwk, key_set

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LIMITS = CertificateLimits(jwks_timeout_seconds=0.2)
SUBJECT = TokenSubject(
    namespace="istio-system", service_account="ztunnel", pod_name="zt-1", pod_uid="u-1", node_name="node-a"
)


class ProgrammedJwks:
    """A source of keys that counts, fails and changes."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.fetches = 0
        self.failure: Exception | None = None

    async def fetch(self) -> bytes:
        self.fetches += 1
        if self.failure is not None:
            raise self.failure
        return self.data


class Stopwatch:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


AWAY = AppError(ErrorCode.UNAVAILABLE, "the keys of a token issuer cannot be had at the moment", diagnosis="down")


def new_issuer(**options: Any) -> BuiltinIssuer:
    return BuiltinIssuer(ec.generate_private_key(ec.SECP256R1()), **options)


def mint(issuer: BuiltinIssuer, *, now: datetime = NOW, lifetime: timedelta = timedelta(hours=1)) -> str:
    return issuer.mint(SUBJECT, token_id="t-1", now=now, lifetime=lifetime).token


def authenticator(
    issuer: BuiltinIssuer, source: ProgrammedJwks, *, watch: Stopwatch | None = None, cluster: str = ""
) -> JwksAuthenticator:
    made = JwksAuthenticator(Issuer(issuer=issuer.issuer, cluster=cluster), source, LIMITS)
    if watch is not None:
        made._keys = KeyCache(source, LIMITS, issuer=issuer.issuer, monotonic=watch)
    return made


async def test_a_token_of_the_builtin_issuer_names_its_bearer() -> None:
    """What is minted is what is read."""
    issuer = new_issuer()
    caller = await authenticator(issuer, ProgrammedJwks(issuer.jwks()), cluster="east").authenticate(
        mint(issuer), now=NOW
    )

    assert caller == TokenCaller(
        issuer=issuer.issuer,
        token_id="t-1",
        namespace="istio-system",
        service_account="ztunnel",
        pod_name="zt-1",
        pod_uid="u-1",
        node_name="node-a",
        cluster="east",
        issued_at=NOW,
        expires_at=NOW + timedelta(hours=1),
    )


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"])
async def test_every_accepted_algorithm_verifies(algorithm: str) -> None:
    """Kubernetes clusters sign with RSA or ECDSA keys."""
    key: Any
    match algorithm[:2]:
        case "RS" | "PS":
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        case "ES":
            key = ec.generate_private_key(ec.SECP256R1() if algorithm == "ES256" else ec.SECP384R1())
        case _:
            key = ed25519.Ed25519PrivateKey.generate()
    issuer = new_issuer()
    claims = jwt.decode(mint(issuer), options={"verify_signature": False})
    token = jwt.encode(claims, key, algorithm=algorithm, headers={"kid": "k"})
    caller = await authenticator(issuer, ProgrammedJwks(key_set(jwk(key, kid="k")))).authenticate(token, now=NOW)

    assert caller.node_name == "node-a"


async def test_an_algorithm_of_another_key_type_is_refused() -> None:
    """An ES256 token that names an RSA key is refused before any arithmetic."""
    issuer = new_issuer()
    claims = jwt.decode(mint(issuer), options={"verify_signature": False})
    token = jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers={"kid": "k"})
    source = ProgrammedJwks(key_set(jwk(rsa.generate_private_key(public_exponent=65537, key_size=2048), kid="k")))
    with pytest.raises(AppError) as failure:
        await authenticator(issuer, source).authenticate(token, now=NOW)

    assert failure.value.diagnosis.startswith("algorithm:")


async def test_a_verified_token_is_remembered_until_it_ends() -> None:
    """The second use verifies nothing; after the end (and the leeway) it is refused."""
    issuer = new_issuer()
    made = authenticator(issuer, ProgrammedJwks(issuer.jwks()))
    token = mint(issuer, lifetime=timedelta(seconds=60))
    verified = []
    verify = made._verify

    async def counted(token: str, now: datetime) -> Any:
        verified.append(now)
        return await verify(token, now)

    made._verify = counted  # type: ignore[method-assign]
    for seconds in (0, 1, 59):
        await made.authenticate(token, now=NOW + timedelta(seconds=seconds))
    assert len(verified) == 1
    with pytest.raises(AppError) as failure:
        await made.authenticate(token, now=NOW + timedelta(seconds=70))

    assert failure.value.diagnosis.startswith("expired:")


async def test_the_memory_of_tokens_is_bounded_and_holds_no_token() -> None:
    """The least recently used is forgotten; only hashes are kept."""
    issuer = new_issuer()
    made = JwksAuthenticator(
        Issuer(issuer=issuer.issuer), ProgrammedJwks(issuer.jwks()), CertificateLimits(token_cache_entries=3)
    )
    tokens = [mint(issuer, lifetime=timedelta(minutes=n)) for n in range(5, 15)]
    for token in tokens:
        await made.authenticate(token, now=NOW)

    assert len(made._verified) == 3
    assert not any(token in repr(made._verified) for token in tokens)


async def test_a_new_key_is_found_when_a_token_names_it_and_not_more_often() -> None:
    """Rotation: an unknown key id asks the issuer again, once in a while."""
    old, new, watch = new_issuer(), new_issuer(), Stopwatch()
    source = ProgrammedJwks(old.jwks())
    made = authenticator(old, source, watch=watch)
    await made.authenticate(mint(old), now=NOW)
    assert source.fetches == 1

    for _ in range(5):  # too soon after the last fetch: refused without asking
        with pytest.raises(AppError):
            await made.authenticate(mint(new), now=NOW)
    assert source.fetches == 1

    source.data = new.jwks()
    watch.seconds += LIMITS.jwks_min_refetch_seconds + 0.1
    await made.authenticate(mint(new), now=NOW)
    assert source.fetches == 2


async def test_a_withdrawn_key_ends_what_it_verified() -> None:
    """A remembered token does not outlive its key in the issuer's set."""
    old, new, watch = new_issuer(), new_issuer(), Stopwatch()
    source = ProgrammedJwks(old.jwks())
    made = authenticator(old, source, watch=watch)
    token = mint(old)
    await made.authenticate(token, now=NOW)
    source.data = new.jwks()
    watch.seconds += LIMITS.jwks_refresh_seconds + 1
    await made.authenticate(token, now=NOW)  # starts the refresh, does not wait for it
    await made._keys._wait()
    with pytest.raises(AppError) as failure:
        await made.authenticate(token, now=NOW)

    assert failure.value.diagnosis.startswith("unknown_key:")


async def test_an_issuer_that_is_away_keeps_its_keys_for_a_bounded_time() -> None:
    """An outage of the issuer is not ours, until the keys are too old to be believed."""
    issuer, watch = new_issuer(), Stopwatch()
    source = ProgrammedJwks(issuer.jwks())
    made = authenticator(issuer, source, watch=watch)
    await made.authenticate(mint(issuer), now=NOW)
    source.failure = AWAY
    watch.seconds += LIMITS.jwks_stale_seconds - 1
    with capture_logs() as logs:
        await made.authenticate(mint(issuer, lifetime=timedelta(hours=2)), now=NOW)
        await made._keys._wait()
        watch.seconds += 2
        with pytest.raises(AppError) as failure:
            await made.authenticate(mint(issuer, lifetime=timedelta(hours=3)), now=NOW)

    assert failure.value.code is ErrorCode.UNAVAILABLE
    assert {line["event"] for line in logs} == {"jwks_fetch_failed"}


@pytest.mark.parametrize("failure", [AWAY, RuntimeError("a bug in a source")])
async def test_case_014_no_keys_at_all_means_unavailable_at_once(failure: Exception) -> None:
    """Never accepted, never a default key, and a storm of requests does not become a storm of fetches."""
    issuer = new_issuer()
    source = ProgrammedJwks()
    source.failure = failure
    made = authenticator(issuer, source, watch=Stopwatch())
    with capture_logs():
        for _ in range(20):
            with pytest.raises(AppError) as refused:
                await made.authenticate(mint(issuer), now=NOW)
            assert refused.value.code is ErrorCode.UNAVAILABLE

    assert source.fetches == 1


async def test_a_hundred_first_requests_share_one_fetch() -> None:
    """Many node proxies come back at once after a restart."""
    issuer = new_issuer()
    source = ProgrammedJwks(issuer.jwks())
    made = authenticator(issuer, source)
    await asyncio.gather(*(made.authenticate(mint(issuer), now=NOW) for _ in range(100)))

    assert source.fetches == 1


async def test_the_issuer_in_the_token_only_chooses_whose_keys_must_verify_it() -> None:
    """A token of one issuer that claims to be another's is refused; each gives its own cluster."""
    east, west = new_issuer(issuer="https://east"), new_issuer(issuer="https://west")
    both = TokenIssuers(
        [
            authenticator(east, ProgrammedJwks(east.jwks()), cluster="east"),
            authenticator(west, ProgrammedJwks(west.jwks()), cluster="west"),
        ],
        LIMITS,
    )
    clusters = [(await both.authenticate(mint(issuer), now=NOW)).cluster for issuer in (east, west, east)]
    pretender = BuiltinIssuer(east._key, issuer="https://west")
    with pytest.raises(AppError) as failure:
        await both.authenticate(mint(pretender), now=NOW)

    assert clusters == ["east", "west", "east"]
    assert failure.value.diagnosis.startswith("unknown_key:")
    await both.close()


def test_two_issuers_of_one_name_are_a_mistake() -> None:
    """Which keys count must be clear."""
    issuer = new_issuer()
    with pytest.raises(AppError, match="two token issuers"):
        TokenIssuers([authenticator(issuer, ProgrammedJwks()) for _ in range(2)], LIMITS)


@pytest.mark.parametrize(
    "subject", [{"namespace": "UPPER"}, {"service_account": "a/b"}, {"pod_uid": ""}, {"node_name": "a b"}]
)
def test_no_token_is_minted_for_names_that_nobody_has(subject: dict[str, str]) -> None:
    """The issuer reads its own claims before it signs them."""
    fields = {name: getattr(SUBJECT, name) for name in SUBJECT.__slots__} | subject
    with pytest.raises(AppError) as failure:
        new_issuer().mint(TokenSubject(**fields), token_id="t", now=NOW, lifetime=timedelta(hours=1))

    assert failure.value.code is ErrorCode.INVALID


async def test_the_builtin_issuers_key_is_made_once_and_rests_sealed() -> None:
    """Every start, and every replica, opens the same key."""
    stored: dict[str, bytes] = {}

    class Store:
        async def get_sealed_key(self, name: str) -> bytes | None:
            return stored.get(name)

        async def put_sealed_key(self, name: str, sealed: bytes) -> bytes:
            return stored.setdefault(name, sealed)

    async def seal(name: str, secret: bytes) -> bytes:
        return name.encode() + b":" + secret[::-1]

    async def unseal(name: str, sealed: bytes) -> bytes:
        return sealed.removeprefix(name.encode() + b":")[::-1]

    first, second = [await BuiltinIssuer.open(Store(), seal=seal, unseal=unseal) for _ in range(2)]  # type: ignore[arg-type]

    assert first.jwks() == second.jwks()
    assert list(stored) == ["token-issuer"]
    assert "d" not in json.loads(first.jwks())["keys"][0]
