"""Keeps a folder's certificate fresh: gets one, renews it at half of its life, keeps the old one on failure.

Renewal spreads itself by a random part of the life, failures back off as ztunnel's do (1 s, doubled up to 150 s, each
a fifth more or less). What happens is told in one line each; neither token nor key is ever in one.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from app.agent.certificate_client import CertificateService, request_certificate
from app.agent.certificate_folder import CertificateFolder
from app.agent.workload_svid import WorkloadSvid
from app.errors import AppError, ErrorCode
from app.identity.spiffe import SpiffeId, TrustDomain, WorkloadIdentity

HALF_LIFE, SPREAD = 0.5, 0.05
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS, RETRY_SPREAD = 1.0, 150.0, 0.2
HOOK_SECONDS = 30.0
_MAX_FILE_BYTES = 1_048_576
_MAX_TOKEN_BYTES = 65_536

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """What is kept fresh, from where. `identity` empty: that of the token, in `trust_domain`."""

    address: str
    roots_file: Path | None = None
    token_file: Path | None = None
    renew_address: str = ""
    identity: str = ""
    trust_domain: str = "cluster.local"
    cluster: str = ""
    server_name: str = ""
    ttl_seconds: int = 86_400
    hook: tuple[str, ...] = ()
    envoy: bool = True


class CertificateAgent:
    """Keeps one folder fresh."""

    def __init__(
        self,
        options: AgentOptions,
        folder: CertificateFolder,
        tell: Tell,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._options = options
        self._folder = folder
        self._tell = tell
        self._now = now
        self._sleep = sleep
        self._uniform = uniform

    async def once(self) -> WorkloadSvid:
        """Get a certificate now and put it into the folder.

        Raises:
            AppError: when there is none to be had, or it is not what was asked for; the folder is as it was.
        """
        await asyncio.to_thread(self._folder.prepare)
        svid = await self._get(await self._current())
        await self._switch(svid)
        return svid

    async def watch(self) -> None:
        """Keep it fresh for ever.

        Raises:
            AppError: only when the folder cannot be used at all.
        """
        await asyncio.to_thread(self._folder.prepare)
        current, retry = await self._current(), FIRST_RETRY_SECONDS
        if current is not None:
            await asyncio.to_thread(self._write_sds)
            await self._until_due(current)
        while True:
            try:
                fresh = await self._get(current)
                await self._switch(fresh)
            except AppError as error:
                pause = retry * self._uniform(1 - RETRY_SPREAD, 1 + RETRY_SPREAD)
                retry = min(2 * retry, LAST_RETRY_SECONDS)
                self._tell(f"not renewed: {error.detail}; {self._kept(current)}; trying again in {pause:.0f} s")
                await self._sleep(pause)
                continue
            current, retry = fresh, FIRST_RETRY_SECONDS
            await self._until_due(current)

    async def _until_due(self, svid: WorkloadSvid) -> None:
        due = svid.renew_at(self._uniform(HALF_LIFE - SPREAD, HALF_LIFE + SPREAD))
        self._tell(f"{svid.identity} until {_time(svid.not_after)}; will renew at {_time(due)}")
        await self._sleep(max(1.0, (due - self._now()).total_seconds()))

    def _kept(self, current: WorkloadSvid | None) -> str:
        if current is None:
            return "there is no certificate yet"
        if current.not_after <= self._now():
            return f"the certificate expired at {_time(current.not_after)}"
        return f"the one that is there holds until {_time(current.not_after)}"

    async def _current(self) -> WorkloadSvid | None:
        """What is in the folder, if it is whole, valid and of the identity that is wanted."""
        files = await asyncio.to_thread(self._folder.read)
        if files is None:
            return None
        try:
            return WorkloadSvid.parse(*files, await self._identity(), now=self._now())
        except AppError as error:
            self._tell(f"what is in the folder is not used: {error.detail}")
            return None

    async def _get(self, current: WorkloadSvid | None) -> WorkloadSvid:
        """A new certificate: over mutual TLS where that is configured and possible, else with the token."""
        options = self._options
        can_renew = bool(options.renew_address) and current is not None and self._now() < current.not_after
        if can_renew:
            try:
                return await self._ask(options.renew_address, client=current)
            except AppError as error:
                if options.token_file is None:
                    raise
                self._tell(f"not renewed over mutual TLS: {error.detail}; asking with the token")
        if options.token_file is None:
            raise AppError(
                ErrorCode.FAILED_PRECONDITION, "there is neither a token nor a valid certificate to renew with"
            )
        return await self._ask(options.address, token=await asyncio.to_thread(read_token, options.token_file))

    async def _ask(self, address: str, *, token: str = "", client: WorkloadSvid | None = None) -> WorkloadSvid:
        options, identity = self._options, await self._identity()
        key = ec.generate_private_key(ec.SECP256R1())
        service = CertificateService(
            address=address,
            roots_pem=await asyncio.to_thread(self._roots),
            server_name=options.server_name,
            cluster=options.cluster,
        )
        chain = await request_certificate(
            service, key, identity, ttl_seconds=options.ttl_seconds, token=token, client=client
        )
        return WorkloadSvid.accept(key, chain, identity, now=self._now())

    def _roots(self) -> bytes:
        """The roots that the service's own certificate may chain to: those of the file and those that it gave."""
        paths = [path for path in (self._options.roots_file, self._folder.bundle) if path is not None]
        found = [_read(path, _MAX_FILE_BYTES) for path in paths if path.exists() or path == self._options.roots_file]
        if not found:
            raise AppError(
                ErrorCode.FAILED_PRECONDITION,
                "it is not known whom to trust; name the roots of the service with --ca-file "
                "(`gatehouse ca bundle --file roots.pem` writes them)",
            )
        try:
            roots = dict.fromkeys(root for pem in found for root in x509.load_pem_x509_certificates(pem))
        except ValueError:
            raise AppError(
                ErrorCode.FAILED_PRECONDITION, f"{self._options.roots_file} holds no certificates in PEM"
            ) from None
        return b"".join(root.public_bytes(Encoding.PEM) for root in roots)

    async def _identity(self) -> str:
        options = self._options
        if options.identity:
            return str(SpiffeId.parse(options.identity))
        # INVARIANT: who has no token names the identity; the command line sees to it.
        assert options.token_file is not None
        token = await asyncio.to_thread(read_token, options.token_file)
        return identity_of(token, TrustDomain.parse(options.trust_domain))

    async def _switch(self, svid: WorkloadSvid) -> None:
        await asyncio.to_thread(self._write, svid)
        if self._options.hook:
            await self._run_hook(self._options.hook)

    def _write(self, svid: WorkloadSvid) -> None:
        self._folder.write(svid, f"{self._now():%Y_%m_%d_%H_%M_%S}.{random.randrange(10**9):09d}")  # noqa: S311 - a name
        self._write_sds()

    def _write_sds(self) -> None:
        if self._options.envoy:
            self._folder.write_sds()

    async def _run_hook(self, hook: Sequence[str]) -> None:
        """Run the command without a shell; that it fails changes nothing about the files."""
        try:
            process = await asyncio.create_subprocess_exec(*hook, stdin=asyncio.subprocess.DEVNULL)
        except OSError as error:
            self._tell(f"the command {hook[0]} cannot be run: {error.strerror}")
            return
        try:
            async with asyncio.timeout(HOOK_SECONDS):
                code = await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            self._tell(f"the command {hook[0]} did not end within {HOOK_SECONDS:.0f} s and was ended")
            return
        if code != 0:
            self._tell(f"the command {hook[0]} failed with exit code {code}")


def read_token(path: Path) -> str:
    """The bearer token in a file, as it stands there now.

    Raises:
        AppError: `FAILED_PRECONDITION` when it cannot be read, is empty, or is not one token.
    """
    try:
        token = _read(path, _MAX_TOKEN_BYTES).decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if not token or any(character.isspace() or not character.isprintable() for character in token):
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"the token file {path} does not hold exactly one token")
    return token


def identity_of(token: str, trust_domain: TrustDomain) -> str:
    """The identity of a service-account token. Nothing is verified here: the authority does that.

    Raises:
        AppError: `FAILED_PRECONDITION` when it does not name a service account.
    """
    try:
        payload = token.split(".")[1]
        subject = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"]
        _, _, namespace, account = subject.split(":")
        return str(WorkloadIdentity.parse(f"spiffe://{trust_domain}/ns/{namespace}/sa/{account}"))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, AppError):
        raise AppError(
            ErrorCode.FAILED_PRECONDITION,
            "the token does not say which service account it is for; name the identity: --identity",
        ) from None


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"{path} cannot be read: {error.strerror}") from None
    if len(data) > max_bytes:
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"{path} is longer than {max_bytes} bytes")
    return data


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
