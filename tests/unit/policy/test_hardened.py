"""Hardened matching: readings of paths, hosts and headers, and the bypasses they close."""

from __future__ import annotations

import time
from itertools import product

import pytest

from app.policy.decision import Reason
from app.policy.hardened import header_readings, host_readings, is_plain_path, path_readings
from app.policy.mesh import MeshConfig
from tests.support.policies import ISTIO, ask, policy, table, to, when

# Case 82 of the negative tests, and more of the kind: each may be `/admin` to some backend.
_ADMIN_FORMS = [
    "/admin",
    "//admin",
    "/./admin",
    "/x/../admin",
    "/%61dmin",
    "/admin%2f",
    "/admin%5c",
    "\\admin",
    "/\\admin",
    "/x\\..\\admin",
    "/admin;x=1",
    "/;x/admin",
    "/x/..;/admin",
    "/x/..;a=b/admin",
    "/x/..%3b/admin",
    "/admin#f",
    "/admin?",
    "/admin?q=1",
    "/admin%3fx",
    "/admin%23x",
    "/admin%00",
    "/admin%00.png",
    "/%2561dmin",
    "/%252561dmin",
    "/admin/.",
    "/admin/",
    "/admin//",
    "/admin/x/..",
    "/admin%20",
    "/admin%09",
    "/admin.",
    "/admin%2e",
    "/admin%e2%80%8b",
    "/ad%e2%80%8bmin",
    "/x/%c0%ae%c0%ae/admin",
    "/x/%u002e%u002e/admin",
    "/x/..%u002fadmin",
    "/x/%uff0e%uff0e/admin",
    "/x/%25u002e%25U002E/admin",
    "/%u0061dmin",
    "/x/%2e%2e%2fadmin",
    "/x/%252e%252e%252fadmin",
    "/x%2f..%2fadmin",
    "/x/%2e%2e/admin",
    "/%c0%afadmin",
    "/%e0%80%afadmin",
    "/x/..%c0%afadmin",
    "/adm%25c1%a9n",
    "/x/..%25c0%afadmin",
    "/admi%%65f%bd%8e",
    "/x/..%5cadmin",
    "//host/admin",
    "/%2fadmin",
    "/\uff41dmin",
    "/%ef%bd%81dmin",
    "http://host/admin",
    "admin",
    "/admin\x00",
    "/admin\r\n",
]
# What of it leaves /public/ when it is put behind it.
_ESCAPES = [f"/public/..{form}" for form in ("/admin", ";/admin", "%2fadmin", "%5cadmin", "\\admin", "%3b/admin")] + [
    "/public/%2e%2e/admin",
    "/public/%2e%2e%2fadmin",
    "/public/%252e%252e%252fadmin",
    "/public/x/../../admin",
    "/public/%c0%ae%c0%ae/admin",
    "/public/x/%25c0%ae./../admin",
    "/public/x%c0%c0%a5af../../admin",
    "/public/.%00./admin",
    "/public/.%e2%80%8b./admin",
    "/public;/../admin",
    "/public//../../admin",
    "/public/..%20/admin",
    "/public/%uff0e/../../admin",
    "/public/\uff0e\uff0e/admin",
]


@pytest.mark.parametrize("path", _ADMIN_FORMS)
def test_case_082_every_form_of_admin_is_denied(path: str) -> None:
    """A DENY rule for /admin denies whatever a backend may take for it, or the request is refused."""
    decision = ask(table(policy(to(paths=["/admin"]), action="DENY")), path)

    assert not decision.allowed
    assert decision.reason in (Reason.DENY_RULE, Reason.MALFORMED)


@pytest.mark.parametrize("path", _ADMIN_FORMS)
def test_case_082_a_prefix_or_template_denies_as_well(path: str) -> None:
    """The same for a DENY rule by prefix, and for all but what is public."""
    assert not ask(table(policy(to(paths=["/admin*"]), action="DENY")), path).allowed
    assert not ask(table(policy(to(notPaths=["/public/*"]), action="DENY")), path).allowed


