"""Case 39: blocked keys, authorities' keys, and keys of other workloads."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime, timedelta

import pytest

from app.authority.certificates.key_guard import CertifiedKey, KeyGuard, OnSharedKey, holder_of
from app.errors import AppError, ErrorCode

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
CART = holder_of(cluster="c", node="node-a", identity="spiffe://td/ns/shop/sa/cart")
PAY = holder_of(cluster="c", node="node-a", identity="spiffe://td/ns/shop/sa/pay")
CART_ELSEWHERE = holder_of(cluster="c", node="node-b", identity="spiffe://td/ns/shop/sa/cart")
CART_IN_ANOTHER_CLUSTER = holder_of(cluster="d", node="node-a", identity="spiffe://td/ns/shop/sa/cart")


def key(number: int, holder: str = CART, *, hours: float = 1) -> CertifiedKey:
    digest = hashlib.sha256(number.to_bytes(4)).digest()
    return CertifiedKey(key_hash=digest, holder=holder, not_after=NOW + timedelta(hours=hours))


@pytest.mark.parametrize("holder", [PAY, CART_ELSEWHERE, CART_IN_ANOTHER_CLUSTER])
def test_case_039_a_key_that_somebody_else_holds_is_refused(holder: str) -> None:
    """Another identity, another node, another cluster."""
    guard = KeyGuard()
    guard.claim(key(1), now=NOW)
    with pytest.raises(AppError) as caught:
        guard.claim(key(1, holder), now=NOW)
    assert caught.value.code is ErrorCode.INVALID
    assert caught.value.diagnosis.startswith("key_shared: ")


def test_its_holder_may_use_a_key_again() -> None:
    """Re-use by the same workload on the same node is its own affair; and a refused claim changes no holder."""
    guard = KeyGuard()
    assert not guard.claim(key(1), now=NOW)
    with pytest.raises(AppError):
        guard.claim(key(1, PAY), now=NOW)
    assert not guard.claim(key(1), now=NOW)


def test_a_shorter_certificate_for_the_same_key_frees_it_no_earlier() -> None:
    """The longest one counts."""
    guard = KeyGuard()
    guard.claim(key(1, hours=24), now=NOW)
    guard.claim(key(1, hours=1), now=NOW)
    with pytest.raises(AppError):
        guard.claim(key(1, PAY), now=NOW + timedelta(hours=2))


def test_an_expired_certificate_holds_no_key() -> None:
    """Then somebody else may have it."""
    guard = KeyGuard()
    guard.claim(key(1, hours=1), now=NOW)

    assert not guard.claim(key(1, PAY, hours=3), now=NOW + timedelta(hours=2))
    with pytest.raises(AppError):
        guard.claim(key(1, CART, hours=4), now=NOW + timedelta(hours=2))


def test_warn_certifies_and_says_so_and_allow_looks_away() -> None:
    """The two other policies."""
    warning, allowing = KeyGuard(on_shared=OnSharedKey.WARN), KeyGuard(on_shared=OnSharedKey.ALLOW)
    for guard in (warning, allowing):
        assert not guard.claim(key(1), now=NOW)

    assert warning.claim(key(1, PAY), now=NOW)
    assert not allowing.claim(key(1, PAY), now=NOW)


def test_case_039_blocked_keys_and_authorities_keys_are_never_certified() -> None:
    """Under no policy; authorities are asked for anew each time."""
    authorities: set[bytes] = set()
    guard = KeyGuard(blocked={key(1).key_hash}, authority_keys=lambda: authorities, on_shared=OnSharedKey.ALLOW)
    guard.check_blocked(key(2).key_hash)
    authorities.add(key(2).key_hash)
    for number in (1, 2):
        with pytest.raises(AppError) as caught:
            guard.check_blocked(key(number).key_hash)
        assert caught.value.code is ErrorCode.INVALID
        assert caught.value.diagnosis.startswith("key_blocked: ")


def test_the_memory_is_bounded_and_the_oldest_are_forgotten() -> None:
    """What falls out is allowed again; what is used again stays."""
    guard = KeyGuard(max_keys=3)
    for number in (1, 2, 3):
        guard.claim(key(number), now=NOW)
    guard.claim(key(1), now=NOW)
    guard.claim(key(4), now=NOW)

    assert len(guard) == 3
    assert not guard.claim(key(2, PAY), now=NOW)
    with pytest.raises(AppError):
        guard.claim(key(1, PAY), now=NOW)


def test_what_other_replicas_certified_counts_too() -> None:
    """Learned twice or out of order, the longer certificate's holder holds it."""
    guard = KeyGuard()
    for learned in (key(1, CART, hours=2), key(1, PAY, hours=1), key(1, CART, hours=2)):
        guard.learn(learned)

    assert not guard.claim(key(1, CART), now=NOW)
    with pytest.raises(AppError):
        guard.claim(key(1, PAY), now=NOW)


def test_until_when_a_holder_has_a_certificate_is_known_from_what_was_certified() -> None:
    """The newest counts, not the longest; a claim is no certificate yet."""
    guard = KeyGuard(on_shared=OnSharedKey.WARN)
    guard.claim(key(1), now=NOW)
    assert guard.in_force_until(CART) is None
    for learned in (key(1, hours=8), key(2, hours=1), key(2, PAY, hours=2)):
        guard.learn(learned)

    assert guard.in_force_until(CART) == NOW + timedelta(hours=1)
    assert guard.in_force_until(PAY) == NOW + timedelta(hours=2)  # though the key is remembered as another's
    assert guard.in_force_until(CART_ELSEWHERE) is None


def test_of_how_many_holders_it_is_known_is_bounded() -> None:
    """Who was certified least recently is forgotten first."""
    guard = KeyGuard(max_keys=2)
    for number, holder in enumerate((CART, PAY, CART, CART_ELSEWHERE)):
        guard.learn(key(number, holder))

    assert [True, False, True] == [guard.in_force_until(each) is not None for each in (CART, PAY, CART_ELSEWHERE)]


def test_asking_costs_microseconds() -> None:
    """The path of a certificate has some 600 µs of CPU; this may take a few of them."""
    guard = KeyGuard()
    keys = [key(number) for number in range(10_000)]
    started = time.process_time()
    for each in keys:
        guard.check_blocked(each.key_hash)
        guard.claim(each, now=NOW)

    assert (time.process_time() - started) / len(keys) < 50e-6
