"""waiting_messages and refused_messages: what producers sent and could not be taken in.

Revision reelwatch_0003.
"""

import sqlalchemy as sa
from alembic import op

from reelwatch.config.naming import HERE

revision = "reelwatch_0003"
down_revision = "reelwatch_0002"

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        HERE.table("waiting_messages"),
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("task", sa.String(length=16), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("video_id", sa.String(length=200), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("worker", sa.String(length=255), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("first_at", TIME, nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.Column("next_try_at", TIME, nullable=False),
        sa.CheckConstraint(
            "tries > 0", name=op.f(HERE.constraint("ck_waiting_messages_tries_positive"))
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(HERE.constraint("pk_waiting_messages"))),
        schema=HERE.schema,
    )
    op.create_index(
        HERE.constraint("ix_waiting_messages_next_try_at"),
        HERE.table("waiting_messages"),
        ["next_try_at"],
        schema=HERE.schema,
    )
    op.create_table(
        HERE.table("refused_messages"),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("task", sa.String(length=255), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=True),
        sa.Column("video_id", sa.String(length=200), nullable=True),
        sa.Column("worker", sa.String(length=255), nullable=False),
        sa.Column("first_at", TIME, nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "count > 0", name=op.f(HERE.constraint("ck_refused_messages_count_positive"))
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(HERE.constraint("pk_refused_messages"))),
        schema=HERE.schema,
    )
    op.create_index(
        HERE.constraint("ix_refused_messages_last_at"),
        HERE.table("refused_messages"),
        ["last_at"],
        schema=HERE.schema,
    )


def downgrade() -> None:
    op.drop_table(HERE.table("refused_messages"), schema=HERE.schema)
    op.drop_table(HERE.table("waiting_messages"), schema=HERE.schema)
