"""The text of `/metrics`, added up over all processes of the host."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
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
_AUTHENTICATION, _PARSING, _SIGNING = (
    "citadel_server_authentication_failure_count",
    "citadel_server_csr_parsing_err_count",
    "citadel_server_csr_sign_err_count",
)
_REFUSALS = {
    "unauthenticated": _AUTHENTICATION,
    "permission_denied": _AUTHENTICATION,
    "malformed": _PARSING,
    "invalid": _PARSING,
    "internal": _SIGNING,
    "unavailable": _SIGNING,
}
_EXPIRY = {
    "root": "citadel_server_root_cert_expiry_timestamp",
    "issuing": "citadel_server_cert_chain_expiry_timestamp",
}


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
    def __init__(self, source: MultiProcessCollector) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        for family in self._source.collect():  # type: ignore[no-untyped-call]
            yield family
            yield from _aliases(family)


def _aliases(family: Metric) -> Iterator[Metric]:
    if family.name in ISTIO_NAMES:
        yield from _totals(
            {ISTIO_NAMES[family.name]: sum(s.value for s in family.samples if s.name.endswith("_total"))}
        )
    elif family.name == "gatehouse_certificate_refusals":
        totals = dict.fromkeys(sorted(set(_REFUSALS.values())), 0.0)
        for sample in family.samples:
            name = _REFUSALS.get(sample.labels.get("code", ""))
            if name is not None and sample.name.endswith("_total"):
                totals[name] += sample.value
        yield from _totals(totals)
    elif family.name == "gatehouse_authority_expiry_timestamp_seconds":
        for sample in family.samples:
            metric = Metric(_EXPIRY[sample.labels["role"]], "As istiod names it.", "gauge")
            metric.add_sample(metric.name, {}, sample.value)
            yield metric


def _totals(values: dict[str, float]) -> Iterator[Metric]:
    for name, value in values.items():
        # "unknown", because istiod's counters do not end in _total as the text format wants of a counter.
        metric = Metric(name, "As istiod names it.", "unknown")
        metric.add_sample(name, {}, value)
        yield metric


def render_metrics(directory: Path, *, istio_names: bool, own: Collector | None = None) -> bytes:
    """The text exposition of every process's metrics; `own` adds what only the supervisor knows."""
    registry = CollectorRegistry()
    collector = MultiProcessCollector(None, path=str(directory))  # type: ignore[no-untyped-call]
    registry.register(_IstioNames(collector) if istio_names else collector)
    if own is not None:
        registry.register(own)
    return generate_latest(registry)
