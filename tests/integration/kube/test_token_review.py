"""TokenReview over its real wire format: what it accepts, what it refuses, what it costs."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.authority.ports import TokenCaller
from app.errors import AppError, ErrorCode
from app.identity.token_claims import OPAQUE_REFUSAL
from app.kube.token_review import REVIEWS, TokenReviewer
from app.limits import KubernetesLimits
from tests.support.kube_api import KubeApi, accepted, client_of

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ISSUER = "https://kubernetes.default.svc.cluster.local"


def jwt_of(**claims: Any) -> str:
    """A token as far as anybody looks before the API server has said that it holds."""
    body = {"iss": ISSUER, "aud": ["istio-ca"], "iat": NOW.timestamp() - 600, "exp": NOW.timestamp() + 3_600} | claims
    parts = ({"alg": "RS256"}, body)
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return ".".join((*encoded, "c2ln"))


TOKEN = jwt_of(jti="jti-of-the-token")
FACTS = {
    "pod_name": "ztunnel-1",
    "pod_uid": "uid-1",
    "node_name": "node-a",
    "node_uid": "uid-2",
    "credential_id": "JTI=j-1",
}


@asynccontextmanager
async def reviewing(
    api: KubeApi, folder: Path, limits: KubernetesLimits | None = None, **options: Any
) -> AsyncIterator[TokenReviewer]:
    """A reviewer of the cluster `east`."""
    limits = limits or KubernetesLimits()
    async with client_of(api, folder, limits) as client:
        yield TokenReviewer(client, limits, cluster="east", **options)


async def refusal(reviewer: TokenReviewer, token: str = TOKEN, now: datetime = NOW) -> AppError:
    with pytest.raises(AppError) as caught:
        await reviewer.authenticate(token, now=now)
    return caught.value


async def test_a_good_token_names_pod_node_and_its_own_id(api: KubeApi, tmp_path: Path) -> None:
    """Also what istiod leaves aside: node and credential id. The question names our audience."""
    api.reviews[TOKEN] = accepted(**FACTS)
    async with reviewing(api, tmp_path) as reviewer:
        caller = await reviewer.authenticate(TOKEN, now=NOW)

    assert caller == TokenCaller(
        issuer=ISSUER,
        token_id="j-1",
        namespace="istio-system",
        service_account="ztunnel",
        pod_name="ztunnel-1",
        pod_uid="uid-1",
        node_name="node-a",
        cluster="east",
        issued_at=NOW - timedelta(minutes=10),
        expires_at=NOW + timedelta(hours=1),
    )
    assert [{"token": TOKEN, "audiences": ["istio-ca"]}] == [body["spec"] for body in api.bodies]
    assert ("authentication.k8s.io/v1", "TokenReview") == (api.bodies[0]["apiVersion"], api.bodies[0]["kind"])


async def test_an_older_api_server_names_no_node_and_no_credential(api: KubeApi, tmp_path: Path) -> None:
    """Then the id is the token's own `jti`, which the API server's signature covers."""
    api.reviews[TOKEN] = accepted(pod_name="ztunnel-1", pod_uid="uid-1")
    async with reviewing(api, tmp_path) as reviewer:
        caller = await reviewer.authenticate(TOKEN, now=NOW)

    assert ("jti-of-the-token", "", "ztunnel-1") == (caller.token_id, caller.node_name, caller.pod_name)


def changed(**members: Any) -> dict[str, Any]:
    return accepted(**FACTS) | members


def user(**members: Any) -> dict[str, Any]:
    status = accepted(**FACTS)
    return status | {"user": status["user"] | members}


def extra(name: str, value: Any) -> dict[str, Any]:
    status = accepted(**FACTS)
    facts = status["user"]["extra"] | {f"authentication.kubernetes.io/{name}": value}
    return status | {"user": status["user"] | {"extra": facts}}


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (changed(error="[invalid bearer token, service account token has expired]", authenticated=True), "expired"),
        (changed(error='token audiences ["a"] is invalid for the target audiences ["istio-ca"]'), "audience"),
        (changed(error="unknown"), "review"),
        (changed(authenticated=False), "review"),
        (changed(authenticated="true"), "review"),
        (changed(authenticated=None), "review"),
        (changed(audiences=["https://kubernetes.default.svc"]), "audience"),
        (changed(audiences=None), "audience"),
        (changed(audiences="istio-ca"), "audience"),
        (user(groups=["system:authenticated"]), "claims"),
        (user(groups=None), "claims"),
        (changed(user=None), "claims"),
        (user(username="alice"), "claims"),
        (user(username="system:serviceaccount"), "claims"),
        (user(username="system:serviceaccount:istio-system"), "claims"),
        (user(username="system:serviceaccount:istio-system:ztunnel:x"), "claims"),
        (user(username="system:serviceaccount::ztunnel"), "claims"),
        (user(username="system:serviceaccount:istio-system:"), "claims"),
        (user(username="system:serviceaccount:Istio/../x:ztunnel"), "claims"),
        (user(username=7), "claims"),
        (extra("pod-name", ["../x"]), "claims"),
        (extra("pod-uid", []), "claims"),
        (extra("node-name", ["node-a,spec.x=y"]), "claims"),
    ],
)
async def test_what_does_not_hold_is_refused_and_the_same_outward(
    api: KubeApi, tmp_path: Path, status: dict[str, Any], word: str
) -> None:
    """In the order of the checks; the diagnosis begins with the word that advice and metrics go by."""
    api.reviews[TOKEN] = status
    async with reviewing(api, tmp_path) as reviewer:
        error = await refusal(reviewer)

    assert (ErrorCode.UNAUTHENTICATED, OPAQUE_REFUSAL, word) == (
        error.code,
        error.detail,
        error.diagnosis.partition(":")[0],
    )


async def test_the_same_token_is_asked_about_once_and_then_now_and_again(api: KubeApi, tmp_path: Path) -> None:
    """So that a token whose pod is gone is noticed; by the hash of the token, which nobody keeps."""
    api.reviews[TOKEN] = accepted(**FACTS)
    async with reviewing(api, tmp_path) as reviewer:
        await asyncio.gather(*(reviewer.authenticate(TOKEN, now=NOW) for _ in range(20)))
        await reviewer.authenticate(TOKEN, now=NOW + timedelta(seconds=59))
        assert 1 == len(api.asked(REVIEWS))
        assert TOKEN not in repr(vars(reviewer))

        del api.reviews[TOKEN]
        assert "review" == (await refusal(reviewer, now=NOW + timedelta(seconds=61))).diagnosis.partition(":")[0]
        assert 2 == len(api.asked(REVIEWS))


async def test_an_answer_is_not_kept_past_the_end_of_the_token(api: KubeApi, tmp_path: Path) -> None:
    """Whatever the bound of the memory is."""
    token = jwt_of(exp=NOW.timestamp() + 10)
    api.reviews[token] = accepted(**FACTS)
    async with reviewing(api, tmp_path) as reviewer:
        await reviewer.authenticate(token, now=NOW)
        await reviewer.authenticate(token, now=NOW + timedelta(seconds=11))

        assert 2 == len(api.asked(REVIEWS))


async def test_a_refused_token_is_refused_for_a_moment_without_asking(api: KubeApi, tmp_path: Path) -> None:
    """Briefly: the next answer may be another."""
    async with reviewing(api, tmp_path) as reviewer:
        await refusal(reviewer)
        await refusal(reviewer, now=NOW + timedelta(seconds=4))
        assert 1 == len(api.asked(REVIEWS))

        api.reviews[TOKEN] = accepted(**FACTS)
        assert "ztunnel" == (await reviewer.authenticate(TOKEN, now=NOW + timedelta(seconds=6))).service_account


@pytest.mark.parametrize(
    ("token", "word"),
    [(jwt_of(exp=NOW.timestamp() - 3_600), "expired"), (jwt_of(aud="https://kubernetes.default.svc"), "audience")],
)
async def test_a_token_that_cannot_hold_by_its_own_words_is_not_shown_to_anybody(
    api: KubeApi, tmp_path: Path, token: str, word: str
) -> None:
    """Whoever sees a token can use it, and asking has a price."""
    api.reviews[token] = accepted(**FACTS)
    async with reviewing(api, tmp_path) as reviewer:
        error = await refusal(reviewer, token)

    assert (word, []) == (error.diagnosis.partition(":")[0], api.requests)


async def test_made_up_tokens_do_not_push_out_what_is_known_of_good_ones(api: KubeApi, tmp_path: Path) -> None:
    """The memory of refusals is apart, and both are bounded."""
    api.reviews[TOKEN] = accepted(**FACTS)
    async with reviewing(api, tmp_path, replace(KubernetesLimits(), review_cache_entries=3)) as reviewer:
        await reviewer.authenticate(TOKEN, now=NOW)
        for number in range(10):
            await refusal(reviewer, jwt_of(jti=str(number)))
        await reviewer.authenticate(TOKEN, now=NOW)

        assert 11 == len(api.asked(REVIEWS))
        assert 3 == len(reviewer._refused)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "does not accept Gatehouse's own credentials"),
        (403, "apply the ClusterRole"),
        (429, "HTTP 429"),
        (500, "HTTP 500"),
    ],
)
async def test_an_api_server_that_does_not_let_us_ask_is_no_verdict(
    api: KubeApi, tmp_path: Path, status: int, says: str
) -> None:
    """UNAVAILABLE, never a refusal and never a grant; the operator reads what to do."""
    api.fail_next(REVIEWS, status)
    async with reviewing(api, tmp_path) as reviewer:
        error = await refusal(reviewer)
        assert (ErrorCode.UNAVAILABLE, True) == (error.code, says in error.diagnosis)
        assert TOKEN not in error.diagnosis

        api.reviews[TOKEN] = accepted(**FACTS)
        assert "ztunnel" == (await reviewer.authenticate(TOKEN, now=NOW)).service_account


@pytest.mark.parametrize("body", [b"", b"[]", b'{"status":7}', b'{"kind":"TokenReview"}', b"[" * 100_000])
async def test_an_answer_that_is_none_is_no_verdict(api: KubeApi, tmp_path: Path, body: bytes) -> None:
    """The same for bytes that are no TokenReview."""
    async with reviewing(api, tmp_path) as reviewer:

        async def answer(*_: Any, **__: Any) -> bytes:
            return body

        reviewer._api.post = answer  # type: ignore[method-assign]
        assert ErrorCode.UNAVAILABLE is (await refusal(reviewer)).code


async def test_a_slow_api_server_is_unavailable_in_bounded_time(api: KubeApi, tmp_path: Path) -> None:
    """And only so many tokens wait for it."""
    api.gate = asyncio.Event()
    limits = replace(KubernetesLimits(), review_seconds=0.2, max_reviews=1, max_queued_reviews=2)
    async with reviewing(api, tmp_path, limits) as reviewer:
        asking = [asyncio.create_task(refusal(reviewer, jwt_of(jti=str(number)))) for number in range(2)]
        await api.until(lambda: len(api.requests) == 1)
        third = await refusal(reviewer)
        first, second = await asyncio.gather(*asking)
        api.gate.set()

    assert [ErrorCode.UNAVAILABLE] * 3 == [error.code for error in (first, second, third)]
    assert ("no answer in time", "2 token reviews are waiting") == (first.diagnosis, third.diagnosis)
    assert 2 == len(api.requests)


async def test_a_call_that_is_cancelled_leaves_the_review_to_others(api: KubeApi, tmp_path: Path) -> None:
    """Two calls with one token share one review; the first one going away ends nothing."""
    api.gate = asyncio.Event()
    api.reviews[TOKEN] = accepted(**FACTS)
    async with reviewing(api, tmp_path) as reviewer:
        first, second = (asyncio.create_task(reviewer.authenticate(TOKEN, now=NOW)) for _ in range(2))
        await api.until(lambda: len(api.requests) == 1)
        first.cancel()
        api.gate.set()

        assert "ztunnel" == (await second).service_account
        assert 1 == len(api.requests)
