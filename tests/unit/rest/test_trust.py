"""The trust bundle in each form, without a token, and the peers, with one."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from app.authority.authorities.follow_peers import PeerRoot, PeerStatus
from app.ca.bundle import TrustBundle
from app.ca.spiffe_bundle import parse_spiffe_bundle
from tests.support.certificates import TRUST_DOMAIN, make_pki


async def test_the_trust_bundle(api):
    """As JSON, and as the file that proxies want."""
    bundle = await api.anonymous().get("/v1/trust-bundle")
    pem = await api.anonymous().get("/v1/trust-bundle.pem")

    assert "cluster.local" == bundle.json()["trustDomain"]
    assert (bundle.json()["pem"], "application/x-pem-file") == (pem.text, pem.headers["content-type"])


async def test_the_spiffe_bundle_endpoint(api):
    """Needs no token, says its sequence and hint, and reads back as the same roots."""
    answer = await api.anonymous().get("/v1/spiffe-bundle")
    found = parse_spiffe_bundle(answer.content, TRUST_DOMAIN)

    assert (200, "application/json") == (answer.status_code, answer.headers["content-type"])
    assert (api.bundles.published.bundle, 1, timedelta(minutes=5)) == (found.bundle, found.sequence, found.refresh_hint)


async def test_peers_follow_the_roots_of_this_cluster_alone(api):
    """Without a token, with the sequence of the whole; and no answer where none of them is valid."""
    ours, theirs = make_pki().bundle, make_pki().bundle
    both = TrustBundle.of(TRUST_DOMAIN, (*ours.roots, *theirs.roots))
    api.bundles.published = replace(api.bundles.published, bundle=both, own=ours, sequence=7)
    answer = await api.anonymous().get("/v1/spiffe-bundle/own")
    found = parse_spiffe_bundle(answer.content, TRUST_DOMAIN)
    assert (ours, 7) == (found.bundle, found.sequence)
    assert both == parse_spiffe_bundle((await api.anonymous().get("/v1/spiffe-bundle")).content, TRUST_DOMAIN).bundle
    api.bundles.published = replace(api.bundles.published, own=None)
    assert 503 == (await api.anonymous().get("/v1/spiffe-bundle/own")).status_code


async def test_a_bundle_that_is_already_there_is_not_sent_again(api):
    """304 until a root comes or goes; then another sequence and another tag."""
    for path in ("/v1/spiffe-bundle", "/v1/trust-bundle.pem"):
        tag = (await api.anonymous().get(path)).headers["etag"]
        same = await api.anonymous().get(path, headers={"if-none-match": tag})
        api.bundles.replace(make_pki().bundle)
        other = await api.anonymous().get(path, headers={"if-none-match": tag})

        assert (304, b"", tag) == (same.status_code, same.content, same.headers["etag"])
        assert (200, True) == (other.status_code, other.headers["etag"] != tag)
    assert 3 == (await api.anonymous().get("/v1/spiffe-bundle")).json()["spiffe_sequence"]


async def test_only_get_is_answered(api):
    """The endpoint is for reading."""
    assert 405 == (await api.anonymous().post("/v1/spiffe-bundle")).status_code


async def test_peers(api):
    """What each last said, how long ago, and what is held back; administrators only."""
    empty = await api.client.get("/v1/ca/peers")
    root, other = (PeerRoot.of("east", make_pki().root) for _ in range(2))
    api.know_authorities(
        {"id": root.authority, "state": "active", "coverage": {"workloads": 5, "covered": 3, "until": None}}
    )
    api.peers.append(
        PeerStatus(
            name="east", url="https://east.example/v1/spiffe-bundle", state="held", roots=(root,), held=(other,),
            sequence=3, fetched_at=api.clock.now() - timedelta(seconds=90), error="not pinned",
        )
    )  # fmt: skip
    (peer,) = (await api.client.get("/v1/ca/peers")).json()

    assert [] == empty.json()
    assert 401 == (await api.anonymous().get("/v1/ca/peers")).status_code
    assert ("held", 90.0, 3, "not pinned") == (peer["state"], peer["ageSeconds"], peer["sequence"], peer["error"])
    assert ("active", 5, 3) == (
        peer["roots"][0]["state"], peer["roots"][0]["coverage"]["workloads"], peer["roots"][0]["coverage"]["covered"],
    )  # fmt: skip
    assert (other.sha256, "", None) == tuple(peer["held"][0][name] for name in ("sha256", "state", "coverage"))
