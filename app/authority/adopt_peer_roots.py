"""Takes roots of peer clusters of the same trust domain into the bundle, and lets them go again.

A new one is trusted at once: adding a root of one's own trust domain cuts nobody off, and it is how two clusters with
two roots meet. One that the peer gave up retires, and leaves when its certificates must have expired; when the peer
gives it out again it is back. What an administrator retired, tainted or removed here is not, whatever the peer says.
"""

from __future__ import annotations

from dataclasses import replace

from cryptography import x509

from app.authority.authorities import Authorities
from app.authority.authority_ports import AuthorityRole, AuthorityState, StoredAuthority
from app.authority.authority_set import adopted_id, pem_of, spiffe_names
from app.authority.commit_authorities import AuthorityChange
from app.ca.bundle import TrustBundle
from app.errors import AppError, ErrorCode
from app.identity.spiffe import SCHEME


class AdoptPeerRoots:
    """Implements `PeerRoots`."""

    def __init__(self, authorities: Authorities) -> None:
        self._authorities = authorities

    def is_own_root(self, certificate: x509.Certificate) -> bool:
        """See `app.authority.authority_ports.PeerRoots.is_own_root`."""
        return self._authorities.in_force.known.is_own_root(certificate)

    async def adopt(self, peer: str, roots: TrustBundle, *, actor: str) -> bool:
        """See `app.authority.authority_ports.PeerRoots.adopt`."""
        self._refuse_foreign(roots)
        known, _ = await self._authorities.read_fleet()
        now, source = self._authorities.clock.now(), f"peer:{peer}"
        present = {row.id: row for row in known.rows if row.source == source}
        wanted = {adopted_id(root, source): root for root in roots.roots if root.not_valid_after_utc > now}
        added, replaced = [], []
        for authority_id, root in wanted.items():
            row = present.get(authority_id)
            if row is None:
                added.append(
                    StoredAuthority(
                        id=authority_id,
                        role=AuthorityRole.PEER.value,
                        state=AuthorityState.ACTIVE.value,
                        certificate_pem=pem_of(root),
                        sealed_key=b"",
                        created_at=now,
                        source=source,
                        state_since=now,
                        automatic=True,
                    )
                )
            elif row.automatic and row.state in (AuthorityState.RETIRING, AuthorityState.RETIRED):
                replaced.append(replace(row, state=AuthorityState.ACTIVE.value, state_since=now))
        for authority_id, row in present.items():
            if authority_id not in wanted and row.state == AuthorityState.ACTIVE:
                replaced.append(replace(row, state=AuthorityState.RETIRING.value, state_since=now))
        if not added and not replaced:
            return False
        await self._authorities.commit(
            AuthorityChange(
                transition="peer.adopted",
                actor=actor,
                subject=source,
                now=now,
                base=known.epoch,
                added=tuple(added),
                replaced=tuple(replaced),
            )
        )
        return True

    def _refuse_foreign(self, roots: TrustBundle) -> None:
        own = self._authorities.trust_domain
        named = {name for root in roots.roots for name in spiffe_names(root)}
        if roots.trust_domain != own or named - {f"{SCHEME}{own}"}:
            raise AppError(
                ErrorCode.INVALID,
                f"these roots are of another trust domain than {own}: a root that is trusted here can name any "
                "identity, so those of others never are",
            )
