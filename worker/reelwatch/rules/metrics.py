"""What is counted and measured, under which names and labels, and how facts are added up. Pure.

Names and units follow Prometheus' conventions. A label never holds an id or a URL; accounts and
hosts, of which there may be many, are told apart up to `VALUES_MOST` of each.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

VALUES_MOST = 50
OTHER = "other"
BOUNDED = frozenset({"account", "host"})
LE = "le"  # the label of a bucket's upper bound


class Kind(StrEnum):
    """How a metric's value moves."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Metric:
    """A family of series. A counter's name goes without `_total`, which its series end in."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # upper bounds in seconds, the infinite one left out

    def __post_init__(self) -> None:
        ALL[self.name] = self


@dataclass(frozen=True, slots=True, order=True)
class Series:
    """One row of counters: a family, with its suffix, and the values of its labels in order."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()


ALL: dict[str, Metric] = {}

FAST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0)
SLOW = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)

POLLS = Metric("reelwatch_polls", Kind.COUNTER, "Polls written down.", ("account",))
POLL_ERRORS = Metric(
    "reelwatch_poll_errors", Kind.COUNTER,
    "Polls that did not tell a job's status, or were not believed.", ("account", "kind"),
)  # fmt: skip
FIRST_POLLS = Metric(
    "reelwatch_jobs_first_polled", Kind.COUNTER, "Jobs polled for the first time.", ("account",)
)
TRANSITIONS = Metric(
    "reelwatch_transitions", Kind.COUNTER,
    "Transitions written down, by the state they lead to.", ("account", "state"),
)  # fmt: skip
ENDS = Metric(
    "reelwatch_jobs_ended", Kind.COUNTER,
    "Jobs that were completed, failed, expired or were cancelled; `code` says why, or is `none`.",
    ("account", "state", "code"),
)  # fmt: skip
EVENTS = Metric(
    "reelwatch_events", Kind.COUNTER,
    "Events that receivers are owed, one for each way to tell them.", ("type", "channel"),
)  # fmt: skip
ATTEMPTS = Metric(
    "reelwatch_delivery_attempts", Kind.COUNTER,
    "Attempts to deliver: `accepted`, `refused` (a 4xx) or `failed`.",
    ("channel", "host", "outcome"),
)  # fmt: skip
SETTLED = Metric(
    "reelwatch_deliveries_settled", Kind.COUNTER,
    "Deliveries that became `delivered` or `dead`.", ("channel", "state"),
)  # fmt: skip

POLL_SECONDS = Metric(
    "reelwatch_poll_seconds", Kind.HISTOGRAM,
    "From a poll's request to its whole answer, or to its error.", ("account",), FAST,
)  # fmt: skip
NOTICE_SECONDS = Metric(
    "reelwatch_notice_delay_seconds", Kind.HISTOGRAM,
    "From a job's end, by upstream's clock, or from when it was tracked if that was later, to the "
    "commit that notes it.", ("account",), SLOW,
)  # fmt: skip
ATTEMPT_SECONDS = Metric(
    "reelwatch_delivery_attempt_seconds", Kind.HISTOGRAM,
    "How long an attempt to deliver took.", ("channel",), FAST,
)  # fmt: skip
DELIVERY_SECONDS = Metric(
    "reelwatch_delivery_delay_seconds", Kind.HISTOGRAM,
    "From the commit that owes an event to its receiver's yes.", ("channel",), SLOW,
)  # fmt: skip

