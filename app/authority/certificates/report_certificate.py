"""What became of a certificate request: one log line, one count, and a place in the memory of refusals."""

from __future__ import annotations

from typing import Any, Protocol

import structlog

from app.authority.certificates.certificate_request import Attempt, CertificateStep, shown
from app.authority.certificates.issue_certificate import Issued
from app.authority.certificates.rate_limits import TokenBuckets
from app.authority.certificates.refusal_reasons import reason_of
from app.authority.certificates.refusals import Refusal, Refusals
from app.authority.ports import MonotonicClock
from app.authority.quarantine.quarantines import QUARANTINE_ADVICE, QUARANTINED
from app.ca.profile import TtlGrant
from app.errors import AppError
from app.limits import CertificateLimits

_log = structlog.get_logger()


class CertificateObserver(Protocol):
    """Counts what happens; metrics implement it."""

    def issued(self, *, seconds: float, grant: TtlGrant, key_is_shared: bool) -> None:
        """A certificate was issued."""
        ...

    def refused(self, *, reason: str, code: str) -> None:
        """A request got none; `reason` is from a closed set."""
        ...


class NoObserver:
    """Counts nothing."""

    def issued(self, *, seconds: float, grant: TtlGrant, key_is_shared: bool) -> None:
        """Nothing."""

    def refused(self, *, reason: str, code: str) -> None:
        """Nothing."""


class ReportCertificate:
    """Reports grants and refusals; log lines of refusals are bounded by reason and caller."""

    def __init__(
        self,
        refusals: Refusals,
        *,
        limits: CertificateLimits,
        clock: MonotonicClock,
        observer: CertificateObserver | None = None,
    ) -> None:
        self._refusals = refusals
        self._log_lines: TokenBuckets[tuple[str, str, str]] = TokenBuckets(
            rate_per_second=limits.refusal_log_per_second,
            burst=limits.refusal_log_burst,
            max_keys=limits.max_tracked_callers,
        )
        self._clock = clock
        self._observer = observer or NoObserver()
        self._unlogged = 0

    def refused(self, attempt: Attempt, error: AppError) -> None:
        """A request got no certificate."""
        if not attempt.check and (reason := reason_of(error.diagnosis)) is not None:
            attempt.file_under(reason)
        if error.diagnosis.startswith(QUARANTINED):
            attempt.step, attempt.check = CertificateStep.QUARANTINE, QUARANTINED
            attempt.advice = QUARANTINE_ADVICE
        refusal = Refusal(
            request_id=attempt.request_id,
            time=attempt.time,
            step=attempt.step.value,
            check=attempt.check,
            code=error.code.value,
            reason=shown(error.diagnosis or error.detail),
            advice=attempt.advice,
            peer=attempt.peer,
            caller=attempt.account,
            node=attempt.node,
            pod=attempt.caller.pod_name if attempt.caller else "",
            identity=attempt.identity,
        )
        self._refusals.record(refusal)
        self._observer.refused(reason=refusal.label, code=refusal.code)
        who = refusal.caller or attempt.peer.rpartition(":")[0], refusal.node
        if attempt.step is CertificateStep.ADMISSION:
            who = "", ""  # overload is nobody's own, and a line for each node would add to it
        has_room = self._log_lines.take((refusal.label, *who), now=self._clock.monotonic())
        if not (attempt.is_worth_a_line and has_room):
            self._unlogged += 1
            return
        unlogged, self._unlogged = self._unlogged, 0
        fields: dict[str, Any] = {key: value for key, value in refusal.to_json().items() if value and key != "time"}
        request_id = fields.pop("requestId")
        _log.warning("certificate_refused", request_id=request_id, unlogged_before=unlogged, **fields)

    def issued(self, attempt: Attempt, issued: Issued) -> None:
        """A request got its certificate."""
        seconds = self._clock.monotonic() - attempt.started
        grant = issued.grant
        self._observer.issued(seconds=seconds, grant=grant, key_is_shared=issued.key_is_shared)
        _log.info(
            "certificate_issued",
            request_id=attempt.request_id,
            identity=attempt.identity,
            caller=attempt.account,
            node=attempt.node,
            serial=issued.svid.serial_hex,
            not_after=issued.svid.not_after.isoformat(),
            ttl_granted=grant.seconds,
            ttl_clamp=grant.clamp.value,
            ttl_spread=grant.spread_seconds,
            seconds=round(seconds, 6),
            **({"key_shared": True} if issued.key_is_shared else {}),
            **({"cert_signer": attempt.cert_signer} if attempt.cert_signer else {}),
        )
