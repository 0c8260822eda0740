"""When a forwarded client certificate is believed, and what it says."""

import pytest

from app.errors import AppError, ErrorCode
from app.identity.caller import UNAUTHENTICATED, CallerIdentity, IdentityState
from app.identity.xfcc import (
    ANNOTATION_HINT,
    MAX_XFCC_CHARS,
    Xfcc,
    XfccTrust,
    _parse_cached,
    parse_xfcc,
    read_xfcc,
    resolve_caller,
)

WAYPOINT = "spiffe://cluster.local/ns/shop/sa/waypoint"
CLIENT = "spiffe://cluster.local/ns/web/sa/frontend"
OTHER = "spiffe://cluster.local/ns/evil/sa/mallory"
GOOD = f"By={WAYPOINT};URI={CLIENT}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, Xfcc(WAYPOINT, CLIENT)),
        (f"by={WAYPOINT};uri={CLIENT}", Xfcc(WAYPOINT, CLIENT)),
        (
            f'By={WAYPOINT};Hash=ab12;Subject="CN=\\"x\\",O=y;z";URI="{CLIENT}";DNS=a;DNS=b',
            Xfcc(WAYPOINT, CLIENT, "ab12"),
        ),
        ("By=;URI=", Xfcc("", "")),
        ("By=-;URI=-", Xfcc("-", "-")),
    ],
)
def test_one_element_with_one_by_and_one_uri_is_read(text: str, expected: Xfcc) -> None:
    """Keys are case-insensitive, quotes are undone, other keys of Envoy are stepped over."""
    assert expected == parse_xfcc(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        GOOD + "," + GOOD,
        GOOD + f",URI={OTHER}",
        GOOD + f";URI={OTHER}",
        GOOD + f";By={OTHER}",
        GOOD + f";uri={OTHER}",
        GOOD + ";",
        ";" + GOOD,
        GOOD + ";Admin=yes",
        f"URI={CLIENT}",
        f"By={WAYPOINT}",
        f'By={WAYPOINT};URI="{CLIENT}',
        f'By={WAYPOINT};URI={CLIENT}"',
        f'By={WAYPOINT};URI="{CLIENT}"x',
        f"By={WAYPOINT};URI={CLIENT} ",
        f"By={WAYPOINT}; URI={CLIENT}",
        f"By={WAYPOINT};URI={CLIENT}\n",
        f"By={WAYPOINT};URI={CLIENT}\x00",
        f"By={WAYPOINT};URI=spiffe://cluster.local/ns/wéb/sa/x",
        f"By={WAYPOINT};URI={CLIENT}=x",
        f"By={WAYPOINT};URI={CLIENT}\\",
        "By",
        GOOD + ';Chain="' + "x" * MAX_XFCC_CHARS + '"',
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """Several elements, several keys, unknown keys, odd quoting, odd characters, too long: no repair."""
    with pytest.raises(AppError) as caught:
        parse_xfcc(text)
    assert ErrorCode.MALFORMED == caught.value.code


def _resolve(
    *xfcc: str, principal: str = "", trust: XfccTrust = XfccTrust.LOCAL, at_waypoint: bool = True, by: str = ""
) -> CallerIdentity:
    return resolve_caller(source_principal=principal, xfcc=xfcc, trust=trust, at_waypoint=at_waypoint, expected_by=by)


def test_a_principal_from_tls_wins_over_the_header() -> None:
    """Where Envoy authenticated the peer itself, XFCC belongs to a previous hop or to the client."""
    assert CallerIdentity(IdentityState.AUTHENTICATED, OTHER) == _resolve(GOOD, principal=OTHER)


@pytest.mark.parametrize("principal", ["frontend.web", "CN=frontend", "https://example.com/x", "spiffe://", "*", "-"])
def test_case_090_a_principal_that_is_no_spiffe_id_is_unauthenticated(principal: str) -> None:
    """Envoy's fallback to a DNS SAN or the subject names nobody, and the header does not step in for it."""
    assert UNAUTHENTICATED == _resolve(GOOD, principal=principal)


def test_the_three_placements_believe_the_header() -> None:
    """Local, authenticated with By equal to the peer, asserted behind a ztunnel (and marked so)."""
    known = CallerIdentity(IdentityState.AUTHENTICATED, CLIENT)
    assert known == _resolve(GOOD, trust=XfccTrust.LOCAL)
    assert known == _resolve(GOOD, trust=XfccTrust.AUTHENTICATED, by=WAYPOINT)
    assert CallerIdentity(IdentityState.AUTHENTICATED, CLIENT, asserted=True) == _resolve(
        GOOD, trust=XfccTrust.ASSERTED
    )


def test_case_091_anywhere_else_the_header_is_ignored() -> None:
    """At a waypoint that is not registered nothing is known; at a sidecar or gateway the peer had no certificate."""
    assert IdentityState.UNAVAILABLE == _resolve(GOOD, trust=XfccTrust.NONE).state
    assert UNAUTHENTICATED == _resolve(GOOD, trust=XfccTrust.NONE, at_waypoint=False)
    assert UNAUTHENTICATED == _resolve(GOOD, trust=XfccTrust.LOCAL, at_waypoint=False)


def test_by_must_be_the_authenticated_peer() -> None:
    """A registered waypoint cannot speak in another one's name."""
    identity = _resolve(GOOD, trust=XfccTrust.AUTHENTICATED, by=OTHER)
    assert (IdentityState.UNAVAILABLE, "") == (identity.state, identity.principal)


def test_a_peer_without_a_uri_san_is_unauthenticated() -> None:
    """The waypoint writes a dash: it looked, and there was nothing."""
    assert UNAUTHENTICATED == _resolve(f"By={WAYPOINT};URI=-")


@pytest.mark.parametrize("xfcc", [(), (f"By={WAYPOINT};URI=",)])
def test_a_silent_waypoint_makes_the_identity_unavailable(xfcc: tuple[str, ...]) -> None:
    """Without the annotation nothing may be decided from identity, and the hint names the annotation."""
    assert CallerIdentity(IdentityState.UNAVAILABLE, hint=ANNOTATION_HINT) == _resolve(*xfcc)
    assert 'ambient.istio.io/xfcc-include-client-identity: "true"' in ANNOTATION_HINT
    assert "1.30" in ANNOTATION_HINT


@pytest.mark.parametrize(
    "xfcc",
    [
        (GOOD, GOOD),
        (f"{GOOD},{GOOD}",),
        (f"By={WAYPOINT};URI=https://example.com",),
        (f"By=-;URI={CLIENT}",),
        (f"By={WAYPOINT};URI={CLIENT},spiffe://cluster.local/ns/web/sa/second",),
        (f"By={WAYPOINT};URI=spiffe://cluster.local/ns/web/sa/" + "a" * 2048,),
    ],
)
def test_a_header_that_no_waypoint_writes_identifies_nobody(xfcc: tuple[str, ...]) -> None:
    """Two headers, two elements, a peer with two URI SANs, other URIs: unavailable, never a guess."""
    for trust in (XfccTrust.LOCAL, XfccTrust.ASSERTED):
        identity = _resolve(*xfcc, trust=trust)
        assert (IdentityState.UNAVAILABLE, "") == (identity.state, identity.principal)
        assert identity.hint


def test_a_header_that_is_too_long_is_not_remembered() -> None:
    """Clients may choose it: thousands of them would fill the memory."""
    before = _parse_cached.cache_info().currsize
    for number in range(3):
        assert read_xfcc([f"By=spiffe://a/b;URI=spiffe://a/{number}" + "c" * MAX_XFCC_CHARS]) is None
    assert before == _parse_cached.cache_info().currsize
