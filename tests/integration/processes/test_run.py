"""`gatehouse run`: the first start of a new user, and what follows from it."""

import asyncio
import os
from pathlib import Path

import yaml

from tests.support.gatehouse import Gatehouse


class _Run(Gatehouse):
    SUBCOMMAND = "run"


async def _command(environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *Gatehouse.COMMAND,
        *arguments,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def test_the_next_command_works_after_a_first_run(tmp_path: Path) -> None:
    """A token and a context are made once, private to the user; a second run keeps them; a lost token is replaced."""
    context = tmp_path / "home" / "context.yaml"
    environment = {"GATEHOUSE_CONTEXT": str(context)}
    ports: dict[str, dict[str, int]] = {}
    tokens = []
    for _ in range(2):
        run = _Run(tmp_path, workers=1, **({"listen": ports} if ports else {}))
        run.environment = environment
        async with run:
            ports = {name: {"port": int(address.rpartition(":")[2])} for name, address in run.addresses.items()}
            code, output, errors = await _command(environment, "status")
            assert (0, "") == (code, errors)
            assert "worker-1" in output
            code, output, errors = await _command(environment, "policy", "who-can", "--to", "shop/cart", "-o", "json")
            assert 0 == code, errors  # answered by a child of the authority
            assert 0o600 == context.stat().st_mode & 0o777
            tokens.append(yaml.safe_load(context.read_text())["contexts"]["local"]["token"])
    assert tokens[0] == tokens[1]
    said = run.log.read_text()
    assert "aside_started" in said
    assert "Next: gatehouse status" in said
    assert str(run.state_dir / "passphrase") in said
    assert "no protection from root" in said
    assert tokens[0] not in said


async def test_a_lost_administrators_token_is_replaced_running_or_not(tmp_path: Path) -> None:
    """By whoever owns the state directory; the old token stops working."""
    context = tmp_path / "context.yaml"
    environment = {"GATEHOUSE_CONTEXT": str(context)}
    reset = ("token", "admin", "--reset", "--config", str(tmp_path / "gatehouse.yaml"))
    run = _Run(tmp_path, workers=1)
    run.environment = environment
    async with run:
        first = yaml.safe_load(context.read_text())["contexts"]["local"]["token"]
        code, output, errors = await _command(environment, *reset)
        assert 0 == code, errors
        second = output.strip()
        assert second != first
        url = f"http://{run.addresses['api']}"
        assert 1 == (await _command({"GATEHOUSE_URL": url, "GATEHOUSE_TOKEN": first}, "status"))[0]
        assert 0 == (await _command({"GATEHOUSE_URL": url, "GATEHOUSE_TOKEN": second}, "status"))[0]
        code, output, _ = await _command({}, "replace-workers", "--config", str(run.config))
        assert (0, "replaced 1 of 1 workers\n") == (code, output)
    code, output, errors = await _command(environment, *reset)
    assert 0 == code, errors
    assert output.strip() not in (first, second)


async def test_commands_say_when_nothing_runs(tmp_path: Path) -> None:
    """One line with the next step."""
    code, _, errors = await _command({}, "replace-workers", "--state-dir", str(tmp_path / "nothing"))
    assert 1 == code
    assert "no Gatehouse runs on" in errors
