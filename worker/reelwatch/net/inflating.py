"""Bodies that are packed as gzip or deflate, undone in steps of bounded size."""

import zlib
from collections.abc import Iterable, Iterator

PACKED = ("gzip", "x-gzip", "deflate")
PIECE_BYTES = 64 * 1024  # what is decoded in one go
TAKEN_BYTES = 4 * 1024  # and of how much: zlib copies what it leaves of that, for each member
GZIP_START = b"\x1f\x8b"


class DamagedBody(Exception):
    """What was to be undone is no gzip or deflate, or ends early."""


def inflated(pieces: Iterable[bytes], *, is_cut: bool) -> Iterator[bytes]:
    """Undo gzip or deflate in steps of at most PIECE_BYTES, so that a bomb can't go off.

    How the network has split the body makes no difference. What is cut may end early. Raises
    DamagedBody.
    """
    try:
        yield from _steps(memoryview(b"".join(pieces)), is_cut=is_cut)
    except zlib.error:
        raise DamagedBody("the body is not valid gzip or deflate") from None


def _steps(body: memoryview, *, is_cut: bool) -> Iterator[bytes]:
    if not body:
        return
    stream = zlib.decompressobj(_window_bits(bytes(body[:2])))
    at, decoded = 0, b""
    while at < len(body) or decoded:  # zlib may still hold output when all input is taken
        if stream.eof:
            if bytes(body[at : at + 2]) != GZIP_START:
                break  # padding behind the end, which every client ignores
            stream = zlib.decompressobj(_window_bits(GZIP_START))
        taken = body[at : at + TAKEN_BYTES]
        decoded = stream.decompress(taken, PIECE_BYTES)
        # At the end of a stream the one may hold what the other does.
        at += len(taken) - len(stream.unused_data if stream.eof else stream.unconsumed_tail)
        yield decoded
    if not stream.eof and not is_cut:
        raise DamagedBody("the compressed body ends early")


def _window_bits(start: bytes) -> int:
    """How zlib is to read a body that starts so: as gzip, zlib, or deflate without wrapping."""
    if start.startswith(GZIP_START):
        return 16 + zlib.MAX_WBITS
    is_zlib = start[0] & 0x0F == zlib.DEFLATED and int.from_bytes(start, "big") % 31 == 0
    return zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS
