"""Authorities at start: made once, opened ever after, never replaced in silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from app.authority.authority_ports import StoredAuthority
from app.ca.csr import parse_csr
from app.ca.issuance import assemble, prepare
from app.ca.profile import TtlGrant, max_workload_lifetime
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain
from app.keys.authorities import OpenAuthorities, make_authorities, open_authorities
from app.keys.private_key import decode_key, encode_key, generate_key
from app.keys.sealing import Sealer
from app.ledger.entry import EntryKind, LedgerEntry
from tests.support.certificates import IDENTITY, LIMITS, NOW, PROFILE, TRUST_DOMAIN, make_csr, make_pki, serial
from tests.support.key_keeper import cheap_sealer, local_keeper

SEALER = cheap_sealer()


class MemoryStore:
    """An authority store in memory; `rival` is what another replica stores a moment earlier."""

    def __init__(self, stored: Sequence[StoredAuthority] = (), rival: Sequence[StoredAuthority] = ()) -> None:
        self.stored = list(stored)
        self.rival = list(rival)
        self.entries: list[LedgerEntry] = []

    async def list_authorities(self) -> Sequence[StoredAuthority]:
        return tuple(self.stored)

    async def add_authorities(self, authorities: Sequence[StoredAuthority], entry: LedgerEntry) -> None:
        if self.rival:
            self.stored, self.rival = self.rival, []
            raise AppError(ErrorCode.CONFLICT, "another replica was faster")
        self.stored.extend(authorities)
        self.entries.append(entry)

    async def get_sealed_key(self, name: str) -> bytes | None:
        raise NotImplementedError

    async def put_sealed_key(self, name: str, sealed: bytes) -> bytes:
        raise NotImplementedError


async def opened(
    store: MemoryStore, *, create: bool = False, sealer: Sealer = SEALER, **changes: object
) -> OpenAuthorities:
    return await open_authorities(
        store,
        local_keeper(sealer, trust_domain=changes.get("trust_domain", TRUST_DOMAIN)),
        **{
            "trust_domain": TRUST_DOMAIN,
            "now": NOW,
            "create": create,
            "max_lifetime": max_workload_lifetime(LIMITS),
            **changes,
        },
    )


async def refusal(store: MemoryStore, **changes: object) -> str:
    with pytest.raises(AppError) as caught:
        await opened(store, **changes)
    assert ErrorCode.FAILED_PRECONDITION is caught.value.code
    return caught.value.detail


async def test_the_first_start_makes_a_root_and_an_issuing_authority() -> None:
    """Both active, their keys sealed, one ledger entry with their certificates."""
    store = MemoryStore()
    first = await opened(store, create=True)
    assert first.created
    assert [("root", "active"), ("issuing", "active")] == [(one.role, one.state) for one in store.stored]
    assert store.stored[1].id == first.active.id
    (entry,) = store.entries
    assert (EntryKind.AUTHORITY_TRANSITION, "system") == (entry.kind, entry.actor)
    assert [one.certificate_pem for one in store.stored] == [one["pem"] for one in entry.detail["authorities"]]


async def test_the_next_start_opens_the_same() -> None:
    """Same authority, same bundle, and a signer whose certificates hold."""
    store = MemoryStore()
    first, second = await opened(store, create=True), await opened(store)
    assert not second.created
    assert (first.active.id, first.bundle) == (second.active.id, second.bundle)
    prepared = prepare(
        IDENTITY,
        parse_csr(make_csr(), LIMITS),
        TtlGrant(seconds=3600),
        authority=first.active,
        profile=PROFILE,
        now=NOW,
        serial=serial(1),
    )
    assert prepared.tbs == assemble(prepared, await second.signer.sign(prepared.tbs)).certificate.tbs_certificate_bytes


async def test_an_empty_database_after_the_first_start_is_refused() -> None:
    """A lost database must not become a new root that nobody trusts."""
    store = MemoryStore()
    assert "not a first start" in await refusal(store)
    assert [] == store.stored


async def test_two_replicas_that_start_at_once_agree() -> None:
    """The slower one takes what the faster one stored."""
    rival, _ = await make_authorities(local_keeper(SEALER), trust_domain=TRUST_DOMAIN, now=NOW)
    store = MemoryStore(rival=rival)
    found = await opened(store, create=True)
    assert (rival[1].id, False) == (found.active.id, found.created)


async def test_a_store_that_fails_fails_the_start() -> None:
    """Only a conflict is somebody else's success."""

    class AwayStore(MemoryStore):
        async def add_authorities(self, authorities: Sequence[StoredAuthority], entry: LedgerEntry) -> None:
            raise AppError(ErrorCode.UNAVAILABLE, "the database is away")

    with pytest.raises(AppError) as caught:
        await opened(AwayStore(), create=True)
    assert ErrorCode.UNAVAILABLE is caught.value.code


