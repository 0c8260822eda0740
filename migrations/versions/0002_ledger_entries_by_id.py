"""Ledger entries have an id of their own and get their index later; certificates say who signed them and for whom"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        _upgrade_postgresql()
    else:
        _upgrade_sqlite()
    op.create_index("ix_ledger_unnumbered", "ledger", ["id"], unique=False, **_where("leaf_index IS NULL"))


def _where(condition: str) -> dict[str, sa.TextClause]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def _upgrade_postgresql() -> None:
    op.execute("DROP TRIGGER ledger_append_only ON ledger")
    op.execute("ALTER TABLE ledger ADD COLUMN uid BYTEA")
    op.execute("UPDATE ledger SET uid = uuid_send(gen_random_uuid())")
    op.execute("ALTER TABLE ledger ALTER COLUMN uid SET NOT NULL")
    op.execute("ALTER TABLE ledger ADD CONSTRAINT uq_ledger_uid UNIQUE (uid)")
    op.execute("ALTER TABLE certificates RENAME TO certificates_0001")
    for index in ("identity", "node", "not_after", "serial"):
        op.execute(f"DROP INDEX ix_certificates_{index}")
    op.execute("ALTER TABLE certificates_0001 DROP CONSTRAINT pk_certificates")
    op.execute("ALTER TABLE certificates_0001 DROP CONSTRAINT fk_certificates_leaf_index")
    op.execute("ALTER TABLE ledger ALTER COLUMN leaf_index DROP NOT NULL")
    _create_certificates()
    _copy_certificates()
    # An entry is numbered once; nothing else of it ever changes.
    op.execute(
        "CREATE FUNCTION gatehouse_number_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF TG_OP = 'UPDATE' AND OLD.leaf_index IS NULL AND NEW.leaf_index IS NOT NULL "
        "AND (NEW.id, NEW.uid, NEW.kind, NEW.subject, NEW.time, NEW.data, NEW.leaf_hash) "
        "IS NOT DISTINCT FROM (OLD.id, OLD.uid, OLD.kind, OLD.subject, OLD.time, OLD.data, OLD.leaf_hash) "
        "THEN RETURN NEW; END IF; "
        "RAISE EXCEPTION 'rows of % are never changed', TG_TABLE_NAME; END $$"
    )
    op.execute(
        "CREATE TRIGGER ledger_number_once BEFORE UPDATE OR DELETE ON ledger "
        "FOR EACH ROW EXECUTE FUNCTION gatehouse_number_once()"
    )


def _upgrade_sqlite() -> None:
    for verb in ("update", "delete"):
        op.execute(f"DROP TRIGGER ledger_no_{verb}")
    for index in ("identity", "node", "not_after", "serial"):
        op.execute(f"DROP INDEX ix_certificates_{index}")
    op.execute("DROP INDEX ix_ledger_subject_leaf_index")
    op.execute("ALTER TABLE certificates RENAME TO certificates_0001")
    op.execute("ALTER TABLE ledger RENAME TO ledger_0001")
    op.create_table(
        "ledger",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.LargeBinary(), nullable=False),
        sa.Column("leaf_index", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ledger"),
        sa.UniqueConstraint("uid", name="uq_ledger_uid"),
        sa.UniqueConstraint("leaf_index", name="uq_ledger_leaf_index"),
    )
    op.create_index("ix_ledger_subject_leaf_index", "ledger", ["subject", "leaf_index"], unique=False)
    op.execute(
        "INSERT INTO ledger (id, uid, leaf_index, kind, subject, time, data, leaf_hash) "
        "SELECT id, randomblob(16), leaf_index, kind, subject, time, data, leaf_hash FROM ledger_0001"
    )
    _create_certificates()
    _copy_certificates()
    op.execute("DROP TABLE ledger_0001")
    op.execute(
        "CREATE TRIGGER ledger_number_once BEFORE UPDATE ON ledger WHEN NOT ("
        "OLD.leaf_index IS NULL AND NEW.leaf_index IS NOT NULL "
        "AND NEW.id = OLD.id AND NEW.uid = OLD.uid AND NEW.kind = OLD.kind AND NEW.subject = OLD.subject "
        "AND NEW.time = OLD.time AND NEW.data = OLD.data AND NEW.leaf_hash = OLD.leaf_hash) "
        "BEGIN SELECT RAISE(ABORT, 'rows of ledger are never changed'); END"
    )
    op.execute(
        "CREATE TRIGGER ledger_no_delete BEFORE DELETE ON ledger "
        "BEGIN SELECT RAISE(ABORT, 'rows of ledger are never changed'); END"
    )


def _create_certificates() -> None:
    op.create_table(
        "certificates",
        sa.Column("uid", sa.LargeBinary(), nullable=False),
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("authority", sa.Text(), nullable=False),
        sa.Column("identity", KEY, nullable=False),
        sa.Column("node", KEY, nullable=False),
        sa.Column("cluster", KEY, nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.Text(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=True),
        sa.Column("not_after", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["uid"], ["ledger.uid"], name="fk_certificates_uid"),
        sa.PrimaryKeyConstraint("uid", name="pk_certificates"),
    )
    op.create_index("ix_certificates_identity_node", "certificates", ["identity", "node"], unique=False)
    for column in ("node", "not_after", "serial"):
        op.create_index(f"ix_certificates_{column}", "certificates", [column], unique=False)


def _copy_certificates() -> None:
    op.execute(
        "INSERT INTO certificates (uid, serial, authority, identity, node, cluster, purpose, bundle, key_hash, "
        "not_before, not_after) "
        "SELECT l.uid, c.serial, '', c.identity, c.node, '', '', '', '', NULL, c.not_after "
        "FROM certificates_0001 c JOIN ledger l ON l.leaf_index = c.leaf_index"
    )
    op.execute("DROP TABLE certificates_0001")
