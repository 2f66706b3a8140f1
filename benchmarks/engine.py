"""What a request costs: `python -m benchmarks.engine`.

Processor time of the client process per request, side by side and in batches, so many at a time: of
`requests.Session.get(...)`, of our client used by as many threads, and of one thread that has all
of them under way at once, as batches do. All ask the same server in a process of its own.
"""

import itertools

from benchmarks.poll import (
    BARE,
    BARE_DEAF,
    KEY,
    Contender,
    bare,
    compared,
    in_threads,
    of,
    serving,
    video_id,
)
from reelwatch.config.accounts import Account
from reelwatch.net import upstream
from reelwatch.net.http import Client, Response

AT_ONCE = (16, 64)
REQUESTS, ROUNDS = 2000, 3


def by_threads(url: str, threads: int) -> Contender:
    """One exchange after the other in each of so many threads."""
    account, client = Account("default", url, KEY, 5.0), Client()

    def ask(video_id: str) -> None:
        assert client.ask(upstream.request(account, video_id)).status == 200

    return in_threads(ask, threads)


def at_once(url: str, most: int) -> Contender:
    """So many exchanges under way in this thread."""
    account, client = Account("default", url, KEY, 5.0), Client()

    def work(count: int) -> int:
        requests = (upstream.request(account, video_id(number)) for number in range(count))
        done = 0
        with client.line() as line:
            for request in itertools.islice(requests, most):
                line.send(None, request)
            while line.under_way:
                for _, outcome in line.results(60):
                    assert isinstance(outcome, Response)
                    done += 1
                    for request in itertools.islice(requests, 1):
                        line.send(None, request)
        return done

    return lambda count: of(lambda: work(count))


def main() -> None:
    """Print the medians."""
    with serving() as url:
        for most in AT_ONCE:
            contenders = {
                BARE: bare(url, most, trust_env=True),
                BARE_DEAF: bare(url, most, trust_env=False),
                "our client, a thread each": by_threads(url, most),
                "our client, all in one thread": at_once(url, most),
            }
            for name, cost in compared(contenders, REQUESTS, ROUNDS).items():
                print(f"{most:3} at a time, {cost.cpu_seconds * 1e6:6.0f} µs a request: {name}")


if __name__ == "__main__":
    main()
