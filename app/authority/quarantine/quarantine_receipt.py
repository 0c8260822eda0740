"""What a quarantine has cut off and what it has not: the receipt.

It says what the authority knows and no more: which workers confirmed the snapshot that carries the quarantine, that
lists were published, and which certificates stay valid until when for whoever reads no list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from app.authority.certificates.stored_certificates import StoredCertificate
from app.authority.quarantine.publish_crls import PublishedCrl, Unpublished
from app.authority.worker_registry import WorkerStatus
from app.errors import FieldError
from app.policy.quarantine import Quarantine

SILENT_AFTER = timedelta(seconds=5)  # a worker reports every second
_LISTED = 100  # certificates that a receipt names one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineFacts:
    """What a receipt is written from. `number` is the snapshot number that carries the change."""

    quarantine: Quarantine
    lifted: bool
    number: int
    revision: int
    workers: Sequence[WorkerStatus]
    certificates: Sequence[StoredCertificate]
    truncated: bool  # there are more certificates than are counted here
    crls: Sequence[PublishedCrl]
    unpublished: Sequence[Unpublished]
    now: datetime
    other_replicas: int = 0  # of the authority: workers that report to them are not known here
    warnings: Sequence[FieldError] = ()


def confirmed(workers: Iterable[WorkerStatus], number: int) -> list[WorkerStatus]:
    """The workers that said they serve this snapshot or a newer one."""
    return [worker for worker in workers if _number(worker) >= number]


def awaited(workers: Iterable[WorkerStatus], number: int, now: datetime) -> list[WorkerStatus]:
    """The workers that are alive and have not confirmed."""
    return [worker for worker in workers if _number(worker) < number and now - worker.seen_at <= SILENT_AFTER]


def write_receipt(facts: QuarantineFacts) -> dict[str, Any]:
    """The receipt as JSON."""
    quarantine, now = facts.quarantine, facts.now
    holds = not facts.lifted and quarantine.holds(now)
    return {
        "name": quarantine.name,
        "state": "lifted" if facts.lifted else "holds" if holds else "ended",
        **subject_json(quarantine),
        "reason": quarantine.reason,
        "until": quarantine.until.isoformat() if quarantine.until else None,
        "revision": facts.revision,
        "snapshot": facts.number,
        "time": now.isoformat(),
        "issuing": "stopped" if holds else "allowed",
        "workers": _workers(facts),
        "crls": [_crl(crl) for crl in facts.crls],
        "certificates": _certificates(facts),
        "warnings": [warning.message for warning in facts.warnings] if holds else [],
        "notCut": _not_cut(facts) if holds else _not_restored(facts),
    }


def subject_json(quarantine: Quarantine) -> dict[str, Any]:
    """What is quarantined, as the API shows it."""
    members = {
        "identity": quarantine.identity or (f"spiffe://*{quarantine.account}" if quarantine.account else ""),
        "node": quarantine.node,
        "cluster": quarantine.cluster,
        "serial": quarantine.serial,
    }
    return {"subject": {name: value for name, value in members.items() if value}}


def _workers(facts: QuarantineFacts) -> dict[str, Any]:
    done = confirmed(facts.workers, facts.number)
    rest = [worker for worker in facts.workers if worker not in done]
    return {
        "confirmed": [worker.worker for worker in done],
        "notConfirmed": [
            {
                "worker": worker.worker,
                "serves": _number(worker),
                "seenSecondsAgo": round(max(0.0, (facts.now - worker.seen_at).total_seconds()), 3),
            }
            for worker in rest
        ],
        "otherReplicas": facts.other_replicas,
    }


def _crl(crl: PublishedCrl) -> dict[str, Any]:
    return {
        "issuer": crl.stored.issuer,
        "number": crl.stored.number,
        "publishedAt": crl.stored.this_update.isoformat(),
        "nextUpdate": crl.stored.next_update.isoformat(),
        "revoked": crl.revoked,
    }


def _certificates(facts: QuarantineFacts) -> dict[str, Any]:
    found = facts.certificates
    return {
        "count": len(found),
        "isComplete": not facts.truncated,
        "validUntil": _latest(found),
        "nodes": sorted({certificate.node for certificate in found if certificate.node}),
        "newest": [
            {
                "serial": certificate.serial,
                "identity": certificate.identity,
                "node": certificate.node,
                "notAfter": certificate.not_after.isoformat() if certificate.not_after else None,
            }
            for certificate in found[:_LISTED]
        ],
    }


def _not_cut(facts: QuarantineFacts) -> list[dict[str, Any]]:
    quarantine = facts.quarantine
    found: list[dict[str, Any]] = []
    if facts.certificates:
        found.append(
            {
                "what": "certificates",
                "count": len(facts.certificates),
                "until": _latest(facts.certificates),
                "why": "they stay valid for whoever reads no revocation list, such as a ztunnel without CRL_PATH; the "
                "lists are published, and who has read them is not known here",
            }
        )
    pending = _workers(facts)["notConfirmed"]
    if pending:
        found.append(
            {
                "what": "decision workers",
                "count": len(pending),
                "workers": [worker["worker"] for worker in pending],
                "why": "they have not confirmed the snapshot, and go on allowing until they load it",
            }
        )
    if not facts.workers:
        found.append(
            {
                "what": "decision workers",
                "count": 0,
                "why": "no decision worker reports to this replica of the authority, so nobody confirmed",
            }
        )
    found += _elsewhere(facts)
    if quarantine.node or quarantine.serial:
        found.append(
            {
                "what": "requests through proxies that do not send the peer's certificate",
                "why": "a Check then knows the identity only; quarantine the identities, or switch on "
                "include_peer_certificate",
            }
        )
    found += [
        {"what": f"revocation list of authority {one.issuer}", "why": f"it is not published: {one.reason}"}
        for one in facts.unpublished
    ]
    return found


def _not_restored(facts: QuarantineFacts) -> list[dict[str, Any]]:
    if not facts.lifted:
        return []
    pending = _workers(facts)["notConfirmed"]
    found: list[dict[str, Any]] = []
    if pending:
        found.append(
            {
                "what": "decision workers",
                "count": len(pending),
                "workers": [worker["worker"] for worker in pending],
                "why": "they have not confirmed the snapshot, and go on denying until they load it",
            }
        )
    return found + _elsewhere(facts)


def _elsewhere(facts: QuarantineFacts) -> list[dict[str, Any]]:
    """The workers of which this replica cannot say anything."""
    if not facts.other_replicas:
        return []
    return [
        {
            "what": "decision workers of other replicas of the authority",
            "replicas": facts.other_replicas,
            "why": f"{facts.other_replicas} more ran lately; which workers report there, and what those serve, is not "
            "known here: `gatehouse quarantine show` at each tells",
        }
    ]


def _number(worker: WorkerStatus) -> int:
    number = worker.report.get("number")
    return number if isinstance(number, int) else -1


def _latest(certificates: Iterable[StoredCertificate]) -> str | None:
    times = [certificate.not_after for certificate in certificates if certificate.not_after is not None]
    return max(times).isoformat() if times else None
