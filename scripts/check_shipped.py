"""Run with an installed wheel's Python, away from the checkout: what travels inside the wheel is there and works."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from importlib.resources import files
from pathlib import Path


async def _serve_and_apply(directory: Path) -> int:
    """Start the whole service (migrations and all) and apply the demo's policies with the CLI."""
    from app.demo import shop
    from app.demo.service import GatehouseService

    async with GatehouseService(directory, workers=1) as gatehouse:
        await gatehouse.command("policy", "apply", str(shop.POLICIES_FILE))
        return await gatehouse.wait_until_served()


def main() -> int:
    """Look for the data, then use it."""
    package = files("app")
    if "site-packages" not in str(package):
        sys.stderr.write(f"this is not an installed wheel: {package}\n")
        return 1
    shipped = package / "_shipped"
    missing = [name for name in ("migrations", "policies") if not any((shipped / name).iterdir())]
    for name in missing:
        sys.stderr.write(f"the wheel does not carry {name}\n")
    if missing:
        return 1
    with tempfile.TemporaryDirectory() as directory:
        revision = asyncio.run(_serve_and_apply(Path(directory)))
    sys.stdout.write(f"the installed wheel serves revision {revision}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
