"""Brings the schema to what this program knows, or refuses to start.

The migrations travel inside the wheel (`app/_shipped/migrations`) and lie at the top of a checkout.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text

from app.errors import AppError, ErrorCode

# Any constant will do; it keeps two replicas from migrating at once. ("gatehous" in ASCII, below 2**63.)
_MIGRATION_LOCK = 0x6761746568_6F7573


def migrations_directory() -> Path:
    """Where the migration scripts are."""
    package = Path(str(files("app")))
    shipped = package / "_shipped" / "migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"


def bring_up_to_date(connection: Connection, *, migrate: bool) -> None:
    """Upgrade the schema within the connection's open transaction, or check that nothing is left to do.

    Raises:
        AppError: `FAILED_PRECONDITION` when the schema is newer than this program, or older with `migrate` off.
    """
    if connection.dialect.name == "postgresql":
        # Waiting for another replica's migration, and running ours, may take longer than a request may.
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    config = alembic_config(connection)
    scripts = ScriptDirectory.from_config(config)
    here = MigrationContext.configure(connection).get_current_revision()
    there = scripts.get_current_head()
    if here == there:
        return
    _refuse_newer(scripts, here, there)
    if not migrate:
        raise AppError(
            ErrorCode.FAILED_PRECONDITION,
            f"the database schema is at {here or 'nothing'}, this program needs {there}: "
            "start once with database.migrate on, or migrate with the new version first",
        )
    command.upgrade(config, "head")


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration, without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _refuse_newer(scripts: ScriptDirectory, here: str | None, there: str | None) -> None:
    if here is None:
        return
    try:
        scripts.get_revision(here)
    except CommandError as error:
        raise AppError(
            ErrorCode.FAILED_PRECONDITION,
            f"the database schema is at {here!r}, which is newer than this program (it knows up to {there!r}): "
            "start the version of Gatehouse that wrote it, or restore a backup made by this version",
        ) from error