BUILD = Metric("reelwatch_build_info", Kind.GAUGE, "Always 1.", ("version",))
DATABASE_UP = Metric("reelwatch_database_up", Kind.GAUGE, "1 while the figures can be read.")
READ_AT = Metric(
    "reelwatch_figures_timestamp_seconds", Kind.GAUGE,
    "When the figures of this page were read from the database.",
)  # fmt: skip
TICK_AT = Metric(
    "reelwatch_last_tick_timestamp_seconds", Kind.GAUGE, "When a tick was last carried out."
)
OPEN_JOBS = Metric(
    "reelwatch_open_jobs", Kind.GAUGE, "Jobs that are still polled.", ("account", "state")
)
DUE_JOBS = Metric(
    "reelwatch_due_jobs", Kind.GAUGE, "Jobs whose poll is due, of accounts that may be asked.",
    ("account",),
)  # fmt: skip
OLDEST_DUE = Metric(
    "reelwatch_oldest_due_seconds", Kind.GAUGE,
    "For how long the poll that has waited longest has been due since its account rested.",
    ("account",),
)  # fmt: skip
RATE = Metric(
    "reelwatch_account_requests_per_second", Kind.GAUGE,
    "The request rate now in force; lower than configured after 429s.", ("account",),
)  # fmt: skip
PAUSED = Metric(
    "reelwatch_account_paused", Kind.GAUGE, "1 while the account is paused.", ("account",)
)
SHORT = Metric(
    "reelwatch_account_budget_short", Kind.GAUGE,
    "1 while more polls are worth making than the rate allows.", ("account",),
)  # fmt: skip
PENDING = Metric("reelwatch_pending_deliveries", Kind.GAUGE, "Deliveries still owed.")
OLDEST_PENDING = Metric(
    "reelwatch_oldest_pending_delivery_seconds", Kind.GAUGE,
    "For how long the delivery that has waited longest has been owed.",
)  # fmt: skip
DEAD = Metric("reelwatch_dead_deliveries", Kind.GAUGE, "Deliveries given up and not redelivered.")
FAILING = Metric(
    "reelwatch_failing_endpoints", Kind.GAUGE, "Endpoints that rest since they keep failing."
)
INCIDENTS = Metric(
    "reelwatch_open_incidents", Kind.GAUGE,
    "Incidents begun and not over, told to the operator or not.", ("type",),
)  # fmt: skip


class Tally(dict[Series, float]):
    """What a group of facts adds to the counters, by series."""

    def count(self, metric: Metric, *values: str, by: float = 1) -> None:
        """Add to a counter; `values` are its labels' in order."""
        self._add(f"{metric.name}_total", metric, values, by)

    def observe_all(self, metric: Metric, seconds: Sequence[float], *values: str) -> None:
        """Add observations to a histogram; one of a clock that runs ahead counts as none."""
        if not seconds:
            return
        places = Counter(bisect_left(metric.buckets, each) for each in seconds)
        for place, count in places.items():
            bound = bound_text(metric.buckets[place]) if place < len(metric.buckets) else "+Inf"
            self._add(f"{metric.name}_bucket", metric, values, count, ((LE, bound),))
        self._add(f"{metric.name}_sum", metric, values, sum(max(0.0, each) for each in seconds))

    def _add(
        self,
        name: str,
        metric: Metric,
        values: tuple[str, ...],
        by: float,
        more: tuple[tuple[str, str], ...] = (),
    ) -> None:
        series = Series(name, (*zip(metric.labels, values, strict=True), *more))
        self[series] = self.get(series, 0.0) + by


def bound_text(bound: float) -> str:
    """A bucket's upper bound as Prometheus writes it: `0.5`, `10.0`."""
    return repr(float(bound))


def unplaced(series: Iterable[Series], known: Mapping[str, Collection[str]]) -> set[str]:
    """The bounded labels that have values which nobody has given a place to."""
    return {
        name
        for each in series
        for name, value in each.labels
        if name in BOUNDED and value != OTHER and value not in known[name]
    }


def bounded(tally: Tally, known: Mapping[str, set[str]]) -> Tally:
    """The tally with `other` for values beyond those that have a place; new ones get one first."""
    placed = Tally()
    for series, by in tally.items():
        labels = tuple((name, _placed(name, value, known)) for name, value in series.labels)
        at = Series(series.name, labels)
        placed[at] = placed.get(at, 0.0) + by
    return placed


def _placed(name: str, value: str, known: Mapping[str, set[str]]) -> str:
    if name not in BOUNDED or value in known[name]:
        return value
    if len(known[name]) >= VALUES_MOST:
        return OTHER
    known[name].add(value)
    return value


def cumulated(buckets: Mapping[str, float], metric: Metric) -> list[tuple[str, float]]:
    """A histogram's buckets as they are shown: each with all that lie below it."""
    total, shown = 0.0, []
    for bound in (*map(bound_text, metric.buckets), "+Inf"):
        total += buckets.get(bound, 0.0)
        shown.append((bound, total))
    return shown
