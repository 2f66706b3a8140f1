"""For a producer's own Alembic: keeps Reelwatch's tables out of `alembic revision --autogenerate`.

In the producer's `env.py`:

    from reelwatch.storage.alembic_filter import include_name
    context.configure(…, include_name=include_name)

It needs the same `REELWATCH_SCHEMA` and `DATABASE_URL` as every process that uses Reelwatch.
"""

from collections.abc import Mapping
from typing import Any

from reelwatch.config.naming import HERE
from reelwatch.storage.models import Base

NAMES = frozenset({HERE.version_table, *(table.name for table in Base.metadata.tables.values())})


def include_name(name: str | None, type_: str, parent_names: Mapping[str, Any]) -> bool:
    """Is this the producer's own? Alembic asks it of every schema and table it finds.

    To be combined with a filter of the producer's own: `include_name(…) and theirs(…)`.
    """
    return type_ != "table" or not _is_here(name, parent_names)


def is_ours(name: str | None, type_: str, parent_names: Mapping[str, Any]) -> bool:
    """The opposite, for our own migrations in a producer's database."""
    if type_ == "schema":
        return name == HERE.schema
    return type_ != "table" or (name != HERE.version_table and _is_here(name, parent_names))


def _is_here(name: str | None, parent_names: Mapping[str, Any]) -> bool:
    schema = parent_names.get("schema_name")  # None: the default one
    if name not in NAMES:
        return False
    return schema is None if HERE.schema is None else (schema or "public") == HERE.schema
