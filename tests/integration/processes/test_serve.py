"""`gatehouse serve` as a whole: how it starts, refuses, is watched, goes on without its authority, and ends."""

import asyncio
import json
import os
import signal
import socket
import time
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from app.bootstrap.clock import SystemClock
from app.bootstrap.foundation import open_foundation
from app.settings import load_settings
from tests.support.check_client import ask
from tests.support.gatehouse import Gatehouse
from tests.support.processes import until_gone

NO_SNAPSHOT = "NO_SNAPSHOT"


def _refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _reason(answer: Any) -> str:
    return str(answer.dynamic_metadata["reason"])


async def _refusal(gatehouse: Gatehouse, *, within: float = 30.0) -> str:
    """Start it, expect that it refuses by itself (in about a second; a busy machine has its time), return what it said."""
    await gatehouse.start()
    assert gatehouse.process is not None
    try:
        async with asyncio.timeout(within):
            code = await gatehouse.process.wait()
    finally:
        await gatehouse.kill()  # one that serves instead must not outlive the test
    assert code not in (0, None)
    return gatehouse.log.read_text()


async def test_everything_comes_up_and_says_so(tmp_path: Path) -> None:
    """One command, no configuration but the ports; probes, metrics and addresses tell about all processes."""
    async with Gatehouse(tmp_path) as gatehouse:
        assert "ok\n" == (await gatehouse.get("/livez")).text
        verbose = (await gatehouse.get("/readyz?verbose")).text
        for line in ("[+] authority: ok", "[+] decision: ok", "[+] process worker-1: ok", "[+] process worker-2: ok"):
            assert line in verbose
        assert 404 == (await gatehouse.get("/")).status_code
        metrics = (await gatehouse.get("/metrics")).text
        for name in (
            'gatehouse_process_ready{process="worker-2"} 1.0',
            "gatehouse_certificates_issued_total",
            "citadel_server_csr_count",
            "citadel_server_root_cert_expiry_timestamp",
            'gatehouse_snapshot_served_number{worker="worker-1"}',
        ):
            assert name in metrics
        assert {"ca", "ca_mtls", "api", "link", "check", "check_http", "check_mtls", "operations"} == set(
            gatehouse.addresses
        )
        assert 0o600 == (gatehouse.state_dir / "passphrase").stat().st_mode & 0o777


async def test_a_worker_has_not_loaded_what_it_must_not_hold(tmp_path: Path) -> None:
    """A running worker, not only its imports on paper: no storage, no keys, no certificate authority."""
    async with Gatehouse(tmp_path, workers=1) as gatehouse:
        await ask(gatehouse.addresses["check"])
        (rooms,) = await gatehouse.control("worker-rooms")
        assert "app.policy" in rooms
        assert set() == {"app.storage", "app.keys", "app.ca", "app.authority", "app.rest"} & set(rooms)
        pid = (await gatehouse.processes())["worker-1"]["pid"]
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode()
        assert "GATEHOUSE_" not in environment


async def test_a_killed_worker_is_replaced_and_counted(tmp_path: Path) -> None:
    """By its death and not by its silence, and `/metrics` says that it happened."""
    async with Gatehouse(tmp_path) as gatehouse:
        old = (await gatehouse.processes())["worker-1"]["pid"]
        os.kill(old, signal.SIGKILL)
        await gatehouse.until(lambda children: children["worker-1"]["pid"] != old)
        assert "child_died" in (log := gatehouse.log.read_text())
        assert "child_silent" not in log
        await gatehouse.until(lambda children: children["worker-1"]["ready"])
        assert 'gatehouse_process_restarts_total{process="worker-1"} 1.0' in (await gatehouse.get("/metrics")).text


async def test_a_stopped_worker_is_replaced(tmp_path: Path) -> None:
    """SIGSTOP: alive for the kernel, dead for its clients."""
    async with Gatehouse(tmp_path) as gatehouse:
        old = (await gatehouse.processes())["worker-2"]["pid"]
        os.kill(old, signal.SIGSTOP)
        await gatehouse.until(lambda children: children["worker-2"]["pid"] != old)
        assert "child_silent" in gatehouse.log.read_text()


async def test_workers_answer_while_the_authority_is_away(tmp_path: Path) -> None:
    """The authority dies and hangs; the workers' answers do not change, and `/readyz` says what is missing."""
    async with Gatehouse(tmp_path) as gatehouse:
        before = _reason(await ask(gatehouse.addresses["check"]))
        authority = (await gatehouse.processes())["authority"]["pid"]
        os.kill(authority, signal.SIGSTOP)
        for _ in range(5):
            assert before == _reason(await ask(gatehouse.addresses["check"])) != NO_SNAPSHOT
        os.kill(authority, signal.SIGKILL)
        assert before == _reason(await ask(gatehouse.addresses["check"]))
        await gatehouse.until(lambda children: children["authority"]["pid"] != authority)
        await gatehouse.wait_until_ready()
        assert before == _reason(await ask(gatehouse.addresses["check"]))


