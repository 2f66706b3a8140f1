"""${message}

Write so that workers of the release before go on while it runs: add, never rename or drop what
they use. Names go through HERE, with `schema=HERE.schema`; indexes are made `if_not_exists`.
"""

import sqlalchemy as sa
from alembic import op

from reelwatch.config.naming import HERE
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
