"""Where keys and passphrase are while a whole Gatehouse runs: with the signer, and nowhere else."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import pty
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx2

from app.keys.passphrase import Passphrase
from app.keys.private_key import decode_key, encode_key
from app.keys.sealing import Sealer
from tests.support.gatehouse import Gatehouse
from tests.support.processes import until_gone

CANARY = "a-canary-passphrase-that-nobody-else-has"


def children(pid: int) -> dict[int, str]:
    """Every process below one, with its command line."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found[int(child)] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
            found |= children(int(child))
    return found


def memory(pid: int) -> Iterator[bytes]:
    """What a process has in its memory; only root may look."""
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as content:
        for line in maps:
            bounds, permissions, *_ = line.split()
            if not permissions.startswith("rw"):
                continue
            first, last = (int(bound, 16) for bound in bounds.split("-"))
            content.seek(first)
            with contextlib.suppress(OSError, ValueError):
                yield content.read(last - first)


def spellings(secret: bytes) -> set[bytes]:
    """How a secret might be written down."""
    return {
        secret,
        secret[::-1],  # as OpenSSL has numbers in memory
        secret.hex().encode(),
        secret.hex().upper().encode(),
        base64.b64encode(secret).rstrip(b"="),
        base64.urlsafe_b64encode(secret).rstrip(b"="),
    }


def authority_secrets(state_dir: Path) -> set[bytes]:
    """The private keys of the authorities, unsealed from the database with the passphrase, in every spelling."""
    sealer = Sealer(Passphrase(CANARY.encode()))
    found: set[bytes] = set()
    with contextlib.closing(sqlite3.connect(state_dir / "gatehouse.db")) as database:
        rows = database.execute("SELECT id, sealed_key FROM authorities WHERE length(sealed_key) > 0").fetchall()
    for authority_id, sealed in rows:
        key = decode_key(sealer.unseal(f"authority:{authority_id}", sealed))
        found |= spellings(encode_key(key)) | spellings(key.private_numbers().private_value.to_bytes(32))
    assert len(rows) >= 2
    return found


async def answers(gatehouse: Gatehouse) -> bytes:
    """What the API says to good and to bad requests."""
    said = b""
    async with await gatehouse.admin() as client:
        for method, path, body in (
            ("GET", "/v1/status", None),
            ("GET", "/v1/trust-bundle", None),
            ("GET", "/v1/authorities", None),
            ("GET", "/v1/nothing", None),
            ("PUT", "/v1/policies/a/b", b"\xff garbage"),
            ("POST", "/v1/authorities", b"{}"),
        ):
            response = await client.request(method, path, content=body)
            said += response.content + repr(response.headers).encode()
    async with httpx2.AsyncClient(trust_env=False) as http:
        said += (await http.get(f"http://{gatehouse.addresses['operations']}/metrics")).content
    return said


async def test_bar_k1_no_key_is_anywhere_but_with_the_signer(tmp_path: Path) -> None:
    """Database, write-ahead log, state directory, log, answers, environments, command lines: 0 hits for any key.

    As root, the memory of the authority process and its workers is searched too, for keys and passphrase.
    """
    gatehouse = Gatehouse(tmp_path, workers=1, logging={"level": "debug"})
    gatehouse.environment = {"GATEHOUSE_KEYS__PASSPHRASE": CANARY}
    async with gatehouse:
        said = await answers(gatehouse)
        canaries = authority_secrets(gatehouse.state_dir)
        assert gatehouse.process is not None
        running = children(gatehouse.process.pid)
        (signer,) = (pid for pid, command in running.items() if "signer_process" in command)
        written = {path: path.read_bytes() for path in gatehouse.state_dir.rglob("*") if path.is_file()}
        written |= {
            Path(f"/proc/{pid}/{name}"): Path(f"/proc/{pid}/{name}").read_bytes()
            for pid in running
            for name in ("cmdline", "environ")
            if os.geteuid() == 0
        }
        if os.geteuid() == 0:
            assert any(canary in part for part in memory(signer) for canary in canaries)  # the search can find it
            for pid in set(running) - {signer}:
                for part in memory(pid):
                    assert [] == [pid for canary in (*canaries, CANARY.encode()) if canary in part]
    written[gatehouse.log] = gatehouse.log.read_bytes()
    written[Path("answers")] = said
    assert len(written) > 5
    assert [] == [
        str(path)
        for path, content in written.items()
        for canary in (*canaries, CANARY.encode(), b"PRIVATE KEY")
        # A worker keeps the key of its own short-lived serving certificate, and no other.
        if canary in content and not (canary == b"PRIVATE KEY" and path.name == "serving.pem")
    ]


async def test_the_signer_is_replaced_under_a_running_gatehouse_and_ends_with_it(tmp_path: Path) -> None:
    """Killed, it comes back and everything is ready again; no orphan stays when all is over."""
    async with Gatehouse(tmp_path, workers=1) as gatehouse:
        assert gatehouse.process is not None

        def signers() -> list[int]:
            return [pid for pid, command in children(gatehouse.process.pid).items() if "signer_process" in command]

        (first,) = signers()
        os.kill(first, 9)
        async with asyncio.timeout(60):
            while not (signers() and signers() != [first]):
                await asyncio.sleep(0.02)
        await gatehouse.until(lambda found: all(child["ready"] for child in found.values()))
        last = signers()
    await until_gone(last)


async def test_the_passphrase_is_asked_for_at_a_terminal(tmp_path: Path) -> None:
    """When it is neither in the settings nor in its file; without a terminal the start is refused."""
    gatehouse = Gatehouse(tmp_path, workers=1)
    async with gatehouse:
        file = gatehouse.state_dir / "passphrase"
        secret = file.read_text()
        file.unlink()
    ours, theirs = pty.openpty()
    with gatehouse.log.open("wb") as log:
        gatehouse.process = await asyncio.create_subprocess_exec(
            *Gatehouse.COMMAND, "serve", "--config", str(gatehouse.config),
            stdin=theirs, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        os.close(theirs)
        async with asyncio.timeout(60):
            while "Passphrase of the keys" not in gatehouse.log.read_text():
                await asyncio.sleep(0.02)
        os.write(ours, secret.encode())
        await gatehouse.wait_until_ready()
    finally:
        os.close(ours)
        await gatehouse.kill()
    assert secret.strip() not in gatehouse.log.read_text()
