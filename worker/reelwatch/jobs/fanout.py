"""Claim, do, record: many slow calls at once, their results written in groups as they arrive."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import structlog

from reelwatch.jobs.lanes import Lanes
from reelwatch.jobs.stopping import Stopping
from reelwatch.net.calls import Call, Calls
from reelwatch.net.http import Client, Outcome, TransferError

log = structlog.get_logger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

GATHER_SECONDS = 0.02  # results this close together are written in one transaction
PATIENCE_SECONDS = 0.25  # and those that nobody waits for if they are this close
GROUP = 200  # results in one transaction at most
ROUND_SECONDS = 5.0  # after a batch's time is over, while something takes long
DRAIN_SECONDS = 1.0  # at the beginning of each nothing is claimed, so that the batch may end

places = 8  # batches that a worker has room for; it says so itself when it starts
stopping = Stopping()  # set when this process is asked to end: nothing new is claimed


@dataclass(frozen=True, slots=True)
class Batch(Generic[Item]):
    """What was claimed, and when claiming again makes sense."""

    items: Sequence[Item]
    again: float  # in so many seconds
    when_freed: bool = False  # or as soon as an item is done


@dataclass(frozen=True, slots=True)
class Wire(Generic[Item, Result]):
    """How items are done by HTTP, `most` of them at once: what to send, and what has come of it.

    `call` may say None, for an item that is none for HTTP, or give its result at once; `result`
    gets None for one that was not sent. With `lanes` items wait there for a place before they are
    called, and `give_back` has the result of one that has waited for too long.
    """

    client: Client
    call: Callable[[Item], Call | Result | None]
    result: Callable[[Item, Outcome | None], Result]
    most: int
    is_held: Callable[[], bool] = stopping.is_set  # is nothing sent that waits for its slot?
    lanes: Lanes[Item] | None = None
    give_back: Callable[[Item], Result] | None = None


def fan_out(
    claim: Callable[[int], Batch[Item]],
    do: Callable[[Item], Result],
    record: Callable[[list[Result]], None],
    *,
    threads: int,
    batch_seconds: float,
    wire: Wire[Item, Result] | None = None,
    urgent: Callable[[Result], bool] = lambda _: True,
    linger: bool = False,
    hand_over: Callable[[], None] = lambda: None,
    overtime: float = 0.0,
) -> int:
    """Go on claiming, doing and recording until nothing is left; returns how much was done.

    That is when nothing is in hand; if it is to `linger`, when a claim brings nothing either. No
    more than `threads` items are in hand at once, or as many as the `wire` takes; what is none for
    that is done by threads. After `batch_seconds` nothing new is claimed, so that a batch ends. A
    slow item holds up no other. `do` must not raise: an item whose `do` does stays claimed until
    its lease runs out, and is logged. A result that is not `urgent` may wait a moment longer for
    others to be recorded with. `hand_over` is called when the time is over and more may be left to
    claim; what is in hand is still to be done then. If that takes long, more is claimed meanwhile,
    in rounds, each of which may be the last, and for `overtime` seconds at most: this process can
    serve nobody else.

    Where the system allows fewer threads, there are fewer, and less is in hand; where it allows
    none, this thread does one item after the other. Nothing that was claimed is given up for it.
    """
    batch = _Batch(do, threads, time.monotonic() + batch_seconds, overtime, urgent, wire)
    done = 0
    try:
        while True:
            if batch.hands_over():
                hand_over()
            if batch.may_claim():
                batch.start(claim(batch.room))
            if not batch.in_hand and not (linger and batch.wait()):
                return done
            batch.give_back()
            results = batch.gather()
            if results:
                record(results)
                done += len(results)
    finally:
        batch.dismiss()


@dataclass(frozen=True, slots=True)
class _Came(Generic[Item, Result]):
    """What has come of an item's call."""

    wire: Wire[Item, Result]
    item: Item
    outcome: Outcome | Exception | None


class _Batch(Generic[Item, Result]):
    """The items in hand of one `fan_out`, and when it may claim more."""

    def __init__(
        self,
        do: Callable[[Item], Result],
        threads: int,
        end: float,
        overtime: float,
        urgent: Callable[[Result], bool],
        wire: Wire[Item, Result] | None,
    ) -> None:
        self.in_hand = 0
        self._wire = wire
        self._lanes = wire.lanes if wire else None
        self._freed = False  # a place that nothing in hand waits for
        self._calls: Calls | None = None
        self._do = do
        self._urgent = urgent
        self._threads = threads
        self._end, self._overtime = end, overtime
        self._claim_at = 0.0
        self._empty = False  # was the last claim?
        self._handed_over = False
        self._when_freed = False
        self._short = False  # of threads: does the system allow no more?
        self._crew: list[threading.Thread] = []
        self._work: SimpleQueue[Item | None] = SimpleQueue()
        self._outcomes: SimpleQueue[Result | BaseException | _Came[Item, Result]] = SimpleQueue()

    @property
    def room(self) -> int:
        """How many more items may be in hand."""
        return (self._wire.most if self._wire else self._threads) - self.in_hand

    def may_claim(self) -> bool:
        now = time.monotonic()
        over = now - self._end
        # After the end what is not slow is soon done, and the batch with it; if not, others go on.
        ends = over >= 0 and (over >= self._overtime or over % ROUND_SECONDS < DRAIN_SECONDS)
        return self.room > 0 and self._claim_at <= now and not ends and not stopping.is_set()

    def hands_over(self) -> bool:
        """Is the time over, for the first time, while there may be more to claim?"""
        early = self._empty or stopping.is_set() or time.monotonic() < self._end
        if early or self._handed_over:
            return False
        self._handed_over = True
        return True

    def wait(self) -> bool:
        """With nothing in hand, wait for the next claim; false if there is to be none."""
        now = time.monotonic()
        if self._empty or now >= self._end:
            return False
        return not stopping.wait(max(0.0, min(self._claim_at, self._end) - now))

    def start(self, batch: Batch[Item]) -> None:
        self._empty = not batch.items
        self._claim_at = time.monotonic() + batch.again
        self._when_freed = batch.when_freed
        self.in_hand += len(batch.items)
        self._begin(self._lanes.enter(batch.items) if self._lanes else batch.items)

    def _begin(self, items: Iterable[Item]) -> None:
        """Have items done, by HTTP or by threads, and those that get their place in a lane."""
        following, others = deque(items), False
        while following:
            item = following.popleft()
            begun = self._call(item)
            others = others or begun is None
            if begun is False and self._lanes:
                following.extend(self._lanes.leave(item))
        if self._calls:
            self._calls.wake()
        if others and not self._short:
            self._man(min(self._threads, self.in_hand))  # never more than there was to do at once

    def _call(self, item: Item) -> bool | None:
        """Have it done by HTTP: is it under way, or done at once? None: threads have it."""
        try:
            call = self._wire.call(item) if self._wire else None
        except Exception as error:
            self._outcomes.put(error)
            return False
        if call is None:
            self._work.put(item)
            return None
        if not isinstance(call, Call):
            self._outcomes.put(call)
            return False
        if self._calls is None:
            assert self._wire
            self._calls = self._open(self._wire)
        self._calls.add(item, call)
        return True

    def give_back(self) -> None:
        """Have what has waited for its place too long claimed again, by whoever has one."""
        wire = self._wire
        if wire and wire.lanes and wire.give_back:
            for item in wire.lanes.impatient(all_of_them=stopping.is_set()):
                self._outcomes.put(wire.give_back(item))

    def _open(self, wire: Wire[Item, Result]) -> Calls:
        calls = Calls(
            wire.client,
            wire.is_held,
            lambda item, outcome: self._outcomes.put(_Came(wire, item, outcome)),
        )
        try:
            calls.start()
        except RuntimeError as error:
            log.warning("threads_missing", threads=0, wanted=1, error=str(error))
        return calls

    def _man(self, wanted: int) -> None:
        """Have so many threads, or as many as the system allows."""
        while len(self._crew) < wanted:
            # What is bound to the log lines of this batch is bound in its threads.
            thread = threading.Thread(
                target=copy_context().run, args=(self._serve,), name=f"fanout-{len(self._crew)}"
            )
            try:
                thread.start()
            except RuntimeError as error:  # said once a batch, and tried again in the next one
                self._short, self._threads = True, max(1, len(self._crew))
                log.warning(
                    "threads_missing", threads=len(self._crew), wanted=wanted, error=str(error)
                )
                return
            self._crew.append(thread)

    def dismiss(self) -> None:
        """End the threads, when they have done what was claimed; what HTTP has not is cut."""
        if self._calls:
            self._calls.end()
        for _ in self._crew:
            self._work.put(None)
        for thread in self._crew:
            thread.join()

    def gather(self) -> list[Result]:
        """The next group of results; empty when it is time to claim again instead."""
        results: list[Result] = []
        end = max(time.monotonic() + GATHER_SECONDS, self._claim_at)
        if not self._crew and not self._work.empty():
            end = self._do_some()
        while self.in_hand and len(results) < GROUP:
            self._freed = self._when_freed
            try:
                outcome = self._next(end)
            except Empty:
                break
            self.in_hand -= 1
            if self._freed:  # a place is what the next claim waits for, however this one ended
                self._claim_at = 0.0
            latest = self._record_at(outcome)
            end = min(end, latest) if results else latest
            if isinstance(outcome, BaseException):
                log.error("item_crashed", exc_info=outcome)
            else:
                results.append(outcome)
        return results

    def _next(self, end: float) -> Result | BaseException:
        """The next outcome; Empty: none by then."""
        calls = self._calls
        while calls and not calls.has_thread and self._outcomes.empty():
            if (left := end - time.monotonic()) <= 0:
                break
            calls.move(min(left, GATHER_SECONDS))
        waits = self._crew or (calls and calls.has_thread)
        patience = max(0.0, end - time.monotonic()) if waits else 0.0
        found = self._outcomes.get(timeout=patience)
        if not isinstance(found, _Came):
            return found
        result = self._result(found)
        if self._lanes:
            if self._lanes.waits(found.item):
                self._freed = False
            self._begin(self._lanes.leave(found.item))
        return result

    def _result(self, came: _Came[Item, Result]) -> Result | BaseException:
        outcome = came.outcome
        if isinstance(outcome, Exception) and not isinstance(outcome, TransferError):
            return outcome
        try:
            return came.wire.result(came.item, outcome)
        except Exception as error:
            return error

    def _record_at(self, outcome: Result | BaseException) -> float:
        now = time.monotonic()
        soon = now + GATHER_SECONDS
        if isinstance(outcome, BaseException) or self._urgent(outcome):
            return soon
        return max(soon, min(self._claim_at, now + PATIENCE_SECONDS))

    def _do_some(self) -> float:
        """Do a group in this thread, since there is no other; returns the time afterwards."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not self._work.empty() and time.monotonic() < end:
            self._serve_one()
        return time.monotonic()

    def _serve(self) -> None:
        while self._serve_one():
            pass

    def _serve_one(self) -> bool:
        """Take one item and do it; false if it is the sign to end instead."""
        item = self._work.get()
        if item is None:
            return False
        try:
            self._outcomes.put(self._do(item))
        except BaseException as error:
            self._outcomes.put(error)
        return True
