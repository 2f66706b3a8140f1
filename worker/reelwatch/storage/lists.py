"""Lists as parameters: statements about many rows whose text, and plan, don't depend on how many.

A list of parameters of its own for each value has to be written out, and parsed, anew every time.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    ColumnElement,
    Table,
    Update,
    any_,
    bindparam,
    func,
    update,
)
from sqlalchemy import column as column_named
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

ROW_ID = "row_id"  # the parameter that says which row the others are for


class _Among(FunctionElement[bool]):
    name = "among"
    type = Boolean()
    inherit_cache = True


def among(column: ColumnElement[Any], parameter: str) -> ColumnElement[bool]:
    """Is the column's value one of those of that parameter, a list?"""
    kind = JSON().with_variant(ARRAY(column.type), "postgresql")
    return _Among(column, bindparam(parameter, type_=kind))


@compiles(_Among)
def _in_json(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(each, **options) for each in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608 - both are compiled


@compiles(_Among, "postgresql")
def _in_array(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = element.clauses
    return compiler.process(column == any_(values), **options)


def update_rows(session: Session, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write to each row what stands for it under its columns' names; `ROW_ID` says for which.

    All have the same names. PostgreSQL gets one statement; for SQLite, which is no server, it makes
    no difference.
    """
    if not rows:
        return
    names = tuple(name for name in rows[0] if name != ROW_ID)
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        connection.execute(_one_by_one(table, names), list(rows))
    else:
        lists = {name: [row[name] for row in rows] for name in (ROW_ID, *names)}
        connection.execute(_all_at_once(table, names), lists)


@lru_cache(200)
def _one_by_one(table: Table, names: tuple[str, ...]) -> Update:
    values: dict[str, Any] = {name: bindparam(name) for name in names}
    return update(table).where(table.c.id == bindparam(ROW_ID)).values(values)


@lru_cache(200)
def _all_at_once(table: Table, names: tuple[str, ...]) -> Update:
    types = {ROW_ID: table.c.id.type} | {name: table.c[name].type for name in names}
    lists = [bindparam(name, type_=ARRAY(kind)) for name, kind in types.items()]
    columns = [column_named(name, kind) for name, kind in types.items()]
    new = func.unnest(*lists).table_valued(*columns, name="new").render_derived()
    values: dict[str, Any] = {name: new.c[name] for name in names}
    return update(table).where(table.c.id == new.c[ROW_ID]).values(values)
