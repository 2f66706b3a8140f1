"""actions: an index of those of an account, its pauses, for the stories of its jobs.

Revision reelwatch_0020.
"""

import sqlalchemy as sa
from alembic import op

from reelwatch.config.naming import HERE

revision = "reelwatch_0020"
down_revision = "reelwatch_0019"

NAME = HERE.constraint("ix_actions_of_account")
TABLE = HERE.table("actions")
CONDITION = sa.text("account IS NOT NULL")


def upgrade() -> None:
    op.create_index(
        NAME,
        TABLE,
        ["account", "at"],
        schema=HERE.schema,
        if_not_exists=True,
        postgresql_where=CONDITION,
        sqlite_where=CONDITION,
    )


def downgrade() -> None:
    op.drop_index(NAME, TABLE, schema=HERE.schema)
