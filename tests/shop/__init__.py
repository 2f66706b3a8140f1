"""A producer's project to which the tests add Reelwatch: its own Alembic, its own `jobs`."""
