"""What a unit of work gets: rows over one connection, and the ledger entries it leaves behind."""

from __future__ import annotations

from sqlalchemy import Connection, select, text

from app.authority.ports import SnapshotDelta
from app.authority.records import StoreStatus
from app.ledger.entry import LedgerEntry
from app.storage.authority_rows import SqlAuthorityRows
from app.storage.certificate_rows import SqlCertificateRows
from app.storage.counters import all_values
from app.storage.inventory_rows import SqlInventoryRows
from app.storage.ledger_reads import SqlLedgerRows
from app.storage.ledger_rows import PreparedEntry
from app.storage.pending_rows import SqlPendingActRows
from app.storage.policy_rows import SqlPolicyRows
from app.storage.snapshot_rows import read_delta
from app.storage.tables import properties
from app.storage.token_rows import SqlTokenRows
from app.storage.upsert import insert_if_absent, upsert

# Any constant will do: the one lock that all administration takes. ("administ" in ASCII.)
_ADMINISTRATION_LOCK = 0x61646D696E697374
_MAX_COUNTED = 100_000  # entries without an index that `status` adds up


class SqlTransaction:
    """Implements `app.authority.store.Transaction`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.policies = SqlPolicyRows(connection)
        self.tokens = SqlTokenRows(connection)
        self.inventory = SqlInventoryRows(connection)
        self.authorities = SqlAuthorityRows(connection)
        self.pending_acts = SqlPendingActRows(connection)
        self.certificates = SqlCertificateRows(connection)
        self.ledger = SqlLedgerRows(connection)
        self.entries: list[PreparedEntry] = []

    def lock(self) -> None:
        """Be the only administration until the commit; SQLite has one writer anyway."""
        if self.connection.dialect.name == "postgresql":
            self.connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADMINISTRATION_LOCK})

    def record(self, entry: LedgerEntry) -> None:
        """Append to the ledger when this unit commits."""
        self.entries.append(PreparedEntry.prepare(entry))

    def read_delta(self, since_number: int) -> SnapshotDelta:
        """What changed in the sources of snapshots."""
        return read_delta(self.connection, since_number)

    def find_property(self, name: str) -> str | None:
        """A small stored value."""
        return self.connection.execute(select(properties.c.value).where(properties.c.name == name)).scalar_one_or_none()

    def keep_property(self, name: str, value: str) -> str:
        """Store a small value unless the name is taken."""
        insert_if_absent(self.connection, properties, {"name": name, "value": value})
        return self.find_property(name) or value

    def put_property(self, name: str, value: str) -> None:
        """Store a small value."""
        upsert(self.connection, properties, [{"name": name, "value": value}])

    def status(self) -> StoreStatus:
        """The numbers of the store."""
        values = all_values(self.connection)
        ledger = self.ledger.state(max_counted=_MAX_COUNTED)
        revision = self.policies.current_revision()
        return StoreStatus(
            revision=revision.number,
            revision_hash=revision.content_hash,
            snapshot_number=values["snapshot"],
            inventory_generation=values["inventory"],
            documents=values["documents"],
            ledger_entries=ledger.size + ledger.unnumbered,
        )
