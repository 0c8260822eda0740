"""ext_authz over HTTP: what a request asks, what an answer says, in both dialects."""

from __future__ import annotations

import pytest

from app.decision.attributes import CheckAnswer, CheckAttributes
from app.limits import CheckLimits
from app.policy.decision import Decision, Reason
from app.policy.effects import Effects
from app.rpc.ext_authz_http_codec import Dialect, HttpDialects, carried_problem, read_check, seconds_left, write_answer

BOTH = HttpDialects()
NAMED = HttpDialects(identity_header="x-id", source_header="x-from", destination_header="x-to")
NGINX = (("x-original-method", "POST"), ("x-original-uri", "/a?b"), ("x-original-host", "shop.example"))


def _read(
    target: str,
    *headers: tuple[str, str],
    method: str = "GET",
    dialects: HttpDialects = BOTH,
    limits: CheckLimits | None = None,
    body: bytes = b"",
) -> tuple[Dialect, CheckAttributes]:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    return read_check(method, target, raw, dialects, limits or CheckLimits(), body)


@pytest.mark.parametrize(
    "path", ["/", "//", "/a%2fb", "/a;b/..;/c", "/a//b", "/a?x=/nginx", "/nginx", "/envoy/envoy", "/%00", "/a#b", "/?"]
)
def test_what_follows_the_prefix_is_the_path_as_it_was_sent(path: str) -> None:
    """Nothing is decoded, merged or cut."""
    dialect, attributes = _read("/envoy" + path, ("host", "shop.example"), method="PURGE")
    assert (Dialect.ENVOY, path, "PURGE", "shop.example", "") == (
        dialect,
        attributes.path,
        attributes.method,
        attributes.host,
        attributes.problem,
    )


@pytest.mark.parametrize(
    "target", ["/", "/orders", "/envoyx", "/Envoy/x", "//envoy/x", "/nginxx", "http://a/envoy/x", "*"]
)
def test_a_path_outside_of_every_prefix_is_a_problem(target: str) -> None:
    """A proxy that was not told its prefix is no dialect's, whatever its headers say."""
    assert "prefix" in _read(target, *NGINX)[1].problem


@pytest.mark.parametrize(("target", "path"), [("/envoy", ""), ("/envoy*", "*"), ("/envoy?x", "?x")])
def test_a_path_that_envoy_does_not_have_is_handed_on_as_none(target: str, path: str) -> None:
    """CONNECT and `OPTIONS *`: Check denies what does not begin with a slash."""
    assert path == _read(target, ("host", "a"))[1].path


def test_one_dialect_may_have_the_whole_listener() -> None:
    """Then every path is the client's own, whatever it looks like."""
    alone = HttpDialects(envoy_prefix="", nginx_prefix=None)
    assert "/nginx/x" == _read("/nginx/x", *NGINX, dialects=alone)[1].path
    assert "/a?b" == _read("/anything", *NGINX, dialects=HttpDialects(envoy_prefix=None, nginx_prefix=""))[1].path


def test_nginx_says_what_the_client_asked_in_headers() -> None:
    """The subrequest's own method, path and Host are nobody's."""
    dialect, attributes = _read("/nginx", ("host", "127.0.0.1:9192"), *NGINX)
    assert (Dialect.NGINX, "POST", "/a?b", "shop.example") == (
        dialect,
        attributes.method,
        attributes.path,
        attributes.host,
    )
    assert ["shop.example"] == attributes.headers["host"]
    assert "x-original-uri" not in attributes.headers


@pytest.mark.parametrize("name", ["x-original-method", "x-original-uri", "x-original-host"])
def test_a_header_that_nginx_did_not_set_or_that_is_there_twice_is_a_problem(name: str) -> None:
    """A client could have written it."""
    without = [pair for pair in NGINX if pair[0] != name]
    assert name in _read("/nginx", *without)[1].problem
    assert name in _read("/nginx", *NGINX, (name, "x"))[1].problem


