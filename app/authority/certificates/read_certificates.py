"""Read issued certificates: pages of them, one, new ones as they come, and those that are due but not renewed."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from app.authority.certificates.stored_certificates import (
    CertificateFilter,
    NumberedCertificates,
    StoredCertificate,
)
from app.authority.page_keys import PageKeys
from app.authority.pages import make_page_token, page_size_within, read_page_token
from app.authority.placement.placements import Placements
from app.authority.ports import Clock
from app.authority.quarantine.publish_crls import CrlPublisher
from app.authority.quarantine.quarantines import QuarantineView
from app.authority.records import Page
from app.authority.store import Store, Transaction
from app.ca.crl import revocation_times
from app.errors import AppError, ErrorCode
from app.identity.spiffe import WorkloadIdentity
from app.limits import Limits
from app.policy.quarantine import normal_serial

_POLL_SECONDS = 0.25
_MAX_CURSOR_DIGITS = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCertificates:
    """What was issued since a cursor, oldest first, and the cursor to go on from."""

    items: list[dict[str, Any]]
    cursor: str


class ReadCertificates:
    """The use cases behind `/v1/certificates`."""

    def __init__(
        self,
        store: Store,
        pages: PageKeys,
        view: QuarantineView,
        crls: CrlPublisher,
        placements: Placements,
        *,
        clock: Clock,
        limits: Limits,
        overdue_margin: timedelta,
    ) -> None:
        self._store = store
        self._pages = pages
        self._view = view
        self._crls = crls
        self._placements = placements
        self._clock = clock
        self._limits = limits
        self._margin = overdue_margin

    async def page(self, asked: CertificateFilter, *, page_size: int = 0, page_token: str = "") -> Page[dict[str, Any]]:
        """Certificates, newest first.

        Raises:
            AppError: `INVALID` for a bad serial, page size or page token.
        """
        asked = with_normal_serial(asked)
        paging = await self._pages.asked(page_size, page_token)
        size = page_size_within(paging.size, self._limits.policy.max_page_items)
        # Not the moment of a filter for current ones: it passes from page to page.
        question = f"certificates:{replace(asked, current_at=None)}:{asked.current_at is not None}"
        before = read_page_token(paging.key, question, paging.token)
        found = await self._store.read(
            lambda transaction: transaction.certificates.page(asked, before=before, limit=size + 1)
        )
        items = tuple(self._item(certificate) for certificate in found[:size])
        more = len(found) > size
        return Page(items, make_page_token(paging.key, question, found[size - 1].uid) if more else "")

    async def show(self, serial: str) -> dict[str, Any]:
        """One certificate, with its ledger entry, what is in it, and whether it is in quarantine.

        Raises:
            AppError: `NOT_FOUND` when no certificate of that serial is on record.
        """
        wanted = normal_serial(serial)

        def work(transaction: Transaction) -> list[tuple[StoredCertificate, int | None, bytes]]:
            rows = transaction.certificates
            return [(found, *rows.entry(found.uid)) for found in rows.find(wanted or "")]

        found = await self._store.read(work)
        if not found:
            raise AppError(ErrorCode.NOT_FOUND, f"no certificate with the serial {serial!r} is on record")
        certificate, index, data = found[-1]
        entry = json.loads(data)
        return {
            **self._item(certificate),
            "entry": entry,
            "ledger": {
                "uid": certificate.uid,
                "index": index,
                "proof": f"/v1/ledger/proof?uid={certificate.uid}",
            },
            "certificate": _facts(entry),
            "onCrl": self._is_on_list(certificate),
            "others": len(found) - 1,  # of other authorities, which chose the same serial
        }

    async def overdue(self, limit: int) -> dict[str, Any]:
        """Certificates past half of their life and the margin that were not renewed, first to expire first."""
        now = self._clock.now()
        most = min(limit, self._limits.quarantine.max_overdue_listed)

        def work(transaction: Transaction) -> tuple[list[StoredCertificate], int]:
            rows = transaction.certificates
            listed = rows.overdue(now=now, margin=self._margin, limit=most)
            is_all = len(listed) < most
            return listed, len(listed) if is_all else rows.count_overdue(now=now, margin=self._margin)

        found, count = await self._store.read(work)
        return {
            "count": count,
            "marginSeconds": int(self._margin.total_seconds()),
            "items": [{**self._item(certificate), "placed": self._is_placed(certificate)} for certificate in found],
        }

    async def watch(self, asked: CertificateFilter, *, cursor: str, wait_seconds: float) -> NewCertificates:
        """What was issued after the cursor, as soon as there is any; without a cursor, from now on.

        In the order of the ledger's indices, of which every entry gets the next one, whichever replica stored it and
        however late: so nothing is left out, and nothing comes twice.

        Raises:
            AppError: `INVALID` for a bad serial, or a cursor that is none.
        """
        asked = with_normal_serial(asked)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(wait_seconds, self._limits.quarantine.max_wait_seconds)
        first = _checked_cursor(cursor) if cursor else None
        while True:
            found = await self._new(asked, first)
            first = found.following
            if found.items or (found.is_end and loop.time() >= deadline):
                return NewCertificates(items=[self._item(one) for one in found.items], cursor=str(first))
            if found.is_end:
                await asyncio.sleep(_POLL_SECONDS)

    async def _new(self, asked: CertificateFilter, first: int | None) -> NumberedCertificates:
        limit = self._limits.policy.max_page_items
        return await self._store.read(
            lambda transaction: transaction.certificates.numbered(asked, first=first, limit=limit)
        )

    def _item(self, certificate: StoredCertificate) -> dict[str, Any]:
        now = self._clock.now()
        return {
            "serial": certificate.serial,
            "identity": certificate.identity,
            "node": certificate.node,
            "cluster": certificate.cluster,
            "purpose": certificate.purpose,
            "authority": certificate.authority,
            "notBefore": _text(certificate.not_before),
            "notAfter": _text(certificate.not_after),
            "state": "current" if certificate.not_after is not None and certificate.not_after > now else "expired",
            "quarantine": self._quarantine_of(certificate),
            "bundle": certificate.bundle,
            "sha256": certificate.sha256,
            "keySha256": certificate.key_hash,
        }

    def _quarantine_of(self, certificate: StoredCertificate) -> str | None:
        found = self._view.find(
            identity=certificate.identity,
            node=certificate.node,
            cluster=certificate.cluster,
            serial=certificate.serial,
        )
        return found.name if found is not None else None

    def _is_on_list(self, certificate: StoredCertificate) -> bool:
        crl = self._crls.find(certificate.authority)
        return crl is not None and int(certificate.serial, 16) in revocation_times(crl.stored.der)

    def _is_placed(self, certificate: StoredCertificate) -> bool | None:
        """Whether such a workload still runs there; None when the inventory does not say."""
        try:
            _, source = self._placements.named(certificate.cluster)
            return source.index().runs(certificate.node, WorkloadIdentity.parse(certificate.identity))
        except AppError:
            return None


def _facts(entry: dict[str, Any]) -> dict[str, Any]:
    """What stands in the certificate, read from its bytes."""
    detail = entry.get("detail", {})
    certificate = x509.load_der_x509_certificate(base64.b64decode(detail.get("certificate", "")))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    key_id = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    return {
        "issuer": certificate.issuer.rfc4514_string(),
        "authorityKeyId": (key_id or b"").hex(),
        "names": [str(name.value) for name in names],
        "signatureAlgorithm": certificate.signature_algorithm_oid.dotted_string,
        "pem": certificate.public_bytes(Encoding.PEM).decode("ascii"),
    }


def _checked_cursor(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= _MAX_CURSOR_DIGITS):
        raise AppError(ErrorCode.INVALID, "the cursor is not one of ours: start again without it")
    return int(cursor)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def with_normal_serial(asked: CertificateFilter) -> CertificateFilter:
    """The same filter, its serial as serials are stored.

    Raises:
        AppError: `INVALID` for a serial that no certificate can have.
    """
    if not asked.serial:
        return asked
    serial = normal_serial(asked.serial)
    if serial is None:
        raise AppError(ErrorCode.INVALID, "a serial number is written in hexadecimal digits")
    return replace(asked, serial=serial)
