"""Which tokens and which placement are built from settings."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from app.bootstrap.placement import Placement, open_placement
from app.errors import AppError, ErrorCode
from app.settings import load_settings
from app.tokens.builtin_issuer import BuiltinIssuer
from tests.support.ca import MemoryInventory


async def built(folder: Path, **settings: Any) -> dict[str, str]:
    """The kinds of the sources by cluster."""
    async with AsyncExitStack() as stack:
        return {
            name: state.kind for name, state in (await opened(folder, stack, **settings)).placements.describe().items()
        }


async def opened(folder: Path, stack: AsyncExitStack, **settings: Any) -> Placement:
    file = folder / "gatehouse.yaml"
    file.write_text(yaml.safe_dump(settings))
    builtin = BuiltinIssuer(ec.generate_private_key(ec.SECP256R1()))
    return await open_placement(load_settings(file, environ={}), MemoryInventory(), builtin, stack)


async def test_without_any_setting_the_local_cluster_is_the_pushed_inventory(tmp_path: Path) -> None:
    """Nothing to configure on a laptop."""
    assert {"Kubernetes": "database"} == await built(tmp_path)


async def test_each_cluster_has_the_source_that_its_entry_says(tmp_path: Path) -> None:
    """An entry with the local cluster's name is about the local cluster."""
    access = {"server": "https://127.0.0.1:9"}
    found = await built(
        tmp_path,
        cluster={"id": "home"},
        clusters=[
            {"name": "home", "kubernetes": access, "issuer": "https://home.example"},
            {"name": "east", "kubernetes": dict(access), "issuer": "https://east.example", "inventory": "database"},
            {"name": "west", "inventory": "file", "inventory_file": "/i"},
        ],
    )

    assert {"home": "kubernetes", "east": "database", "west": "file"} == found


async def test_one_line_gives_the_local_cluster_a_file(tmp_path: Path) -> None:
    """`inventory.file`."""
    assert {"Kubernetes": "file"} == await built(tmp_path, inventory={"file": "/i"})


async def test_two_sources_of_one_issuers_keys_for_one_cluster_are_refused(tmp_path: Path) -> None:
    """Nobody could say by which a token was verified."""
    issuer = "https://kubernetes.default.svc.cluster.local"
    with pytest.raises(AppError) as caught:
        await built(
            tmp_path,
            clusters=[{"name": "Kubernetes", "kubernetes": {"server": "https://127.0.0.1:9"}, "tokens": "jwks"}],
            tokens={"issuers": [{"name": "k", "issuer": issuer, "jwks_file": "/j"}]},
        )

    assert ErrorCode.INVALID is caught.value.code


def test_the_authority_needs_no_kubernetes_client_unless_one_is_configured() -> None:
    """It is an extra. Nothing of it is imported with the process."""
    program = "import sys\nfor name in ('aiohttp', 'kubernetes'):\n    sys.modules[name] = None\nimport app.bootstrap.authority"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)


def test_without_the_client_a_configured_cluster_says_what_to_install(tmp_path: Path) -> None:
    """Instead of a stack trace."""
    program = f"""
import asyncio, sys
sys.modules['aiohttp'] = None
from pathlib import Path
from app.errors import AppError
from tests.unit.bootstrap.test_placement import built
try:
    asyncio.run(built(Path({str(tmp_path)!r}), clusters=[{{'name': 'a', 'issuer': 'https://a.example', 'kubernetes': {{'in_cluster': True}}}}]))
except AppError as error:
    print(error.code.value, error.detail)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.stdout.startswith("failed_precondition the Kubernetes client is not installed"), done.stderr
