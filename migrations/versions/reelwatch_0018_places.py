"""redeliveries: how far an order to send events again has come.

An order that was left by the release before begins anew, as it would have there.

Revision reelwatch_0018.
"""

import sqlalchemy as sa
from alembic import op

from reelwatch.config.naming import HERE

revision = "reelwatch_0018"
down_revision = "reelwatch_0017"

TABLE = HERE.table("redeliveries")


def upgrade() -> None:
    place_at = sa.Column("place_at", sa.DateTime(timezone=True), nullable=True)
    op.add_column(TABLE, place_at, schema=HERE.schema)
    place_id = sa.Column("place_id", sa.String(40), nullable=True)
    op.add_column(TABLE, place_id, schema=HERE.schema)


def downgrade() -> None:
    op.drop_column(TABLE, "place_id", schema=HERE.schema)
    op.drop_column(TABLE, "place_at", schema=HERE.schema)
