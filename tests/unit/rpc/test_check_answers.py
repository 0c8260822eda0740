"""The wire form of Check: what an answer looks like."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from app.decision.attributes import CheckAnswer
from app.policy.decision import Decision, Reason
from app.policy.effects import Effects
from app.rpc.check_answers import DECISION_HEADER, CheckEncoder, check_response
from app.rpc.pb.ext_authz_pb2 import CheckResponse, HeaderValueOption

OVERWRITE = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
APPEND = HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
ALLOWED = Decision(True, Reason.ALLOW_RULE, "shop/a", "r")
DENIED = Decision(False, Reason.PROVIDER_DENIED, "shop/a", "r")


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("allowed", [True, False])
def test_every_answer_has_an_explicit_status(reason: Reason, allowed: bool) -> None:
    """A missing status would mean "allowed"; a denial is never code 0, and names its HTTP status."""
    data = CheckEncoder("0" * 12).encode(CheckAnswer(Decision(allowed, reason)))
    response = CheckResponse.FromString(data)
    assert response.HasField("status")
    assert allowed == (response.status.code == 0)
    assert response.WhichOneof("http_response") == ("ok_response" if allowed else "denied_response")
    if not allowed:
        assert response.denied_response.status.code in (403, 503)


def test_a_denial_says_nothing_but_its_id() -> None:
    """The client gets no policy name and no hint; the proxy's log, which is the operator's, gets all of it."""
    decision = Decision(False, Reason.DENY_RULE, "shop/orders", "ns[shop]-policy[orders]-rule[0]", hint="secret hint")
    data = CheckEncoder("abcdefabcdef").encode(CheckAnswer(decision, 7, 5, "authenticated"))
    response = CheckResponse.FromString(data)
    assert b"secret hint" not in response.denied_response.SerializeToString()
    assert (403, "RBAC: access denied") == (response.denied_response.status.code, response.denied_response.body)
    (option,) = response.denied_response.headers
    assert (DECISION_HEADER, "abcdefabcdef000000000001") == (option.header.key, option.header.value)
    assert option.append_action == 2  # OVERWRITE_IF_EXISTS_OR_ADD
    expected = {
        "decision_id": "abcdefabcdef000000000001",
        "snapshot": 7.0,
        "revision": 5.0,
        "policy": "shop/orders",
        "rule": "ns[shop]-policy[orders]-rule[0]",
        "reason": "DENY_RULE",
        "identity": "authenticated",
        "hint": "secret hint",
    }
    assert expected == MessageToDict(response.dynamic_metadata)


def test_what_is_only_unavailable_is_503() -> None:
    """No snapshot, too old, overloaded, too slow: the client may try again, a policy did not speak."""
    codes = {
        reason: check_response(CheckAnswer(Decision(False, reason)), "id").denied_response.status.code
        for reason in Reason
    }
    unavailable = {Reason.NO_SNAPSHOT, Reason.SNAPSHOT_TOO_OLD, Reason.OVERLOADED, Reason.TIMEOUT}
    assert unavailable == {reason for reason, code in codes.items() if code == 503}


def test_equal_answers_differ_in_their_id_only() -> None:
    """Kept encodings are the message that would have been encoded."""
    encoder = CheckEncoder("0" * 12)
    answers = [
        CheckAnswer(Decision(True, Reason.ALLOW_RULE, "shop/a", "r"), 1, 1, "authenticated"),
        CheckAnswer(Decision(False, Reason.NO_RULE_MATCHED), 1, 1, "authenticated"),
        CheckAnswer(Decision(False, Reason.NO_RULE_MATCHED), 2, 1, "authenticated"),
        CheckAnswer(Decision(False, Reason.NO_RULE_MATCHED), 2, 1, "asserted"),
    ]
    for number in range(12):
        answer = answers[number % 4]
        expected = check_response(answer, f"{'0' * 12}{number + 1:012x}")
        assert expected == CheckResponse.FromString(encoder.encode(answer))


def test_kept_encodings_are_bounded() -> None:
    """Many snapshots do not pile up."""
    encoder = CheckEncoder("0" * 12)
    for number in range(5_000):
        encoder.encode(CheckAnswer(Decision(True, Reason.ALLOW_RULE), number))
    assert len(encoder._pieces) <= 4_096


def _with(decision: Decision, **effects: Any) -> CheckResponse:
    """The answer as it comes over the wire."""
    data = CheckEncoder("0" * 12).encode(CheckAnswer(decision, 3, 2, "authenticated", Effects(**effects)))
    return CheckResponse.FromString(data)


def _options(options: Any) -> list[tuple[str, str, int]]:
    for option in options:
        assert option.keep_empty_value
        assert not option.HasField("append")  # the deprecated field is honoured before append_action
    return [(option.header.key, option.header.value, option.append_action) for option in options]


def test_headers_upstream_are_overwritten_and_never_appended() -> None:
    """Said explicitly, because zero means append; several values of one name become one."""
    headers = (("x-user", "alice"), ("x-roles", "a"), ("cookie", "a=1"), ("x-roles", "b"), ("cookie", "b=2"))
    response = _with(ALLOWED, headers=headers, headers_to_remove=("x-secret",))
    expected = [("x-user", "alice", OVERWRITE), ("x-roles", "a, b", OVERWRITE), ("cookie", "a=1; b=2", OVERWRITE)]
    assert expected == _options(response.ok_response.headers)
    assert ["x-secret"] == list(response.ok_response.headers_to_remove)
    # HeaderValueOption { header { key, value }, append_action = 2, keep_empty_value = true }
    assert b"\x0a\x0f\x0a\x06x-user\x12\x05alice\x18\x02\x20\x01" in response.SerializeToString()


def test_headers_to_the_client_keep_their_values_apart() -> None:
    """A lone one replaces what the upstream answered; cookies and several of a name stand beside it."""
    response = _with(ALLOWED, response_headers=(("set-cookie", "a=1"), ("x-tier", "gold"), ("set-cookie", "b=2")))
    expected = [("set-cookie", "a=1", APPEND), ("x-tier", "gold", OVERWRITE), ("set-cookie", "b=2", APPEND)]
    assert expected == _options(response.ok_response.response_headers_to_add)


def test_query_parameters_are_set_and_removed() -> None:
    """In the order in which they were asked for; nothing in a value becomes another parameter."""
    pairs = (("tenant", "shop&role=admin#"), ("page", ""), ("a=b", "50%25+1"))
    response = _with(ALLOWED, query_to_set=pairs, query_to_remove=("debug",)).ok_response
    expected = [("tenant", "shop%26role%3Dadmin%23"), ("page", ""), ("a%3Db", "50%2525%2B1")]
    assert expected == [(one.key, one.value) for one in response.query_parameters_to_set]
    assert ["debug"] == list(response.query_parameters_to_remove)


def test_a_denial_has_the_status_body_and_headers_that_were_asked_for() -> None:
    """Our own id stays; a header of that name from elsewhere is not sent."""
    headers = (("www-authenticate", "Bearer"), (DECISION_HEADER, "forged"))
    denied = _with(DENIED, status=401, body="log in", headers=headers).denied_response
    assert (401, "log in") == (denied.status.code, denied.body)
    expected = [(DECISION_HEADER, "000000000000000000000001", OVERWRITE), ("www-authenticate", "Bearer", OVERWRITE)]
    assert expected == _options(denied.headers)


@pytest.mark.parametrize("status", [204, 205, 304])
def test_a_status_without_a_body_gets_none(status: int) -> None:
    """RFC 9110 §15.3.5: what followed would be read as the next message."""
    assert "" == _with(DENIED, status=status, body="x").denied_response.body


def test_effects_of_the_other_kind_of_answer_are_not_sent() -> None:
    """A denial changes no query, an allowing answer has no status."""
    denied = _with(DENIED, query_to_set=(("a", "b"),), headers_to_remove=("x",), response_headers=(("a", "b"),))
    assert "denied_response" == denied.WhichOneof("http_response")
    assert "ok_response" == _with(ALLOWED, status=500, body="x").WhichOneof("http_response")


def test_metadata_joins_ours_and_never_replaces_it() -> None:
    """Our names are ours, also those that this answer does not use."""
    metadata = '{"decision_id":"forged","hint":"forged","identity":"forged","shadow":1,"tenant":{"id":[1,null,true]}}'
    members = MessageToDict(_with(ALLOWED, metadata=metadata).dynamic_metadata)
    expected = {
        "decision_id": "000000000000000000000001",
        "snapshot": 3.0,
        "revision": 2.0,
        "policy": "shop/a",
        "rule": "r",
        "reason": "ALLOW_RULE",
        "identity": "authenticated",
        "tenant": {"id": [1.0, None, True]},
    }
    assert expected == members


def test_answers_with_effects_are_not_kept() -> None:
    """They are made for one request, and would push out those that repeat."""
    encoder = CheckEncoder("0" * 12)
    for number in range(10):
        encoder.encode(CheckAnswer(ALLOWED, effects=Effects(headers=(("x-request", str(number)),))))
    assert {} == encoder._pieces
