"""Takes the user's files as the issuing authority: at once where that is safe, else staged like any rotation.

A new intermediate under a root that everybody has needs nobody's consent. A new root comes into the bundle first, and
the issuing authority under it takes over by itself as soon as everybody has received it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import structlog
from cryptography import x509

from app.authority.authorities.authorities import Authorities
from app.authority.authorities.authority_ports import AuthorityRole, AuthorityState, ParentFiles, StoredAuthority
from app.authority.authorities.authority_set import AuthoritySet, adopted_id, parse_certificates, pem_of, refused
from app.authority.authorities.commit_authorities import AuthorityChange, with_states
from app.authority.authorities.make_authorities import complete, place_root
from app.ca.lifecycle import Allowed, Step, judge
from app.errors import AppError, ErrorCode

_log = structlog.get_logger(__name__)

_SOURCE = "files"


def rows_of_files(known: AuthoritySet, files: ParentFiles, now: datetime) -> tuple[StoredAuthority, ...]:
    """What the files are: new roots, prepared, and last the issuing authority.

    Raises:
        AppError: `INVALID` when certificate, chain and roots do not belong together; `FAILED_PRECONDITION` when a
            root in them was removed here.
    """
    roots = parse_certificates(files.roots_pem, what="the roots")
    own = parse_certificates(files.certificate_pem, what="the certificate")
    if len(own) != 1 or not roots:
        raise AppError(ErrorCode.INVALID, "one certificate and at least one root are needed")
    above = parse_certificates(files.chain_pem, what="the chain")
    top = above[-1] if above else own[0]
    # A root that issues itself stands above nothing but itself.
    anchors = [root for root in roots if root.subject == top.issuer]
    row = StoredAuthority(
        id=adopted_id(own[0], _SOURCE),
        role=AuthorityRole.ISSUING.value,
        state=AuthorityState.PREPARED.value,
        certificate_pem="",
        sealed_key=b"",
        created_at=now,
        key_ref=f"file:{files.key_path}",
        source=_SOURCE,
        state_since=now,
        automatic=True,
    )
    made = _complete_with(known, row, files, anchors, now)
    added = {one.id: one for one in made[:-1]}
    for root in roots:
        _, more = place_root(known, root, _SOURCE, now)
        added |= {one.id: one for one in more}
    return (*added.values(), made[-1])


def _complete_with(
    known: AuthoritySet,
    row: StoredAuthority,
    files: ParentFiles,
    anchors: Sequence[x509.Certificate],
    now: datetime,
) -> tuple[StoredAuthority, ...]:
    """The row with its chain, under the first of the possible roots that signed it (two may have one name)."""
    failure = AppError(ErrorCode.INVALID, "none of the roots is the issuer of the certificate or of its chain")
    for anchor in anchors:
        try:
            return complete(known, row, f"{files.certificate_pem}\n{files.chain_pem}\n{pem_of(anchor)}", now)
        except AppError as error:
            failure = error
    raise failure


class AdoptParent:
    """Implements `ParentSink`."""

    def __init__(self, authorities: Authorities) -> None:
        self._authorities = authorities

    async def adopt_parent(self, files: ParentFiles, *, actor: str) -> bool:
        """See `app.authority.authorities.authority_ports.ParentSink.adopt_parent`."""
        known, _ = await self._authorities.read_fleet()
        now = self._authorities.clock.now()
        wanted = rows_of_files(known, files, now)
        issuing = wanted[-1]
        present = next((row for row in known.rows if row.id == issuing.id), None)
        added = tuple(row for row in wanted[:-1])
        if present is not None and present.state in (AuthorityState.RETIRED, AuthorityState.TAINTED):
            raise refused(f"the authority in the files is {present.state} here: put another one there")
        if present is None:
            await self._authorities.maker.open(issuing)  # the key must belong to it before anything is stored
            added = wanted
        replaced: tuple[StoredAuthority, ...] = ()
        if present is not None and present.key_ref != issuing.key_ref:
            replaced = (replace(present, key_ref=issuing.key_ref),)
        if not added and not replaced:
            return False
        await self._authorities.commit(
            AuthorityChange(
                transition="adopted",
                actor=actor,
                subject=issuing.id,
                now=now,
                base=known.epoch,
                added=added,
                replaced=replaced,
                detail={"source": _SOURCE},
            )
        )
        await self._activate_if_safe(issuing.id, actor)
        return True

    async def _activate_if_safe(self, authority_id: str, actor: str) -> None:
        known, fleet = await self._authorities.read_fleet()
        now = self._authorities.clock.now()
        verdict = judge(Step.ACTIVATE, authority_id, fleet, self._authorities.rules, now)
        if not isinstance(verdict, Allowed):
            _log.info("authority_waits", authority=authority_id, reason=verdict.reason)
            return
        await self._authorities.commit(
            AuthorityChange(
                transition=Step.ACTIVATE.value,
                actor=actor,
                subject=authority_id,
                now=now,
                base=known.epoch,
                replaced=with_states(known, verdict.changes, now),
            )
        )
