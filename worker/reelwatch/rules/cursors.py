"""The cursors of the feed: a place in the order of events, as a text that means nothing to others.

Pure. A cursor also holds which database it is of, and up to which place its reader knows that
events were deleted before they were read.
"""

import base64
from dataclasses import dataclass

from reelwatch.errors import Refused

PLACE_MOST = 2**63 - 1
NAME_LENGTH = 8  # characters of the installation's name: enough to notice another one's


@dataclass(frozen=True, slots=True)
class Cursor:
    """Everything up to `position` was read. Deletions up to `known` are no news to its reader."""

    installation: str
    position: int = 0
    known: int = 0

    def __str__(self) -> str:
        """The text, of characters that a URL can hold as they are."""
        name = self.installation[:NAME_LENGTH]
        plain = f"{name}.{self.position}.{self.known}"
        return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")

    def misses(self, pruned: int) -> bool:
        """Were events deleted, the last of them at `pruned`, that its reader had not read?"""
        return self.position < pruned and self.known < pruned


def read(text: str, installation: str) -> Cursor:
    """The cursor that a text stands for; raises `Refused` for what is none of this database."""
    try:
        name, position, known = _plain(text).split(".")
        cursor = Cursor(installation, int(position), int(known))
    except ValueError:  # and so is what base64 and UTF-8 say of other texts
        cursor = Cursor("", -1)
    if not (0 <= cursor.position <= PLACE_MOST and 0 <= cursor.known <= PLACE_MOST):
        raise Refused("after: this is no cursor; accepted: a `next` of the feed, or `now`")
    if name != installation[:NAME_LENGTH]:
        raise Refused("after: this cursor is another database's; without `after` the feed begins")
    return cursor


def _plain(text: str) -> str:
    padded = text.encode() + b"=" * (-len(text) % 4)
    return base64.b64decode(padded, altchars=b"-_", validate=True).decode()
