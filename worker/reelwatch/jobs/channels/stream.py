"""By an entry in a Redis stream, for whoever reads it: any language, alone or in a group.

The stream is in the Redis of `REDIS_URL`, or of `BROKER_URL` where that is a Redis. Its key begins
with words of ours: a producer can't name a key that somebody else uses for something else.
"""

import os
import re
from datetime import datetime
from functools import cache, partial
from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from reelwatch.config import tls
from reelwatch.errors import Refused
from reelwatch.jobs.channels import Begun, Event, Means
from reelwatch.rules.channels import named
from reelwatch.rules.retry import Outcome

KEY = "reelwatch.events."  # and the stream's name
NAME = re.compile(r"[A-Za-z0-9._:-]{1,200}", re.ASCII)
NO_REDIS = "neither REDIS_URL nor BROKER_URL names a Redis"
# A Redis that is away must not hold a thread for ever; a connection that has ended is seen.
BOUNDED: dict[str, Any] = {
    "socket_timeout": 5.0,
    "socket_connect_timeout": 5.0,
    "socket_keepalive": True,
    "health_check_interval": 10,
}


class Way:
    """A job's `channels["stream"]`."""

    def __init__(self, means: Means) -> None:
        urls = (means.settings.redis_url, means.settings.broker)
        self._url = next((url for url in urls if url and url.startswith("redis")), None)

    @staticmethod
    def check(named: str) -> str:
        if not NAME.fullmatch(named):
            accepted = "letters, digits, '.', '_', ':', '-', at most 200"
            raise Refused(f"{named!r} is no name of a stream ({accepted})")
        return named

    def begin(self, event: Event, at: datetime) -> Begun:
        if self._url is None:
            return Outcome(error=NO_REDIS, sent=False)
        return partial(self._add, self._url, event)

    def _add(self, url: str, event: Event) -> Outcome:
        entry: dict[Any, Any] = {"id": event.id, "type": event.type, "body": event.body}
        try:
            _client(url, os.getpid()).xadd(f"{KEY}{named(event.target)}", entry)
        except RedisError as error:
            # Only what Redis answers can be this stream's fault: its key is no stream, say.
            answered = type(error) is ResponseError
            return Outcome(error=f"redis: {type(error).__name__}: {error}", sent=answered)
        return Outcome()


@cache
def _client(url: str, _pid: int) -> Redis:
    broker = tls.read(url)
    return Redis.from_url(broker.url, **BOUNDED, **(broker.use_ssl or {}))
