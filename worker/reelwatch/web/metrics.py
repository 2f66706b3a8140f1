"""`/metrics`: counters and gauges for Prometheus, as they were read from the database lately.

A thread reads them while somebody scrapes, so that a scrape never waits for the database and many
scrapers cost it no more than one.
"""

import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import CollectorRegistry

from reelwatch.errors import first_line
from reelwatch.rules.metrics import ALL, LE, Kind, Metric, Tally, cumulated
from reelwatch.storage import counters, db, gauges
from reelwatch.web.access import Credentials, require, settings_of

log = structlog.get_logger(__name__)

EVERY_SECONDS = 5.0
FIRST_SECONDS = 2.0  # that the first scrape waits for figures, at most
UNASKED_SECONDS = 120.0  # after the last scrape nothing is read any more


@dataclass(frozen=True, slots=True)
class Figures:
    """What a scrape shows."""

    counters: Tally
    gauges: gauges.Gauges


class Reader:
    """Reads the figures again and again, in a thread, while somebody wants them."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._version = version("reelwatch")
        self._figures = Figures(Tally(), gauges.away(self._version))
        self._asked_at = 0.0
        self._read = threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def latest(self) -> Figures:
        """The figures as they were read last; has them read from now on."""
        self._asked_at = time.monotonic()
        with self._lock:
            if self._thread is None:
                self._read.clear()
                self._thread = threading.Thread(target=self._go_on, name="figures", daemon=True)
                self._thread.start()
        self._read.wait(FIRST_SECONDS)
        return self._figures

    def stop(self) -> None:
        """Read no more."""
        self._stopped.set()

    def _go_on(self) -> None:
        while not self._stopped.is_set():
            self._figures = self._read_once()
            self._read.set()
            self._stopped.wait(EVERY_SECONDS)
            with self._lock:
                if time.monotonic() - self._asked_at > UNASKED_SECONDS:
                    self._thread = None
                    return

    def _read_once(self) -> Figures:
        try:
            with db.reading(self._url) as session:
                return Figures(counters.totals(session), gauges.gauges(session, self._version))
        except Exception as error:  # the counters as they were, and that the database is away
            log.warning("figures_not_read", error=first_line(error))
            return Figures(self._figures.counters, gauges.away(self._version))


@asynccontextmanager
async def _reading(app: FastAPI) -> AsyncIterator[None]:
    app.state.figures = Reader(app.state.settings.database_url)
    app.state.scrapes = CapacityLimiter(4)  # threads of their own: others may wait for a database
    yield
    app.state.figures.stop()


async def _allowed(request: Request, given: Credentials) -> None:
    if not settings_of(request).metrics_public:
        await require("read")(request, given)


router = APIRouter(lifespan=_reading)


@router.get("/metrics", include_in_schema=False, dependencies=[Depends(_allowed)])
async def metrics(request: Request) -> Response:
    """All series, in the form that the `Accept` header asks for; OpenMetrics is one."""
    state = request.app.state
    encode, kind = _encoder(request.headers.get("accept", ""))
    page = await to_thread.run_sync(
        lambda: encode(_registry(state.figures.latest())), limiter=state.scrapes
    )
    return Response(page, headers={"content-type": kind})


def _encoder(accept: str) -> Any:
    """What writes the form that is asked for, and its type."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is no number: any form will do
        return choose_encoder("")


def _registry(figures: Figures) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(figures))
    return registry


@dataclass(frozen=True, slots=True, eq=False)  # the registry keeps it by its identity
class _Page:
    figures: Figures

    def collect(self) -> Iterator[Family]:
        return families(self.figures)


def families(figures: Figures) -> Iterator[Family]:
    """Each family with its series, in the order of the table of metrics."""
    by_name: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for series, value in figures.counters.items():
        by_name.setdefault(series.name, {})[series.labels] = value
    for metric in ALL.values():
        if metric.kind is Kind.COUNTER:
            yield _counter(metric, by_name.get(f"{metric.name}_total", {}))
        elif metric.kind is Kind.HISTOGRAM:
            found = (by_name.get(f"{metric.name}_{end}", {}) for end in ("bucket", "sum"))
            yield _histogram(metric, *found)
        else:
            yield _gauge(metric, figures.gauges.get(metric, {}))


Values = Mapping[tuple[tuple[str, str], ...], float]


def _counter(metric: Metric, values: Values) -> Family:
    family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in sorted(values.items()):
        family.add_metric([each for _, each in labels], value)
    return family


def _histogram(metric: Metric, buckets: Values, sums: Values) -> Family:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, total in sorted(sums.items()):
        of_it = {dict(each)[LE]: value for each, value in buckets.items() if each[:-1] == labels}
        family.add_metric([value for _, value in labels], cumulated(of_it, metric), total)
    return family


def _gauge(metric: Metric, values: Mapping[tuple[str, ...], Any]) -> Family:
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in sorted(values.items()):
        family.add_metric(labels, value)
    return family
