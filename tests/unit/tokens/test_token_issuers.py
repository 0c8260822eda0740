"""Who is shown which token: keys first, and an API server only what can be its own cluster's."""

from __future__ import annotations

from datetime import datetime

import pytest

from app.authority.placement.clusters import Clusters
from app.authority.ports import TokenCaller
from app.errors import AppError, ErrorCode
from app.tokens.token_issuers import TokenIssuers
from tests.unit.tokens.test_jwks_authenticator import (
    LIMITS,
    NOW,
    ProgrammedJwks,
    authenticator,
    mint,
    new_issuer,
)

CLUSTERS = Clusters(others={"east": frozenset(), "west": frozenset()})


class ProgrammedReviewer:
    """An API server that knows no token and remembers what it was shown."""

    def __init__(self, *, cluster: str, issuer: str = "") -> None:
        self.cluster, self.issuer = cluster, issuer
        self.shown: list[str] = []

    async def authenticate(self, token: str, *, now: datetime, cluster: str = "") -> TokenCaller:
        self.shown.append(token)
        raise AppError(ErrorCode.UNAUTHENTICATED, "not authenticated", diagnosis="review: unknown")


@pytest.mark.parametrize("says", ["", "Kubernetes", "east"])
async def test_a_token_of_another_clusters_issuer_is_not_shown_to_one_whose_issuer_is_not_known(says: str) -> None:
    """The issuer's keys are known here, and did not verify it: that makes it nobody else's."""
    east, forger = new_issuer(issuer="https://east"), new_issuer(issuer="https://east")
    reviewer = ProgrammedReviewer(cluster="Kubernetes")
    issuers = TokenIssuers(
        [authenticator(east, ProgrammedJwks(east.jwks()), cluster="east")],
        LIMITS,
        reviewers=[reviewer],
        clusters=CLUSTERS,
    )
    with pytest.raises(AppError):
        await issuers.authenticate(mint(forger), now=NOW, cluster=says)

    assert [] == reviewer.shown
    await issuers.close()


async def test_a_token_of_one_reviewed_cluster_is_not_shown_to_another() -> None:
    """Also not where the caller says that it is of the other, and the other's own issuer is not known."""
    stranger = new_issuer(issuer="https://east")
    home, east = ProgrammedReviewer(cluster="Kubernetes"), ProgrammedReviewer(cluster="east", issuer="https://east")
    issuers = TokenIssuers([], LIMITS, reviewers=[home, east], clusters=CLUSTERS)
    for says in ("Kubernetes", "west", "east", ""):
        with pytest.raises(AppError):
            await issuers.authenticate(mint(stranger), now=NOW, cluster=says)

    assert (0, 2) == (len(home.shown), len(east.shown))


async def test_published_keys_judge_before_an_api_server_of_the_same_issuer_is_asked() -> None:
    """A token of east that is sent as west's: east's keys hold, so west's API server never sees it."""
    east = new_issuer(issuer="https://shared")
    west = ProgrammedReviewer(cluster="west", issuer="https://shared")
    issuers = TokenIssuers(
        [authenticator(east, ProgrammedJwks(east.jwks()), cluster="east")],
        LIMITS,
        reviewers=[west],
        clusters=CLUSTERS,
    )
    caller = await issuers.authenticate(mint(east), now=NOW, cluster="west")

    assert ("east", []) == (caller.cluster, west.shown)
    await issuers.close()


async def test_the_only_cluster_is_asked_about_tokens_of_an_issuer_that_nobody_named() -> None:
    """One cluster and nothing else: what its tokens' issuer is need not be said."""
    somebody = new_issuer(issuer="https://whatever")
    reviewer = ProgrammedReviewer(cluster="Kubernetes")
    issuers = TokenIssuers([], LIMITS, reviewers=[reviewer])
    with pytest.raises(AppError):
        await issuers.authenticate(mint(somebody), now=NOW)

    assert 1 == len(reviewer.shown)
