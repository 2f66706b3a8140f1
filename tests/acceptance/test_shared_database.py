"""Reelwatch's tables in a producer's database: two histories, one transaction, nobody's toes."""

import contextlib
import itertools
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, insert, inspect, text
from sqlalchemy.orm import Session

from reelwatch import track
from reelwatch.config import naming
from reelwatch.config.naming import Place
from reelwatch.errors import NotMigrated, NotOurs, SettingsError
from reelwatch.storage import adoption, alembic_filter, db, migrating
from reelwatch.storage.models import Base
from tests.databases import new_database
from tests.environment import configured, set_variables
from tests.processes import ROOT
from tests.servers import PostgresServer, process
from tests.test_db import complete_story, to_base

SHOP = ROOT / "tests" / "producer"
OURS = sorted(table.name for table in Base.metadata.tables.values())


@pytest.fixture
def shop_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The database of a producer, without a single table yet."""
    with new_database(postgres_server) as url:
        yield url


def run(url: str, *args: str | Path, given: Mapping[str, str] | None = None) -> str:
    """A command in the producer's environment; its output. It has to succeed."""
    environment = {"DATABASE_URL": url, "SHOP_DATABASE_URL": url, "PYTHONPATH": str(SHOP)}
    with process(list(args), {**environment, **(given or {})}) as child:
        assert child.wait(60) == 0, child.output
        return child.output


def reelwatch(url: str, *args: str, place: str = "") -> str:
    return run(url, "reelwatch", *args, given={"REELWATCH_SCHEMA": place})


def test_pages_see_changes_in_tables_with_a_prefix(shop_url: str) -> None:
    """What a page depends on has one name, however its table is called."""
    reelwatch(shop_url, "migrate", place="rw_")
    code = """
        from reelwatch.config import settings
        from reelwatch.storage import db, topics
        with db.reading(settings.load().database_url) as session:
            print(*sorted(topics.marks(session)))
    """
    program = [sys.executable, "-c", textwrap.dedent(code)]
    seen = run(shop_url, *program, given={"REELWATCH_SCHEMA": "rw_"}).split()
    assert {"jobs", "transitions", "attempts", "poll_errors", "accounts"} <= set(seen)


