"""A job's story on its page: what happened in sentences, and what upstream said each time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reelwatch.rules import narrative
from reelwatch.rules.actions import ActionName
from reelwatch.rules.wording import plain
from reelwatch.web.pages.differences import Difference, differences
from reelwatch.web.pages.words import covered, covered_within, document

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """One sentence of the story; `kind` is its style, `text` may hold foreign text."""

    at: datetime
    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What upstream said at a transition, and what it had not said before.

    The URLs in it may be signed: `whole` and `all_changed` have them, the others show their hosts.
    """

    at: datetime
    status: str
    changed: Sequence[Difference]
    first: bool
    body: str
    all_changed: Sequence[Difference] = ()
    whole: str = ""


def lines(story: Mapping[str, Any]) -> Iterator[Line]:
    """The sentences of what `history.story` returns, the oldest first."""
    urls = {row["target"] for row in story["deliveries"]}
    urls |= {story["job"][name] or "" for name in ("webhook_url", "video_url")}
    for at, text in narrative.tell(story):
        yield Line(at, plain(covered(text, urls)), _kind(text))


DEEDS = (*(f"{deed.value} by " for deed in ActionName), "poll it now:", "account ")
SIGNS_OF = (
    ("became completed", "completed"),
    ("its video URL was found", "completed"),
    ("became failed", "failed"),
    ("deadline passed", "expired"),
    ("cancelled", "cancelled"),
    ("abandoned", "expired"),
    ("upstream:", "running"),
    ("became", "running"),
    ("taken up again", "running"),
    ("tracked", "pending"),
    ("event ", "event"),
)


def _kind(text: str) -> str:
    for begin, kind in SIGNS_OF:
        if text.startswith(begin):
            return kind
    if text.startswith(DEEDS):
        return "deed"
    if ", attempt " in text:
        return "well" if ": delivered" in text else "bad"
    return "error"


def answers(transitions: Sequence[Row]) -> Iterator[Answer]:
    """Those that were kept, the oldest first, each against the one before."""
    before: Any = None
    for row in transitions:
        if row["answer"] is None:
            continue
        first = before is None
        shown, answer = covered_within(row["answer"]), row["answer"]
        yield Answer(
            row["at"],
            plain(row["to_status"] or ""),
            () if first else differences(covered_within(before), shown),
            first,
            document(shown),
            () if first else differences(before, answer),
            document(answer),
        )
        before = row["answer"]
