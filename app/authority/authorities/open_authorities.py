"""Opens the authorities at start; at a first run, makes or adopts the first root and issuing authority.

Making new ones is only done when the caller says that this is a first start: an installation that has lost its
database or its passphrase must not come up with a new root in silence, for every workload would stop trusting it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from app.authority.authorities.adopt_parent import rows_of_files
from app.authority.authorities.authorities import Authorities
from app.authority.authorities.authority_ports import AuthorityState, ParentFiles, StoredAuthority
from app.authority.authorities.authority_set import AuthoritySet, refused, spiffe_names
from app.authority.authorities.commit_authorities import AuthorityChange
from app.errors import AppError, ErrorCode
from app.identity.spiffe import SCHEME, TrustDomain


async def open_authorities(authorities: Authorities, *, create: bool, parent: ParentFiles | None = None) -> bool:
    """Open what is stored; with `create`, make or adopt it when there is none. Whether it was made by this very start.

    With `parent` the first authority is the user's; with an upstream parent it is signed there; else it is our own.

    Raises:
        AppError: `FAILED_PRECONDITION` when there are none and none may be made, a key does not open or does not
            belong to its certificate, or they are of another trust domain; `UNAVAILABLE`.
    """
    known, _ = await authorities.read_fleet()
    created = False
    if not known.rows:
        if not create:
            raise refused(
                "the database has no certificate authority, and this is not a first start; restore the database, "
                "for a new root would cut off every workload"
            )
        now = authorities.clock.now()
        made = await _first(authorities, known, parent, now)
        try:
            await authorities.commit(
                AuthorityChange(
                    transition="created",
                    actor="system",
                    subject=str(authorities.trust_domain),
                    now=now,
                    base=known.epoch,
                    added=made,
                )
            )
            created = True
        except AppError as error:
            if error.code is not ErrorCode.CONFLICT:
                raise
            for row in made:  # another replica was faster: what it made counts
                await authorities.maker.close(row.id)
        known, _ = await authorities.read_fleet()
    _check_trust_domain(known, authorities.trust_domain)
    await authorities.open()
    return created


async def _first(
    authorities: Authorities, known: AuthoritySet, parent: ParentFiles | None, now: datetime
) -> tuple[StoredAuthority, ...]:
    maker = authorities.maker
    if parent is not None:
        made = rows_of_files(known, parent, now)
        await maker.open(made[-1])  # the key must belong to it before anything is stored
    elif maker.has_upstream:
        made = await maker.issuing(known, "", now)
    else:
        return await maker.root_and_issuing(AuthorityState.ACTIVE, now)
    # Nothing is issued yet, so there is nobody to wait for.
    root_id = made[-1].root_id
    active = {root_id, made[-1].id}
    return tuple(replace(row, state=AuthorityState.ACTIVE.value) if row.id in active else row for row in made)


def _check_trust_domain(known: AuthoritySet, trust_domain: TrustDomain) -> None:
    """Those who name a trust domain must name this one; a corporate root names none."""
    for row in known.rows:
        certificate = known.certificates.get(row.id)
        if certificate is None or row.state == AuthorityState.RETIRED:
            continue
        uris = spiffe_names(certificate)
        if uris and f"{SCHEME}{trust_domain}" not in uris:
            raise refused(f"the stored certificate authority is not of the trust domain {trust_domain}; set it back")