def test_case_091_no_header_says_who_sent_a_request_unless_it_is_named() -> None:
    """Neither in one dialect nor in the other; nginx would also hand on a client's XFCC."""
    forged = (("x-id", "spiffe://a/b"), ("x-gatehouse-principal", "x"), ("x-forwarded-client-cert", "By=a;URI=b"))
    envoy, nginx = _read("/envoy/", ("host", "a"), *forged)[1], _read("/nginx", *NGINX, *forged)[1]
    assert ("", "") == (envoy.source_principal, nginx.source_principal)
    assert "x-forwarded-client-cert" in envoy.headers  # believed of a registered waypoint only
    assert "x-forwarded-client-cert" not in nginx.headers


def test_named_headers_say_who_and_where() -> None:
    """And no rule sees them."""
    told = (("x-id", "URI=spiffe://a/b"), ("x-from", "10.0.0.1"), ("x-to", "10.96.0.10:8080"))
    attributes = _read("/envoy/", ("host", "a"), *told, dialects=NAMED)[1]
    assert ("spiffe://a/b", "10.0.0.1", "10.96.0.10", 8080) == (
        attributes.source_principal,
        attributes.source_ip,
        attributes.destination_ip,
        attributes.destination_port,
    )
    assert {"host", ":authority", ":method", ":path"} == set(attributes.headers)


def test_providers_get_the_attributes_as_over_grpc() -> None:
    """Duplicates joined by commas, as Envoy joins them."""
    told = (("x-id", "URI=spiffe://a/b"), ("x-from", "10.0.0.1"), ("x-to", "10.96.0.10:8080"), ("a", "1"), ("a", "2"))
    attributes = _read("/envoy/o?x", ("host", "h"), *told, dialects=NAMED)[1]
    assert attributes.document is not None
    headers = {"a": "1,2", "host": "h", ":authority": "h", ":method": "GET", ":path": "/o?x"}
    assert {
        "source": {"address": {"socketAddress": {"address": "10.0.0.1", "portValue": 0}}, "principal": "spiffe://a/b"},
        "destination": {"address": {"socketAddress": {"address": "10.96.0.10", "portValue": 8080}}},
        "request": {"http": {"method": "GET", "path": "/o?x", "host": "h", "headers": headers, "protocol": "HTTP/1.1"}},
    } == attributes.document()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1", ("10.0.0.1", 0)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        ("fd00::1", ("fd00::1", 0)),
        ("[fd00::1]:80", ("fd00::1", 80)),
        ("[fd00::1]", ("fd00::1", 0)),
    ],
)
def test_addresses_are_read_with_and_without_a_port(text: str, address: tuple[str, int]) -> None:
    """As Envoy and nginx write them."""
    attributes = _read("/envoy/", ("host", "a"), ("x-from", "10.0.0.9"), ("x-to", text), dialects=NAMED)[1]
    assert address == (attributes.destination_ip, attributes.destination_port)


@pytest.mark.parametrize("text", ["", "-", "a", "10.0.0.1:65536", "10.0.0.1:-1", "10.0.0.1:x", "10.0.0.1, 10.0.0.2"])
def test_an_address_that_cannot_be_read_is_a_problem(text: str) -> None:
    """A rule about addresses must not be decided by one that is not there."""
    assert "x-to" in _read("/envoy/", ("host", "a"), ("x-from", "10.0.0.9"), ("x-to", text), dialects=NAMED)[1].problem


def test_a_named_header_that_is_there_twice_is_a_problem() -> None:
    """The client's beside the proxy's: nobody knows which is which."""
    twice = (("x-id", "URI=spiffe://a/b"), ("X-Id", "URI=spiffe://a/c"))
    assert "x-id" in _read("/envoy/", ("host", "a"), *twice, dialects=HttpDialects(identity_header="x-id"))[1].problem


