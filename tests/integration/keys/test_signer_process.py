"""The signer as a process of its own: what it is told, what it gives up, and what happens when it dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.authority.authorities.authority_ports import StoredAuthority
from app.errors import AppError, ErrorCode
from app.keys.signer_client import SignerClient
from app.limits import SignerLimits
from tests.support.certificates import make_pki, verified
from tests.support.signer import (
    CHEAP_SETTINGS,
    MAX_LIFETIME,
    fresh_authorities,
    prepared_now,
    secret_file,
    signer_client,
)


def status(pid: int) -> dict[str, str]:
    """What the kernel says about a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def test_authorities_are_made_and_issue_without_a_key_in_this_process() -> None:
    """The whole port over the process: keys made, authorities signed, workloads signed in a batch, secrets sealed."""
    async with signer_client() as client:
        found = await fresh_authorities(client)
        each = [prepared_now(found.active, number) for number in range(300)]
        signatures = await asyncio.gather(*(found.signer.sign(one.tbs) for one in each))
        for one, signature in zip(each, signatures, strict=True):
            verified(one, signature)
        assert b"seed" == await client.unseal("snapshot", await client.seal("snapshot", b"seed"))
        await client.probe(found.active.id)


async def test_the_next_signer_opens_what_an_earlier_one_sealed() -> None:
    """From the stored rows alone; a wrong passphrase does not (case 124)."""
    async with signer_client() as client:
        made = await fresh_authorities(client)
    async with signer_client() as client:
        await client.open_authority(made.rows[1], max_lifetime=MAX_LIFETIME)
        one = prepared_now(made.active)
        verified(one, await client.signer(made.active.id).sign(one.tbs))
    async with signer_client(passphrase=b"wrong horse battery") as client:
        with pytest.raises(AppError, match="passphrase is wrong"):
            await client.open_authority(made.rows[1], max_lifetime=MAX_LIFETIME)


async def test_bytes_that_were_tampered_with_are_refused_with_the_reason() -> None:
    """In a batch beside good ones, which are signed."""
    async with signer_client() as client:
        found = await fresh_authorities(client)
        good = prepared_now(found.active)
        answers = await asyncio.gather(
            found.signer.sign(good.tbs), found.signer.sign(good.tbs + b"\x00"), return_exceptions=True
        )
        verified(good, answers[0])
        assert isinstance(answers[1], AppError)
        assert ErrorCode.INTERNAL is answers[1].code
        assert "DER" in answers[1].diagnosis


async def test_the_signer_has_given_up_what_it_does_not_need() -> None:
    """Another user, no new privileges, a filter, no core, none of our environment, no descriptors but its own."""
    os.environ["A_SECRET_OF_THE_AUTHORITY"] = "canary"
    stray = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(stray, True)
    try:
        async with signer_client() as client:
            about, process = status(client.pid), Path(f"/proc/{client.pid}")
            assert ("1", "2") == (about["NoNewPrivs"], about["Seccomp"])
            limits = (process / "limits").read_text()
            assert "Max core file size        0                    0" in limits
            if os.geteuid() == 0:
                assert ["65534"] * 4 == about["Uid"].split()
                assert ["65534"] * 4 == about["Gid"].split()
                assert "" == about["Groups"]
                assert b"A_SECRET" not in (process / "environ").read_bytes()
                assert len(list((process / "fd").iterdir())) <= 5  # three standard ones, the socket, no more
    finally:
        del os.environ["A_SECRET_OF_THE_AUTHORITY"]
        os.close(stray)


_FORBIDDEN_ACTS = """
import ctypes, os, socket, sys
from app.confinement.sandbox import enter, become
from app.confinement.process_hygiene import is_dumpable
become("nobody", setting="keys.signer_user")
enter(allow_sockets=len(sys.argv) > 1)
libc = ctypes.CDLL(None, use_errno=True)
def tried(act):
    try:
        act()
    except PermissionError:
        return "refused"
    return "done"
print(tried(lambda: socket.socket()), tried(lambda: os.execv("/bin/true", ["true"])),
      "refused" if libc.ptrace(0, 0, 0, 0) == -1 else "done",
      "refused" if libc.syscall(425, 1, 0) == -1 and ctypes.get_errno() == 1 else "done",
      is_dumpable())
"""


