"""The link as a worker uses it; implements `SnapshotLink`.

One keep-alive HTTP client without redirects, retries or proxies from the environment. Every body is bounded while
it is read, manifests are believed by their signature, parts by their hash.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import structlog

from app.decision.ports import SignedManifest, StatusAnswer
from app.errors import AppError, ErrorCode
from app.limits import CheckLimits
from app.link.signing import ManifestVerifier
from app.link.wire import (
    MAX_CHAIN_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_PROBLEM_BYTES,
    MAX_STATUS_BYTES,
    SIGNATURE_HEADER,
    ServingChain,
    read_deadline,
)
from app.policy.canonical import sha256_hex
from app.policy.snapshot import Manifest, Part, PartRef

_log = structlog.get_logger(__name__)

_PARALLEL_FETCHES = 8


class LinkClient:
    """The authority, seen from a worker."""

    def __init__(self, http: httpx2.AsyncClient, verifier: ManifestVerifier, *, limits: CheckLimits) -> None:
        self._http = http
        self._verifier = verifier
        self._limits = limits

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str,
        *,
        token: str,
        verifier: ManifestVerifier,
        limits: CheckLimits,
        tls: ssl.SSLContext | None = None,
    ) -> AsyncIterator[LinkClient]:
        """A client for the authority at `url` (http or https); nothing is sent yet.

        Args:
            url: where the link listens, for example `http://127.0.0.1:8081`.
            token: the worker's bearer token.
            verifier: the pinned public key of the authority.
            limits: timeouts and sizes.
            tls: how to verify the server of an `https` URL; the system's roots when not given.
        """
        async with httpx2.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {token}", "accept-encoding": "identity"},
            verify=tls if tls is not None else True,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(limits.link_timeout_seconds),
            limits=httpx2.Limits(max_connections=_PARALLEL_FETCHES + 4, max_keepalive_connections=4),
        ) as http:
            yield cls(http, verifier, limits=limits)

    async def fetch_manifest(self, etag: str, *, wait_seconds: float) -> SignedManifest | None:
        """The newest manifest, or None when it is still the one with `etag` after the wait.

        Raises:
            AppError: `UNAVAILABLE`, `UNAUTHENTICATED` (token or signature), or `MALFORMED`.
        """
        status, headers, data = await self._exchange(
            "GET",
            "/link/v1/manifest",
            limit=MAX_MANIFEST_BYTES,
            params={"wait": f"{wait_seconds:g}"},
            headers={"if-none-match": f'"{etag}"'} if etag else {},
            timeout=httpx2.Timeout(
                self._limits.link_timeout_seconds, read=self._limits.link_timeout_seconds + wait_seconds
            ),
        )
        if status == 304:
            return None
        try:
            signature = base64.b64decode(headers.get(SIGNATURE_HEADER, ""), validate=True)
        except binascii.Error as error:
            raise AppError(ErrorCode.UNAUTHENTICATED, "the manifest's signature is not base64") from error
        self._verifier.verify(data, signature)
        manifest = Manifest.from_bytes(data)
        self._check_sizes(manifest)
        return SignedManifest(manifest, data, signature, sha256_hex(data))

    async def fetch_parts(self, refs: Sequence[PartRef]) -> list[Part]:
        """The parts in the order of their references, each with the bytes that its reference names.

        Raises:
            AppError: `UNAVAILABLE` when one cannot be had (any more), `MALFORMED` when bytes are wrong.
        """
        gate = asyncio.Semaphore(_PARALLEL_FETCHES)

        async def fetch(ref: PartRef) -> Part:
            async with gate:
                _, _, data = await self._exchange("GET", f"/link/v1/parts/{ref.sha256}", limit=ref.size)
            if len(data) != ref.size or sha256_hex(data) != ref.sha256:
                raise AppError(ErrorCode.MALFORMED, f"part {ref.name} does not have the bytes that the manifest names")
            return Part(ref, data)

        tasks = [asyncio.ensure_future(fetch(ref)) for ref in refs]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def send_status(self, status: dict[str, Any]) -> StatusAnswer | None:
        """Tell the authority what this worker serves; an authority that is away hears it next time."""
        try:
            _, _, data = await self._exchange("POST", "/link/v1/status", limit=MAX_STATUS_BYTES, body=status)
            answer = json.loads(data) if data else {}
            checkpoint = answer.get("checkpoint")
        except AppError as error:
            _log.debug("status_not_sent", reason=error.detail)
            return None
        except (ValueError, AttributeError, RecursionError) as error:
            _log.warning("status_answer_ignored", error=repr(error))
            return None
        return StatusAnswer(
            checkpoint=checkpoint if isinstance(checkpoint, str) else "", converge_by=read_deadline(answer)
        )

    async def request_serving_certificate(self, csr_pem: str, *, replaced: Sequence[str] = ()) -> ServingChain:
        """A chain for the key in the CSR; `replaced` are serials of earlier ones that are out of use.

        Raises:
            AppError: `UNAVAILABLE`, `UNAUTHENTICATED`, or `MALFORMED` for an answer that is no chain.
        """
        body = {"csr": csr_pem, "replaced": list(replaced)}
        _, _, data = await self._exchange("POST", "/link/v1/serving-certificate", limit=MAX_CHAIN_BYTES, body=body)
        try:
            answer = json.loads(data)
            chain = answer["chain"]
        except (ValueError, KeyError, TypeError) as error:
            raise AppError(ErrorCode.MALFORMED, "the authority's answer is not a certificate chain") from error
        if not isinstance(chain, list) or not chain or not all(isinstance(pem, str) for pem in chain):
            raise AppError(ErrorCode.MALFORMED, "the authority's answer is not a certificate chain")
        return ServingChain(chain=chain, converges_by=read_deadline(answer))

    def _check_sizes(self, manifest: Manifest) -> None:
        if any(ref.size > self._limits.max_part_bytes for ref in manifest.parts):
            raise AppError(ErrorCode.TOO_LARGE, "a part of the snapshot is larger than check.max_part_bytes")
        if sum(ref.size for ref in manifest.parts) > self._limits.max_snapshot_bytes:
            raise AppError(ErrorCode.TOO_LARGE, "the snapshot is larger than check.max_snapshot_bytes")

    async def _exchange(
        self,
        method: str,
        path: str,
        *,
        limit: int,
        body: dict[str, Any] | None = None,
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,  # noqa: ASYNC109 - the client's own, per phase
    ) -> tuple[int, httpx2.Headers, bytes]:
        """One request; a 2xx or 304 is returned, anything else raised."""
        options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        try:
            async with self._http.stream(
                method, path, params=params, headers=headers, json=body, **options
            ) as response:
                bound = limit if response.is_success else MAX_PROBLEM_BYTES
                chunks: list[bytes] = []
                size = 0
                async for chunk in response.aiter_bytes():
                    size += len(chunk)
                    if size > bound:
                        raise AppError(ErrorCode.MALFORMED, f"the authority's answer to {path} is larger than agreed")
                    chunks.append(chunk)
                data = b"".join(chunks)
        except (httpx2.HTTPError, OSError) as error:
            raise AppError(
                ErrorCode.UNAVAILABLE, "the authority cannot be reached", diagnosis=f"{type(error).__name__}: {error}"
            ) from error
        if response.is_success or response.status_code == 304:
            return response.status_code, response.headers, data
        if response.status_code in (401, 403):
            raise AppError(ErrorCode.UNAUTHENTICATED, "the authority does not accept this worker's token")
        raise AppError(ErrorCode.UNAVAILABLE, f"the authority answered {response.status_code} to {path}")
