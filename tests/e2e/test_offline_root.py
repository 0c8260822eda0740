"""The root goes into a safe and the mesh lives on: every command as the guide has it, signed by OpenSSL."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from pathlib import Path

import pytest
from cryptography import x509

from tests.support.gatehouse import Gatehouse
from tests.support.openssl import needs_openssl, openssl

QUICK = {
    "authority": {"settle_seconds": 1.5, "poll_seconds": 0.2},
    "certificate": {"max_job_seconds": 1.0, "max_ttl_seconds": 86_400},
}


class Commands:
    """The command line of two administrators."""

    def __init__(self, gatehouse: Gatehouse, folder: Path) -> None:
        self.gatehouse, self.folder = gatehouse, folder
        self.tokens: dict[str, str] = {}

    async def __call__(self, who: str, *words: str | Path) -> str:
        environment = {
            **os.environ,
            "GATEHOUSE_URL": f"http://{self.gatehouse.addresses['api']}",
            "GATEHOUSE_TOKEN": self.tokens.get(who, ""),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app.cli.main", *map(str, words),
            env=environment, cwd=self.folder,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await process.communicate()
        return out.decode()


@needs_openssl
async def test_a_root_goes_offline_and_signs_the_next_authority_there(tmp_path: Path) -> None:
    """Asked, approved, taken; then a CSR, OpenSSL, an import and an activation, under the same root."""
    safe = tmp_path / "safe"
    safe.mkdir()
    (safe / "passphrase").write_text("correct horse battery staple\n")
    (safe / "passphrase").chmod(0o600)
    async with Gatehouse(tmp_path, workers=1, limits=QUICK) as gatehouse:
        run = Commands(gatehouse, tmp_path)
        for who in ("alice", "bob"):
            run.tokens[who] = (await gatehouse.control("reset-admin-token", name=who))["secret"]
        listed = json.loads(await run("alice", "ca", "list", "-o", "json"))
        (root,) = (item["id"] for item in listed["items"] if item["role"] == "root")

        asked = await run("alice", "ca", "export-root", root[:12], "--reason", "into the safe")
        confirm = asked.splitlines()[1].partition("gatehouse ")[2].split()
        act = confirm[2]
        take = ("ca", "export-root", "--act", act, "--file", safe / "root-key.pem", "--passphrase-file",
                safe / "passphrase", "--config", gatehouse.config)  # fmt: skip
        assert "approve it first" in await run("", *take)
        assert "somebody else" in await run("alice", *confirm)
        await run("bob", *confirm)
        taken = await run("", *take)

        assert f"the key of the root {root} is in" in taken
        assert 0o600 == stat.S_IMODE((safe / "root-key.pem").stat().st_mode)
        assert "not here" in await run("", *take[:4], "--file", safe / "again.pem", *take[6:])
        assert "gatehouse ca csr" in await run("alice", "ca", "rotate", "issuing")

        await run("alice", "ca", "csr", "--file", tmp_path / "gatehouse.csr")
        await run("alice", "ca", "bundle", "--file", safe / "root.pem")
        openssl("x509", "-req", "-in", tmp_path / "gatehouse.csr", "-CA", safe / "root.pem",
                "-CAkey", safe / "root-key.pem", "-passin", f"file:{safe / 'passphrase'}",
                "-copy_extensions", "copyall", "-days", "365", "-out", tmp_path / "answer.pem")  # fmt: skip
        imported = await run("alice", "ca", "import", tmp_path / "answer.pem")
        issuing = imported.splitlines()[0].split()[1]
        activated = await run("alice", "ca", "activate", issuing, "--wait")

        assert f"{issuing} active" in activated, (imported, activated)
        roots = x509.load_pem_x509_certificates((await run("alice", "ca", "bundle")).encode())
        assert x509.load_pem_x509_certificates((safe / "root.pem").read_bytes()) == roots
        states = json.loads(await run("alice", "ca", "list", "-o", "json"))["items"]
        assert ("elsewhere", "active") == next((one["key"], one["state"]) for one in states if one["id"] == root)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No context of whoever runs the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
