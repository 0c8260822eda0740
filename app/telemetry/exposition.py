"""The text of `/metrics`, added up over all processes of the host."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

# istiod's names, which dashboards and alerts of Istio know, by the name of ours.
ISTIO_NAMES = {
    "gatehouse_certificate_requests": "citadel_server_csr_count",
    "gatehouse_certificates_issued": "citadel_server_success_cert_issuance_count",
}
_AUTHENTICATION, _PARSING, _IDENTITY, _SIGNING = (
    "citadel_server_authentication_failure_count",
    "citadel_server_csr_parsing_err_count",
    "citadel_server_id_extraction_err_count",
    "citadel_server_csr_sign_err_count",
)
_NO_IDENTITY = frozenset({"metadata", "identity"})  # our reasons for an identity that does not parse
_REFUSALS = "gatehouse_certificate_refusals"
# istiod's words for why signing failed (its label `error`), by our error code, and our reasons that belong there.
_SIGN_ERRORS = {
    "invalid": "TTL_ERROR",
    "unavailable": "CA_NOT_READY",
    "failed_precondition": "CA_NOT_READY",
    "internal": "CERT_GEN_ERROR",
}
_SIGNING_REASONS = ("issue_", "lifetime_", "issuer_expiring", "clock")
_EXPIRY = {"root": "citadel_server_root_cert_expiry", "issuing": "citadel_server_cert_chain_expiry"}


def prepare_metrics_directory(directory: Path) -> None:
    """An empty directory for the files of a new start; numbers of an earlier start are not ours."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, mode=0o700)


def reserve_metrics_space() -> None:
    """Have the disk space of this process's metric files taken for good; call it when the metrics were declared.

    The files are mapped and sparse: on a disk that has become full, the first count on an untouched page would end
    the process with SIGBUS.
    """
    directory = os.environ.get(MULTIPROCESS_VARIABLE)
    if directory is None:
        return
    for file in Path(directory).glob(f"*_{os.getpid()}.db"):
        with contextlib.suppress(OSError), file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def forget_process(pid: int, directory: Path) -> None:
    """Take the gauges of a dead process out; its counters stay, so that they never go back."""
    mark_process_dead(pid, str(directory))  # type: ignore[no-untyped-call]


class _IstioNames(Collector):
    def __init__(self, source: MultiProcessCollector, now: float) -> None:
        self._source = source
        self._now = now

    def collect(self) -> Iterator[Metric]:
        names = set()
        for family in self._source.collect():  # type: ignore[no-untyped-call]
            names.add(family.name)
            yield family
            yield from _aliases(family, self._now)
        if _REFUSALS not in names:  # zeros from the start: a rate over a metric that appears with its first 1 is blind
            yield from _refusals(Metric(_REFUSALS, "Nothing was refused.", "counter"))


def _aliases(family: Metric, now: float) -> Iterator[Metric]:
    if family.name in ISTIO_NAMES:
        total = sum(sample.value for sample in family.samples if sample.name.endswith("_total"))
        yield _metric(ISTIO_NAMES[family.name], {(): total})
    elif family.name == _REFUSALS:
        yield from _refusals(family)
    elif family.name == "gatehouse_authority_expiry_timestamp_seconds":
        for sample in family.samples:
            name = _EXPIRY[sample.labels["role"]]
            yield _metric(f"{name}_timestamp", {(): sample.value}, "gauge")
            yield _metric(f"{name}_seconds", {(): sample.value - now}, "gauge")


def _refusals(family: Metric) -> Iterator[Metric]:
    counts: dict[str, dict[tuple[str, ...], float]] = {
        _AUTHENTICATION: {(): 0.0},
        _PARSING: {(): 0.0},
        _IDENTITY: {(): 0.0},
        _SIGNING: {(error,): 0.0 for error in dict.fromkeys(_SIGN_ERRORS.values())},
    }
    for sample in family.samples:
        name, labels = _istio_refusal(sample.labels.get("reason", ""), sample.labels.get("code", ""))
        if name and sample.name.endswith("_total"):
            counts[name][labels] += sample.value
    for name, values in counts.items():
        yield _metric(name, values, label="error")


def _istio_refusal(reason: str, code: str) -> tuple[str, tuple[str, ...]]:
    """Under which of istiod's names a refusal counts; empty for what istiod never refuses (rates, overload)."""
    if reason in _NO_IDENTITY:
        return _IDENTITY, ()
    if code in ("unauthenticated", "permission_denied"):
        return _AUTHENTICATION, ()
    if reason.startswith(_SIGNING_REASONS) and code in _SIGN_ERRORS:
        return _SIGNING, (_SIGN_ERRORS[code],)
    return (_PARSING, ()) if code in ("malformed", "invalid") else ("", ())


def _metric(name: str, values: dict[tuple[str, ...], float], kind: str = "unknown", label: str = "") -> Metric:
    # "unknown", because istiod's counters do not end in _total as the text format wants of a counter.
    metric = Metric(name, "As istiod names it.", kind)
    for labels, value in values.items():
        metric.add_sample(name, dict(zip((label,), labels, strict=False)), value)
    return metric


def render_metrics(
    directory: Path, *, istio_names: bool, own: Collector | None = None, clock: Callable[[], float] = time.time
) -> bytes:
    """The text exposition of every process's metrics; `own` adds what only the supervisor knows."""
    registry = CollectorRegistry()
    collector = MultiProcessCollector(None, path=str(directory))  # type: ignore[no-untyped-call]
    registry.register(_IstioNames(collector, clock()) if istio_names else collector)
    if own is not None:
        registry.register(own)
    return generate_latest(registry)
