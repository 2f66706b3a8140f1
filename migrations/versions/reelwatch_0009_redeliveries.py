"""redeliveries: orders to send many events again, and how far each has come.

Revision reelwatch_0009.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from reelwatch.config.naming import HERE

revision = "reelwatch_0009"
down_revision = "reelwatch_0008"

NAME = HERE.table("redeliveries")
TIME = sa.DateTime(timezone=True)
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        NAME,
        sa.Column("id", ID, nullable=False),
        sa.Column("key", sa.String(length=255), nullable=True),
        sa.Column("ordered_by", sa.String(length=64), nullable=False),
        sa.Column("wanted", JSON, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("total", sa.Integer(), server_default="0", nullable=False),
        sa.Column("done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("worked_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f(HERE.constraint("pk_redeliveries"))),
        sa.UniqueConstraint("key", name=op.f(HERE.constraint("uq_redeliveries_key"))),
        sa.CheckConstraint(
            "state IN ('running', 'done')",
            name=op.f(HERE.constraint("ck_redeliveries_state_known")),
        ),
        sa.CheckConstraint(
            "(state = 'done') = (finished_at IS NOT NULL)",
            name=op.f(HERE.constraint("ck_redeliveries_done_has_end")),
        ),
        schema=HERE.schema,
    )


def downgrade() -> None:
    op.drop_table(NAME, schema=HERE.schema)
