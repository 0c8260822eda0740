"""Laws of ext_authz over HTTP: whatever comes in is read, whatever goes out can be sent, and no denial is an error."""

from __future__ import annotations

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from app.decision.attributes import CheckAnswer
from app.limits import CheckLimits, EffectLimits
from app.policy.decision import Decision, Reason
from app.policy.effects import Effects, effects_problem, sendable
from app.rpc.ext_authz_http_codec import Dialect, HttpDialects, carried_problem, read_check, write_answer

_DIALECTS = HttpDialects(
    identity_header="x-id",
    source_header="x-from",
    destination_header="x-to",
    upstream_headers=frozenset({"x-user", "set-cookie"}),
)
_TARGETS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=60)
_NAMES = st.sampled_from([b"host", b"x-id", b"x-from", b"x-to", b"x-original-uri", b"x-original-host", b"X-Role"])
_HEADERS = st.lists(st.tuples(_NAMES, st.binary(max_size=24)), max_size=10)
_TEXT = st.text(max_size=12)
_PAIRS = st.lists(st.tuples(st.sampled_from(["x-user", "set-cookie", "location", "X Y", "te", "é"]), _TEXT), max_size=4)
_EFFECTS = st.builds(
    Effects,
    status=st.integers(0, 999),
    body=_TEXT,
    headers=_PAIRS.map(tuple),
    headers_to_remove=st.lists(st.sampled_from(["cookie", "x-user", "a b"]), max_size=2).map(tuple),
    response_headers=_PAIRS.map(tuple),
)
_LIMITS = EffectLimits()


@settings(max_examples=300, deadline=None)
@given(_TARGETS, _HEADERS)
def test_every_request_is_read_and_its_path_is_its_own(target: str, headers: list[tuple[bytes, bytes]]) -> None:
    """Never an exception; in the dialect of Envoy the path is what follows the prefix, to the character."""
    for prefix in ("", "/envoy", "/nginx", "/envoy/", "/nginx/"):
        dialect, attributes = read_check("GET", prefix + target, headers, _DIALECTS, CheckLimits())
        if dialect is Dialect.ENVOY and not attributes.problem:
            assert prefix + target == "/envoy" + attributes.path
        assert (prefix + target).startswith(("/envoy", "/nginx")) or attributes.problem


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.sampled_from(list(Reason)), _EFFECTS, st.sampled_from(list(Dialect)), _TEXT)
def test_every_answer_can_be_sent_and_says_what_was_decided(
    allowed: bool, reason: Reason, effects: Effects, dialect: Dialect, policy: str
) -> None:
    """200 exactly where the request may pass, no 5xx anywhere; h11 takes the response as it is."""
    if allowed and (effects_problem(effects, _LIMITS) or carried_problem(effects, dialect, _DIALECTS)):
        return  # denied before it comes here
    fine = effects if allowed else sendable(effects, _LIMITS)
    decision = Decision(allowed, reason, policy=policy, hint=policy)
    answer = write_answer(CheckAnswer(decision, 1, 1, "authenticated", fine), dialect, "d" * 24)
    assert allowed == (answer.status == 200)
    assert 200 <= answer.status < 500
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    connection.next_event()
    connection.next_event()
    sent = connection.send(h11.Response(status_code=answer.status, headers=answer.headers))
    assert sent is not None
    connection.send(h11.Data(data=answer.body))
    assert connection.send(h11.EndOfMessage()) is not None
