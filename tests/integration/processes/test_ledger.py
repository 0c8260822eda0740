"""The ledger of a running Gatehouse: proofs for its users, and no way back for its database (R5, case 121)."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from ssl import DER_cert_to_PEM_cert
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import create_engine, text

from app.bootstrap.clock import SystemClock
from app.bootstrap.foundation import Foundation, open_foundation
from app.bootstrap.ledger_tools import accept_rollback, check_ledger_offline
from app.demo.node_agent import NodeAgent
from app.errors import AppError, ErrorCode
from app.ledger.checkpoint import Checkpoint
from app.ledger.entry import EntryKind, LedgerEntry
from app.ledger.frontier import Frontier
from app.settings import Settings, load_settings
from tests.support.gatehouse import Gatehouse
from tests.support.postgres import empty_postgres_url, postgres_server

__all__ = ["empty_postgres_url", "postgres_server"]


def gatehouse_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[3],
    )


async def until(condition: Callable[[], Any], *, within: float = 20.0) -> Any:
    async with asyncio.timeout(within):
        while not (result := condition()):
            await asyncio.sleep(0.05)
    return result


def remembered(path: Path) -> int:
    """The size of the checkpoint in a file; 0 while there is none."""
    try:
        return Checkpoint.parse(path.read_text()).size
    except (OSError, AppError):
        return 0


async def refusal_of(gatehouse: Gatehouse) -> str:
    await gatehouse.start()
    assert gatehouse.process is not None
    try:
        async with asyncio.timeout(30.0):
            code = await gatehouse.process.wait()
    finally:
        await gatehouse.kill()
    assert code not in (0, None)
    return gatehouse.log.read_text().splitlines()[-1]


async def test_proofs_and_export_verify_offline(tmp_path: Path) -> None:
    """With the CLI as a user has it: key, checkpoints, one proof, the step between two, the whole log."""
    async with Gatehouse(tmp_path, role="authority") as gatehouse, await gatehouse.admin() as client:
        secret = client.headers["authorization"].removeprefix("Bearer ")
        server = {"GATEHOUSE_URL": f"http://{gatehouse.addresses['api']}", "GATEHOUSE_TOKEN": secret}

        async def run(*arguments: str) -> str:
            done = await asyncio.to_thread(gatehouse_command, "audit", *arguments, **server)
            assert 0 == done.returncode, done.stderr
            return done.stdout

        own = gatehouse.state_dir / "ledger-checkpoint"
        first = await until(lambda: remembered(own))
        (tmp_path / "key").write_text(await run("key"))
        await run("checkpoint", "--file", str(tmp_path / "old"))
        await client.post("/v1/tokens", json={"name": "bob", "role": "admin"})
        await until(lambda: remembered(own) > first)
        await run("checkpoint", "--file", str(tmp_path / "new"))
        old, new = (remembered(tmp_path / name) for name in ("old", "new"))
        await run("consistency", str(old), str(new), "--file", str(tmp_path / "step"))
        await run("proof", "--index", "0", "--file", str(tmp_path / "proof"))
        await run("export", "--file", str(tmp_path / "log"))
        key = ("verify", "--key", str(tmp_path / "key"))
        assert "the whole ledger" in await run(*key, "--log", str(tmp_path / "log"))
        assert "the entry with index 0" in await run(*key, "--proof", str(tmp_path / "proof"))
        issued = (await client.get("/v1/ledger/entries", params={"kind": "certificate.issued"})).json()["items"]
        detail = issued[0]["entry"]["detail"]
        (tmp_path / "pem").write_text(DER_cert_to_PEM_cert(base64.b64decode(detail["certificate"])))
        await run("proof", detail["serial"].upper(), "--file", str(tmp_path / "cart.tlog-proof"))
        of_it = ("--certificate", str(tmp_path / "pem"))
        assert "the certificate in" in await run(*key, "--proof", str(tmp_path / "cart.tlog-proof"), *of_it)
        other = await asyncio.to_thread(gatehouse_command, "audit", *key, "--proof", str(tmp_path / "proof"), *of_it)
        assert 1 == other.returncode
        assert "is not that of the certificate in" in other.stderr
        step = ("--from", str(tmp_path / "old"), "--to", str(tmp_path / "new"), "--consistency", str(tmp_path / "step"))
        assert f"the ledger of size {new} extends that of size {old}" in await run(*key, *step)
        assert "certificates" in await run("fsck", "--state-dir", str(gatehouse.state_dir))
        assert "authority.transition" in await run("list")
        await run("unfinished")

        changed = (tmp_path / "log").read_bytes().replace(b'"bob"', b'"eve"', 1)
        (tmp_path / "log").write_bytes(changed)
        bad = await asyncio.to_thread(gatehouse_command, "audit", *key, "--log", str(tmp_path / "log"))
        index = changed[: changed.index(b'"eve"')].count(b'{"index"') - 1
        assert 1 == bad.returncode
        assert f"index {index}: the entry does not have its leaf hash" in bad.stderr


async def test_a_certificate_leads_to_its_proof_and_the_proof_holds_offline(tmp_path: Path) -> None:
    """From `cert show` by its link and by its serial: one file that verifies with nothing but the key, whole or not."""
    async with Gatehouse(tmp_path, role="authority") as gatehouse, await gatehouse.admin() as client:
        secret = client.headers["authorization"].removeprefix("Bearer ")
        server = {"GATEHOUSE_URL": f"http://{gatehouse.addresses['api']}", "GATEHOUSE_TOKEN": secret}
        minted = (await client.post("/v1/tokens/workload", json={"namespace": "shop", "serviceAccount": "cart"})).json()
        roots = (await client.get("/v1/trust-bundle.pem")).content
        async with NodeAgent(gatehouse.addresses["ca"], roots, minted["token"]) as agent:
            leaf = (await agent.fetch_own("spiffe://cluster.local/ns/shop/sa/cart", timeout_seconds=20)).leaf
        serial = f"{leaf.serial_number:x}"
        await until(lambda: remembered(gatehouse.state_dir / "ledger-checkpoint"))
        async with asyncio.timeout(20):  # until the entry is numbered and under a checkpoint
            while (shown := (await client.get(f"/v1/certificates/{serial}")).json())["ledger"]["index"] is None or (
                linked := await client.get(shown["ledger"]["proof"])
            ).status_code != 200:
                await asyncio.sleep(0.05)
        table = await asyncio.to_thread(gatehouse_command, "cert", "show", serial, **server)
        proved = await asyncio.to_thread(gatehouse_command, "audit", "proof", serial.upper(), **server)
        key = (await client.get("/v1/ledger/key")).json()["publicKey"]

    def verify(name: str, content: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / name).write_text(content)
        return gatehouse_command(
            "audit", "verify", "--key", key, "--proof", str(tmp_path / name), "-o", "json", HOME=str(tmp_path)
        )

    assert f"gatehouse audit proof {serial}" in table.stdout
    for content in (linked.text, proved.stdout):
        done = verify("proof", content)
        assert 0 == done.returncode, done.stderr
        entry = json.loads(done.stdout)["entry"]
        assert leaf.public_bytes(Encoding.DER) == base64.b64decode(entry["detail"]["certificate"])
    head, extra, *rest = linked.text.splitlines(keepends=True)
    forged = base64.b64encode(base64.b64decode(extra.split()[1]).replace(b"/sa/cart", b"/sa/bank", 1)).decode()
    bad = verify("forged", "".join((head, f"extra {forged}\n", *rest)))
    assert 1 == bad.returncode, bad.stdout
    assert bad.stderr.startswith("error: the entry is not the one at index "), bad.stderr


async def test_case_121_a_restored_backup_is_refused_until_the_loss_is_accepted(tmp_path: Path) -> None:
    """R5b: refused by what this host remembers, by what a worker remembers, and not any more after it was accepted."""
    gatehouse, state = Gatehouse(tmp_path, workers=1), tmp_path / "state"
    own, backup = state / "ledger-checkpoint", tmp_path / "backup"
    async with gatehouse:
        before = await until(lambda: remembered(own))
    backup.mkdir()
    for file in state.glob("gatehouse.db*"):
        shutil.copy(file, backup)
    before = remembered(own)
    async with gatehouse, await gatehouse.admin() as client:
        await client.post("/v1/tokens", json={"name": "bob", "role": "admin"})
        (worker,) = await until(lambda: list(state.glob("workers/*/ledger-checkpoint")))
        after = await until(lambda: remembered(worker) > before + 1 and remembered(worker))
    for file in state.glob("gatehouse.db*"):
        file.unlink()
    for file in backup.iterdir():
        shutil.copy(file, state)

    said = await refusal_of(gatehouse)
    assert f"the ledger went backwards: the database has {before} signed entries, and {own} remembers" in said
    own.unlink()
    said = await refusal_of(gatehouse)
    assert f"{worker} remembers {after}" in said
    assert "gatehouse audit accept-rollback" in said

    arguments = ("audit", "accept-rollback", "--state-dir", str(state), "--reason", "the disk is gone")
    accepted = await asyncio.to_thread(gatehouse_command, *arguments)
    assert 0 == accepted.returncode, accepted.stderr
    async with gatehouse, await gatehouse.admin() as client:
        await until(lambda: remembered(worker) not in (0, after))
        entries = (await client.get("/v1/ledger/entries", params={"kind": "admin.act"})).json()["items"]
    (act,) = [item["entry"] for item in entries if item["entry"]["detail"].get("act") == "accept-rollback"]
    assert "the disk is gone" == act["detail"]["reason"]
    again = await asyncio.to_thread(gatehouse_command, *arguments)
    assert "there is no loss to accept" in again.stderr


async def test_a_contradiction_that_a_worker_brings_ends_the_authority_and_nothing_else(tmp_path: Path) -> None:
    """Decisions go on, readiness says the sentence with the way on, and it is tried again only now and then."""
    gatehouse, state = Gatehouse(tmp_path, workers=1), tmp_path / "state"
    backup = tmp_path / "backup.db"
    async with gatehouse, await gatehouse.admin() as client:
        before = await until(lambda: remembered(state / "ledger-checkpoint"))
        with closing(sqlite3.connect(state / "gatehouse.db")) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        await client.post("/v1/tokens", json={"name": "bob", "role": "admin"})
        (worker,) = await until(lambda: list(state.glob("workers/*/ledger-checkpoint")))
        await until(lambda: remembered(worker) > before)
        note = worker.read_text()
    for file in (*state.glob("gatehouse.db*"), state / "ledger-checkpoint", worker):
        file.unlink()
    shutil.copy(backup, state / "gatehouse.db")
    async with gatehouse:
        pid = (await gatehouse.processes())["worker-1"]["pid"]
        worker.write_text(note)
        os.kill(pid, signal.SIGKILL)  # the next one reads what it is to remember
        said = ""
        async with asyncio.timeout(60):
            while "refused: the ledger " not in said:  # it went backwards, or has grown another history meanwhile
                said = (await gatehouse.get("/readyz?verbose")).text
                await asyncio.sleep(0.05)
        assert "gatehouse audit accept-rollback --reason" in said
        assert "[+] decision: ok" in said
        assert 503 == (await gatehouse.get("/readyz")).status_code
    assert "Traceback" not in gatehouse.log.read_text()
    assert "the ledger " in await refusal_of(gatehouse)


async def test_a_database_that_is_removed_while_it_runs_makes_no_new_authority(tmp_path: Path) -> None:
    """R5a: nothing is acknowledged into a deleted file, and the next start refuses and says what to do."""
    async with Gatehouse(tmp_path, role="authority") as gatehouse, await gatehouse.admin() as client:
        await until(lambda: remembered(gatehouse.state_dir / "ledger-checkpoint"))
        for file in gatehouse.state_dir.glob("gatehouse.db*"):
            if not file.name.endswith(".lock"):
                file.unlink()
        try:
            answer = (await client.post("/v1/tokens", json={"name": "bob", "role": "admin"})).status_code
        except httpx2.HTTPError:
            answer = 0
        assert 201 != answer
        await until(lambda: "not a first start; restore the database" in gatehouse.log.read_text(), within=60.0)
    engine = create_engine(f"sqlite:///{gatehouse.state_dir / 'gatehouse.db'}")
    with engine.connect() as connection:
        assert 0 == connection.execute(text("SELECT count(*) FROM authorities")).scalar_one()
    engine.dispose()


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Foundation]:
    async with AsyncExitStack() as stack:
        yield await open_foundation(settings, SystemClock(), stack)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """An installation on either database."""
    if request.param == "sqlite":
        return load_settings(environ={}, state_dir=tmp_path / "state")
    url = request.getfixturevalue("empty_postgres_url")
    return load_settings(environ={}, state_dir=tmp_path / "state", database={"url": url})


async def use(settings: Settings, acts: int) -> tuple[int, str]:
    """Let it run for some acts; returns the size of the log and the newest checkpoint."""
    async with opened(settings) as foundation:
        for number in range(acts):
            entry = LedgerEntry(kind=EntryKind.ADMIN_ACT, time=SystemClock().now(), actor="a", subject=f"{number}")
            await foundation.database.append(entry)
        sequencer = foundation.numbering.sequencer
        await sequencer.catch_up()
        assert "ok" == sequencer.reason
        assert sequencer.newest is not None
        return sequencer.size, sequencer.newest.note


def cut_back(settings: Settings, size: int, note: str) -> None:
    """Make the ledger what it was at a size, as a restored backup would, behind the triggers' back."""
    checkpoint = Checkpoint.parse(note)
    engine = create_engine(settings.database_url)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        else:
            for name in ("ledger_number_once", "ledger_no_delete"):
                connection.execute(text(f"DROP TRIGGER {name}"))
        leaves = [
            bytes(row.leaf_hash)
            for row in connection.execute(
                text("SELECT leaf_hash FROM ledger WHERE leaf_index < :size ORDER BY leaf_index"), {"size": size}
            )
        ]
        frontier = Frontier()
        frontier.extend(leaves)
        assert checkpoint.root == frontier.root()
        connection.execute(text("DELETE FROM ledger WHERE leaf_index >= :size"), {"size": size})
        connection.execute(text("DELETE FROM ledger_checkpoints WHERE size > :size"), {"size": size})
        connection.execute(
            text("UPDATE ledger_head SET size = :size, frontier = :frontier, tail = :tail"),
            {"size": size, "frontier": frontier.to_bytes(), "tail": b"".join(leaves)},
        )
    engine.dispose()