async def _until_listening(address: str) -> None:
    """Until a connection is accepted; the mutual TLS port waits for a certificate."""
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(60.0):
        while True:
            with suppress(ConnectionError):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.close()
                await writer.wait_closed()
                return
            await asyncio.sleep(0.05)


async def test_a_worker_starts_from_its_last_good_snapshot_without_the_authority(tmp_path: Path) -> None:
    """After a reboot of the worker's host, the authority may still be away: both ports answer."""
    async with Gatehouse(tmp_path) as gatehouse:
        expected = _reason(await ask(gatehouse.addresses["check"]))
        await _until_listening(gatehouse.addresses["check_mtls"])
        public_key = (gatehouse.state_dir / "snapshot-public-key").read_text().strip()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        link = {"url": f"http://127.0.0.1:{nobody.getsockname()[1]}", "token": "unused", "public_key": public_key}
        async with Gatehouse(tmp_path, role="decision", link=link) as gatehouse:
            assert {"check", "check_http", "check_mtls", "operations"} == set(gatehouse.addresses)
            assert expected == _reason(await ask(gatehouse.addresses["check"])) != NO_SNAPSHOT
            await _until_listening(gatehouse.addresses["check_mtls"])


async def test_case_096_a_worker_without_any_snapshot_denies_and_is_not_ready(tmp_path: Path) -> None:
    """Cold start without the authority: NOT_SERVING and a denial, never an allow."""
    key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    link = {"url": "http://127.0.0.1:9", "token": "unused", "public_key": key}
    gatehouse = Gatehouse(tmp_path, role="decision", link=link, workers=1)
    await gatehouse.start()
    try:
        file = gatehouse.state_dir / "run" / "addresses.json"
        async with asyncio.timeout(60.0):
            while not file.exists():
                await asyncio.sleep(0.05)
        gatehouse.addresses = json.loads(file.read_text())
        answer = await ask(gatehouse.addresses["check"])
        assert NO_SNAPSHOT == _reason(answer)
        assert answer.HasField("denied_response")
        assert 0 != answer.status.code
        ready = await gatehouse.get("/readyz")
        assert 503 == ready.status_code
        assert "no snapshot was loaded yet" in ready.text
    finally:
        await gatehouse.kill()


async def test_sigterm_is_not_ready_at_once_and_answers_for_the_minimum(tmp_path: Path) -> None:
    """Balancers need the time; then it ends by itself, in time and with exit code 0."""
    limits = {"process": {"drain_min_seconds": 4.0, "drain_max_seconds": 9.0}}
    async with Gatehouse(tmp_path, limits=limits, workers=1) as gatehouse:
        assert gatehouse.process is not None
        started = time.monotonic()
        gatehouse.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(4.0):  # while it still answers Checks
            while (await gatehouse.get("/readyz")).status_code != 503:
                await asyncio.sleep(0.01)
        assert 200 == (await gatehouse.get("/livez")).status_code
        assert NO_SNAPSHOT != _reason(await ask(gatehouse.addresses["check"]))
        async with asyncio.timeout(60.0):
            code = await gatehouse.process.wait()
        assert 0 == code
        assert 4.0 <= time.monotonic() - started < 9.0 + 15.0


async def test_a_second_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    """Whoever asks twice does not want to wait; no child stays behind."""
    limits = {"process": {"drain_min_seconds": 30.0, "drain_max_seconds": 60.0}}
    async with Gatehouse(tmp_path, limits=limits, workers=1) as gatehouse:
        assert gatehouse.process is not None
        children = [child["pid"] for child in (await gatehouse.processes()).values()]
        gatehouse.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20.0):
            while (await gatehouse.get("/readyz")).status_code != 503:
                await asyncio.sleep(0.01)
        gatehouse.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(25.0):  # less than the least drain
            assert 0 != await gatehouse.process.wait()
            await until_gone(children)


async def test_killing_the_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    """Children see the end of their input; the ports are free for the next start."""
    async with Gatehouse(tmp_path, workers=1) as gatehouse:
        assert gatehouse.process is not None
        gatehouse.process.kill()
        await gatehouse.process.wait()
        ports = [int(address.rpartition(":")[2]) for address in gatehouse.addresses.values()]
        async with asyncio.timeout(60.0):
            while not all(_refuses(port) for port in ports):
                await asyncio.sleep(0.05)
    async with Gatehouse(tmp_path):
        pass