async def test_case_124_a_wrong_passphrase_refuses_the_start() -> None:
    """With the sentence of the sealed key."""
    store = MemoryStore()
    await opened(store, create=True)
    wrong = cheap_sealer(b"wrong horse battery")
    assert "passphrase is wrong" in await refusal(store, sealer=wrong)


async def test_another_trust_domain_refuses_the_start() -> None:
    """A changed setting must not issue under somebody else's authority."""
    store = MemoryStore()
    await opened(store, create=True)
    assert "trust domain" in await refusal(store, trust_domain=TrustDomain("elsewhere"))


async def test_a_key_of_another_certificate_refuses_the_start() -> None:
    """Sealed under the right name, but not the certificate's."""
    store = MemoryStore()
    await opened(store, create=True)
    issuing = store.stored[1]
    sealed = SEALER.seal(f"authority:{issuing.id}", encode_key(generate_key()))
    store.stored[1] = replace(issuing, sealed_key=sealed)
    assert "does not belong" in await refusal(store)


async def test_a_root_that_is_not_trusted_any_more_refuses_the_start() -> None:
    """A tainted or missing root cannot stand above the active authority."""
    store = MemoryStore()
    await opened(store, create=True)
    root, issuing = store.stored
    stranger, _ = await make_authorities(local_keeper(SEALER), trust_domain=TRUST_DOMAIN, now=NOW)
    for stored in ([replace(root, state="tainted"), issuing], [issuing], [stranger[0], issuing], [root]):
        await refusal(MemoryStore(stored))


async def test_damaged_rows_refuse_the_start() -> None:
    """Certificate or key, with a sentence and without their bytes."""
    store = MemoryStore()
    await opened(store, create=True)
    root, issuing = store.stored
    for broken in (replace(issuing, certificate_pem="garbage"), replace(issuing, sealed_key=b"garbage")):
        assert "damaged" in await refusal(MemoryStore([root, broken]))


async def test_the_bundle_has_every_trusted_root_that_is_still_valid() -> None:
    """Prepared and retiring ones too; expired, retired and tainted ones not."""
    store = MemoryStore()
    await opened(store, create=True)
    wanted = {store.stored[0].id}
    for state in ("prepared", "retiring", "retired", "tainted"):
        (root, _), _ = await make_authorities(local_keeper(SEALER), trust_domain=TRUST_DOMAIN, now=NOW)
        store.stored.append(replace(root, state=state))
        wanted |= {root.id} if state in ("prepared", "retiring") else set()
    expired = make_pki(now=NOW - timedelta(days=30), root_lifetime=timedelta(days=20)).root
    pem = expired.public_bytes(Encoding.PEM).decode()
    store.stored.append(replace(store.stored[0], id="expired", state="retiring", certificate_pem=pem))
    found = await opened(store)
    by_id = {one.id: one.certificate_pem for one in store.stored}
    assert {by_id[one] for one in wanted} == {root.public_bytes(Encoding.PEM).decode() for root in found.bundle.roots}


async def test_no_key_is_stored_in_the_clear() -> None:
    """Neither as PKCS#8 nor as its number."""
    store = MemoryStore()
    await opened(store, create=True)
    for one in store.stored:
        key = decode_key(SEALER.unseal(f"authority:{one.id}", one.sealed_key))
        secret = key.private_numbers().private_value.to_bytes(32)
        assert secret not in one.sealed_key
        assert encode_key(key) not in one.sealed_key
        assert secret.hex() not in repr(one)


@pytest.mark.parametrize("encoded", [b"", b"garbage", b"\x30\x00"])
def test_bytes_that_are_no_key(encoded: bytes) -> None:
    """A sentence without the bytes."""
    with pytest.raises(AppError) as caught:
        decode_key(encoded)
    assert "a sealed key is damaged" == caught.value.detail
