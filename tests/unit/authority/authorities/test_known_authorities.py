"""Which authorities are believed, and which keys are theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.authority.authorities.authority_ports import AuthorityRole, AuthorityState, StoredAuthority
from app.authority.authorities.known_authorities import KnownAuthorities
from app.ca.key_policy import key_hash
from tests.support.certificates import NOW, make_pki


class Stored:
    """A table of authorities that a test changes."""

    def __init__(self, *authorities: StoredAuthority) -> None:
        self.authorities = list(authorities)

    async def list_authorities(self) -> Sequence[StoredAuthority]:
        return self.authorities


def authority(name: str, state: AuthorityState, pem: str, chain_pem: str = "") -> StoredAuthority:
    return StoredAuthority(
        id=name,
        role=AuthorityRole.ISSUING,
        state=state,
        certificate_pem=pem,
        chain_pem=chain_pem,
        sealed_key=b"",
        created_at=NOW,
    )


def _pem(certificate: Any) -> str:
    text: str = certificate.public_bytes(Encoding.PEM).decode()
    return text


def _hash(certificate: Any) -> bytes:
    return key_hash(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


async def test_tainted_retired_and_unknown_authorities_are_not_believed() -> None:
    """What they signed renews nothing; prepared, active and retiring ones are believed."""
    pem = _pem(make_pki().root)
    store: Any = Stored(*(authority(state.value, state, pem) for state in AuthorityState))
    known = KnownAuthorities(store)
    before = known.is_believed("active")
    await known.refresh()

    assert not before
    assert {state.value for state in AuthorityState if known.is_believed(state.value)} == {
        "prepared",
        "active",
        "retiring",
    }
    assert not known.is_believed("never-heard-of")


async def test_taint_is_noticed_at_the_next_look() -> None:
    """Within seconds, on every replica."""
    pem = _pem(make_pki().root)
    store: Any = Stored(authority("a", AuthorityState.ACTIVE, pem))
    known = KnownAuthorities(store)
    await known.refresh()
    before = known.is_believed("a")
    store.authorities = [authority("a", AuthorityState.TAINTED, pem)]
    await known.refresh()

    assert (before, known.is_believed("a")) == (True, False)


async def test_case_039_the_keys_of_all_authorities_are_known_and_never_forgotten() -> None:
    """Also of what stands between an authority and its root, of retired ones, and of ones without a certificate yet."""
    one, two = make_pki(), make_pki()
    store: Any = Stored(
        authority("a", AuthorityState.RETIRED, _pem(one.authority.certificate), _pem(one.root)),
        authority("b", AuthorityState.PREPARED, ""),
    )
    known = KnownAuthorities(store)
    await known.refresh()
    before = set(known.keys())
    store.authorities = [authority("b", AuthorityState.ACTIVE, _pem(two.authority.certificate))]
    await known.refresh()

    assert before == {_hash(one.authority.certificate), _hash(one.root)}
    assert set(known.keys()) == before | {_hash(two.authority.certificate)}