async def test_a_second_start_on_the_state_directory_or_a_port_says_so(tmp_path: Path) -> None:
    """One line each, and the first one is not disturbed."""
    async with Gatehouse(tmp_path / "one") as first:
        said = await _refusal(Gatehouse(tmp_path / "two", state_dir=str(first.state_dir)))
        assert 1 == len(said.splitlines()), said
        assert "in use by another Gatehouse" in said
        for name in ("check", "ca", "ca_mtls", "api", "link", "operations"):
            port = int(first.addresses[name].rpartition(":")[2])
            said = await _refusal(Gatehouse(tmp_path / name, listen={name: {"port": port}}))
            assert 1 == len(said.splitlines()), said
            assert f"127.0.0.1:{port} (listen.{name}) is in use by another process" in said
        assert 200 == (await first.get("/readyz")).status_code


def _damage_database(state_dir: Path) -> None:
    (state_dir / "gatehouse.db").write_bytes(b"no database" * 1000)
    for name in ("gatehouse.db-wal", "gatehouse.db-shm"):  # it would be repaired from there
        (state_dir / name).unlink(missing_ok=True)


REFUSED_STATES = {
    "123 passphrase for others to read": (lambda d: (d / "passphrase").chmod(0o644), "chmod 600"),
    "124 wrong passphrase": (lambda d: (d / "passphrase").write_text("another passphrase of that length"), "passphrase"),
    "lost passphrase": (lambda d: (d / "passphrase").unlink(), "does not exist; restore it"),
    "lost database": (lambda d: [f.unlink() for f in d.glob("gatehouse.db*")], "not a first start; restore the database"),
    "damaged database": (_damage_database, "not a database"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_STATES)
async def test_a_damaged_state_directory_is_refused(name: str, tmp_path: Path) -> None:
    """Exit code, one sentence, and no port was opened."""
    damage, expected = REFUSED_STATES[name]
    names = ("ca", "ca_mtls", "api", "link", "operations")
    ports = {name: {"port": port} for name, port in zip(names, _free_ports(len(names)), strict=True)}
    gatehouse = Gatehouse(tmp_path, role="authority", listen=ports)
    async with AsyncExitStack() as stack:  # a first run, without its processes
        settings = load_settings(environ={}, state_dir=gatehouse.state_dir)
        await open_foundation(settings, SystemClock(), stack)
    damage(gatehouse.state_dir)
    said = await _refusal(gatehouse)
    assert expected in said.splitlines()[-1], said
    assert all(_refuses(listener["port"]) for listener in ports.values())


REFUSED_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "125 unknown key": ({"lisen": {}}, "did you mean listen?"),
    "contradiction": ({"limits": {"process": {"drain_max_seconds": 0.1}}}, "drain_max_seconds"),
    "state directory inside a file": ({"state_dir": "/dev/null/state"}, "cannot be used"),
    "address of another machine": ({"listen": {"api": {"address": "127.0.0.1", "port": 0}, "check": {"address": "192.0.2.1", "port": 9}},
                                    "check": {"behind_ztunnel": True}}, "not an address of this machine"),
    "database nobody speaks": ({"database": {"url": "mysql://x/y"}}, "database"),
    "trust domain": ({"trust_domain": "UPPER"}, "trust_domain"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_SETTINGS)
async def test_settings_that_cannot_work_are_refused(name: str, tmp_path: Path) -> None:
    """Exit code, one sentence."""
    settings, expected = REFUSED_SETTINGS[name]
    said = await _refusal(Gatehouse(tmp_path, **settings))
    assert expected in said.splitlines()[-1], said


async def test_a_restart_keeps_the_authority(tmp_path: Path) -> None:
    """The same root and the same snapshot key after a restart."""
    keys = []
    for _ in range(2):
        async with Gatehouse(tmp_path, workers=1) as gatehouse:
            keys.append((gatehouse.state_dir / "snapshot-public-key").read_text())
            client = await gatehouse.admin()
            async with client:
                bundle = (await client.get("/v1/trust-bundle")).text
            keys.append(bundle)
    assert keys[:2] == keys[2:]


async def test_no_secret_reaches_the_log(tmp_path: Path) -> None:
    """The passphrase, the administrator's token and private keys are not in what was logged at level debug."""
    async with Gatehouse(tmp_path, workers=1, logging={"level": "debug"}) as gatehouse:
        secret = (await gatehouse.control("reset-admin-token", name="canary"))["secret"]
        passphrase = (gatehouse.state_dir / "passphrase").read_text().strip()
        await ask(gatehouse.addresses["check"])
    log = gatehouse.log.read_text()
    assert "serving" in log
    for canary in (secret, passphrase, "PRIVATE KEY"):
        assert canary not in log
