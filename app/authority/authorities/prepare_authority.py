"""Prepares authorities: a successor under the same root, a new root, or one that a parent elsewhere signs."""

from __future__ import annotations

from dataclasses import replace

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_csr

from app.authority.actor import Actor, Role
from app.authority.authorities.authorities import Authorities
from app.authority.authorities.authority_ports import AuthorityRole, AuthorityState, StoredAuthority
from app.authority.authorities.authority_set import AuthoritySet, parse_certificates, refused
from app.authority.authorities.commit_authorities import AuthorityChange
from app.authority.authorities.make_authorities import complete
from app.ca.authority_lint import public_key_der
from app.errors import AppError, ErrorCode


class PrepareAuthority:
    """Makes authorities that do not sign yet. A new root is in the bundle from then on."""

    def __init__(self, authorities: Authorities) -> None:
        self._authorities = authorities

    async def rotate(self, actor: Actor, role: AuthorityRole, *, reason: str = "") -> tuple[StoredAuthority, ...]:
        """Prepare a new root with an issuing authority under it, or a new issuing authority under the same parent.

        Raises:
            AppError: `FAILED_PRECONDITION` when the parent's key is not here and no parent signs online (the
                sentence names the commands), one is prepared already, or the clock was moved; what keeper and parent
                raise.
        """
        actor.require(Role.ADMIN)
        self._authorities.check_clock()
        known, _ = await self._authorities.read_fleet()
        _refuse_second(known, role)
        now, maker = self._authorities.clock.now(), self._authorities.maker
        made: tuple[StoredAuthority, ...]
        if role is AuthorityRole.ROOT:
            made = await maker.root_and_issuing(AuthorityState.PREPARED, now)
        else:
            active = known.active()
            if active is None:
                raise refused("no issuing authority is active; activate one, or prepare a new root")
            made = await maker.issuing(known, active.root_id, now)
        await self._store(actor, f"{role.value}.prepared", known, made, reason)
        return made

    async def request_signature(self, actor: Actor, *, reason: str = "") -> StoredAuthority:
        """A new key and its CSR, for a parent that is offline or not ours.

        Raises:
            AppError: what the keeper raises.
        """
        actor.require(Role.ADMIN)
        self._authorities.check_clock()
        known, _ = await self._authorities.read_fleet()
        made = await self._authorities.maker.request(self._authorities.clock.now())
        await self._store(actor, "request.made", known, (made,), reason)
        return made

    async def import_signed(self, actor: Actor, pem: str, *, reason: str = "") -> tuple[StoredAuthority, ...]:
        """Take what a parent made of a CSR of ours: the certificate first, then the chain, the root last if new.

        Raises:
            AppError: `MALFORMED`; `INVALID` when it belongs to no request of ours or its chain does not hold;
                `FAILED_PRECONDITION` when its root was removed here.
        """
        actor.require(Role.ADMIN)
        self._authorities.check_clock()
        known, _ = await self._authorities.read_fleet()
        now = self._authorities.clock.now()
        waiting = _request_of(known, pem)
        made = complete(known, waiting, pem, now)
        await self._authorities.maker.open(made[-1])  # the key must be there, and the certificate's
        await self._authorities.commit(
            AuthorityChange(
                transition="imported",
                actor=actor.label,
                request_id=actor.request_id,
                subject=waiting.id,
                now=now,
                base=known.epoch,
                added=made[:-1],
                replaced=(replace(made[-1], state_since=now),),
                detail={"reason": reason},
            )
        )
        return made

    async def _store(
        self, actor: Actor, transition: str, known: AuthoritySet, made: tuple[StoredAuthority, ...], reason: str
    ) -> None:
        change = AuthorityChange(
            transition=transition,
            actor=actor.label,
            request_id=actor.request_id,
            subject=made[-1].id,
            now=made[-1].created_at,
            base=known.epoch,
            added=made,
            detail={"reason": reason},
        )
        try:
            await self._authorities.commit(change)
        except AppError:
            for row in made:
                await self._authorities.maker.close(row.id)
            raise


def _refuse_second(known: AuthoritySet, role: AuthorityRole) -> None:
    """One of a kind at a time: whoever asks twice finds the first instead of wondering later which one it was."""
    active = known.active()
    for row in known.rows:
        if row.role != role.value or row.state != AuthorityState.PREPARED or not row.certificate_pem:
            continue
        if role is AuthorityRole.ISSUING and (active is None or row.root_id != active.root_id):
            continue
        raise refused(
            f"the {role.value} authority {row.id} is prepared already: activate it, or retire it with "
            f"`gatehouse ca retire {row.id}`"
        )


def _request_of(known: AuthoritySet, pem: str) -> StoredAuthority:
    certificates = parse_certificates(pem, what="the file")
    if not certificates:
        raise AppError(ErrorCode.INVALID, "there is no certificate in it")
    key = public_key_der(certificates[0])
    for row in known.rows:
        if row.state != AuthorityState.PREPARED or row.certificate_pem or not row.csr_pem:
            continue
        request = load_pem_x509_csr(row.csr_pem.encode("ascii"))
        if request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == key:
            return row
    raise AppError(
        ErrorCode.INVALID,
        "the first certificate in it belongs to no request of ours that is still open; the certificate comes first, "
        "then those above it",
    )
