"""The tables that runs end with, and those of them that the README shows."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.drill.faults import FAULTS
from tests.drill.world import Drill
from tests.servers import ROOT

KEPT = ROOT / "docs" / "drill.json"  # what the README shows
README = ROOT / "README.md"
BEGIN, END = "<!-- from docs/drill.json -->\n", "<!-- until here -->"
FIGURES = (
    "jobs", "faults injected", "polls", "events owed", "events received", "lost", "dead",
    "received again", "handed in again", "most requests in a second", "longest idle transaction, s",
    "minutes", "violations",
)  # fmt: skip

Result = Mapping[str, Any]


def result(drill: Drill, wrong: Sequence[str], seed: int, jobs: int, minutes: float) -> Result:
    """What a run came to, as JSON."""
    counts = drill.fleet.listener.counts()
    hooks = "SELECT count(*) FROM deliveries WHERE channel = 'webhook'"
    owed = drill.fleet.rows(hooks)[0][0]
    dead = drill.fleet.rows(f"{hooks} AND state = 'dead'")[0][0]
    return {
        "seed": seed,
        "jobs": jobs,
        "faults injected": sum(drill.injected.values()),
        "polls": len(drill.fleet.sandbox.polls()),
        "events owed": owed,
        "events received": counts["distinct"],
        "lost": owed - counts["distinct"] - dead,
        "dead": dead,
        "received again": counts["duplicates"],
        "handed in again": drill.handed_in_again,
        "most requests in a second": drill.fleet.sandbox.stats()["max_in_one_second"],
        "longest idle transaction, s": round(drill.idle_longest, 2),
        "minutes": round(minutes, 1),
        "violations": len(wrong),
        "times": dict(drill.injected),
        "gaps": {name: round(gap, 1) for name, gap in drill.recovery.items()},
    }


def tables(results: Sequence[Result]) -> str:
    """Those of some runs, in Markdown: a column each; of the gaps, the longest of all runs."""
    head = ["seed", *(str(each["seed"]) for each in results)]
    figures = [[name, *(str(each[name]) for each in results)] for name in FIGURES]
    names = {name for each in results for name in each["gaps"]}
    longest = {name: max(each["gaps"].get(name, 0.0) for each in results) for name in names}
    times = {name: sum(each["times"].get(name, 0) for each in results) for name in names}
    gaps = [
        [FAULTS[name].label, str(times[name]), f"{gap:.1f}"]
        for name, gap in sorted(longest.items(), key=lambda item: (-item[1], item[0]))
    ]
    fault_head = ["fault", "times", "longest time without a poll, s"]
    return "\n".join([*_table(head, figures), "", *_table(fault_head, gaps)])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def keep(results: Sequence[Result]) -> None:
    """Have the README show these runs."""
    KEPT.write_text(json.dumps(results, indent=1) + "\n")
    README.write_text(shown(README.read_text(), results))


def shown(readme: str, results: Sequence[Result]) -> str:
    """The README with the tables of these runs."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables(results)}\n\n{END}{after}"