@pytest.mark.parametrize(("value", "principal"), [("URI=", ""), ("URI=-", "-"), ("URI=spiffe://a/b", "spiffe://a/b")])
def test_an_identity_has_its_word_before_it(value: str, principal: str) -> None:
    """Without it, a proxy that sets an empty value would leave the client's own in place."""
    dialects = HttpDialects(identity_header="x-id")
    assert principal == _read("/envoy/", ("host", "a"), ("x-id", value), dialects=dialects)[1].source_principal
    assert "URI=" in _read("/envoy/", ("host", "a"), ("x-id", "spiffe://a/b"), dialects=dialects)[1].problem


def test_case_086_header_names_are_compared_in_lower_case() -> None:
    """Spelled as they like, and an underscore is no dash."""
    headers = _read("/envoy/", ("host", "a"), ("X-Role", "a"), ("x-ROLE", "b"), ("x_role", "c"))[1].headers
    assert (["a", "b"], ["c"]) == (headers["x-role"], headers["x_role"])


def test_case_087_bytes_that_are_no_text_become_exclamation_marks() -> None:
    """As Envoy does before it asks over gRPC, so that one rule means one thing."""
    raw = [(b"host", b"a"), (b"x-role", b"adm\xffin"), (b"x-name", "é".encode())]
    headers = read_check("GET", "/envoy/", raw, BOTH, CheckLimits())[1].headers
    assert (["adm!in"], ["é"]) == (headers["x-role"], headers["x-name"])


def test_case_088_too_many_or_too_long_headers_are_a_problem() -> None:
    """A thousand are read, one more is not; nor more bytes than the bound."""
    many = [("x-a", "1")] * 999
    assert "" == _read("/envoy/", ("host", "a"), *many)[1].problem
    assert "max_header_count" in _read("/envoy/", ("host", "a"), *many, ("x-b", "1"))[1].problem
    assert "max_header_bytes" in _read("/envoy/", ("x-a", "1" * 200_000))[1].problem


def _answer(*, allowed: bool = False, reason: Reason = Reason.DENY_RULE, **effects: object) -> CheckAnswer:
    decision = Decision(allowed, reason, policy="shop/secret-policy", rule=0, hint="inner text")
    return CheckAnswer(decision, 3, 2, "authenticated", Effects(**effects))  # type: ignore[arg-type]


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("status", [0, 100, 200, 500, 503, 599])
def test_a_denial_is_never_an_error_and_never_allows(reason: Reason, status: int) -> None:
    """A 5xx would be an error to the proxy, which `failure_mode_allow` lets pass."""
    for dialect in Dialect:
        assert 403 == write_answer(_answer(reason=reason, status=status), dialect, "d1").status


@pytest.mark.parametrize(("status", "nginx"), [(302, 403), (401, 401), (404, 403), (429, 403), (204, 403)])
def test_a_provider_chooses_the_status_as_far_as_the_dialect_has_it(status: int, nginx: int) -> None:
    """To `auth_request` everything but 401 and 403 is an error."""
    answer = _answer(status=status, body="no", headers=(("location", "/login"),))
    assert status == write_answer(answer, Dialect.ENVOY, "d1").status
    assert nginx == write_answer(answer, Dialect.NGINX, "d1").status
    assert (b"location", b"/login") in write_answer(answer, Dialect.ENVOY, "d1").headers


def test_a_denial_says_nothing_but_its_id_to_the_client_of_an_envoy() -> None:
    """Only nginx keeps the headers of the answer to itself, so there its log may have the reason."""
    envoy = write_answer(_answer(), Dialect.ENVOY, "d1")
    text = b"".join(name + value for name, value in envoy.headers) + envoy.body
    assert b"RBAC: access denied" == envoy.body
    assert (b"x-gatehouse-decision", b"d1") in envoy.headers
    assert not any(word in text for word in (b"secret-policy", b"inner", b"DENY"))
    nginx = dict(write_answer(_answer(), Dialect.NGINX, "d1").headers)
    assert (b"shop/secret-policy", b"DENY_RULE") == (nginx[b"x-gatehouse-policy"], nginx[b"x-gatehouse-reason"])