def test_case_082_other_paths_pass() -> None:
    """The denial is for those forms, not for everything."""
    rules = table(policy(to(paths=["/admin"]), action="DENY"))

    for path in ("/", "/administrator", "/x/admin", "/public/%20admin", "/a;admin/b", "/ADMIN"):
        assert ask(rules, path).allowed, path


@pytest.mark.parametrize("path", [*_ADMIN_FORMS, *_ESCAPES])
def test_case_083_no_form_of_admin_passes_as_public(path: str) -> None:
    """An ALLOW rule for /public/* admits nothing that leaves it."""
    assert not ask(table(policy(to(paths=["/public/*"]))), path).allowed


@pytest.mark.parametrize("path", _ESCAPES)
def test_case_083_a_carved_out_path_stays_out(path: str) -> None:
    """`paths` with `notPaths` in an ALLOW rule hold in every reading."""
    assert not ask(table(policy(to(paths=["/*"], notPaths=["/admin", "/admin/*"]))), path).allowed


@pytest.mark.parametrize(
    "path",
    [
        "/public/",
        "/public/a",
        "/public/a/",
        "/public/a.b",
        "/public/a%20b",
        "/public/caf%c3%a9",
        "/public/x?q=/../a",
        "/public/a;v=1",
        "/public/a//b",
    ],
)
def test_case_083_public_paths_pass(path: str) -> None:
    """What stays below /public/ in every reading is allowed."""
    assert ask(table(policy(to(paths=["/public/*"]))), path).allowed


@pytest.mark.parametrize("path", ["/a/", "/a/?q"])
def test_a_trailing_slash_is_allowed_where_it_is_written(path: str) -> None:
    """An exact path with a trailing slash admits itself, although it may be read without."""
    assert ask(table(policy(to(paths=["/a/"]))), path).allowed
    assert not ask(table(policy(to(paths=["/a"]))), path).allowed
    assert not ask(table(policy(to(paths=["/a/*"], notPaths=["/a"]))), path).allowed


def test_istio_mode_is_exact() -> None:
    """Without hardened matching the same rule admits what design forbids: it is a choice."""
    rules = table(policy(to(paths=["/public/*"])), mesh=ISTIO)

    assert ask(rules, "/public/..;/admin").allowed
    assert ask(rules, "/public/..%2fadmin").allowed


@pytest.mark.parametrize(
    "host",
    ["secret.com", "Secret.com", "SECRET.COM", "secret.com:443", "secret.com.", "secret.com.:8443"],
)
def test_case_084_spellings_of_a_host_are_one(host: str) -> None:
    """Case, port and trailing dot change nothing for a DENY rule, nor for what an ALLOW rule carves out."""
    assert not ask(table(policy(to(hosts=["secret.com"]), action="DENY")), host=host).allowed
    assert not ask(table(policy(to(notHosts=["secret.com"]))), host=host).allowed


@pytest.mark.parametrize(
    "host",
    [
        "user@secret.com",
        "secret.com,other.com",
        "a b",
        "secret.com/x",
        "a..b",
        "[::1",
        "secret.com:x",
        "s\u00e9cret.com",
        "a\x00",
        "[::1]x",
        ":80",
        "a" * 300,
    ],
)
def test_case_084_what_is_not_one_host_is_refused(host: str) -> None:
    """User information, lists and other text are no host."""
    assert Reason.MALFORMED is ask(table(policy(to(hosts=["other.com"]), action="DENY")), host=host).reason


def test_case_084_addresses_are_hosts() -> None:
    """An IPv6 address in brackets is a host, with or without its port."""
    rules = table(policy(to(hosts=["[::1]"]), action="DENY"))

    assert not ask(rules, host="[::1]").allowed
    assert not ask(rules, host="[::1]:80").allowed
    assert ask(rules, host="[::2]:80").allowed


def test_a_host_with_its_port_is_allowed_where_it_is_written() -> None:
    """ALLOW for host:port admits it, ALLOW for the bare host does not (istio#39810)."""
    assert ask(table(policy(to(hosts=["a.com:8080"]))), host="a.com:8080").allowed
    assert ask(table(policy(to(hosts=["a.com", "a.com:*"]))), host="a.com:8080").allowed
    assert not ask(table(policy(to(hosts=["a.com"]))), host="a.com:8080").allowed


