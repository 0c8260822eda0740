"""Asks a cluster's API server whose token it is: TokenReview, `authentication.k8s.io/v1`.

It knows what verification by published keys cannot: that the pod, the account or the secret of a token is gone. The
price is a request for each new token, so answers are kept by the SHA-256 of the token, for a short time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from app.authority.ports import TokenCaller
from app.errors import AppError, ErrorCode
from app.identity.token_claims import OPAQUE_REFUSAL, parse_service_account_claims, unverified_claims
from app.kube.access import ApiServer
from app.kube.failures import ApiServerError
from app.limits import KubernetesLimits
from app.telemetry import metrics

REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_SERVICE_ACCOUNTS = "system:serviceaccounts"
_EXTRA = "authentication.kubernetes.io/"
_MAX_SHOWN = 200
_MAX_TOKEN_ID_CHARS = 256
_LATEST_SECONDS = 253_402_300_799  # the end of the year 9999; datetime ends there
_LEEWAY = timedelta(minutes=1)  # our clock may be ahead of the API server's


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was said of a token: whose it is, or why it does not hold."""

    caller: TokenCaller | None
    until: datetime
    diagnosis: str = ""


class TokenReviewer:
    """Implements `app.authority.ports.ClusterTokens` for one cluster.

    `issuer` is the `iss` of its tokens, where it is known: then no other token is sent to it.
    """

    def __init__(
        self,
        api: ApiServer,
        limits: KubernetesLimits,
        *,
        cluster: str,
        issuer: str = "",
        audiences: tuple[str, ...] = ("istio-ca",),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._limits = limits
        self._audiences = audiences
        self._monotonic = monotonic
        self.cluster = cluster
        self.issuer = issuer
        # Apart, so that made-up tokens cannot push out the good ones.
        self._accepted: OrderedDict[bytes, _Answer] = OrderedDict()
        self._refused: OrderedDict[bytes, _Answer] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[_Answer]] = {}
        self._slots = asyncio.Semaphore(limits.max_reviews)

    async def authenticate(self, token: str, *, now: datetime, cluster: str = "") -> TokenCaller:  # noqa: ARG002
        """The caller that the API server says the token is of.

        Raises:
            AppError: `UNAUTHENTICATED` with a diagnosis when it does not hold; `UNAVAILABLE` when the API server
                cannot be asked, or does not let us ask.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        answer = self._accepted.get(digest) or self._refused.get(digest)
        if answer is None or now >= answer.until:
            _check_worth_asking(unverified_claims(token), self._audiences, now)
            answer = await self._ask_once(digest, token, now)
        if answer.caller is None:
            raise _refused(answer.diagnosis)
        return answer.caller

    async def _ask_once(self, digest: bytes, token: str, now: datetime) -> _Answer:
        """Ask, unless somebody else is asking for the same token already."""
        task = self._asking.get(digest)
        if task is None:
            if len(self._asking) >= self._limits.max_queued_reviews:
                self._count("overloaded")
                raise ApiServerError(f"{len(self._asking)} token reviews are waiting").as_app_error()
            task = self._asking[digest] = asyncio.create_task(self._ask(token, now))
            task.add_done_callback(lambda done: self._keep(digest, done))
        try:
            return await asyncio.shield(task)
        except ApiServerError as failure:
            raise failure.as_app_error() from failure

    def _keep(self, digest: bytes, task: asyncio.Task[_Answer]) -> None:
        del self._asking[digest]
        if task.cancelled():
            return
        if task.exception() is not None:
            self._count("unavailable")
            return
        answer = task.result()
        self._count("accepted" if answer.caller else "refused")
        self._accepted.pop(digest, None)
        answers = self._accepted if answer.caller else self._refused
        answers[digest] = answer
        answers.move_to_end(digest)
        while len(answers) > self._limits.review_cache_entries:
            answers.popitem(last=False)

    def _count(self, outcome: str) -> None:
        metrics.TOKEN_REVIEWS.labels(self.cluster, outcome).inc()

    async def _ask(self, token: str, now: datetime) -> _Answer:
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": list(self._audiences)},
        }
        async with self._slots:
            started = self._monotonic()
            data = await self._api.post(REVIEWS, review, seconds=self._limits.review_seconds)
            metrics.TOKEN_REVIEW_SECONDS.labels(self.cluster).observe(self._monotonic() - started)
        status = _status(data)
        try:
            caller = _caller(status, self._audiences)
        except AppError as error:
            return _Answer(None, now + timedelta(seconds=self._limits.review_refused_seconds), error.diagnosis)
        return self._describe(caller, unverified_claims(token), now)

    def _describe(self, caller: TokenCaller, claims: Mapping[str, Any], now: datetime) -> _Answer:
        """What the token itself says besides; its signature holds, as the API server told us."""
        issuer, token_id = claims.get("iss"), claims.get("jti")
        expires_at = _moment(claims.get("exp"))
        until = now + timedelta(seconds=self._limits.review_cache_seconds)
        caller = replace(
            caller,
            cluster=self.cluster,
            issuer=issuer if isinstance(issuer, str) else self.issuer,
            token_id=caller.token_id or (token_id[:_MAX_TOKEN_ID_CHARS] if isinstance(token_id, str) else ""),
            issued_at=_moment(claims.get("iat")),
            expires_at=expires_at,
        )
        return _Answer(caller, min(until, expires_at) if expires_at else until)


def _check_worth_asking(claims: Mapping[str, Any], audiences: tuple[str, ...], now: datetime) -> None:
    """Refuse what the API server would refuse, by what the token says of itself: asking has a price for everybody.

    Raises:
        AppError: `UNAUTHENTICATED`; that nothing is raised says nothing about the token.
    """
    expires_at, audience = _moment(claims.get("exp")), claims.get("aud")
    if expires_at is not None and now - expires_at > _LEEWAY:
        raise _refused(f"expired: the token ended {(now - expires_at).total_seconds():.0f} s ago")
    if audience is not None and not set([audience] if isinstance(audience, str) else _texts(audience)) & set(audiences):
        raise _refused("audience: the token is for none of the audiences that are accepted")


def _status(data: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    status = value.get("status") if isinstance(value, dict) else None
    if not isinstance(status, dict):
        raise ApiServerError("the answer to a TokenReview is none")
    return status


def _caller(status: Mapping[str, Any], audiences: tuple[str, ...]) -> TokenCaller:
    """The caller, after the checks that istiod makes, in its order, and the audiences, which it leaves to the server.

    Raises:
        AppError: `UNAUTHENTICATED`, its diagnosis beginning with a word of a closed set.
    """
    if error := status.get("error"):
        raise _refused(f"{_word_for(str(error))}: the API server says: {_shown(error)}")
    if status.get("authenticated") is not True:
        raise _refused("review: the API server does not accept the token")
    # An API server that knows nothing of audiences answers without; then the token is for itself, not for us.
    if not set(_texts(status.get("audiences"))).intersection(audiences):
        raise _refused("audience: the token is for none of the audiences that are accepted")
    user = status.get("user")
    user = user if isinstance(user, dict) else {}
    if _SERVICE_ACCOUNTS not in _texts(user.get("groups")):
        raise _refused("claims: the token is not a service account's")
    extra = user.get("extra")
    extra = extra if isinstance(extra, dict) else {}
    username = user.get("username")
    namespace, _, account = str(username).removeprefix("system:serviceaccount:").partition(":")
    try:
        bearer = parse_service_account_claims(
            {
                "sub": username,
                "kubernetes.io": {
                    "namespace": namespace,
                    "serviceaccount": {"name": account},
                    "pod": _reference(extra, "pod"),
                    "node": _reference(extra, "node"),
                },
            }
        )
    except AppError as error:
        raise _refused(f"claims: {error.diagnosis}") from None
    return TokenCaller(
        issuer="",
        token_id=_first(extra, "credential-id").removeprefix("JTI=")[:_MAX_TOKEN_ID_CHARS],
        namespace=bearer.namespace,
        service_account=bearer.service_account,
        pod_name=bearer.pod_name,
        pod_uid=bearer.pod_uid,
        node_name=bearer.node_name,
    )


def _reference(extra: Mapping[str, Any], kind: str) -> dict[str, str] | None:
    name = _first(extra, f"{kind}-name")
    return {"name": name, "uid": _first(extra, f"{kind}-uid")} if name else None


def _first(extra: Mapping[str, Any], name: str) -> str:
    values = _texts(extra.get(_EXTRA + name))
    return values[0] if len(values) == 1 else ""


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _word_for(error: str) -> str:
    lowered = error.lower()
    return next(
        (word for part, word in (("expired", "expired"), ("audience", "audience")) if part in lowered), "review"
    )


def _moment(value: Any) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST_SECONDS:
        return None
    return datetime.fromtimestamp(value, UTC)


def _shown(value: Any) -> str:
    return "".join(character if character.isprintable() else " " for character in str(value)[:_MAX_SHOWN])


def _refused(diagnosis: str) -> AppError:
    return AppError(ErrorCode.UNAUTHENTICATED, OPAQUE_REFUSAL, diagnosis=diagnosis)
