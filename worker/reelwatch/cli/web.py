"""`reelwatch web` and `reelwatch open`, and the web inside `up` and the demo."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click
import structlog
from sqlalchemy.exc import DBAPIError

from reelwatch.cli import options
from reelwatch.cli.errors import Failure, not_served
from reelwatch.config import log, secrecy, settings
from reelwatch.storage import db

if TYPE_CHECKING:
    from reelwatch.web.serving import Server

PORT = 8600
CONNECT_SECONDS = 5.0

# Of the extra; what they bring along comes with them.
NEEDED = ("fastapi", "uvicorn", "jinja2", "prometheus_client")
MISSING = (
    "the web needs more than is installed here: pip install 'reelwatch[web]', "
    "or in a checkout pip install '.[web]'"
)


def installed() -> bool:
    """Is all there that the web needs?"""
    return all(find_spec(name) for name in NEEDED)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to serve.")
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(0, 65535),
              help="0: any that is free.")  # fmt: skip
def web(host: str, port: int) -> None:
    """Serve the API, the pages, the metrics and the probes, over the workers' database.

    Without REELWATCH_API_TOKENS it serves this machine alone, and no request that a page of another
    site makes. For other machines, or behind a proxy, set the tokens.

    \b
    reelwatch web
    REELWATCH_API_TOKENS=$(reelwatch secret --token shop:produce) reelwatch web --host 0.0.0.0
    """
    if not installed():
        raise Failure(MISSING)
    url, current = options.database(), settings.current()
    # It may come later; one that can never be used is told now.
    with suppress(DBAPIError, OSError), db.engine(url).connect():
        pass
    secrecy.outlive_readers()
    log.configure(current)
    server = listening(current, host, port)
    if log.json_alone():
        structlog.get_logger(__name__).info("web_starting", url=server.url)
    else:
        click.echo(f"Reelwatch's page is at {server.url}/ and its API at {server.url}/api/v1/docs")
        click.echo("until Ctrl-C.")
    server.run()


def listening(current: settings.Settings, host: str, port: int) -> "Server":
    """A server that listens there and is not served yet. Raises `Failure` where it can't."""
    from reelwatch.web import lean  # noqa: PLC0415 - it loads what only the web needs

    lean.load_fastapi()
    from reelwatch.web.serving import Server  # noqa: PLC0415 - where the extra is installed

    try:
        return Server(current, host, port)
    except OSError as error:
        raise not_served(error, host, port) from None


class Beside:
    """The web beside what else a process does; where there can be none, `said` tells why."""

    def __init__(self, current: settings.Settings, host: str, ports: tuple[int, ...]) -> None:
        """Listens at the first port that is free. Raises `Failure` where the only one is not."""
        self._server: Server | None = None
        self.said = MISSING
        for port in ports if installed() else ():
            try:
                self._server = listening(current, host, port)
            except Failure as failure:
                if len(ports) == 1:
                    raise
                self.said = f"not served: {failure.message}"
            else:
                taken = "" if port == ports[0] else f" (port {ports[0]} is taken)"
                self.said = f"{self._server.url}/{taken}"
                return

    @property
    def url(self) -> str | None:
        """Where it is served; None: nowhere."""
        return self._server.url if self._server else None

    def start(self) -> None:
        """Serve from now on; what it lacks, a thread say, is told and stops nothing else."""
        if self._server is None:
            return
        try:
            self._server.start()
        except RuntimeError as error:
            structlog.get_logger(__name__).warning("web_not_served", error=str(error))

    def stop(self) -> None:
        """End it."""
        if self._server is not None:
            self._server.stop()


@contextmanager
def beside(current: settings.Settings, host: str, *ports: int) -> Iterator[Beside]:
    """The web beside something else, ended with it; it is served once it is started."""
    web = Beside(current, host, ports)
    try:
        yield web
    finally:
        web.stop()


@click.command("open")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it is served.")
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(1, 65535))
def open_(host: str, port: int) -> None:
    """Open the page that `up` or `web` serves in a browser.

    \b
    reelwatch open
    """
    url = f"http://{host}:{port}/"
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise Failure(
            f"nobody answers at {url} ({error.strerror or error}): `reelwatch up` and "
            "`reelwatch web` serve it, at another place by --port"
        ) from None
    import webbrowser  # noqa: PLC0415 - the server needs none

    click.echo(url)
    if not webbrowser.open(url):
        click.echo("There is no browser here to open it with.", err=True)
