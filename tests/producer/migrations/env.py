"""The shop's own, as Alembic makes it; the lines about Reelwatch are those of docs/producers.md."""

import os

from alembic import context
from sqlalchemy import create_engine

from models import Base
from reelwatch.storage.alembic_filter import include_name

# A shop with a schema of its own, whose Alembic looks nowhere else, could do without them.
filters = {} if "SHOP_UNFILTERED" in os.environ else {"include_name": include_name}

with create_engine(os.environ["SHOP_DATABASE_URL"]).connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_schemas="SHOP_ALL_SCHEMAS" in os.environ,
        **filters,
    )
    with context.begin_transaction():
        context.run_migrations()
