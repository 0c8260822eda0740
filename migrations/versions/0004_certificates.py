"""Certificates, revocations and quarantine"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("certificates", sa.Column("sha256", sa.Text(), nullable=False, server_default=""))
    op.drop_index("ix_certificates_identity_node", "certificates")
    newest = ["identity", "node", "cluster", "holder", "uid"]
    op.create_index("ix_certificates_newest", "certificates", newest, unique=False)
    op.create_table(
        "crls",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.Column("entries", sa.Text(), nullable=False),
        sa.Column("this_update", sa.BigInteger(), nullable=False),
        sa.Column("next_update", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("issuer", name="pk_crls"),
    )
