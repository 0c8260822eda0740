"""The authority's end of the link on a free port, without the rest of the authority."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from app.authority.link_ports import EVERYTHING, Scope, WorkerCaller
from app.authority.policies.publish_snapshot import SnapshotPublisher
from app.authority.worker_registry import WorkerRegistry
from app.errors import AppError, ErrorCode
from app.limits import CheckLimits, HttpLimits
from app.link.server import LinkServices, create_link_app
from app.serving.binding import TcpEndpoint
from app.serving.http import HttpServer
from tests.support.snapshots import MemorySource, publisher

LINK_LIMITS = CheckLimits(link_timeout_seconds=5.0, long_poll_seconds=10.0, link_backoff_max_seconds=0.2)


@dataclass
class Authority:
    """Publishes what `source` holds to whoever has one of `tokens`."""

    source: MemorySource = field(default_factory=MemorySource)
    tokens: dict[str, Scope] = field(default_factory=lambda: {"good": EVERYTHING, "narrow": Scope(frozenset({"shop"}))})
    registry: WorkerRegistry = field(default_factory=WorkerRegistry)
    csrs: list[tuple[str, str]] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    converge_by: datetime | None = None
    checkpoint: str = ""
    heard: list[tuple[str, str]] = field(default_factory=list)
    wanted: list[str] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self.publisher: SnapshotPublisher = publisher(self.source)

    async def authenticate_worker(self, token: str) -> WorkerCaller:
        if token not in self.tokens:
            raise AppError(ErrorCode.UNAUTHENTICATED, "no such token")
        return WorkerCaller(token, self.tokens[token])

    async def issue_serving_certificate(
        self, worker: WorkerCaller, csr_pem: str, *, request_id: str, replaced: Sequence[str] = ()
    ) -> list[str]:
        self.csrs.append((worker.name, csr_pem))
        self.replaced.extend(replaced)
        if csr_pem == "crash":
            raise RuntimeError("secret text of a bug")
        if csr_pem == "bad":
            raise AppError(ErrorCode.MALFORMED, "not a CSR")
        return ["leaf", "root"]

    async def hear(self, note: str, where: str) -> None:
        self.heard.append((note, where))

    def hint(self, sources: Iterable[str]) -> None:
        self.wanted.extend(sources)

    def newest_note(self) -> str:
        return self.checkpoint

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    @asynccontextmanager
    async def serving(self, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Authority]:
        """Serve the link while the block runs; `url` says where."""
        services = LinkServices(
            publisher=self.publisher,
            workers=self,
            registry=self.registry,
            certificates=self,
            checkpoints=self,
            clock=self,
            limits=LINK_LIMITS,
            token_keys=self,
        )
        async with HttpServer(
            create_link_app(services), TcpEndpoint("127.0.0.1", port), limits=HttpLimits(shutdown_seconds=0.2), tls=tls
        ) as server:
            self.url = server.url
            yield self
