"""Who waits for a place, who has one, and who is sent away."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from reelwatch.jobs.lanes import Lanes


def lanes(patience: float = 60.0, **places: int) -> Lanes[str]:
    """Lanes of items whose first letter names theirs."""
    made: Lanes[str] = Lanes(lambda item: item[0], patience)
    made.place(places)
    return made


def test_as_many_as_there_are_places_are_begun_and_the_others_follow_in_order() -> None:
    made = lanes(a=2)
    assert made.enter(["a1", "a2", "a3", "a4"]) == ["a1", "a2"]
    assert made.leave("a2") == ["a3"]
    assert made.waits("a1")
    assert made.leave("a1") == ["a4"]
    assert not made.waits("a1")
    assert made.leave("a4") == []


def test_lanes_do_not_hold_each_other_up_and_one_without_a_number_has_room_for_all() -> None:
    made = lanes(a=1)
    assert made.enter(["a1", "a2", "b1", "b2", "b3"]) == ["a1", "b1", "b2", "b3"]


def test_more_places_are_used_when_one_is_done() -> None:
    made = lanes(a=1)
    made.enter(["a1", "a2", "a3"])
    made.place({"a": 2})
    assert made.leave("a1") == ["a2", "a3"]


def test_with_fewer_places_nobody_follows_until_there_is_one() -> None:
    made = lanes(a=2)
    made.enter(["a1", "a2", "a3"])
    made.place({"a": 1})
    assert made.leave("a1") == []
    assert made.leave("a2") == ["a3"]


def test_what_waits_for_too_long_is_handed_back_once() -> None:
    patient, hasty = lanes(a=1), lanes(0.0, a=1)
    for made in (patient, hasty):
        made.enter(["a1", "a2", "a3"])
    assert patient.impatient() == []
    assert patient.impatient(all_of_them=True) == ["a2", "a3"]
    assert hasty.impatient() == ["a2", "a3"]
    assert hasty.impatient() == []
    assert hasty.leave("a1") == []


@given(st.lists(st.sampled_from(["a1", "b1", "c1"]), max_size=60), st.integers(1, 8))
def test_every_item_is_begun_exactly_once_and_never_too_many_at_once(
    items: list[str], places: int
) -> None:
    made = lanes(a=places, b=1)
    busy = made.enter(items)
    begun: Counter[str] = Counter(busy)
    while busy:
        under_way = Counter(busy)
        assert under_way["a1"] <= places
        assert under_way["b1"] <= 1
        following = made.leave(busy.pop())
        begun.update(following)
        busy += following
    assert begun == Counter(items)
