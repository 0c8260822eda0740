"""How the authorities stand: states, ends, who has which root, what may be done next and what blocks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.authority.authorities.authorities import Authorities
from app.authority.authorities.authority_ports import AuthorityRole, AuthorityState, StoredAuthority
from app.authority.authorities.authority_set import ROOT_ROLES, AuthoritySet, bundles_with, certificate_hash, read_fleet
from app.authority.authorities.authority_store import NodeHolding, StoredBundle
from app.authority.store import Transaction
from app.ca.lifecycle import Blocked, Coverage, Fleet, Member, Replica, Step, judge

_STEPS = {
    AuthorityState.PREPARED: (Step.ACTIVATE, Step.RETIRE, Step.TAINT),
    AuthorityState.ACTIVE: (Step.RETIRE, Step.TAINT),
    AuthorityState.RETIRING: (Step.ACTIVATE, Step.REMOVE, Step.TAINT),
    AuthorityState.TAINTED: (Step.REMOVE,),
    AuthorityState.RETIRED: (),
}


@dataclass(frozen=True, slots=True)
class _Picture:
    """Everything that is shown, of one moment."""

    known: AuthoritySet
    fleet: Fleet
    published: StoredBundle | None
    now: datetime


class DescribeAuthorities:
    """Answers `gatehouse ca list|show` as JSON values."""

    def __init__(self, authorities: Authorities) -> None:
        self._authorities = authorities

    async def all(self) -> dict[str, Any]:
        """Every authority with its next steps, the bundle and the replicas."""
        picture = await self._authorities.store.read(self._look)
        published = picture.published
        return {
            "epoch": picture.known.epoch,
            "bundle": {
                "sequence": published.sequence if published else 0,
                "fingerprint": published.fingerprint if published else "",
                "since": published.since if published else None,
            },
            "items": [self._shown(row, picture) for row in picture.known.rows],
            "replicas": [self._replica(one, picture) for one in picture.fleet.replicas],
        }

    async def one(self, authority_id: str) -> dict[str, Any]:
        """One authority, with its certificate and the nodes that have not received its root.

        Raises:
            AppError: `NOT_FOUND`.
        """

        def work(transaction: Transaction) -> tuple[_Picture, StoredAuthority, tuple[NodeHolding, ...]]:
            picture = self._look(transaction)
            row = picture.known.find(authority_id)
            root = picture.known.certificates.get(row.id if row.role in ROOT_ROLES else row.root_id)
            missing: tuple[NodeHolding, ...] = ()
            if root is not None:
                having = bundles_with(certificate_hash(root), transaction.authorities.bundles())
                missing = transaction.authorities.nodes_without(
                    having,
                    picture.now,
                    picture.now - self._authorities.rules.propagation,
                    self._authorities.limits.max_listed_nodes,
                )
            return picture, row, missing

        picture, row, missing = await self._authorities.store.read(work)
        return {
            **self._shown(row, picture),
            "certificatePem": row.certificate_pem,
            "chainPem": row.chain_pem,
            "csrPem": row.csr_pem if not row.certificate_pem else "",
            "nodesWithout": [
                {"cluster": node.cluster, "node": node.node, "workloads": node.holders, "until": node.until}
                for node in missing
            ],
        }

    def _look(self, transaction: Transaction) -> _Picture:
        now = self._authorities.clock.now()
        known = AuthoritySet.read(transaction, self._authorities.trust_domain)
        return _Picture(
            known,
            read_fleet(transaction, known, self._authorities.rules, now),
            transaction.authorities.published(),
            now,
        )

    def _replica(self, replica: Replica, picture: _Picture) -> Mapping[str, Any]:
        holds_up = replica.holds_up_until(picture.fleet.epoch, self._authorities.rules, picture.now)
        return {"id": replica.id, "epoch": replica.epoch, "seenAt": replica.seen_at, "holdsUpUntil": holds_up}

    def _shown(self, row: StoredAuthority, picture: _Picture) -> dict[str, Any]:
        member = picture.fleet.members[row.id]
        certificate = picture.known.certificates.get(row.id)
        root_id = row.id if row.role in ROOT_ROLES else row.root_id
        return {
            "id": row.id,
            "role": row.role,
            "state": row.state,
            "since": member.since,
            "source": row.source,
            "root": row.root_id,
            "subject": certificate.subject.rfc4514_string() if certificate is not None else "",
            "notBefore": member.not_before,
            "notAfter": member.not_after,
            "key": _key_place(row),
            "automatic": row.automatic,
            "neededUntil": _needed(member, picture.fleet),
            "coverage": _coverage(picture.fleet.coverage.get(root_id)),
            "steps": [self._step(step, member, picture) for step in _steps_of(member)],
        }

    def _step(self, step: Step, member: Member, picture: _Picture) -> Mapping[str, Any]:
        verdict = judge(step, member.id, picture.fleet, self._authorities.rules, picture.now)
        if not isinstance(verdict, Blocked):
            return {"step": step.value, "allowed": True, "reason": "", "do": "", "until": None, "forcible": False}
        return {
            "step": step.value,
            "allowed": False,
            "reason": verdict.reason,
            "do": verdict.do,
            "until": verdict.until,
            "forcible": verdict.unsafe,
        }


def _steps_of(member: Member) -> tuple[Step, ...]:
    """The steps that mean something for it: a root is activated with what is under it."""
    steps = _STEPS[member.state]
    if member.role is AuthorityRole.ISSUING:
        return steps
    return tuple(step for step in steps if step is not Step.ACTIVATE)


def _coverage(coverage: Coverage | None) -> dict[str, Any] | None:
    if coverage is None:
        return None
    return {"workloads": coverage.holders, "covered": coverage.covered, "until": coverage.until}


def _key_place(row: StoredAuthority) -> str:
    """Where the key is, without saying anything of it."""
    if row.key_ref:
        return row.key_ref.partition(":")[0]
    return "sealed" if row.sealed_key else "elsewhere"


def _needed(member: Member, fleet: Fleet) -> datetime | None:
    signers = fleet.below(member.id) if member.role is AuthorityRole.ROOT else (member,)
    return max((one.needed_until for one in signers if one.needed_until is not None), default=None)