def test_path_and_host_are_read_together() -> None:
    """One operation must hold in one assignment of both."""
    rules = table(policy(to(paths=["/admin"], hosts=["secret.com"]), action="DENY"))

    assert not ask(rules, "/x/..;/admin", host="secret.com:8443").allowed
    assert ask(rules, "/x/..;/admin", host="other.com:8443").allowed
    assert ask(rules, "/x", host="secret.com:8443").allowed


def test_a_denied_header_value_is_found_in_a_list() -> None:
    """Values may have been joined by commas (CVE-2026-26308)."""
    rules = table(policy(when("request.headers[x-role]", "admin"), action="DENY"))

    for values in (("admin",), ("user,admin",), ("user, admin",), ("user", "admin"), ("admin ,user",)):
        assert not ask(rules, headers={"x-role": values}).allowed, values
    assert ask(rules, headers={"x-role": ("user,administrator",)}).allowed
    assert ask(rules).allowed


def test_an_allowed_header_value_must_be_the_whole() -> None:
    """A list with the value in it is not the value."""
    rules = table(policy(when("request.headers[x-role]", "admin")))

    assert ask(rules, headers={"x-role": ("admin",)}).allowed
    assert not ask(rules, headers={"x-role": ("user,admin",)}).allowed
    assert not ask(rules, headers={"x-role": ("user", "admin")}).allowed
    assert not ask(rules, headers={"x_role": ("admin",)}).allowed


@pytest.mark.parametrize("action", ["ALLOW", "DENY"])
@pytest.mark.parametrize(
    "condition",
    [
        {"values": ["admin"]},
        {"values": ["user", "admin"]},
        {"values": ["user,admin"]},
        {"values": ["a*"], "notValues": ["ab"]},
        {"notValues": ["admin"]},
        {"notValues": ["user,*"]},
        {"notValues": ["*"]},
    ],
)
def test_values_apart_decide_as_values_joined(condition: dict[str, list[str]], action: str) -> None:
    """Over gRPC Envoy joins what it sends apart over HTTP: no client gets past a rule by the way it is asked."""
    rules = table(policy({"when": [{"key": "request.headers[x-role]", **condition}]}, action=action))

    for values in product(("user", "admin", "ab", ""), repeat=2):
        joined = ask(rules, headers={"x-role": (",".join(values),)})
        assert joined.allowed is ask(rules, headers={"x-role": values}).allowed, values


def test_values_apart_of_a_header_with_commas_are_read_together_too() -> None:
    """Where commas are ordinary the whole counts first, and so it does when it came in pieces."""
    denied = table(policy(when("request.headers[user-agent]", "a,b"), action="DENY"))
    allowed = table(policy(when("request.headers[user-agent]", "*a")))

    for values in (("a", "b"), ("a,b",)):
        assert not ask(denied, headers={"user-agent": values}).allowed
        assert not ask(allowed, headers={"user-agent": values}).allowed


def test_conditions_on_one_header_hold_in_one_reading() -> None:
    """Values and notValues are asked of the same value, not of different parts."""
    rules = table(
        policy({"when": [{"key": "request.headers[x-a]", "values": ["a*"], "notValues": ["ab"]}]}, action="DENY")
    )

    assert ask(rules, headers={"x-a": ("ab",)}).allowed
    assert not ask(rules, headers={"x-a": ("ab,ac",)}).allowed
    assert ask(rules, headers={"x-a": ("b,ab",)}).allowed


def test_names_with_underscores_are_the_same_header() -> None:
    """CGI-like servers take x_role for x-role."""
    rules = table(policy(when("request.headers[X-Role]", "admin"), action="DENY"))

    assert not ask(rules, headers={"x_role": ("admin",)}).allowed
    assert not ask(rules, headers={"x-role": ("user",), "x_role": ("admin",)}).allowed