@pytest.mark.parametrize(("arguments", "sockets"), [((), "refused"), (("sockets",), "done")])
def test_the_sandbox_forbids_sockets_programs_and_other_processes(arguments: tuple[str, ...], sockets: str) -> None:
    """By the kernel; sockets can be allowed for PKCS#11 modules that need them."""
    done = subprocess.run(
        [sys.executable, "-c", _FORBIDDEN_ACTS, *arguments], capture_output=True, text=True, check=True
    )
    assert f"{sockets} refused refused refused False" == done.stdout.strip()


def test_the_signer_imports_no_framework() -> None:
    """Nothing that parses hostile bytes, speaks to a network or a database is in it."""
    done = subprocess.run(
        [sys.executable, "-c", "import app.keys.signer_process, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    rooms = {name.split(".")[1] for name in done.stdout.split() if name.startswith("app.")}
    packages = {name.split(".")[0] for name in done.stdout.split()}
    assert {"authority", "ca", "confinement", "errors", "identity", "keys", "ledger", "tls_policy"} == rooms
    assert set() == packages & {
        "grpc", "google", "sqlalchemy", "alembic", "psycopg", "httpx2", "fastapi", "starlette", "uvicorn", "pydantic",
        "structlog", "prometheus_client", "yaml", "jwt", "asyncio", "uvloop", "typer", "ssl", "subprocess",
    }  # fmt: skip


_LATE_IMPORTS = """
import sys
import app.keys.signer_process as signer
signer.rehearse()
known = set(sys.modules)
from tests.unit.keys import test_key_ring as made  # brings more, which does not count
with_tests = set(sys.modules)
pki = made.make_pki(rsa_bits=2048)
# What tests bring is hidden again, so that whoever needs it has to import it.
for name in with_tests - known:
    if name.startswith("cryptography"):
        del sys.modules[name]
import pathlib, tempfile
with tempfile.TemporaryDirectory() as folder:
    file = made.key_file(pathlib.Path(folder), pki.issuing_key)
    ring = made.new_ring()
    ring.open_authority(made.stored(pki.authority, key_ref=f"file:{file}"), max_lifetime=made.CAP)
names = made.ServingNames.parse(["localhost", "127.0.0.1"])
crl, _ = made.capture(made.crl_builder(pki), pki.authority.public_key)
workload, listener = made.prepared(pki).tbs, made.prepared(pki, identity=made.OWN, serving_names=names).tbs
before = set(sys.modules)
signed = [*ring.sign_workloads("issuing", [workload, listener, b"garbage"]), ring.sign_crl("issuing", crl)]
print([type(one).__name__ for one in signed], sorted(set(sys.modules) - before))
"""


def test_nothing_is_imported_once_the_user_was_given_up() -> None:
    """The signer's user may not be able to read where Gatehouse is installed."""
    done = subprocess.run([sys.executable, "-c", _LATE_IMPORTS], capture_output=True, text=True, check=True)
    assert "['bytes', 'bytes', 'AppError', 'bytes'] []" == done.stdout.strip()


async def refused_start(client: SignerClient) -> str:
    with pytest.raises(AppError) as caught:
        await client.start()
    assert ErrorCode.FAILED_PRECONDITION is caught.value.code
    await client.close()
    return caught.value.detail


async def test_a_signer_that_cannot_start_says_why(tmp_path: Path) -> None:
    """A passphrase that is missing, too short or readable by others; a user that is not there."""
    file = tmp_path / "passphrase"
    by_file = replace(CHEAP_SETTINGS, passphrase_file=str(file))
    assert "does not exist" in await refused_start(SignerClient(by_file, SignerLimits()))
    file.write_text("correct horse battery\n")
    file.chmod(0o644)
    assert "chmod 600" in await refused_start(SignerClient(by_file, SignerLimits()))
    assert "no passphrase" in await refused_start(SignerClient(CHEAP_SETTINGS, SignerLimits()))
    short = secret_file(b"short")
    assert "shorter than" in await refused_start(SignerClient(CHEAP_SETTINGS, SignerLimits(), secrets=(short,)))
    os.close(short)
    if os.geteuid() == 0:
        file.chmod(0o600)
        nobody_there = replace(by_file, user="no-such-user")
        assert "no-such-user" in await refused_start(SignerClient(nobody_there, SignerLimits()))
        assert "is root" in await refused_start(SignerClient(replace(by_file, user="root"), SignerLimits()))


async def test_the_first_start_makes_the_passphrase_file(tmp_path: Path) -> None:
    """Private to the user, and the next start opens with it; it is never made anew by itself."""
    file = tmp_path / "passphrase"
    settings = replace(CHEAP_SETTINGS, passphrase_file=str(file), create_passphrase=True)
    async with signer_client(settings) as client:
        sealed = await client.seal("snapshot", b"seed")
    assert 0o600 == file.stat().st_mode & 0o777
    async with signer_client(settings) as client:
        assert b"seed" == await client.unseal("snapshot", sealed)


async def test_a_passphrase_that_was_lost_while_serving_is_never_made_anew(tmp_path: Path) -> None:
    """Not even when the signer has to start again during a first run: nothing would open with another one."""
    file = tmp_path / "passphrase"
    settings = replace(CHEAP_SETTINGS, passphrase_file=str(file), create_passphrase=True)
    async with signer_client(settings, limits=SignerLimits(request_seconds=2.0)) as client:
        made = await fresh_authorities(client)
        kept = file.rename(tmp_path / "kept")
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(AppError) as caught:
            await made.signer.sign(prepared_now(made.active).tbs)
        assert ErrorCode.UNAVAILABLE is caught.value.code
        assert not file.exists()
        kept.rename(file)
        async with asyncio.timeout(30):
            while not client.pid:
                await asyncio.sleep(0.02)
        await made.signer.sign(prepared_now(made.active).tbs)


async def test_a_key_file_of_the_user_is_read_by_the_signer_though_it_is_another_user(tmp_path: Path) -> None:
    """The authority opens it and passes the descriptor on; the mode is checked by the signer (case 123)."""
    pki = make_pki(rsa_bits=2048)
    file = tmp_path / "ca-key.pem"
    file.write_bytes(pki.issuing_key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    authority = StoredAuthority(
        id="files",
        role="issuing",
        state="active",
        certificate_pem=pki.authority.certificate.public_bytes(Encoding.PEM).decode(),
        sealed_key=b"",
        key_ref=f"file:{file}",
        created_at=pki.authority.not_before,
    )
    async with signer_client() as client:
        file.chmod(0o644)
        with pytest.raises(AppError, match="chmod 600"):
            await client.open_authority(authority, max_lifetime=MAX_LIFETIME)
        file.chmod(0o600)
        await client.open_authority(authority, max_lifetime=MAX_LIFETIME)
        await client.probe("files")


# When it dies


async def test_a_signer_that_dies_is_replaced_and_nobody_notices() -> None:
    """What waited is asked again; keys that were open are open, a key that was only just made too."""
    restarts: list[None] = []
    async with signer_client(on_restart=lambda: restarts.append(None)) as client:
        found = await fresh_authorities(client)
        await client.generate_key("young")
        before = client.pid
        os.kill(before, signal.SIGKILL)
        one = prepared_now(found.active)
        verified(one, await found.signer.sign(one.tbs))
        assert before != client.pid
        assert [None] == restarts
        await client.probe("young")


async def test_what_a_dead_signer_was_asked_fails_at_once() -> None:
    """Not after a timeout: the end of the socket pair is the answer."""
    async with signer_client() as client:
        found = await fresh_authorities(client)
        os.kill(client.pid, signal.SIGSTOP)  # it takes the question and does not answer it
        asked = asyncio.create_task(client.probe(found.active.id))
        await asyncio.sleep(0)
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(AppError) as caught:
            await asked
        assert ErrorCode.UNAVAILABLE is caught.value.code


async def test_a_signer_that_hangs_is_given_up_and_replaced() -> None:
    """Questions fail in bounded time, and later ones are answered by another process."""
    async with signer_client(limits=SignerLimits(request_seconds=2.0)) as client:
        found = await fresh_authorities(client)
        hung, one = client.pid, prepared_now(found.active)
        os.kill(hung, signal.SIGSTOP)
        with pytest.raises(AppError) as caught:
            await found.signer.sign(one.tbs)
        assert ErrorCode.UNAVAILABLE is caught.value.code
        async with asyncio.timeout(30):
            while True:
                try:
                    verified(one, await found.signer.sign(one.tbs))
                    break
                except AppError:
                    await asyncio.sleep(0)
        assert hung != client.pid


async def test_too_many_that_wait_are_refused() -> None:
    """The queue is bounded; who is refused can try again."""
    async with signer_client(limits=SignerLimits(max_waiting=2)) as client:
        found = await fresh_authorities(client)
        answers = [asyncio.create_task(found.signer.sign(b"x")) for _ in range(3)]
        with pytest.raises(AppError) as caught:
            await answers[2]
        assert ErrorCode.OVERLOADED is caught.value.code
        await asyncio.gather(*answers, return_exceptions=True)


async def kill_under_load(times: int) -> list[float]:
    """Kill the signer again and again while certificates are signed; seconds until the next signature each time."""
    away: list[float] = []
    async with signer_client() as client:
        found = await fresh_authorities(client)
        stop = asyncio.Event()
        failures: list[BaseException] = []

        async def load() -> None:
            while not stop.is_set():
                one = prepared_now(found.active)
                try:
                    verified(one, await found.signer.sign(one.tbs))
                except AppError as error:
                    failures.append(error)

        loads = [asyncio.create_task(load()) for _ in range(8)]
        for _ in range(times):
            pid = client.pid
            os.kill(pid, signal.SIGKILL)
            began = time.monotonic()
            one = prepared_now(found.active)
            verified(one, await found.signer.sign(one.tbs))
            away.append(time.monotonic() - began)
            await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*loads)
        assert [] == failures
    return away


async def test_bar_k2_issuing_is_back_after_the_signer_was_killed() -> None:
    """Every signature that was asked for comes; nothing is half written, for a signer writes nothing."""
    assert 5 == len(await kill_under_load(5))


@pytest.mark.torture
async def test_bar_k2_a_hundred_times_within_two_seconds_each() -> None:
    """The whole count, timed."""
    away = await kill_under_load(100)
    assert max(away) < 2.0


async def test_the_signer_ends_with_its_client() -> None:
    """Closing lets it end by itself; nothing stays behind."""
    async with signer_client() as client:
        pid = client.pid
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(AppError):
        await client.signer("any").sign(b"tbs")


def test_the_signer_ends_with_the_authority_process() -> None:
    """However that ended: the kernel sees to it."""
    program = (
        "import asyncio, os, signal, sys\n"
        "from tests.support.signer import signer_client\n"
        "async def main():\n"
        "    async with signer_client() as client:\n"
        "        print(client.pid, file=sys.stderr, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    pid = int(done.stderr)
    process = Path(f"/proc/{pid}")
    for _ in range(500):
        if not process.exists() or status(pid)["State"].startswith("Z"):
            return
        time.sleep(0.01)
    pytest.fail("the signer outlived its authority")
