"""Authorities over time: chains, who brought them, the bundles given out, replicas, acts for two people"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    for column in ("chain_pem", "root_id", "key_ref", "csr_pem"):
        op.add_column("authorities", sa.Column(column, sa.Text(), nullable=False, server_default=""))
    op.add_column("authorities", sa.Column("source", sa.Text(), nullable=False, server_default="own"))
    op.add_column("authorities", sa.Column("state_since", sa.BigInteger(), nullable=True))
    op.add_column("authorities", sa.Column("automatic", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("certificates", sa.Column("holder", KEY, nullable=False, server_default=""))
    # The first release knew one root and one issuing authority.
    op.execute("UPDATE authorities SET state_since = created_at")
    op.execute(
        "UPDATE authorities SET root_id = (SELECT MIN(r.id) FROM authorities r WHERE r.role = 'root') "
        "WHERE role = 'issuing' AND EXISTS (SELECT 1 FROM authorities r WHERE r.role = 'root')"
    )
    op.execute("INSERT INTO counters (name, value) VALUES ('authorities', 0), ('bundle', 0)")
    op.create_table(
        "bundles",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("roots", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_bundles"),
    )
    op.create_index("ix_bundles_fingerprint", "bundles", ["fingerprint"], unique=False)
    op.create_table(
        "replicas",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_replicas"),
    )
    op.create_table(
        "pending_acts",
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("id", "kind", "body", "sha256", "state", "requested_by", "requested_name")
        ),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=False),
        sa.Column("decided_name", sa.Text(), nullable=False),
        sa.Column("decided_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_pending_acts"),
    )
    op.create_index("ix_pending_acts_requested_at", "pending_acts", ["requested_at"], unique=False)
