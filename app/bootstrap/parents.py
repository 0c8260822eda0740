"""Parents, peers and where the bundle goes: built from settings."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from app.authority.authority_ports import ParentFiles, UpstreamAuthority
from app.authority.follow_peers import Peer, PeerBundles, PeerSource, PeerStatus
from app.authority.peer_sequences import StoredPeerSequences
from app.authority.ports import Clock
from app.bootstrap.authorities import AuthorityParts
from app.fetch.client import HttpClient
from app.identity.spiffe import TrustDomain
from app.limits import Limits
from app.parents.bundle_file import BundleFile
from app.parents.file_drop import FileDrop
from app.parents.files import ParentStatus, ParentWatcher, read_parent_files
from app.parents.peer_source import FilePeerSource, HttpPeerSource
from app.parents.vault import VaultAuthority, VaultLogin, VaultMount
from app.settings import Settings
from app.settings.parents import PeerSettings, VaultAuthSettings, VaultSettings
from app.telemetry import metrics


async def first_parent(settings: Settings, clock: Clock) -> ParentFiles | None:
    """The user's own files, where they are the parent.

    Raises:
        AppError: `INVALID` or `MALFORMED`, naming the file and what is wrong with it.
    """
    parent = settings.ca.parent
    if parent.kind != "files":
        return None
    assert parent.directory is not None
    trust_domain = TrustDomain.parse(settings.trust_domain)
    return await read_parent_files(parent.directory, trust_domain=trust_domain, clock=clock)


def upstream_of(settings: Settings, clock: Clock) -> UpstreamAuthority | None:
    """The parent that signs online, where there is one.

    Raises:
        AppError: `INVALID` when its URL or its CA file cannot be used.
    """
    parent, trust_domain = settings.ca.parent, TrustDomain.parse(settings.trust_domain)
    if parent.kind != "upstream":
        return None
    if parent.drop.directory is not None:
        return FileDrop(
            parent.drop.directory, trust_domain=trust_domain, clock=clock, wait_seconds=parent.drop.wait_seconds
        )
    vault = parent.vault
    client = HttpClient(vault.url, settings.limits.fetch, allow_private=vault.allow_private, ca_file=vault.ca_file)
    return VaultAuthority(client, _login(vault.auth), _mount(vault), trust_domain=trust_domain, clock=clock)


def _login(auth: VaultAuthSettings) -> VaultLogin:
    if auth.token_file is not None:
        return VaultLogin(token_file=auth.token_file)
    if auth.approle_role_id:
        return VaultLogin(
            mount=auth.mount or "approle", role_id=auth.approle_role_id, secret_file=auth.approle_secret_id_file
        )
    return VaultLogin(
        mount=auth.mount or "kubernetes", role=auth.kubernetes_role, secret_file=auth.kubernetes_token_file
    )


def _mount(vault: VaultSettings) -> VaultMount:
    return VaultMount(
        mount=vault.mount,
        issuer=vault.issuer,
        namespace=vault.namespace,
        use_csr_values=vault.use_csr_values,
        roots_file=vault.roots_file,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Followers:
    """What follows the world outside while the authority runs."""

    peers: PeerBundles
    files: ParentWatcher | None
    bundle_file: BundleFile | None

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What is to run beside everything else."""
        followers = (self.peers, self.files, self.bundle_file)
        return [follower.run() for follower in followers if follower is not None]


def build_followers(settings: Settings, parts: AuthorityParts, clock: Clock) -> Followers:
    """The peers' bundles, a parent's files, the bundle in a file.

    Raises:
        AppError: `INVALID` when a URL or a CA file cannot be used.
    """
    limits, trust_domain = settings.limits, TrustDomain.parse(settings.trust_domain)
    parent, observer = settings.ca.parent, _Metrics()
    files = None
    if parent.kind == "files":
        assert parent.directory is not None
        files = ParentWatcher(
            parent.directory, parts.parent, limits.parent, trust_domain=trust_domain, clock=clock, observer=observer
        )
    bundle_file = settings.ca.bundle.file
    return Followers(
        peers=PeerBundles(
            [_peer(peer, limits) for peer in settings.ca.peers],
            parts.peers,
            limits.parent,
            sequences=StoredPeerSequences(parts.authorities.store),
            trust_domain=trust_domain,
            clock=clock,
            observer=observer,
        ),
        files=files,
        bundle_file=None if bundle_file is None else BundleFile(bundle_file, parts.authorities, limits.parent),
    )


def _peer(peer: PeerSettings, limits: Limits) -> Peer:
    source: PeerSource
    if peer.file is not None:
        source = FilePeerSource(peer.file, max_bytes=limits.fetch.max_bytes)
    else:
        source = HttpPeerSource(
            HttpClient(peer.url, limits.fetch, allow_private=peer.allow_private, ca_file=peer.ca_file)
        )
    return Peer(
        name=peer.name,
        source=source,
        is_spiffe=peer.format == "spiffe",
        pins=frozenset(peer.pins),
        refresh_seconds=peer.refresh_seconds,
    )


class _Metrics:
    """Implements `PeerObserver` and `ParentObserver` with metrics."""

    def peer_seen(self, status: PeerStatus, *, age_seconds: float) -> None:
        """The age of what is known of a peer, and whether something of it is held back."""
        metrics.PEER_BUNDLE_AGE.labels(status.name).set(age_seconds)
        metrics.PEER_BUNDLE_HELD.labels(status.name).set(status.state == "held")

    def parent_seen(self, status: ParentStatus) -> None:
        """Whether a parent's files were refused."""
        metrics.PARENT_REFUSED.labels("files").set(status.state == "refused")