async def refused(settings: Settings) -> str:
    with pytest.raises(AppError) as refusal:
        async with opened(settings):
            pass
    assert ErrorCode.FAILED_PRECONDITION is refusal.value.code
    return refusal.value.detail


async def test_an_older_database_is_refused_on_either_database(settings: Settings) -> None:
    """Case 121 and R5b, with what is remembered here and with what a worker's folder remembers."""
    size, note = await use(settings, 3)
    later, newer = await use(settings, 5)
    assert size + 5 == later
    cut_back(settings, size, note)
    own, worker = settings.state_dir / "ledger-checkpoint", settings.state_dir / "workers" / "a"
    assert f"the database has {size} signed entries, and {own} remembers {later}" in await refused(settings)

    worker.mkdir(parents=True)
    (worker / "ledger-checkpoint").write_text(newer)
    own.write_text(note)
    assert f"{worker}/ledger-checkpoint remembers {later}" in await refused(settings)

    assert (size, later) == await accept_rollback(settings, reason="lost")
    assert size + 1 + 1 == (await use(settings, 1))[0]
    report = await check_ledger_offline(settings, None)
    assert size + 2 == report.size


async def test_what_a_worker_remembers_is_kept_for_the_next_start(settings: Settings) -> None:
    """A worker on another host says it later: the process is to end, and the next start refuses by itself."""
    size, note = await use(settings, 3)
    later, newer = await use(settings, 2)
    cut_back(settings, size, note)
    (settings.state_dir / "ledger-checkpoint").write_text(note)
    async with opened(settings) as foundation:
        with pytest.raises(AppError, match=f"the worker 'b' remembers {later}"):
            await foundation.numbering.hear(newer, "the worker 'b'")
        with pytest.raises(AppError, match="went backwards"):
            await foundation.numbering.guard.run()
        await foundation.numbering.sequencer.catch_up()  # numbering goes on until the end, and must not hide it
    assert f"remembers {later}" in await refused(settings)


