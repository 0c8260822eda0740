"""The tables, as SQLAlchemy Core metadata; `migrations/` creates them and a test keeps both equal.

Times are microseconds since the epoch in a BIGINT: exact, sortable and the same on every database. Keys that are
listed in order collate by code point everywhere (PostgreSQL would sort by its locale).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    false,
    text,
)
from sqlalchemy.types import TypeDecorator

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class UtcTime(TypeDecorator[datetime]):
    """An aware datetime, stored as microseconds since the epoch."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """To the database."""
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """From the database."""
        return None if value is None else _EPOCH + value * _MICROSECOND


def key_text() -> Text:
    """Text that sorts by code point."""
    return Text().with_variant(Text(collation="C"), "postgresql")


def row_id() -> BigInteger:
    """A 64-bit row id that SQLite may alias to its rowid."""
    return BigInteger().with_variant(Integer(), "sqlite")


# Numbers that only grow: `snapshot`, `inventory`, `services`, `authorities` (changes of them), `bundle` (sequence of
# the trust bundle), and `documents`, a count; `probe` stays as it is, and is written to see whether writes are taken.
counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

properties = Table(
    "properties",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

_UNNUMBERED = text("leaf_index IS NULL")

# Never deleted, and updated once, when an entry gets its index: the migration adds triggers that refuse the rest.
# `uid` is made with the entry (16 bytes, ordered by time), so that storing it twice is noticed and stored once.
ledger = Table(
    "ledger",
    metadata,
    Column("id", row_id(), primary_key=True, autoincrement=True),
    Column("uid", LargeBinary, nullable=False, unique=True),
    Column("leaf_index", BigInteger, unique=True),
    Column("kind", Text, nullable=False),
    Column("subject", key_text(), nullable=False),
    Column("time", UtcTime, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("leaf_hash", LargeBinary, nullable=False),
    Index(None, "subject", "id"),
)
Index("ix_ledger_unnumbered", ledger.c.id, sqlite_where=_UNNUMBERED, postgresql_where=_UNNUMBERED)

# The one row (id 1) that who numbers entries holds locked: how large the tree is, and the roots of its complete
# subtrees.
ledger_head = Table(
    "ledger_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    Column("frontier", LargeBinary, nullable=False),
    Column("tail", LargeBinary, nullable=False),  # the leaf hashes after the last complete subtree of 256
)

# Roots of complete subtrees (levels 8, 16, 24), so that a proof reads a few hundred hashes and not the whole log. Those
# of level 8 keep their 256 leaf hashes too: a second copy, by which a changed row is named and not only noticed.
ledger_subtrees = Table(
    "ledger_subtrees",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
    Column("leaves", LargeBinary, nullable=False),
)

ledger_checkpoints = Table(
    "ledger_checkpoints",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),
    Column("time", UtcTime, nullable=False),
)

# Intents without a certificate on record: gone as soon as it is, so what stays was possibly signed.
intents = Table(
    "intents",
    metadata,
    Column("serial", Text, primary_key=True),
    Column("uid", LargeBinary, nullable=False),
    Column("subject", key_text(), nullable=False),
    Column("time", UtcTime, nullable=False),
)

# What certificates are looked for by; the ledger entry of the same `uid` is the record itself.
certificates = Table(
    "certificates",
    metadata,
    Column("uid", LargeBinary, ForeignKey("ledger.uid"), primary_key=True),
    Column("serial", Text, nullable=False, index=True),  # lower-case hexadecimal
    Column("authority", Text, nullable=False),  # the id of the authority that signed it
    Column("identity", key_text(), nullable=False),
    Column("node", key_text(), nullable=False, index=True),
    Column("cluster", key_text(), nullable=False),
    Column("purpose", Text, nullable=False),  # empty for a workload's, else what of ours it is for
    Column("bundle", Text, nullable=False),  # the fingerprint of the trust bundle that went with it
    Column("key_hash", Text, nullable=False),  # SHA-256 of its SubjectPublicKeyInfo, hexadecimal
    # Who holds it besides others of that identity on the node: empty for a node proxy, which holds one for all.
    Column("holder", key_text(), nullable=False, server_default=""),
    Column("not_before", UtcTime),
    Column("not_after", UtcTime, index=True),
    Column("sha256", Text, nullable=False, server_default=""),  # of the certificate; empty before migration 0004
    # What is asked of the newest certificate of a holder is answered from the index alone.
    Index("ix_certificates_newest", "identity", "node", "cluster", "holder", "uid"),
)

# The newest revocation list of each issuer; replaced by compare-and-set on its number, which only grows.
crls = Table(
    "crls",
    metadata,
    Column("issuer", Text, primary_key=True),  # the id of the authority
    Column("number", BigInteger, nullable=False),
    Column("der", LargeBinary, nullable=False),
    Column("entries", Text, nullable=False),
    Column("this_update", UtcTime, nullable=False),
    Column("next_update", UtcTime, nullable=False),
)

# Deadlines by which the mesh shall have renewed everything; the one that holds has no end and lies in the future.
convergences = Table(
    "convergences",
    metadata,
    Column("number", row_id(), primary_key=True, autoincrement=True),
    Column("started_at", UtcTime, nullable=False),
    Column("deadline", UtcTime, nullable=False),
    Column("started_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("ended_at", UtcTime),
)

authorities = Table(
    "authorities",
    metadata,
    Column("id", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("certificate_pem", Text, nullable=False),
    Column("sealed_key", LargeBinary, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("chain_pem", Text, nullable=False, server_default=""),
    Column("root_id", Text, nullable=False, server_default=""),
    Column("key_ref", Text, nullable=False, server_default=""),
    Column("source", Text, nullable=False, server_default="own"),
    Column("state_since", UtcTime),
    Column("csr_pem", Text, nullable=False, server_default=""),
    Column("automatic", Boolean, nullable=False, server_default=false()),
)

# Every trust bundle that was ever given out, one row a publication: which roots a fingerprint stands for.
bundles = Table(
    "bundles",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("fingerprint", Text, nullable=False, index=True),
    Column("roots", Text, nullable=False),  # SHA-256 of each root's DER, hexadecimal, separated by spaces
    Column("since", UtcTime, nullable=False),
)

# The processes that issue, and the last change of authorities that each took over.
replicas = Table(
    "replicas",
    metadata,
    Column("id", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("seen_at", UtcTime, nullable=False),
)

# Acts that need a second administrator. The body is canonical JSON, and what is approved is its hash.
pending_acts = Table(
    "pending_acts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("requested_by", Text, nullable=False),  # a token's id
    Column("requested_name", Text, nullable=False),
    Column("requested_at", UtcTime, nullable=False, index=True),
    Column("expires_at", UtcTime, nullable=False),
    Column("decided_by", Text, nullable=False),
    Column("decided_name", Text, nullable=False),
    Column("decided_at", UtcTime),
)

sealed_keys = Table(
    "sealed_keys",
    metadata,
    Column("name", Text, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)

revisions = Table(
    "revisions",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("parent", BigInteger, nullable=False),
    Column("content_hash", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("time", UtcTime, nullable=False),
    Column("changes", BigInteger, nullable=False),
    Column("rollback_of", BigInteger),
)

# Immutable rows: the set at revision N is, for each key, the row with the greatest revision up to N.
document_versions = Table(
    "document_versions",
    metadata,
    Column("key", key_text(), primary_key=True),
    Column("revision", BigInteger, ForeignKey("revisions.number"), primary_key=True, autoincrement=False),
    Column("outcome", Text, nullable=False),
    Column("etag", Text, nullable=False),  # empty: this version deleted the document
    Column("previous_etag", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("content", Text),
    Index(None, "revision", "key"),
)

# The current version of each key, and a tombstone for each deleted one.
documents = Table(
    "documents",
    metadata,
    Column("key", key_text(), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("namespace", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("etag", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("bucket", Integer, nullable=False, index=True),
    Column("changed_number", BigInteger, nullable=False, index=True),
    Index(None, "kind", "namespace", "key"),
    Index(None, "namespace", "key"),
)

document_buckets = Table(
    "document_buckets",
    metadata,
    Column("bucket", Integer, primary_key=True, autoincrement=False),
    Column("digest", Text, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, index=True),
    Column("role", Text, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", UtcTime),
    Column("revoked_at", UtcTime),
)

# Whoever pushes the inventory of a cluster (empty: the local one) promised to come again until then.
inventory_leases = Table(
    "inventory_leases",
    metadata,
    Column("cluster", Text, primary_key=True),
    Column("until", UtcTime, nullable=False),
)

nodes = Table(
    "nodes",
    metadata,
    Column("key", key_text(), primary_key=True),
    Column("content", Text, nullable=False),
)

workloads = Table(
    "workloads",
    metadata,
    Column("key", key_text(), primary_key=True),
    Column("content", Text, nullable=False),
)

# Services are part of snapshots, so a deleted one leaves a tombstone.
services = Table(
    "services",
    metadata,
    Column("key", key_text(), primary_key=True),
    Column("content", Text, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("changed_number", BigInteger, nullable=False, index=True),
)
