"""Certificates of our own ports that nobody presents any more."""

from __future__ import annotations

from app.ca.own_certificates import OwnCertificate, put_away


def worker(serial: str, *replaced: str, actor: str = "worker:edge") -> OwnCertificate:
    return OwnCertificate(serial=serial, actor=actor, replaced=frozenset(replaced))


def listener(serial: str, started: str, *replaced: str, replica: str = "one") -> OwnCertificate:
    return OwnCertificate(serial=serial, actor="system", replaced=frozenset(replaced), replica=replica, started=started)


def test_a_certificate_is_in_use_until_its_holder_says_otherwise() -> None:
    """A newer one proves nothing: its answer may have been lost on the way."""
    assert frozenset() == put_away([worker("01"), worker("02"), worker("03")])
    assert {"01"} == put_away([worker("01"), worker("02"), worker("03", "01")])


def test_one_that_expired_needs_no_certificate_beside_it_to_stay_put_away() -> None:
    """Each request tells again what is out of use, so the newest certificate is enough."""
    assert {"01"} == put_away([worker("01"), worker("09", "01", "02", "03")])


def test_nobody_speaks_for_others() -> None:
    """A token says what its own workers put away, and nothing about anybody else."""
    assert frozenset() == put_away([worker("01"), worker("02", "01", actor="worker:other")])


def test_what_a_process_before_made_for_its_listeners_is_gone_with_it() -> None:
    """Its key was in memory only; other replicas, and a process that came before, are not judged by that."""
    made = [listener("01", "t1"), listener("02", "t1", replica="two"), listener("03", "t2"), listener("04", "t2")]
    assert {"01"} == put_away(made)