async def test_a_changed_row_is_named_at_the_start(settings: Settings) -> None:
    """The tree is recomputed before anything is signed or served."""
    size, _ = await use(settings, 3)
    engine = create_engine(settings.database_url)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        else:
            connection.execute(text("DROP TRIGGER ledger_number_once"))
        leaf = connection.execute(text("SELECT leaf_hash FROM ledger WHERE leaf_index = 0")).scalar_one()
        connection.execute(
            text("UPDATE ledger SET leaf_hash = :leaf WHERE leaf_index = :i"), {"leaf": leaf, "i": size - 1}
        )
    engine.dispose()
    assert f"the ledger was changed: the entry with index {size - 1}" in await refused(settings)


async def test_an_empty_database_beside_a_remembered_checkpoint_is_no_first_start(tmp_path: Path) -> None:
    """R5a: also where the mark of the first start is gone with the rest of the state directory."""
    settings = load_settings(environ={}, state_dir=tmp_path / "state")
    await use(settings, 1)
    for name in ("gatehouse.db", "initialized"):
        (settings.state_dir / name).unlink()
    assert "not a first start; restore the database" in await refused(settings)
    engine = create_engine(settings.database_url)
    with engine.connect() as connection:
        assert 0 == connection.execute(text("SELECT count(*) FROM sealed_keys")).scalar_one()
        assert 0 == connection.execute(text("SELECT count(*) FROM authorities")).scalar_one()
    engine.dispose()