def test_an_allowing_answer_says_what_to_set_and_to_remove() -> None:
    """The proxy hands on what its configuration names; nobody else speaks in our name."""
    answer = _answer(
        allowed=True,
        headers=(("x-user", " ann "), ("x-group", "a"), ("x-group", "b"), ("x-gatehouse-policy", "forged")),
        headers_to_remove=("authorization", "cookie"),
        response_headers=(("x-served-for", "ann"), ("x-envoy-auth-headers-to-remove", "x")),
    )
    response = write_answer(answer, Dialect.ENVOY, "d1")
    assert (200, b"") == (response.status, response.body)
    assert {
        (b"x-user", b"ann"),
        (b"x-group", b"a, b"),
        (b"x-served-for", b"ann"),
        (b"x-envoy-auth-headers-to-remove", b"authorization, cookie"),
        (b"x-gatehouse-policy", b"shop/secret-policy"),
        (b"x-gatehouse-snapshot", b"3"),
    } <= set(response.headers)
    assert len(response.headers) == len({name for name, _ in response.headers})


def test_what_would_get_lost_on_the_way_is_a_problem() -> None:
    """Query parameters in both dialects, removing headers in nginx, and headers that the proxy does not take over."""
    takes = HttpDialects(upstream_headers=frozenset({"x-user"}))
    removal, setting = Effects(headers_to_remove=("cookie",)), Effects(headers=(("x-user", "ann"),))
    for dialect in Dialect:
        assert "query" in carried_problem(Effects(query_to_set=(("a", "b"),)), dialect, takes)
        assert "query" in carried_problem(Effects(query_to_remove=("a",)), dialect, takes)
        assert "" == carried_problem(setting, dialect, takes)
        assert "" == carried_problem(Effects(response_headers=(("x-group", "a"),)), dialect, takes)
        assert "x-user" in carried_problem(setting, dialect, BOTH)
    assert "" == carried_problem(removal, Dialect.ENVOY, takes)
    assert "cookie" in carried_problem(removal, Dialect.NGINX, takes)
    assert "" == carried_problem(Effects(headers_to_remove=("x-user",)), Dialect.NGINX, takes)


@pytest.mark.parametrize(
    ("body", "members"), [(b"", {}), ("naïve".encode(), {"body": "naïve"}), (b"\xff\x00", {"rawBody": "/wA="})]
)
@pytest.mark.parametrize("target", ["/envoy/a", "/nginx"])
def test_a_body_that_the_proxy_sends_along_is_shown_to_providers(
    target: str, body: bytes, members: dict[str, str]
) -> None:
    """As over gRPC: a policy that looks at bodies must not take one that it was not shown for none."""
    attributes = _read(target, ("host", "a"), *NGINX, body=body)[1]
    assert attributes.document is not None
    http = attributes.document()["request"]["http"]
    assert members == {name: value for name, value in http.items() if name in ("body", "rawBody")}


def test_case_088_a_body_beyond_the_bound_is_a_problem() -> None:
    """The same bound as over gRPC."""
    limits = CheckLimits(max_body_bytes=3)
    assert not _read("/envoy/a", ("host", "a"), limits=limits, body=b"abc")[1].problem
    assert "max_body_bytes" in _read("/envoy/a", ("host", "a"), limits=limits, body=b"abcd")[1].problem


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("100", 0.08),
        ("15", 0.0),
        ("0", 0.0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("\u0661", None),
        ("1" * 10, None),
    ],
)
def test_envoy_says_how_long_it_waits(value: str, seconds: float | None) -> None:
    """Some of it is kept for the answer's way back; what is no number says nothing, and nginx says nothing at all."""
    header = ("x-envoy-expected-rq-timeout-ms", value)
    dialect, attributes = _read("/envoy/a", ("host", "a"), header)
    assert pytest.approx(seconds) == seconds_left(attributes, dialect)
    dialect, attributes = _read("/nginx", *NGINX, header)
    assert seconds_left(attributes, dialect) is None
