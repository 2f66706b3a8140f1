"""`reelwatch web`, the web inside `up`, `reelwatch open`, and tokens that are made."""

import re
import signal
import socket
import webbrowser
from pathlib import Path

import pytest
import requests

from reelwatch.cli import web
from reelwatch.cli.errors import Failure
from reelwatch.config import settings
from reelwatch.config.tokens import parse_tokens
from tests.commands import done, run
from tests.processes import eventually, free_port, process

ALONE = {"QUICKROUTER_API_KEY": "sk-alone-0123456789", "QUICKROUTER_BASE_URL": "http://127.0.0.1:1"}


def status(url: str) -> int:
    try:
        return requests.get(url, timeout=10).status_code
    except requests.ConnectionError:
        return 0


def test_up_serves_the_page_and_the_api(tmp_path: Path) -> None:
    port = free_port()
    command = ["reelwatch", "up", "--port", str(port)]
    with process(command, ALONE, tmp_path) as up:
        assert f"http://127.0.0.1:{port}/" in up.wait_for("page ", 60)
        eventually(lambda: status(f"http://127.0.0.1:{port}/api/v1/stats") == 200, 60)
        with process(command, ALONE, tmp_path) as second:
            assert second.wait(60) == 1  # that port was asked for, and nothing is started without
            assert f"port {port}: " in second.output
            assert "--port" in second.output
        up.stop_signal(signal.SIGINT)
        assert up.wait(60) == 0
        assert "Traceback" not in up.output


def test_web_serves_until_it_is_asked_to_end(tmp_path: Path) -> None:
    beside = ALONE | {"DATABASE_URL": f"sqlite:///{tmp_path}/x.db"}
    with process(["reelwatch", "migrate"], beside, tmp_path) as migrating:
        assert migrating.wait(60) == 0
    for number in (signal.SIGTERM, signal.SIGINT):
        with process(["reelwatch", "web", "--port", "0"], beside, tmp_path) as served:
            found = re.search(r"http://[^ ]+/docs", served.wait_for("/docs", 60))
            assert found is not None
            url = found[0]
            eventually(lambda: status(url) == 200, 60)  # noqa: B023 - asked before the next one
            served.stop_signal(number)
            assert served.wait(30) == 0
            assert "Traceback" not in served.output


def test_a_token_is_shown_by_nobody_but_who_makes_it(tmp_path: Path) -> None:
    made = done("secret", "--token", "shop:produce").strip()
    [token] = parse_tokens(made)
    assert (token.name, token.role) == ("shop", "produce")
    assert token.token not in repr(token)
    env = ALONE | {"REELWATCH_API_TOKENS": made, "LOG_LEVEL": "debug"}
    port = free_port()
    with process(["reelwatch", "up", "--port", str(port)], env, tmp_path) as up:
        up.wait_for(" ready", 60)
        url = f"http://127.0.0.1:{port}/api/v1/jobs"
        eventually(lambda: status(url) == 401, 60)
        headers = {"Authorization": f"Bearer {token.token}"}
        assert requests.get(url, headers=headers, timeout=10).status_code == 200
        assert requests.get(f"{url}?token={token.token}", timeout=10).status_code == 401
        assert requests.get(f"{url}/{token.token}", headers=headers, timeout=10).status_code == 404
        up.terminate()
        assert token.token not in up.output


@pytest.mark.parametrize("wrong", ["shop", "shop:all", "a b:read", ":read", "shop:read:x"])
def test_a_token_for_nobody_is_not_made(wrong: str) -> None:
    made = run("secret", "--token", wrong)
    assert made.exit_code == 2


def test_a_port_that_is_taken_is_said_and_another_found_unless_it_was_the_only_one(
    commands: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with web.beside(settings.current(), "127.0.0.1", taken, 0) as page:
            assert page.url not in (None, f"http://127.0.0.1:{taken}")
            assert page.said == f"{page.url}/ (port {taken} is taken)"
        with pytest.raises(Failure, match=f"port {taken}"):
            web.Beside(settings.current(), "127.0.0.1", (taken,))


@pytest.mark.parametrize(
    "wrong", ["x", "a:read:short", "a:owner:0123456789abcdef", "a:read:b:read"]
)
def test_wrong_tokens_stop_the_start_and_are_not_shown(
    commands: pytest.MonkeyPatch, wrong: str
) -> None:
    commands.setenv("REELWATCH_API_TOKENS", wrong)
    refused = run("web", "--port", "0")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("reelwatch: REELWATCH_API_TOKENS=(not shown): accepted: ")


def test_nobody_else_is_served_without_tokens(commands: pytest.MonkeyPatch) -> None:
    refused = run("web", "--host", "0.0.0.0", "--port", "0")
    assert refused.exit_code == 2
    assert "REELWATCH_API_TOKENS" in refused.stderr


def test_without_the_extra_it_says_in_a_line_what_to_install(
    commands: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands.setattr(web, "NEEDED", ("nothing_of_that_name",))
    refused = run("web")
    assert (refused.exit_code, refused.stderr) == (1, f"reelwatch: {web.MISSING}\n")
    page = web.Beside(settings.current(), "127.0.0.1", (0,))
    assert (page.said, page.url) == (web.MISSING, None)
    page.start()
    page.stop()


def test_open_says_who_would_serve_the_page_where_nobody_does() -> None:
    port = str(free_port())
    missing = run("open", "--port", port)
    assert missing.exit_code == 1
    assert "reelwatch up" in missing.stderr


def test_open_opens_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened: list[str] = []

    def open_it(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr(webbrowser, "open", open_it)
    with process(["python", "-m", "http.server", "--bind", "127.0.0.1", "0"], {}, tmp_path) as one:
        [port] = re.findall(r"port (\d+)", one.wait_for("port "))
        assert done("open", "--port", port).strip() == f"http://127.0.0.1:{port}/"
    assert opened == [f"http://127.0.0.1:{port}/"]
