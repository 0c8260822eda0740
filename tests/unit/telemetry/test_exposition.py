"""Metrics of several processes, added up by another one."""

import subprocess
import sys
from pathlib import Path

from app.telemetry.exposition import forget_process, prepare_metrics_directory, render_metrics

_CHILD = """
from app.telemetry import metrics
metrics.CERTIFICATE_REQUESTS.inc(3)
metrics.CERTIFICATES_ISSUED.inc(1)
metrics.CERTIFICATE_REFUSALS.labels("token_expired", "unauthenticated").inc()
metrics.CERTIFICATE_REFUSALS.labels("csr_malformed", "malformed").inc()
metrics.CERTIFICATE_REFUSALS.labels("identity", "unauthenticated").inc()
metrics.CERTIFICATE_REFUSALS.labels("quarantined", "unauthenticated").inc()
metrics.CERTIFICATE_REFUSALS.labels("issue_unavailable", "unavailable").inc(2)
metrics.CERTIFICATE_REFUSALS.labels("lifetime_over_long", "invalid").inc()
metrics.CERTIFICATE_REFUSALS.labels("issuer_expiring", "failed_precondition").inc()
metrics.CERTIFICATE_REFUSALS.labels("clock", "failed_precondition").inc()
metrics.CERTIFICATE_REFUSALS.labels("key_shared", "invalid").inc()
metrics.CERTIFICATE_REFUSALS.labels("node_rate", "rate_limited").inc()
metrics.AUTHORITY_EXPIRY.labels("issuing").set(900)
metrics.AUTHORITY_EXPIRY.labels("root").set(1234)
metrics.SNAPSHOT_AGE.labels("worker-1").set(7)
tally = metrics.Tally(metrics.CHECKS)
tally.flush({("allow", "RULE"): 2.0})
tally.flush({("allow", "RULE"): 5.0, ("deny", "NO"): 1.0})
import os
print(os.getpid())
"""


def _run_child(directory: Path, program: str = _CHILD) -> int:
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(directory), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path.cwd())}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=30
    )
    return int(result.stdout)


def test_counters_add_up_and_outlive_their_process_gauges_do_not(tmp_path: Path) -> None:
    """What a dead worker counted stays counted; what it was is gone."""
    directory = tmp_path / "metrics"
    prepare_metrics_directory(directory)
    pids = [_run_child(directory) for _ in range(2)]
    text = render_metrics(directory, istio_names=True, clock=lambda: 1_000.0).decode()
    for line in (
        "gatehouse_certificate_requests_total 6.0",
        'gatehouse_checks_total{effect="allow",reason="RULE"} 10.0',
        'gatehouse_checks_total{effect="deny",reason="NO"} 2.0',
        'gatehouse_snapshot_age_seconds{worker="worker-1"} 7.0',
        "citadel_server_csr_count 6.0",
        "citadel_server_success_cert_issuance_count 2.0",
        "citadel_server_authentication_failure_count 4.0",
        "citadel_server_id_extraction_err_count 2.0",
        "citadel_server_csr_parsing_err_count 4.0",
        'citadel_server_csr_sign_err_count{error="CA_NOT_READY"} 8.0',
        'citadel_server_csr_sign_err_count{error="TTL_ERROR"} 2.0',
        'citadel_server_csr_sign_err_count{error="CERT_GEN_ERROR"} 0.0',
        "citadel_server_root_cert_expiry_timestamp 1234.0",
        "citadel_server_root_cert_expiry_seconds 234.0",
        "citadel_server_cert_chain_expiry_timestamp 900.0",
        "citadel_server_cert_chain_expiry_seconds -100.0",
    ):
        assert line in text.splitlines()
    for pid in pids:
        forget_process(pid, directory)
    text = render_metrics(directory, istio_names=False).decode()
    assert "gatehouse_certificate_requests_total 6.0" in text
    assert "gatehouse_snapshot_age_seconds{" not in text
    assert "citadel_server" not in text


def test_a_new_start_begins_at_zero(tmp_path: Path) -> None:
    """Files of an earlier start are removed."""
    directory = tmp_path / "metrics"
    prepare_metrics_directory(directory)
    _run_child(directory)
    prepare_metrics_directory(directory)
    assert [] == list(directory.iterdir())
    assert b"gatehouse_certificate_requests_total" not in render_metrics(directory, istio_names=True)


def test_istiods_counters_are_there_before_anything_was_refused(tmp_path: Path) -> None:
    """As zeros: a rate over a series that appears with its first count misses that count."""
    directory = tmp_path / "metrics"
    prepare_metrics_directory(directory)
    _run_child(directory, "from app.telemetry import metrics; import os; print(os.getpid())")
    lines = render_metrics(directory, istio_names=True).decode().splitlines()

    for name in ("authentication_failure", "csr_parsing_err", "id_extraction_err"):
        assert f"citadel_server_{name}_count 0.0" in lines
    assert 'citadel_server_csr_sign_err_count{error="TTL_ERROR"} 0.0' in lines


def test_what_an_earlier_process_knew_does_not_cover_what_this_one_knows(tmp_path: Path) -> None:
    """An authority that ends sooner than the one before a restart, a ledger that has caught up."""
    directory = tmp_path / "metrics"
    prepare_metrics_directory(directory)
    program = """
from app.telemetry import metrics
import os
metrics.AUTHORITY_EXPIRY.labels("issuing").set({0})
metrics.LEDGER_UNNUMBERED.set({0})
metrics.LEDGER_CHECKPOINT_AGE.set({0})
print(os.getpid())
"""
    forget_process(_run_child(directory, program.format(900)), directory)
    _run_child(directory, program.format(100))
    lines = render_metrics(directory, istio_names=True).decode().splitlines()

    for name in (
        'gatehouse_authority_expiry_timestamp_seconds{role="issuing"}',
        "gatehouse_ledger_unnumbered_entries",
        "gatehouse_ledger_checkpoint_age_seconds",
        "citadel_server_cert_chain_expiry_timestamp",
    ):
        assert f"{name} 100.0" in lines
