"""Bodies that are packed as gzip or deflate, undone in steps of bounded size."""

import zlib
from collections.abc import Iterable, Iterator

PACKED = ("gzip", "x-gzip", "deflate")
PIECE_BYTES = 64 * 1024  # what is decoded in one go
GZIP_START = b"\x1f\x8b"


class DamagedBody(Exception):
    """What was to be undone is no gzip or deflate, or ends early."""


def inflated(pieces: Iterable[bytes], *, is_cut: bool) -> Iterator[bytes]:
    """Undo gzip or deflate in steps of at most PIECE_BYTES, so that a bomb can't go off.

    What is cut may end early. Raises DamagedBody.
    """
    try:
        yield from _steps(pieces, is_cut=is_cut)
    except zlib.error:
        raise DamagedBody("the body is not valid gzip or deflate") from None


def _steps(pieces: Iterable[bytes], *, is_cut: bool) -> Iterator[bytes]:
    stream = None
    for piece in pieces:
        stream = stream or zlib.decompressobj(_window_bits(piece))
        rest = piece
        while rest:
            if stream.eof:
                if not rest.startswith(GZIP_START):
                    break  # padding behind the end, which every client ignores
                stream = zlib.decompressobj(_window_bits(rest))
            yield stream.decompress(rest, PIECE_BYTES)
            rest = stream.unconsumed_tail or stream.unused_data
    if stream and not stream.eof and not is_cut:
        raise DamagedBody("the compressed body ends early")


def _window_bits(start: bytes) -> int:
    """How zlib is to read a body that starts so: as gzip, zlib, or deflate without wrapping."""
    if start.startswith(GZIP_START):
        return 16 + zlib.MAX_WBITS
    is_zlib = start[0] & 0x0F == zlib.DEFLATED and int.from_bytes(start[:2], "big") % 31 == 0
    return zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS
