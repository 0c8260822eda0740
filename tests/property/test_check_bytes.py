"""Whatever bytes come in on Check, a `CheckResponse` comes out, and nobody is allowed by accident."""

from __future__ import annotations

import asyncio
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from app.decision.ports import ProviderAnswer, ProviderQuestion
from app.limits import CheckLimits
from app.rpc.check import CheckServicer
from app.rpc.pb.ext_authz_pb2 import CheckRequest, CheckResponse
from tests.support.decisions import FRONTEND, LOCAL, LOCAL_WAYPOINT, ORDERS_IP, READERS, SERVICE_REF, WAYPOINT, worker
from tests.support.providers import provider
from tests.support.snapshots import policy

XFCC = "x-forwarded-client-cert"
GOOD_XFCC = f"By={WAYPOINT};URI={FRONTEND}"
ASK_READER = policy("ask", targetRefs=[SERVICE_REF], action="CUSTOM", provider={"name": "reader"}, rules=[{}])
SAME = (GOOD_XFCC, GOOD_XFCC.lower(), f'By={WAYPOINT};URI="{FRONTEND}"')  # spellings of the same element


class _Reader:
    """A provider that reads everything that it is given, and allows what says so in one place."""

    async def ask(self, question: ProviderQuestion) -> ProviderAnswer:
        """As the port demands; a document that JSON cannot hold is an exception here, as a careless adapter has it."""
        assert question.attributes.document is not None
        extensions = question.attributes.document().get("contextExtensions", {})
        return ProviderAnswer(extensions.get("allow") == "yes")


@cache
def _servicer(*, asks: bool) -> CheckServicer:
    documents = [provider("reader"), ASK_READER] if asks else []
    serving = asyncio.run(worker(LOCAL_WAYPOINT, READERS, *documents, providers=_Reader()))
    return CheckServicer(serving.service, limits=CheckLimits())


async def _waited(servicer: CheckServicer, data: bytes) -> bytes:
    answer = servicer.answer(data, LOCAL)
    return answer if isinstance(answer, bytes) else await answer


def _answer(data: bytes) -> CheckResponse:
    """The answer without a provider; with one, nobody is allowed who is not without."""
    answer = _servicer(asks=False).answer(data, LOCAL)
    assert isinstance(answer, bytes)
    plain, asking = _checked(answer), _checked(asyncio.run(_waited(_servicer(asks=True), data)))
    assert plain.status.code == 0 or asking.status.code != 0
    return plain


def _checked(answer: bytes) -> CheckResponse:
    response = CheckResponse.FromString(answer)
    assert response.HasField("status")
    assert (response.status.code == 0) == (response.WhichOneof("http_response") == "ok_response")
    assert 1 == len(response.dynamic_metadata.fields["decision_id"].string_value.split())
    return response


_TEXT = st.text(max_size=30)
_METHODS = st.one_of(st.sampled_from(["GET", "POST", "get", "CONNECT", ""]), _TEXT)
_PATHS = st.one_of(
    st.sampled_from(["/orders", "/orders/1", "/orders/../x", "/ORDERS", "orders", "", "/orders%2f..", "//orders"]),
    _TEXT.map(lambda text: "/" + text),
)
_PRINCIPALS = st.one_of(st.sampled_from(["", FRONTEND, FRONTEND + "x", FRONTEND.upper(), "*", "-"]), _TEXT)
_XFCC = st.one_of(
    st.sampled_from(
        [
            GOOD_XFCC,
            GOOD_XFCC.lower(),
            f"{GOOD_XFCC},{GOOD_XFCC}",
            f"By={WAYPOINT};URI=",
            f"By={WAYPOINT};URI=-",
            f"URI={FRONTEND}",
            f'By={WAYPOINT};URI="{FRONTEND}"',
            f"By={WAYPOINT};URI={FRONTEND};URI={FRONTEND}",
        ]
    ),
    _TEXT,
)


@st.composite
def _requests(draw: st.DrawFn) -> CheckRequest:
    request = CheckRequest()
    attributes = request.attributes
    attributes.source.principal = draw(_PRINCIPALS)
    attributes.source.address.socket_address.address = draw(st.sampled_from(["10.0.1.11", "", "::1", "x"]))
    attributes.destination.address.socket_address.address = draw(st.sampled_from([ORDERS_IP, "10.9.9.9", "", "x"]))
    attributes.destination.address.socket_address.port_value = draw(st.integers(0, 2**32 - 1))
    http = attributes.request.http
    http.method, http.path, http.host = draw(_METHODS), draw(_PATHS), draw(_TEXT)
    for name, value in draw(st.dictionaries(_TEXT, _TEXT, max_size=3)).items():
        http.headers[name] = value
    if draw(st.booleans()):
        http.headers[XFCC] = draw(_XFCC)
    if draw(st.booleans()):
        http.body, http.raw_body = draw(_TEXT), draw(st.binary(max_size=30))
        http.size = draw(st.integers(-1, 2**62))
        http.headers["x-envoy-auth-partial-body"] = draw(st.sampled_from(["true", "false", "?"]))
    if draw(st.booleans()):
        attributes.context_extensions["allow"] = draw(st.sampled_from(["yes", "no"]))
        members = attributes.metadata_context.filter_metadata["envoy.jwt"]
        members.fields["n"].number_value = draw(st.floats())
        members.fields[draw(_TEXT)].string_value = draw(_TEXT)
    return request


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_answered_and_never_allowed(data: bytes) -> None:
    """No exception, no missing status, no way in."""
    assert _answer(data).status.code != 0


@given(_requests(), st.data())
@settings(max_examples=300, deadline=None)
def test_mutated_requests_are_answered(request: CheckRequest, data: st.DataObject) -> None:
    """A request with a byte changed, cut or repeated is still answered."""
    encoded = bytearray(request.SerializeToString())
    where = data.draw(st.integers(0, len(encoded) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "repeat"])):
        case "flip":
            encoded[where] ^= data.draw(st.integers(1, 255))
        case "cut":
            del encoded[where:]
        case _:
            encoded[where:where] = encoded[:where]
    _answer(bytes(encoded))


@given(_requests())
@settings(max_examples=500, deadline=None)
def test_only_the_identity_method_and_path_of_the_rule_are_allowed(request: CheckRequest) -> None:
    """Where the service is addressed, whoever is allowed is the frontend, with GET, on the paths of the rule."""
    destination = request.attributes.destination.address.socket_address
    destination.address, destination.port_value = ORDERS_IP, 8080
    if _answer(request.SerializeToString()).status.code != 0:
        return
    http = request.attributes.request.http
    xfcc = http.headers.get(XFCC, "")
    principal = request.attributes.source.principal
    assert principal == FRONTEND or (not principal and xfcc in SAME)
    assert "GET" == http.method
    assert http.path.split("?")[0].startswith("/orders")
