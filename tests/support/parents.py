"""Ports of parents and peers that remember, and CSRs of authorities."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from app.authority.authority_ports import ParentFiles
from app.authority.peer_sequences import SeenBundle
from app.ca.bundle import TrustBundle
from app.errors import AppError
from tests.support.istio_files import name


def authority_csr(key: ec.EllipticCurvePrivateKey, uri: str = "spiffe://cluster.local") -> str:
    """A CSR as an issuing authority of ours makes it."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name(O="cluster.local", CN="Gatehouse issuing"))
    return builder.add_extension(names, critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


@dataclass
class RememberingSink:
    """A `ParentSink`."""

    adopted: list[ParentFiles] = field(default_factory=list)
    failure: AppError | None = None

    async def adopt_parent(self, files: ParentFiles, *, actor: str) -> bool:
        if self.failure is not None:
            raise self.failure
        changed = not self.adopted or self.adopted[-1] != files
        self.adopted.append(files)
        return changed


@dataclass
class RememberingRoots:
    """A `PeerRoots`."""

    adopted: list[tuple[str, TrustBundle]] = field(default_factory=list)
    failure: AppError | None = None
    own: tuple[x509.Certificate, ...] = ()

    def is_own_root(self, certificate: x509.Certificate) -> bool:
        return certificate in self.own

    async def adopt(self, peer: str, roots: TrustBundle, *, actor: str) -> bool:
        if self.failure is not None:
            raise self.failure
        changed = not self.adopted or self.adopted[-1] != (peer, roots)
        self.adopted.append((peer, roots))
        return changed


@dataclass
class RememberedSequences:
    """A `PeerSequences` in memory; outlives the followers that share it."""

    seen: dict[str, SeenBundle] = field(default_factory=dict)

    async def last(self, peer: str) -> SeenBundle | None:
        return self.seen.get(peer)

    async def believe(self, peer: str, seen: SeenBundle) -> None:
        self.seen[peer] = seen


class ManualTime:
    """A monotonic clock that a test owns."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds
