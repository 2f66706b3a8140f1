"""Claim, do, record: bounded, in groups, and nothing slow, broken or stopped holds up the rest."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import pytest
from structlog.testing import capture_logs

from reelwatch.jobs import fanout
from reelwatch.jobs.fanout import Batch, fan_out, stopping
from tests.servers import eventually

LONG = 60.0  # seconds; nothing here waits for them


@pytest.fixture(autouse=True)
def not_stopping() -> Iterator[None]:
    stopping.clear()
    yield
    stopping.clear()


class Work:
    """Items to claim, and what became of them."""

    def __init__(self, items: Iterable[int], again: float = 0.0, *, when_freed: bool = False):
        self.left = deque(items)
        self.limits: list[int] = []
        self.claimed = self.most_in_hand = 0
        self.groups: list[list[int]] = []
        self._again = again
        self._when_freed = when_freed

    @property
    def done(self) -> list[int]:
        return sorted(result for group in self.groups for result in group)

    def claim(self, limit: int) -> Batch[int]:
        self.limits.append(limit)
        items = [self.left.popleft() for _ in range(min(limit, len(self.left)))]
        self.claimed += len(items)
        self.most_in_hand = max(self.most_in_hand, self.claimed - len(self.done))
        return Batch(items, self._again if items else LONG, self._when_freed and bool(items))

    def record(self, results: list[int]) -> None:
        self.groups.append(results)

    def run(
        self, do: Callable[[int], int] = lambda item: item, threads: int = 4, batch: float = LONG
    ) -> int:
        return fan_out(self.claim, do, self.record, threads=threads, batch_seconds=batch)


def test_everything_is_done_once_and_counted() -> None:
    work = Work(range(100))
    assert work.run(lambda item: item * 2) == 100
    assert work.done == [item * 2 for item in range(100)]


def test_nothing_to_do_ends_at_once() -> None:
    work = Work([])
    assert work.run() == 0
    assert (work.limits, work.groups) == ([4], [])


def test_no_more_than_so_many_are_in_hand_at_once() -> None:
    work = Work(range(15))
    at_work, most = 0, 0
    lock = threading.Lock()

    def do(item: int) -> int:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.001 if item % 3 else 4 * fanout.GATHER_SECONDS)  # so that claims overlap
        with lock:
            at_work -= 1
        return item

    work.run(do, threads=3)
    assert work.done == list(range(15))
    assert most <= 3
    assert work.most_in_hand == 3
    assert min(work.limits) >= 1


def test_they_run_at_the_same_time() -> None:
    together = threading.Barrier(4, timeout=30)

    def do(item: int) -> int:
        together.wait()
        return item

    assert Work(range(4)).run(do) == 4


def test_results_that_come_together_are_recorded_together() -> None:
    work = Work(range(40))
    together = threading.Barrier(40, timeout=30)

    def do(item: int) -> int:
        together.wait()
        return item

    work.run(do, threads=40)
    assert work.done == list(range(40))
    assert len(work.groups) < 40


def test_no_group_grows_beyond_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "GROUP", 3)
    work = Work(range(20))
    work.run(threads=20)
    assert work.done == list(range(20))
    assert max(map(len, work.groups)) <= 3


def test_a_slow_item_holds_up_no_other() -> None:
    work = Work(range(20))
    release = threading.Event()

    def do(item: int) -> int:
        if item == 0:
            assert release.wait(30)
        return item

    batch = threading.Thread(target=work.run, args=(do,))
    batch.start()
    try:
        eventually(lambda: len(work.done) == 19)
        assert batch.is_alive()
    finally:
        release.set()
    batch.join(30)
    assert work.done == list(range(20))


def test_a_batch_ends_though_there_is_more_to_do() -> None:
    endless = Work(range(1_000_000))

    def do(item: int) -> int:
        time.sleep(0.001)
        return item

    done = endless.run(do, batch=0.05)
    assert endless.left
    assert done == len(endless.done)  # what was claimed was finished
    assert endless.done[-1] == done - 1


@pytest.fixture
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "ROUND_SECONDS", 0.1)
    monkeypatch.setattr(fanout, "DRAIN_SECONDS", 0.02)


@pytest.mark.usefixtures("short_rounds")
@pytest.mark.parametrize("hangs", [{0}, {0, 25}], ids=["one", "another, claimed meanwhile"])
def test_a_batch_that_waits_for_one_goes_on_with_the_others(hangs: set[int]) -> None:
    """The process can do nothing else meanwhile: one job that hangs would cost all the others."""
    let_go, last = threading.Event(), threading.Event()
    work = Work(range(60), again=0.01)

    def do(item: int) -> int:
        if item == 0:
            let_go.wait(LONG)
        elif item in hangs:
            last.wait(LONG)
        if item > 27:
            let_go.set()
        if item > 40:
            last.set()
        return item

    began = time.monotonic()
    fan_out(work.claim, do, work.record, threads=3, batch_seconds=0.05, overtime=LONG)
    assert time.monotonic() - began < LONG
    assert {0, 28} < set(work.done)
    assert hangs == {0} or 41 in work.done
    assert len(work.done) == work.claimed


def test_after_its_time_a_batch_ends_as_soon_as_all_in_hand_is_done() -> None:
    """However much is left, and however long it might go on."""
    work = Work(range(1_000_000))

    def do(item: int) -> int:
        time.sleep(0.001)
        return item

    began = time.monotonic()
    fan_out(work.claim, do, work.record, threads=4, batch_seconds=0.05, overtime=LONG)
    assert work.left
    assert time.monotonic() - began < LONG


@pytest.mark.usefixtures("short_rounds")
def test_a_batch_waits_for_a_slow_item_no_longer_than_it_may() -> None:
    work = Work(range(1_000), again=0.01)
    let_go = threading.Event()

    def do(item: int) -> int:
        if item == 0:
            let_go.wait(LONG)
        return item

    def release() -> None:
        """When nothing has been claimed for longer than a round."""
        seen, since = -1, time.monotonic()
        while time.monotonic() - since < 5 * fanout.ROUND_SECONDS:
            if seen != work.claimed:
                seen, since = work.claimed, time.monotonic()
            time.sleep(0.01)
        let_go.set()

    threading.Thread(target=release).start()
    done = fan_out(work.claim, do, work.record, threads=2, batch_seconds=0.05, overtime=0.2)
    assert 1 < done < 1_000


def test_a_batch_without_time_claims_nothing() -> None:
    work = Work(range(3))
    assert work.run(batch=0.0) == 0
    assert work.limits == []


def test_a_stopping_process_claims_nothing_more_and_finishes_what_it_has() -> None:
    work = Work(range(100))

    def do(item: int) -> int:
        stopping.set()
        return item

    assert work.run(do) == 4
    assert work.done == [0, 1, 2, 3]
    assert Work(range(3)).run() == 0


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(1), KeyboardInterrupt()])
def test_an_item_that_crashes_is_logged_and_stops_no_other(error: BaseException) -> None:
    work = Work(range(10))

    def do(item: int) -> int:
        if item == 3:
            raise error
        return item

    with capture_logs() as logs:
        assert work.run(do) == 9
    assert work.done == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("item_crashed", "error")
    assert line["exc_info"] is error


def test_a_batch_ends_when_all_its_items_crash() -> None:
    work = Work(range(5))

    def do(_: int) -> int:
        raise ValueError("odd")

    with capture_logs() as logs:
        assert work.run(do) == 0
    assert (len(logs), work.groups) == (5, [])


def test_what_cannot_be_recorded_ends_the_batch() -> None:
    work = Work(range(50))

    def record(_: list[int]) -> None:
        raise ConnectionError("the database has gone")

    with pytest.raises(ConnectionError, match="gone"):
        fan_out(work.claim, lambda item: item, record, threads=4, batch_seconds=LONG)
    assert len(work.left) >= 42


def test_what_cannot_be_claimed_ends_the_batch() -> None:
    def claim(_: int) -> Batch[int]:
        raise ConnectionError("the database has gone")

    with pytest.raises(ConnectionError, match="gone"):
        fan_out(claim, lambda item: item, lambda _: None, threads=4, batch_seconds=LONG)


class TestWhenToClaimAgain:
    """An item in hand keeps the batch going; claims are made when the last one said."""

    def run(self, batches: Iterable[Batch[int]], batch: float = LONG) -> list[float]:
        """The moments of the claims, item 0 being in hand until the batches are used up."""
        moments: list[float] = []
        used_up = threading.Event()
        left = deque(batches)

        def claim(_: int) -> Batch[int]:
            moments.append(time.monotonic())
            if not left:
                used_up.set()
                return Batch([], LONG)
            return left.popleft()

        def do(item: int) -> int:
            if item == 0:
                assert used_up.wait(30)
            return item

        fan_out(claim, do, lambda _: None, threads=2, batch_seconds=batch)
        return moments

    def test_not_before_the_time_that_was_given(self) -> None:
        first, second, third, *_ = self.run([Batch([0], 0.1), Batch([], 0.05)])
        assert second - first >= 0.1
        assert third - second >= 0.05

    def test_a_result_does_not_bring_it_forward(self) -> None:
        first, second, *_ = self.run([Batch([0, 1], 0.2)])
        assert second - first >= 0.2

    def test_unless_a_free_place_is_what_was_waited_for(self) -> None:
        began = time.monotonic()
        self.run([Batch([0, 1], LONG, when_freed=True)])
        assert time.monotonic() - began < LONG / 2

    def test_an_item_that_crashed_frees_a_place_too(self) -> None:
        work = Work(range(3), LONG, when_freed=True)
        claimed_again = threading.Event()

        def do(item: int) -> int:
            if item == 0:
                raise ValueError("odd")
            if item == 1:  # would keep the batch waiting
                assert claimed_again.wait(30)
            else:
                claimed_again.set()
            return item

        with capture_logs():
            work.run(do, threads=2)
        assert work.done == [1, 2]


def test_threads_are_gone_afterwards() -> None:
    Work(range(8)).run()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fanout")]


# ------------------------------------------------------------------- the next batch


def handed_over(work: Work, do: Callable[[int], int], batch: float) -> list[int]:
    """How much had been claimed when the batch handed over."""
    seen: list[int] = []
    fan_out(
        work.claim, do, work.record, threads=2, batch_seconds=batch, linger=True,
        hand_over=lambda: seen.append(work.claimed),
    )  # fmt: skip
    return seen


def test_a_batch_that_leaves_something_hands_over_once() -> None:
    def do(item: int) -> int:
        time.sleep(0.01)
        return item

    work = Work(range(10_000))
    seen = handed_over(work, do, 0.2)
    assert seen == [work.claimed]  # nothing was claimed after it
    assert 0 < work.claimed < 10_000


def test_it_does_so_before_what_it_has_in_hand_is_done() -> None:
    go_on = threading.Event()
    work = Work(range(4), again=0.01)
    fan_out(
        work.claim, lambda item: item if go_on.wait(30) else -1, work.record, threads=2,
        batch_seconds=0.1, hand_over=go_on.set,
    )  # fmt: skip
    assert work.done == [0, 1]


def test_it_waits_for_more_and_then_hands_over() -> None:
    """With nothing in hand, but not yet told that there is nothing."""
    assert handed_over(Work(range(3), again=60.0), lambda item: item, 0.05) == [2]


def test_one_that_is_not_to_linger_ends_with_nothing_in_hand() -> None:
    work = Work(range(3), again=60.0)
    assert work.run(threads=2) == 2
    assert work.limits == [2]


def test_one_that_lingers_ends_when_a_claim_brings_nothing() -> None:
    work = Work(range(3), again=0.01)
    fan_out(work.claim, lambda item: item, work.record, threads=2, batch_seconds=LONG, linger=True)
    assert work.done == [0, 1, 2]
    assert len(work.limits) == 3


def test_a_batch_that_has_found_nothing_more_does_not_hand_over() -> None:
    assert handed_over(Work(range(10)), lambda item: item, LONG) == []


def test_a_batch_that_is_to_stop_hands_over_nothing_early() -> None:
    def do(item: int) -> int:
        stopping.set()
        return item

    assert handed_over(Work(range(10)), do, 0.05) == []


# -------------------------------------------------------------------- patience


def test_what_is_urgent_is_recorded_at_once_and_takes_the_rest_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fanout, "PATIENCE_SECONDS", LONG)
    work = Work(range(3), again=0.5)
    go_on = threading.Event()

    def record(results: list[int]) -> None:
        work.record(results)
        go_on.set()

    def do(item: int) -> int:
        if item == 1:
            time.sleep(0.1)  # after that of 0
        return item if item < 2 or go_on.wait(30) else -1

    fan_out(work.claim, do, record, threads=3, batch_seconds=LONG, urgent=lambda item: item == 1)
    assert work.groups == [[0, 1], [2]]
