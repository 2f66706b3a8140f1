"""Packed bodies: whatever their size and however they are split, undone whole or called damaged."""

import gzip
import random
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelwatch.net.inflating import PIECE_BYTES, DamagedBody, inflated


def bare(data: bytes) -> bytes:
    """Deflate without wrapping."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def members(data: bytes) -> bytes:
    third = len(data) // 3
    parts = (data[:third], b"", data[third : 2 * third], data[2 * third :])
    return b"".join(gzip.compress(part) for part in parts)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "several members": members,
    "zlib": zlib.compress,
    "bare deflate": bare,
}


def split(packed: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(packed) + 1) for cut in cuts), len(packed)]
    return [packed[start:end] for start, end in pairwise(edges)]


def undone(pieces: Sequence[bytes], *, is_cut: bool = False) -> bytes:
    steps = list(inflated(pieces, is_cut=is_cut))
    assert max(map(len, steps), default=0) <= PIECE_BYTES
    return b"".join(steps)


sizes = st.one_of(
    st.integers(0, 100),
    st.integers(-700, 700).map(lambda off: PIECE_BYTES + off),
    st.integers(0, 4 * PIECE_BYTES),
)
contents = st.builds(
    lambda size, seed: random.Random(seed).randbytes(size) if seed else b"a" * size,
    sizes,
    st.integers(0, 3),
)
cuts = st.lists(st.one_of(st.integers(0, 30), st.integers(0, 2**20)), max_size=6)


@given(contents, st.sampled_from(sorted(PACKERS)), cuts)
def test_any_body_is_undone_however_it_is_split(data: bytes, packer: str, at: list[int]) -> None:
    assert undone(split(PACKERS[packer](data), at)) == data


@pytest.mark.parametrize("packer", PACKERS)
def test_byte_by_byte_too(packer: str) -> None:
    data = b'{"status": "completed"}'
    packed = PACKERS[packer](data)
    assert undone([packed[at : at + 1] for at in range(len(packed))]) == data


def test_output_that_is_left_when_all_input_is_taken_is_not_lost() -> None:
    for size in range(PIECE_BYTES - 10, PIECE_BYTES + 600):
        assert len(undone([bare(b"a" * size)])) == size


@given(contents, st.sampled_from(sorted(PACKERS)), cuts, st.integers(1, 12))
def test_one_that_ends_early_is_damaged_or_cut(
    data: bytes, packer: str, at: list[int], missing: int
) -> None:
    whole = PACKERS[packer](data)
    pieces = split(whole[: max(1, len(whole) - missing)], at)
    if len(b"".join(pieces)) < len(whole):
        with pytest.raises(DamagedBody):
            undone(pieces)
        assert data.startswith(undone(pieces, is_cut=True))


def test_members_that_are_larger_than_a_piece_are_all_undone() -> None:
    for size in (PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 5, 10**6):
        data = b"a" * size
        assert undone([gzip.compress(data) * 3]) == data * 3


def test_padding_behind_the_end_is_left_out() -> None:
    assert undone([gzip.compress(b"x") + b"\0" * 3, b"\0"]) == b"x"


def test_members_without_content_by_the_thousand_cost_what_their_bytes_do() -> None:
    """Each leaves the rest of the body: copied each time, megabytes would become terabytes."""
    empty = gzip.compress(b"")
    assert undone([empty * (1024 * 1024 // len(empty)) + gzip.compress(b"x")]) == b"x"
