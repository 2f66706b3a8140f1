"""All benchmarks, or those named: `python -m benchmarks [--quick] [NAME…]`.

Prints one table: what was measured, what it should be, whether it is. The exit code is 1 if a
benchmark could not be run; with `--strict` also if a goal was missed.
"""

import argparse
import json
import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import structlog
from rich.console import Console
from rich.table import Table

from benchmarks import cpu
from benchmarks.result import Row

# Each is a module here with `rows(quick: bool) -> list[Row]`, in the order in which they run.
NAMES = (
    "schedule", "delay", "poll", "cost", "load", "claims", "backlog", "refused", "webhooks",
    "web", "idle", "start", "approaches",
)  # fmt: skip
KEPT = Path(__file__).parent.parent / "docs" / "benchmarks.md"
ESCAPED = r"\|"  # what would end a cell
BEGIN, END = "<!-- from make bench -->\n", "<!-- until here -->"
LIBRARIES = ("celery", "redis", "sqlalchemy", "psycopg", "requests", "urllib3", "dbos")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = [name for name in NAMES if find_spec(f"benchmarks.{name}")]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"out of {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="small: shows that all of them work")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a goal is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    parser.add_argument("--keep", action="store_true", help="show them in docs/benchmarks.md")
    options = parser.parse_args()
    unknown = set(options.names) - set(known)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}")
    if options.keep and options.quick:
        parser.error("--keep: what is too small to judge by is not kept")
    # The benchmarks' servers are their own: their processor time is counted, and their log read.
    os.environ.pop("REELWATCH_TEST_POSTGRES_URL", None)
    rows, failed = run(options.names or known, quick=options.quick, keep=options.keep)
    show(rows, quick=options.quick)
    if options.json:
        told = [asdict(row) | {"met": row.met} for row in rows]
        options.json.write_text(json.dumps({"machine": machine(), "rows": told}, indent=1))
    missed = [row for row in rows if row.met is False]
    return 1 if failed or (options.strict and missed) else 0


def run(names: Sequence[str], *, quick: bool, keep: bool = False) -> tuple[list[Row], list[str]]:
    """The rows of all, and the names of those that could not be run; those are told at once.

    `keep`: each is shown in docs/benchmarks.md as soon as it is there.
    """
    rows: list[Row] = []
    failed = []
    for name in names:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
        started, others = time.monotonic(), _others()
        try:
            found = import_module(f"benchmarks.{name}").rows(quick)
            rows += found
            if keep:
                KEPT.write_text(shown(KEPT.read_text("utf-8"), name, found), "utf-8")
        except Exception:  # the others can be run all the same
            traceback.print_exc()
            failed.append(name)
        seconds = time.monotonic() - started
        said = "failed" if name in failed else "done"
        share = 100 * (_others() - others) / seconds
        print(
            f"{name}: {said} in {seconds:.0f} s; meanwhile others used {share:.0f} % of a core",
            file=sys.stderr,
            flush=True,
        )
    return rows, failed


def _others() -> float:
    """Processor seconds of what does not belong to this run: much of it bends the figures."""
    return cpu.machine() - cpu.seconds(os.getpid())


def show(rows: Sequence[Row], *, quick: bool) -> None:
    """One table, and where it comes from."""
    table = Table(title="Quick run: sizes too small to judge by" if quick else None)
    for heading in ("goal", "measured", "", "should be", "met", "note"):
        table.add_column(heading, justify="right" if heading == "measured" else "left",
                         overflow="fold")  # fmt: skip
    for place, row in enumerate(rows):
        first = place == 0 or rows[place - 1].goal != row.goal
        if first:
            table.add_section()
            table.add_row(f"[bold]{row.goal}[/bold]")
        table.add_row(row.what, _number(row.measured), row.unit, _bound(row), _met(row), row.note)
    width = None if sys.stdout.isatty() else 160
    console = Console(width=width, highlight=False)
    console.print(table)
    console.print("; ".join(machine()))


def shown(document: str, name: str, rows: Sequence[Row]) -> str:
    """The document with these rows as its section of that benchmark; the others stay."""
    before, _, rest = document.partition(BEGIN)
    kept, _, after = rest.partition(END)
    sections = {
        title: f"### {title}\n{text.rstrip()}\n"
        for title, _, text in (each.partition("\n") for each in kept.split("### ")[1:])
    }
    sections[name] = _section(name, rows)
    body = "\n".join(sections[each] for each in NAMES if each in sections)
    return f"{before}{BEGIN}\n{body}\n{END}{after}"


def _section(name: str, rows: Sequence[Row]) -> str:
    lines = [f"### {name}", "", f"{datetime.now(UTC):%Y-%m-%d}. {'; '.join(machine())}."]
    for goal, some in groupby(rows, lambda row: row.goal):
        lines += ["", f"| {goal} | measured | should be | met | note |", "|---|--:|---|---|---|"]
        for row in some:
            measured = f"{_number(row.measured)} {row.unit}".strip()
            met = {True: "yes", False: "**no**", None: ""}[row.met]
            cells = (row.what, measured, _bound(row), met, row.note)
            lines.append(f"| {' | '.join(cell.replace('|', ESCAPED) for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.3g}" if abs(value) < 1_000 else f"{value:,.0f}"


def _bound(row: Row) -> str:
    if row.limit is None:
        return ""
    return f"{'≤' if row.better == 'lower' else '≥'} {row.limit:g}"


def _met(row: Row) -> str:
    return {True: "yes", False: "[bold]no[/bold]", None: ""}[row.met]


def machine() -> list[str]:
    """What it ran on."""
    return [
        f"{_processor()}, {os.cpu_count()} cores",
        f"Python {platform.python_version()}",
        *(f"{name} {number}" for name, number in _versions()),
    ]


def _processor() -> str:
    """Its name, as Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _versions() -> Iterator[tuple[str, str]]:
    for name in LIBRARIES:
        try:
            yield name, version(name)
        except PackageNotFoundError:  # the extra `bench` is not installed
            yield name, "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
