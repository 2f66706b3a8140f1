"""Names that are nearly right, and what was meant by them. Pure."""

import re
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

# What Kubernetes and old Docker set for a service that is called `reelwatch` or `reelwatch-web`.
_SERVICE = re.compile(
    r"\w+_(?:SERVICE_HOST|SERVICE_PORT\w*|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:ADDR|PORT|PROTO))?)?)"
)
_OURS = ("REELWATCH_", "QUICKROUTER_")
# Names that other programs know as well: only what can hardly mean anything else is told.
_SHARED = ("DATABASE_URL", "BROKER_URL", "WEBHOOK_SECRET", "WEBHOOK_ALLOW", "WEBHOOK_URL")


class Slip(NamedTuple):
    """A variable that nothing reads, and the one that was probably meant."""

    name: str
    meant: str | None


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` most resembles, if any does."""
    from difflib import get_close_matches  # noqa: PLC0415 - for what is wrong, which is seldom

    return next(iter(get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def slips(names: Collection[str], known: Collection[str]) -> Iterator[Slip]:
    """Those of the environment's `names` that look like ours and are none of the `known`."""
    for name in sorted(set(names) - set(known)):
        upper = name.upper()
        if upper.startswith(_OURS):
            if not _SERVICE.fullmatch(upper):
                yield Slip(name, _meant(upper, known))
        elif (shared := _twin(upper)) and shared not in names:
            yield Slip(name, shared)


def _meant(name: str, known: Collection[str]) -> str | None:
    if name in known:
        return name
    by_rest = {_rest(each): each for each in known}  # the part in common says nothing
    return by_rest.get(nearest(_rest(name), by_rest) or "")


def _rest(name: str) -> str:
    return name.partition("_")[2] if name.startswith(_OURS) else name


def _twin(name: str) -> str | None:
    """The shared name that `name` is, but for a plural, URI or a missing underscore."""
    plain = name.replace("URI", "URL").replace("_", "").removesuffix("S")
    return next((each for each in _SHARED if each.replace("_", "") == plain), None)
