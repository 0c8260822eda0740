"""Opens the authorities at start: unseals what is stored, or makes the first root and issuing authority."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from app.authority.ports import AuthorityStore, Signer
from app.ca.authority import Authority
from app.ca.bundle import TrustBundle
from app.identity.spiffe import TrustDomain
from app.keys.sealing import Sealer


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAuthorities:
    """What issuing needs: the active authority, its signer, and the bundle of all roots."""

    active: Authority
    signer: Signer
    bundle: TrustBundle


async def open_authorities(
    store: AuthorityStore,
    sealer: Sealer,
    *,
    trust_domain: TrustDomain,
    now: datetime,
    create: bool,
) -> OpenAuthorities:
    """Open the stored authorities; with `create`, make them when there are none.

    Raises:
        AppError: `FAILED_PRECONDITION` when there are none and none may be made, or a key does not unseal.
    """
    raise NotImplementedError
