"""The settings of issuing: durations, lifetimes, keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from app.authority.authorities.known_authorities import KnownAuthorities
from app.authority.certificates.clock_guard import ClockGuard
from app.authority.certificates.converge_mesh import ConvergeMesh
from app.authority.placement.clusters import Clusters
from app.bootstrap.clock import SystemClock
from app.bootstrap.issuing import access_rules, blocked_keys, issuing_rules
from app.ca.profile import Clamp
from app.errors import AppError, ErrorCode
from app.settings import Settings, load_settings, reveal
from app.settings.durations import parse_duration
from tests.support.certificates import NOW

HASH = "ab" * 32


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("24h", 86_400), ("90m", 5_400), ("1h30m", 5_400), ("45s", 45), ("7d", 604_800), (300, 300), ("301", 301)],
)
def test_durations(written: object, seconds: int) -> None:
    """As people write them, and plain seconds."""
    assert seconds == parse_duration(written)


@pytest.mark.parametrize(
    "written", ["", "00", 0, -5, "1.5h", "h", "24 h", "24H", "1y", 2**31, True, None, "9" * 40, "٣h"]
)
def test_what_is_no_duration(written: object) -> None:
    """Refused with a sentence that says what would be right."""
    with pytest.raises(ValueError, match="must be"):
        parse_duration(written)


def load(tmp_path: Path, **ca: Any) -> Settings:
    file = tmp_path / "gatehouse.yaml"
    file.write_text(yaml.safe_dump({"state_dir": str(tmp_path / "state"), "ca": ca}))
    return load_settings(file, environ={})


def rules_of(settings: Settings) -> Any:
    store: Any = None  # not asked here
    known = KnownAuthorities(store)
    clock = SystemClock()
    guard = ClockGuard(clock, max_drift_seconds=settings.limits.certificate.max_clock_drift_seconds)
    return issuing_rules(settings, guard, known, ConvergeMesh(store, clock=clock, limits=settings.limits))


def test_the_defaults_clamp_spread_by_a_tenth_and_refuse_shared_keys(tmp_path: Path) -> None:
    """And they survive the way to a child process."""
    settings = load(tmp_path)
    again = load_settings(environ={}, **reveal(settings))
    lifetimes = rules_of(settings).lifetimes

    assert lifetimes.spread_fraction == 0.1
    assert (settings.ca.over_long, settings.ca.shared_keys, settings.ca.cert_signer) == ("clamp", "refuse", "ignore")
    assert access_rules(settings, Clusters()).csr_must_agree
    assert again.model_dump() == settings.model_dump()


def test_case_045_what_a_csr_names_is_ignored_where_that_is_wished(tmp_path: Path) -> None:
    """As istiod does, for proxies whose idea of the trust domain is another."""
    rules = access_rules(load(tmp_path, csr_names="ignore", cert_signer="refuse"), Clusters())
    assert (False, True) == (rules.csr_must_agree, rules.refuse_cert_signer)


def test_lifetimes_from_the_file_are_granted(tmp_path: Path) -> None:
    """Written as durations, most specific first or last."""
    settings = load(
        tmp_path,
        spread_renewals=False,
        lifetimes=[
            {"namespace": "shop", "service_account": "cart", "maximum": "1h"},
            {"namespace": "shop", "default": "90m", "maximum": "2h"},
        ],
    )
    again = load_settings(environ={}, **reveal(settings))
    lifetimes = rules_of(again).lifetimes

    def grant(account: str, requested: int) -> tuple[int, Clamp]:
        got = lifetimes.grant(
            requested,
            namespace="shop",
            service_account=account,
            spread_by="x",
            now=NOW,
            chain_not_after=NOW.replace(year=NOW.year + 1),
        )
        return got.seconds, got.clamp

    assert grant("cart", 86_400) == (3_600, Clamp.MAXIMUM)
    assert grant("pay", 86_400) == (7_200, Clamp.MAXIMUM)
    assert grant("pay", 0) == (5_400, Clamp.NONE)


@pytest.mark.parametrize(
    ("ca", "said"),
    [
        ({"lifetimes": [{"namespace": "a"}]}, "at least one of default, minimum and maximum"),
        ({"lifetimes": [{"maximum": "soon"}]}, "must be a duration such as 24h"),
        ({"over_long": "maybe"}, "over_long"),
        ({"spread_fraction": 0.9}, "spread_fraction"),
        ({"shared_keys": "perhaps"}, "shared_keys"),
        ({"csr_names": "perhaps"}, "csr_names"),
        ({"blocked_keys": ["abc"]}, "SHA-256"),
        ({"lifetime": []}, "did you mean"),
    ],
)
def test_what_makes_no_sense_is_refused_when_settings_are_read(tmp_path: Path, ca: dict[str, Any], said: str) -> None:
    """One sentence that names the setting."""
    with pytest.raises(AppError, match=said) as caught:
        load(tmp_path, **ca)
    assert caught.value.code is ErrorCode.INVALID


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"maximum": "91d"}, "raise limits.certificate.max_ttl_seconds first"),
        ({"minimum": "1m"}, "tight loop"),
        ({"minimum": "2h", "maximum": "1h"}, "ascending order"),
    ],
)
def test_lifetimes_that_contradict_the_limits_are_refused_when_settings_are_read(
    tmp_path: Path, rule: dict[str, Any], said: str
) -> None:
    """`gatehouse config check` finds them, not the first certificate."""
    with pytest.raises(AppError, match=said) as caught:
        load(tmp_path, lifetimes=[rule])
    assert caught.value.code is ErrorCode.INVALID


def test_blocked_keys_come_from_the_settings_and_from_a_file(tmp_path: Path) -> None:
    """Comments, blank lines, upper case and colons are taken."""
    file = tmp_path / "blocked"
    colons = ":".join(["CD"] * 32)
    file.write_text(f"# leaked in 2025\n\n{colons}  # the old image\n")
    settings = load(tmp_path, blocked_keys=[HASH], blocked_keys_file=str(file))

    assert blocked_keys(settings.ca) == {bytes.fromhex(HASH), b"\xcd" * 32}


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot read"), (b"abc\n", "line 1 must be"), (b"\xff\xfe", "not ASCII text")]
)
def test_a_file_of_blocked_keys_that_cannot_be_read_is_refused(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    """A list that is silently empty would block nothing."""
    file = tmp_path / "blocked"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(AppError, match=said) as caught:
        blocked_keys(load(tmp_path, blocked_keys_file=str(file)).ca)
    assert caught.value.code is ErrorCode.INVALID
