"""Entries are numbered after they were stored: the tree's head, its checkpoints, and the open intents"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

_NUMBER_ONCE_SQLITE = (
    "CREATE TRIGGER ledger_number_once BEFORE UPDATE ON ledger WHEN NOT ("
    "OLD.leaf_index IS NULL AND NEW.leaf_index IS NOT NULL "
    "AND NEW.id = OLD.id AND NEW.uid = OLD.uid AND NEW.kind = OLD.kind AND NEW.subject = OLD.subject "
    "AND NEW.time = OLD.time AND NEW.data = OLD.data AND NEW.leaf_hash = OLD.leaf_hash) "
    "BEGIN SELECT RAISE(ABORT, 'rows of ledger are never changed'); END"
)
_EMPTY_HEAD = {"id": 1, "size": 0, "frontier": b"", "tail": b""}


def upgrade() -> None:
    _forget_indices()
    op.drop_index("ix_ledger_subject_leaf_index", "ledger")
    op.create_index("ix_ledger_subject_id", "ledger", ["subject", "id"], unique=False)
    head = op.create_table(
        "ledger_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("frontier", sa.LargeBinary(), nullable=False),
        sa.Column("tail", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_head"),
    )
    op.create_table(
        "ledger_subtrees",
        sa.Column("level", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("leaves", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "number", name="pk_ledger_subtrees"),
    )
    op.create_table(
        "ledger_checkpoints",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("size", name="pk_ledger_checkpoints"),
    )
    op.create_table(
        "intents",
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("uid", sa.LargeBinary(), nullable=False),
        sa.Column("subject", KEY, nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("serial", name="pk_intents"),
    )
    op.bulk_insert(head, [_EMPTY_HEAD])
    _list_open_intents()
    op.execute("UPDATE counters SET name = 'probe', value = 0 WHERE name = 'ledger'")


def _list_open_intents() -> None:
    """What was possibly signed before this table was there."""
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    serial = (
        "convert_from(data, 'UTF8')::json -> 'detail' ->> 'serial'"
        if is_postgresql
        else "json_extract(CAST(data AS TEXT), '$.detail.serial')"
    )
    op.execute(
        "INSERT INTO intents (serial, uid, subject, time) "  # noqa: S608 - texts of ours
        f"SELECT found.serial, uid, subject, time FROM (SELECT {serial} AS serial, uid, subject, time FROM ledger "
        "WHERE kind = 'certificate.intent') AS found WHERE found.serial IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM certificates WHERE certificates.serial = found.serial) ON CONFLICT DO NOTHING"
    )


def _forget_indices() -> None:
    """Earlier indices were never signed: the sequencer gives them again, in the order of the ids, which is theirs."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE ledger DISABLE TRIGGER ledger_number_once")
        op.execute("UPDATE ledger SET leaf_index = NULL")
        op.execute("ALTER TABLE ledger ENABLE TRIGGER ledger_number_once")
        return
    op.execute("DROP TRIGGER ledger_number_once")
    op.execute("UPDATE ledger SET leaf_index = NULL")
    op.execute(_NUMBER_ONCE_SQLITE)
