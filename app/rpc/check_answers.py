"""`CheckAnswer` to bytes: the answer of Envoy's ext_authz v3.

Answers repeat: all that differs between two answers by the same rule of the same snapshot is the decision id, so the
encoded message is kept and the id, which has a fixed length, is put into it. An answer with effects is made for one
request and is not kept.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

from app.decision.attributes import CheckAnswer
from app.policy.decision import Decision, Reason
from app.policy.effects import NO_EFFECTS, OWN_METADATA, Effects, Pairs, query_text
from app.policy.shadow import ShadowVerdict
from app.rpc.pb.ext_authz_pb2 import CheckResponse, DeniedHttpResponse, HeaderValueOption, OkHttpResponse

DECISION_HEADER = "x-gatehouse-decision"
DECISION_ID_CHARS = 24

_DENIED_BODY = "RBAC: access denied"  # what Envoy's own filter says: nothing that an attacker could use
_UNAVAILABLE_BODY = "no authorization decision is available"
_PLACEHOLDER = "@" * DECISION_ID_CHARS  # no name of a policy has such a character
_MAX_TEMPLATES = 4_096
_BODILESS = frozenset({204, 205, 304})  # RFC 9110 §15.3.5, §15.3.6, §15.4.5

# google.rpc.Code, for logs and metrics on the way: Envoy only looks whether it is zero.
_RPC_CODE = {
    Reason.MALFORMED: 3,
    Reason.TIMEOUT: 4,
    Reason.OVERLOADED: 8,
    Reason.INTERNAL: 13,
    Reason.NO_SNAPSHOT: 14,
    Reason.SNAPSHOT_TOO_OLD: 14,
    Reason.CALLER_UNKNOWN: 16,
}
_PERMISSION_DENIED = 7
_UNAVAILABLE_REASONS = frozenset({Reason.NO_SNAPSHOT, Reason.SNAPSHOT_TOO_OLD, Reason.OVERLOADED, Reason.TIMEOUT})

_Options = RepeatedCompositeFieldContainer[HeaderValueOption]


class CheckEncoder:
    """Encodes answers; one per process, because decision ids count up in it.

    `prefix` makes ids of different processes differ: 12 hex digits, fresh for each process.
    """

    def __init__(self, prefix: str) -> None:
        if len(prefix) != DECISION_ID_CHARS // 2:
            raise ValueError("a decision id prefix has 12 characters")
        self._prefix = prefix
        self._count = 0
        self._pieces: dict[CheckAnswer, list[bytes]] = {}

    def encode(self, answer: CheckAnswer) -> bytes:
        """The bytes of a `CheckResponse` with a new decision id."""
        self._count = count = self._count + 1
        if answer.effects is not NO_EFFECTS:
            return check_response(answer, f"{self._prefix}{count:012x}").SerializeToString()
        pieces = self._pieces.get(answer)
        if pieces is None:
            pieces = self._remember(answer)
        return f"{self._prefix}{count:012x}".encode().join(pieces)

    def _remember(self, answer: CheckAnswer) -> list[bytes]:
        if len(self._pieces) >= _MAX_TEMPLATES:
            self._pieces.clear()
        pieces = check_response(answer, _PLACEHOLDER).SerializeToString(deterministic=True).split(_PLACEHOLDER.encode())
        self._pieces[answer] = pieces
        return pieces


def check_response(answer: CheckAnswer, decision_id: str) -> CheckResponse:
    """The answer as a message. Its status is always set: a missing one would mean "allowed".

    Effects must have passed `app.policy.effects`; a text that protobuf cannot hold raises ValueError.
    """
    decision = answer.decision
    response = CheckResponse()
    if decision.allowed:
        response.status.code = 0
        _fill_ok(response.ok_response, answer.effects)
    else:
        response.status.code = _RPC_CODE.get(decision.reason, _PERMISSION_DENIED)
        _fill_denied(response.denied_response, decision, answer.effects, decision_id)
    response.status.SetInParent()
    # For the proxy's access log; the client never sees it.
    response.dynamic_metadata.update(answer_metadata(answer, decision_id))
    return response


def _fill_ok(response: OkHttpResponse, effects: Effects) -> None:
    response.SetInParent()
    if effects is NO_EFFECTS:
        return
    for name, value in joined(effects.headers):
        _set(response.headers, name, value)
    response.headers_to_remove.extend(effects.headers_to_remove)
    _send(response.response_headers_to_add, effects.response_headers)
    for name, value in effects.query_to_set:
        response.query_parameters_to_set.add(key=query_text(name), value=query_text(value))  # Envoy encodes nothing
    response.query_parameters_to_remove.extend(effects.query_to_remove)


def _fill_denied(response: DeniedHttpResponse, decision: Decision, effects: Effects, decision_id: str) -> None:
    status = effects.status or (503 if decision.reason in _UNAVAILABLE_REASONS else 403)
    response.status.code = status
    response.body = denial_body(decision, effects, status)
    _set(response.headers, DECISION_HEADER, decision_id)
    _send(response.headers, (pair for pair in effects.headers if pair[0] != DECISION_HEADER))


def denial_body(decision: Decision, effects: Effects, status: int) -> str:
    """What the client reads; empty under a status that has no body."""
    if status in _BODILESS:
        return ""
    return effects.body or (_UNAVAILABLE_BODY if decision.reason in _UNAVAILABLE_REASONS else _DENIED_BODY)


def answer_metadata(answer: CheckAnswer, decision_id: str) -> dict[str, Any]:
    """What the proxy may write into its access log: how it was decided, and what providers add."""
    decision = answer.decision
    members: dict[str, Any] = {}
    if answer.effects.metadata:
        theirs = json.loads(answer.effects.metadata)
        members = {key: value for key, value in theirs.items() if key not in OWN_METADATA}
    members |= {
        "decision_id": decision_id,
        "revision": answer.revision,
        "snapshot": answer.number,
        "policy": decision.policy,
        "rule": decision.rule,
        "reason": decision.reason.value,
        "identity": answer.identity,
    }
    if answer.stale:
        members["stale"] = True
    if answer.shadow is not None:
        members |= _shadow(answer.shadow)
    return members | ({"hint": decision.hint} if decision.hint else {})


def _shadow(verdict: ShadowVerdict) -> dict[str, str]:
    """What the policies that are tried out would make of it; flat, so that an access log can name each."""
    return {"shadow": verdict.outlook.value, "shadow_policy": verdict.policy, "shadow_rule": verdict.rule}


def joined(headers: Pairs) -> Iterable[tuple[str, str]]:
    """One value a name: several are one list (RFC 9110 §5.3; of cookies RFC 9113 §8.2.3), so none is ever appended."""
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value)
    return ((name, ("; " if name == "cookie" else ", ").join(found)) for name, found in values.items())


def _send(options: _Options, headers: Iterable[tuple[str, str]]) -> None:
    """Headers to the client: a lone one replaces the service's, cookies and those with several values are added to it.

    Not the first replacing and the others added: Envoy adds before it replaces.
    """
    pairs = tuple(headers)
    count = Counter(name for name, _ in pairs)
    for name, value in pairs:
        if count[name] == 1 and name != "set-cookie":
            _set(options, name, value)
        else:
            option = options.add(append_action=HeaderValueOption.APPEND_IF_EXISTS_OR_ADD, keep_empty_value=True)
            option.header.key, option.header.value = name, value


def _set(options: _Options, name: str, value: str) -> None:
    """Said explicitly: protobuf's default is to append, and the client's own value would stay beside ours."""
    option = options.add(append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD, keep_empty_value=True)
    option.header.key, option.header.value = name, value
