"""Takes the key of a root of our own offline: two administrators agree, the owner of the host carries it out.

The signer never gives a key out, whoever asks: a way to ask it would be one for whoever takes over this process. What
is handed over here is the *sealed* key, which opens with the passphrase of the host alone; nobody has both through the
network. And it is forgotten here only against a proof, a signature with it, that it is safe elsewhere: a crash or a
full disk on the way costs another try and never the root.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import timedelta

from app.authority.actor import Actor, Role
from app.authority.authorities.authorities import Authorities
from app.authority.authorities.authority_ports import AuthorityRole, AuthorityState, StoredAuthority
from app.authority.authorities.authority_set import AuthoritySet, refused
from app.authority.authorities.authority_store import ActState, PendingAct
from app.authority.authorities.change_authority import StepDone
from app.authority.authorities.commit_authorities import AuthorityChange
from app.authority.authorities.pending_acts import PendingActs
from app.authority.store import Transaction
from app.ca.signing import authority_public_key, is_signed_by
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind, LedgerEntry

ROOT_EXPORT = "root.export"


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOver:
    """A root and its sealed key."""

    authority_id: str
    certificate_pem: str
    sealed_key: bytes


def proof_text(act_id: str, authority_id: str) -> bytes:
    """What the key signs to prove that it is held elsewhere; no certificate and no list begins like this."""
    return f"gatehouse: the key of the root {authority_id} is held elsewhere, by the act {act_id}".encode()


class ExportRoot:
    """Moves the key of a root out of here."""

    def __init__(self, authorities: Authorities, acts: PendingActs) -> None:
        self._authorities = authorities
        self._acts = acts

    async def ask(self, actor: Actor, authority_id: str, *, reason: str = "") -> StepDone:
        """Ask for it; nothing happens until another administrator confirms the act.

        Raises:
            AppError: `NOT_FOUND`; `FAILED_PRECONDITION` when it is no root whose sealed key is here.
        """
        actor.require(Role.ADMIN)
        known, _ = await self._authorities.read_fleet()
        row = _root_with_key(known, authority_id)
        body = {"authority": row.id, "reason": reason}
        return StepDone(changes={}, pending=await self._acts.request(actor, ROOT_EXPORT, body))

    async def approve(self, actor: Actor, act_id: str, sha256: str) -> StepDone:
        """Confirm it, as another administrator; still nothing leaves.

        Raises:
            AppError: as `PendingActs.approve`.
        """
        actor.require(Role.ADMIN)
        await self._acts.read(act_id, ROOT_EXPORT)
        await self._acts.approve(actor, act_id, sha256)
        return StepDone(changes={})

    async def hand_over(self, act_id: str) -> HandedOver:
        """The sealed key, to the owner of the host; that it was given is on record first.

        Raises:
            AppError: `NOT_FOUND`; `FAILED_PRECONDITION` when the act is not confirmed, confirmed too long ago, or the
                key is not here (any more).
        """
        now = self._authorities.clock.now()

        def work(transaction: Transaction) -> StoredAuthority:
            transaction.lock()
            act, row = self._confirmed(transaction, act_id)
            transaction.record(
                LedgerEntry(
                    kind=EntryKind.ADMIN_ACT,
                    time=now,
                    actor=Actor.system().label,
                    subject=f"authority/{row.id}",
                    detail={"act": "root.key_handed_over", "by": act.id, "actSha256": act.sha256},
                )
            )
            return row

        row = await self._authorities.store.write(work)
        return HandedOver(authority_id=row.id, certificate_pem=row.certificate_pem, sealed_key=row.sealed_key)

    async def forget(self, act_id: str, proof: bytes) -> str:
        """Forget the key, for it is safe elsewhere; the id of the root. `proof` is its signature over `proof_text`.

        Raises:
            AppError: as `hand_over`; `PERMISSION_DENIED` when the proof is none; `CONFLICT` when somebody else changed
                authorities in between.
        """
        now = self._authorities.clock.now()

        def work(transaction: Transaction) -> tuple[PendingAct, StoredAuthority, AuthoritySet]:
            known = AuthoritySet.read(transaction, self._authorities.trust_domain)
            return *self._confirmed(transaction, act_id), known

        act, row, known = await self._authorities.store.read(work)
        public_key = authority_public_key(known.certificates[row.id].public_key())
        if not is_signed_by(public_key, proof, proof_text(act.id, row.id)):
            raise AppError(ErrorCode.PERMISSION_DENIED, "that is no signature with the key of the root")
        await self._authorities.commit(
            AuthorityChange(
                transition="root.key_moved",
                actor=f"admin:{act.requested_name}",
                subject=row.id,
                now=now,
                base=known.epoch,
                replaced=(replace(row, sealed_key=b""),),
                detail={"by": act.id, "actSha256": act.sha256, "approvedBy": f"admin:{act.decided_name}"},
            )
        )
        return row.id

    def _confirmed(self, transaction: Transaction, act_id: str) -> tuple[PendingAct, StoredAuthority]:
        """A confirmed act, and the root that it is about."""
        act = transaction.pending_acts.find(act_id)
        if act is None or act.kind != ROOT_EXPORT:
            raise AppError(ErrorCode.NOT_FOUND, "there is no such act; `gatehouse ca pending` shows them")
        if act.state is not ActState.APPROVED or act.decided_at is None:
            raise refused(f"the act is {act.state.value}: another administrator has to approve it first")
        until = act.decided_at + timedelta(seconds=self._authorities.limits.act_expiry_seconds)
        if until <= self._authorities.clock.now():
            raise refused("the act was approved too long ago: ask for it again")
        known = AuthoritySet.read(transaction, self._authorities.trust_domain)
        return act, _root_with_key(known, str(json.loads(act.body)["authority"]))


def _root_with_key(known: AuthoritySet, authority_id: str) -> StoredAuthority:
    row = known.find(authority_id)
    if row.role != AuthorityRole.ROOT or row.state in (AuthorityState.TAINTED, AuthorityState.RETIRED):
        raise refused(f"{row.id} is no root that is in use ({row.role}, {row.state}); `gatehouse ca list` shows them")
    if not row.sealed_key:
        place = "in a PKCS#11 token or a file of yours" if row.key_ref else "not here (any more)"
        raise refused(f"the key of the root {row.id} is {place}")
    return row