def test_headers_with_commas_of_their_own_can_be_allowed() -> None:
    """A user agent is one value, although it has commas."""
    agent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"

    assert ask(
        table(policy(when("request.headers[user-agent]", "Mozilla/*"))), headers={"user-agent": (agent,)}
    ).allowed


def test_a_header_with_control_characters_counts_against_the_request() -> None:
    """A NUL in a value that a rule asks about denies (CVE-2019-9900)."""
    denies = table(policy(when("request.headers[x-a]", "a"), action="DENY"))
    allows = table(policy(when("request.headers[x-a]", "a*")))

    assert Reason.TOO_AMBIGUOUS is ask(denies, headers={"x-a": ("b\x00",)}).reason
    assert Reason.NO_RULE_MATCHED is ask(allows, headers={"x-a": ("a\x00",)}).reason


def test_a_header_with_too_many_parts_counts_against_the_request() -> None:
    """The number of readings of a header is bounded."""
    value = ",".join(f"v{number}" for number in range(1_000))
    denies = table(policy(when("request.headers[x-a]", "a"), action="DENY"))

    assert Reason.TOO_AMBIGUOUS is ask(denies, headers={"x-a": (value,)}).reason
    assert ask(denies, headers={"x-b": (value,)}).allowed


def test_pseudo_headers_are_read_like_what_they_stand_for() -> None:
    """A condition on :path or :authority cannot be evaded by another spelling."""
    paths = table(policy(when("request.headers[:path]", "/admin*"), action="DENY"))
    hosts = table(policy(when("request.headers[host]", "secret.com"), action="DENY"))

    assert not ask(paths, "/x/..;/admin").allowed
    assert not ask(hosts, host="SECRET.com:80").allowed


def test_too_many_readings_are_a_denial() -> None:
    """Over the bound the request is denied, also where everything is allowed."""
    path = "/%" + "25" * 100 + "41"

    assert Reason.TOO_AMBIGUOUS is ask(table(policy({})), path).reason
    assert path_readings("/%25252541;a//b/../c", 8) is None


def test_long_paths_take_bounded_time() -> None:
    """A path made to be read in many ways is answered fast."""
    paths = [
        "/" + "%25" * 20_000,
        "/" + "a/../" * 12_000,
        "/" + ";a/%2e." * 8_000,
        "/" + "%c0%ae" * 10_000,
        "/" + "." * 60_000 + "/",
    ]
    started = time.process_time()

    for path in paths:
        path_readings(path, 64)
        is_plain_path(path)

    assert time.process_time() - started < 20


@pytest.mark.parametrize("path", ["/", "/a", "/a/b-c_d.e~f", "/a.b/c", "/.well-known/x", "/a:b@c,d=e+f!$&'()*"])
def test_plain_paths_have_one_reading(path: str) -> None:
    """Most paths are read in one way only."""
    assert is_plain_path(path)
    assert ((path,),) == path_readings(path, 1)


@pytest.mark.parametrize(
    "path",
    ["", "a", "//", "/a//b", "/a/", "/.", "/a/..", "/a.", "/a;b", "/%61", "/a\\b", "/\u00e9", "/a b", "/a?b", "/a#"],
)
def test_other_paths_are_not_plain(path: str) -> None:
    """Whatever a server may change is looked at."""
    assert not is_plain_path(path)


def test_the_first_reading_is_istio_s() -> None:
    """It is the path without query and fragment, the host in lower case, the values as they came."""
    readings = path_readings("/A/..;/%62?c#d", 64)

    assert readings is not None
    assert ("/A/..;/%62",) == readings[0]
    assert (("a.com:80",), ("a.com:80", "a.com")) == host_readings("A.com:80")
    assert (("b", "a"), ("b",), ("a",), ("b,a",)) == header_readings("x", ("b", "a"), (), 64)


def test_the_bound_is_the_operator_s() -> None:
    """max_readings is what the table was made with."""
    from app.limits import PolicyLimits
    from app.policy.rule_table import RuleTable

    strict = RuleTable.empty(MeshConfig(), PolicyLimits(max_readings=2))

    assert Reason.TOO_AMBIGUOUS is ask(strict, "/a;b/..//c").reason
    assert ask(strict, "/a%20b").allowed