def shop(url: str, revision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Move the shop's own tables, by its own history."""
    monkeypatch.setenv("SHOP_DATABASE_URL", url)
    monkeypatch.syspath_prepend(SHOP)
    config = Config()
    config.set_main_option("script_location", str(SHOP / "migrations"))
    (command.downgrade if revision == "base" else command.upgrade)(config, revision)


def structure(url: str) -> dict[str, list[str]]:
    """The columns of every table, by schema and name, and what their version tables say."""
    engine = create_engine(url)
    found: dict[str, list[str]] = {}
    with contextlib.closing(engine.connect()) as connection:
        inspector = inspect(connection)
        schemas = [None] if engine.dialect.name == "sqlite" else inspector.get_schema_names()
        for schema in schemas:
            if schema == "information_schema":
                continue
            for name in inspector.get_table_names(schema):
                full = f"{schema}.{name}" if schema else name
                columns = [str(each["name"]) for each in inspector.get_columns(name, schema)]
                if name.endswith("_version"):
                    columns = list(connection.execute(text(f"SELECT * FROM {full}")).scalars())
                found[full] = columns
    engine.dispose()
    return found


def split(url: str, place: Place) -> tuple[dict[str, Any], dict[str, Any]]:
    """The structure, ours and theirs."""
    ours = {
        f"{place.schema or 'public'}.{place.table(name)}" for name in (*OURS, "reelwatch_version")
    }
    found = structure(url)
    mine = {name: columns for name, columns in found.items() if name in ours}
    return mine, {name: columns for name, columns in found.items() if name not in ours}


# ------------------------------------------------------------------- migrations


@pytest.mark.parametrize(
    ("variable", "place"),
    [("reelwatch", Place(schema="reelwatch")), ("rw_", Place(prefix="rw_"))],
)
def test_both_histories_go_up_and_down_in_any_order(
    shop_url: str, monkeypatch: pytest.MonkeyPatch, variable: str, place: Place
) -> None:
    """Each moves its own tables and its own version, and sees nothing of the other's."""
    steps = ["ours up", "shop up", "shop down", "ours down", "shop half", "ours up", "shop up"]
    for step in [*steps, "ours down", "shop down"]:
        whose, way = step.split()
        ours, theirs = split(shop_url, place)
        if whose == "shop":
            revision = {"up": "head", "half": "0001", "down": "base"}[way]
            shop(shop_url, revision, monkeypatch)
            assert split(shop_url, place)[0] == ours, step
        else:
            options = [] if way == "up" else ["--to", "base", "--yes"]
            reelwatch(shop_url, "migrate", *options, place=variable)
            now, same = split(shop_url, place)
            assert same == theirs, step
            assert len(now) == (len(OURS) + 1 if way == "up" else 0), step
    assert split(shop_url, place) == ({}, {"public.alembic_version": []})


@pytest.mark.parametrize("all_schemas", [True, False])
@pytest.mark.parametrize("variable", ["reelwatch", "rw_", ""])
def test_autogenerate_proposes_nothing_of_ours(
    shop_url: str, monkeypatch: pytest.MonkeyPatch, variable: str, all_schemas: bool
) -> None:
    """`alembic check` fails when a new revision would hold anything."""
    if variable:
        shop(shop_url, "head", monkeypatch)
    reelwatch(shop_url, "migrate", place=variable)
    given = {"REELWATCH_SCHEMA": variable}
    if all_schemas:
        given["SHOP_ALL_SCHEMAS"] = "1"
    if not variable:  # a project without tables of those names: its history is empty here
        script = CHECK_EMPTY.format(all_schemas=all_schemas)
        assert run(shop_url, sys.executable, "-c", script, given=given).strip() == "[]"
        return
    alembic = ("alembic", "-c", SHOP / "alembic.ini")
    assert "No new upgrade operations" in run(shop_url, *alembic, "check", given=given)
    if variable == "rw_" or all_schemas:  # what the filter is good for
        given |= {"SHOP_DATABASE_URL": shop_url, "SHOP_UNFILTERED": "1", "PYTHONPATH": str(SHOP)}
        with process([*alembic, "check"], given) as unfiltered:
            assert unfiltered.wait(60) != 0
            assert "remove_table" in unfiltered.output


CHECK_EMPTY = """
import os
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, create_engine
from reelwatch.storage.alembic_filter import include_name
with create_engine(os.environ["SHOP_DATABASE_URL"]).connect() as connection:
    options = {{"include_name": include_name, "include_schemas": {all_schemas}}}
    context = MigrationContext.configure(connection, opts=options)
    print(compare_metadata(context, MetaData()))
"""


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_a_table_of_somebody_elses_is_refused_with_a_reason(
    shop_url: str, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    """Whatever revision theirs is at, it is nobody's business; and nothing is changed."""
    shop(shop_url, revision, monkeypatch)
    before = structure(shop_url)
    with pytest.raises(NotOurs, match=r"table accounts is .* \(no column .* REELWATCH_SCHEMA"):
        migrating.migrate(shop_url)
    assert structure(shop_url) == before
    db.dispose()


def test_an_index_of_somebody_elses_is_refused_too(empty_database_url: str) -> None:
    with db.engine(empty_database_url).begin() as connection:
        connection.execute(text("CREATE TABLE films (due timestamp)"))
        connection.execute(text("CREATE INDEX ix_jobs_due ON films (due)"))
    with pytest.raises(NotOurs, match="ix_jobs_due is in this database already"):
        migrating.migrate(empty_database_url)


def test_a_name_that_a_later_step_needs_is_refused_too(empty_database_url: str) -> None:
    """Nothing of that step stays, and the tables are where they were."""
    migrating.migrate(empty_database_url, "reelwatch_0002")
    with db.engine(empty_database_url).begin() as connection:
        connection.execute(text("CREATE TABLE waiting_messages (id integer)"))
    with pytest.raises(NotOurs, match=r"waiting_messages.* already exists.*REELWATCH_SCHEMA"):
        migrating.migrate(empty_database_url)
    assert db.revisions(empty_database_url)[0] == "reelwatch_0002"


def test_a_half_of_our_tables_is_left_alone(database_url: str) -> None:
    """What is missing would be made anew, empty: better to ask for the backup."""
    as_before(database_url, "0002")
    with db.engine(database_url).begin() as connection:
        connection.execute(text("DROP TABLE attempts"))
    with pytest.raises(NotOurs, match="attempts is not: nothing is changed"):
        migrating.migrate(database_url)


def test_two_installations_share_a_database(shop_url: str) -> None:
    """Each with its own tables, revision and jobs."""
    for place in ("one", "two_"):
        reelwatch(shop_url, "migrate", place=place)
    with db.engine(shop_url).begin() as connection:
        for name in ("one.accounts", "two_accounts"):
            row = f"INSERT INTO {name} (name, requests_per_second) VALUES ('default', 5)"
            connection.execute(text(row))
    reelwatch(shop_url, "track", "grok:1", place="one")
    assert len(json.loads(reelwatch(shop_url, "list", "--json", place="one"))) == 1
    assert json.loads(reelwatch(shop_url, "list", "--json", place="two_")) == []


# --------------------------------------------------------------------- adoption


def as_before(url: str, revision: str) -> None:
    """Make a migrated database what releases before `reelwatch_version` left behind."""
    migrating.migrate(url, f"reelwatch_{revision}")
    with db.engine(url).begin() as connection:
        connection.execute(text("DROP TABLE reelwatch_version"))
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text(f"INSERT INTO alembic_version VALUES ('{revision}')"))


def story_of(url: str) -> dict[str, Any]:
    with db.engine(url).connect() as connection:
        return {
            table.name: [dict(row) for row in connection.execute(table.select()).mappings()]
            for table in Base.metadata.tables.values()
            if table.name in adoption.OLD_COLUMNS
        }


def tell_story(url: str) -> None:
    with db.transaction(url) as session:
        for table, values in complete_story():
            session.execute(insert(table).values(values))


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_an_installation_of_an_older_release_goes_on(database_url: str, revision: str) -> None:
    tell_story(database_url)
    before = story_of(database_url)
    as_before(database_url, revision)
    assert db.revisions(database_url)[0] is None
    notes = migrating.migrate(database_url)
    current, newest = db.revisions(database_url)
    assert current == newest
    assert story_of(database_url) == before
    assert "alembic_version" not in inspect(db.engine(database_url)).get_table_names()
    assert "only they used, is removed" in notes[0]
    assert migrating.migrate(database_url) == []
    to_base(database_url)


@pytest.mark.parametrize("entries", [("0002",), ("0001",), ("0002", "4f1c"), ()])
def test_what_may_be_another_projects_stays(database_url: str, entries: Sequence[str]) -> None:
    """Another project's tables are here, or another revision than ours, or two."""
    tell_story(database_url)
    as_before(database_url, "0002")
    with db.engine(database_url).begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
        for entry in entries:
            connection.execute(text(f"INSERT INTO alembic_version VALUES ('{entry}')"))
        if entries == ("0002",):
            connection.execute(text("CREATE TABLE orders (id integer)"))
    (note,) = migrating.migrate(database_url)
    assert "alembic_version stays as it is" in note
    with db.engine(database_url).connect() as connection:
        left = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    assert sorted(left) == sorted(entries)


def test_an_older_installation_in_a_producers_database_is_told_apart(
    shop_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both histories shared `alembic_version`; the shop's next step must not be skipped."""
    as_before(shop_url, "0002")
    with db.engine(shop_url).begin() as connection:
        connection.execute(text("CREATE TABLE orders (id integer)"))
    migrating.migrate(shop_url)
    assert structure(shop_url)["public.alembic_version"] == ["0002"]
    to_base(shop_url)
    assert structure(shop_url) == {"public.alembic_version": ["0002"], "public.orders": ["id"]}


# ------------------------------------------------------------ one transaction

JOINT = """
import os
from sqlalchemy import create_engine, inspect, select, text
from sqlalchemy.orm import Session, sessionmaker
from reelwatch import cancel, eta, recheck, track, track_many
from reelwatch.jobs.history import story
from reelwatch.storage.models import Job as Tracked
from models import Account, Job

engine = create_engine(os.environ["SHOP_DATABASE_URL"])
Shop = sessionmaker(engine)

with Shop() as session:
    session.add(Account(email="a@example.com", jobs=[Job(video_id="grok:1")]))
    tracked = track("grok:1", session=session)
    assert tracked.created and tracked.state == "pending"
    session.commit()
    # Expired by the commit, read again through the shop's own engine.
    assert inspect(tracked).expired_attributes
    assert (tracked.video_id, tracked.account) == ("grok:1", "default")
    session.refresh(tracked)
    assert session.get(Tracked, tracked.id) is tracked
    session.expire(tracked)
    assert tracked.metadata_ == {}

with Shop() as session:
    session.add(Account(email="b@example.com", jobs=[Job(video_id="grok:2")]))
    session.flush()
    many = track_many(["grok:2", "grok:3", "grok:1"], session=session)
    assert [job.created for job in many] == [True, True, False]
    assert recheck("grok:2", session=session).state == "pending"
    assert cancel("grok:3", session=session).state == "cancelled"
    assert eta("grok:2", session=session) is None
    session.rollback()

with Shop() as session:
    assert session.scalars(select(Job.video_id)).all() == ["grok:1"]
    assert session.scalars(select(Tracked.video_id)).all() == ["grok:1"]
    assert story(session, "grok:1")["job"]["state"] == "pending"
    both = select(Job.id, Tracked.state).join(Tracked, Tracked.video_id == Job.video_id)
    assert [row.state for row in session.execute(both)] == ["pending"]
print("joined")
"""


@pytest.mark.parametrize("variable", ["reelwatch", "rw_"])
def test_an_order_and_its_video_are_stored_together_or_not_at_all(
    shop_url: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Through the producer's own engine and session, whose tables have the same names."""
    shop(shop_url, "head", monkeypatch)
    reelwatch(shop_url, "migrate", place=variable)
    given = {"REELWATCH_SCHEMA": variable, "BROKER_URL": "memory://"}
    script = textwrap.dedent(JOINT)
    assert "joined" in run(shop_url, sys.executable, "-c", script, given=given)


def test_sqlite_takes_any_value_for_a_prefix(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    with create_engine(url).begin() as connection:
        connection.execute(text("CREATE TABLE jobs (id integer)"))
    reelwatch(url, "migrate", place="rw")
    reelwatch(url, "track", "grok:1", place="rw")
    assert sorted(structure(url)) == sorted(
        ["jobs", "rw_reelwatch_version", *(f"rw_{name}" for name in OURS)]
    )
    (job,) = json.loads(reelwatch(url, "list", "--json", place="rw"))
    assert job["video_id"] == "grok:1"
    reelwatch(url, "migrate", "--to", "base", "--yes", place="rw")
    assert structure(url) == {"jobs": ["id"]}


def test_a_prefix_is_in_every_name(tmp_path: Path) -> None:
    """Models and migrations agree there, too: nothing keeps a name that may be the producer's."""
    script = """
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
import os
from reelwatch.storage import alembic_filter, db, migrating
from reelwatch.storage.models import Base
url = os.environ["DATABASE_URL"]
migrating.migrate(url)
with db.engine(url).connect() as connection:
    context = MigrationContext.configure(connection, opts={
        "compare_type": True, "include_name": alembic_filter.is_ours,
        "include_schemas": True})
    print(compare_metadata(context, Base.metadata))
    names = connection.execute(text("SELECT name FROM sqlite_master")).scalars()
    print([name for name in names if "a_longish_prefix_12_" not in name])
"""
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    given = {"REELWATCH_SCHEMA": "a_longish_prefix_12_"}
    assert run(url, sys.executable, "-c", script, given=given).split() == ["[]", "[]"]


# ----------------------------------------------------------------------- naming

PG = "postgresql://app@db/shop"


@pytest.mark.parametrize(
    ("value", "url", "place"),
    [
        ("", PG, Place()),
        ("  ", PG, Place()),
        ("reelwatch", PG, Place(schema="reelwatch")),
        ("reelwatch", "postgres://app@db/shop", Place(schema="reelwatch")),
        ("reelwatch", " POSTGRES://app@db/shop", Place(schema="reelwatch")),
        ("reelwatch", "postgresql+psycopg://app@db/shop", Place(schema="reelwatch")),
        ("reelwatch_", PG, Place(prefix="reelwatch_")),
        ("reelwatch", "sqlite:///x.db", Place(prefix="reelwatch_")),
        ("reelwatch", "", Place(prefix="reelwatch_")),
        ("s" * 40, PG, Place(schema="s" * 40)),
    ],
)
def test_a_place_is_a_schema_or_a_prefix(value: str, url: str, place: Place) -> None:
    assert naming.read({"REELWATCH_SCHEMA": value, "DATABASE_URL": url}) == place


WRONG = ("Reelwatch", "a b", "a-b", "1a", "a;drop", "pg_x", "s" * 41, "p" * 20 + "_", "é", "a.b")


@pytest.mark.parametrize("value", WRONG)
def test_a_wrong_place_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="a schema's name"):
        naming.read({"DATABASE_URL": PG, "REELWATCH_SCHEMA": value})


def test_a_wrong_place_stops_the_start_and_hits_no_table() -> None:
    script = "from reelwatch.storage.models import Job; print(Job.__table__.schema)"
    for command_line in (["reelwatch", "list"], [sys.executable, "-c", script]):
        with process(command_line, {"DATABASE_URL": PG, "REELWATCH_SCHEMA": "Shop"}) as child:
            child.wait(60)
            output = child.output
            assert "REELWATCH_SCHEMA" in output
    assert naming.NOWHERE in output


def test_a_place_named_after_the_import_is_refused(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables have their names by then: work would go on in the wrong ones."""
    from reelwatch.config import settings  # noqa: PLC0415 - beside what it is about

    configured(sqlite_url, monkeypatch)
    set_variables(monkeypatch, REELWATCH_SCHEMA="other")
    with pytest.raises(SettingsError, match="'other': it, or the kind of database, was"):
        settings.load()


def test_every_older_column_is_known() -> None:
    """What a table had once it keeps: workers of the release before write it."""
    for name, columns in adoption.OLD_COLUMNS.items():
        assert set(columns.split()) <= set(Base.metadata.tables[name].c.keys())


def test_the_filter_leaves_what_only_looks_like_ours() -> None:
    asked = itertools.product(("jobs", "films"), ("table", "index"), (None, "other"))
    hidden = [
        (name, kind, schema)
        for name, kind, schema in asked
        if not alembic_filter.include_name(name, kind, {"schema_name": schema})
    ]
    assert hidden == [("jobs", "table", None)]


def test_the_shop_follows_the_documents() -> None:
    """The lines that docs/producers.md gives a producer are those that are tested here."""
    (lines,) = re.findall(r"```py\n(.*?)```", (ROOT / "docs/producers.md").read_text(), re.DOTALL)
    shown, env = lines.splitlines(), (SHOP / "migrations/env.py").read_text()
    assert shown[0] in env
    assert "include_name=include_name" in shown[-1]


def test_a_session_in_a_database_without_our_tables_is_told_what_to_do(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a table has a name of ours and is somebody else's."""
    configured(empty_database_url, monkeypatch)
    engine = create_engine(empty_database_url)
    with contextlib.closing(engine.connect()) as connection:
        for statement in ("SELECT 1", "CREATE TABLE accounts (id integer)"):
            connection.execute(text(statement))
            connection.commit()
            with Session(engine) as session, pytest.raises(NotMigrated, match="reelwatch migrate"):
                track("veo3.1:a", session=session)
    engine.dispose()
