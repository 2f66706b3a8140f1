"""The clients of docs/api.md, which know of the API what its document says: the whole way, once."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import requests

from reelwatch.sandbox.scripts import scripted_id
from reelwatch.sandbox.upstream import Sandbox
from tests.environment import SECRET
from tests.processes import eventually, free_port, process
from tests.servers import ServerMissing
from tests.test_docs import blocks
from tests.web import TOKENS, VARIABLE


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/api/v1/openapi.json", timeout=10).ok
    except requests.ConnectionError:
        return False


@pytest.mark.parametrize("language", ["python", "js"])
def test_a_client_of_the_document_alone_tracks_waits_verifies_and_redelivers(
    sandbox: Sandbox, tmp_path: Path, language: str
) -> None:
    program = sys.executable if language == "python" else shutil.which("node")
    if program is None:
        raise ServerMissing("node is not installed")
    [code] = blocks("docs/api.md", f"{language} client")
    file = tmp_path / f"client.{language}"
    file.write_text(code)
    port = str(free_port())
    service = {
        "QUICKROUTER_BASE_URL": sandbox.url, "QUICKROUTER_API_KEY": "sk-client-0123456789",
        "WEBHOOK_SECRET": SECRET, "WEBHOOK_ALLOW": "127.0.0.1", "REELWATCH_POLL_MIN": "500ms",
        "REELWATCH_API_TOKENS": VARIABLE,
    }  # fmt: skip
    client = {
        "REELWATCH_URL": f"http://127.0.0.1:{port}", "REELWATCH_TOKEN": TOKENS["operate"],
        "WEBHOOK_SECRET": SECRET,
    }  # fmt: skip
    with process(["reelwatch", "up", "--port", port], service, tmp_path) as up:
        up.wait_for(" ready", 60)
        eventually(lambda: answers(f"http://127.0.0.1:{port}"), 60, lambda: up.output)
        video = scripted_id("grok", "ok", 0.5, language)
        with process([program, str(file), video], client, tmp_path) as run:
            assert run.wait(120) == 0, run.output + up.output
            assert run.output.strip() == "video.completed completed told twice"


def test_the_problem_that_the_page_shows_is_one() -> None:
    [shown] = blocks("docs/api.md", "json")
    assert set(json.loads(shown)) == {"type", "title", "status", "detail", "errors"}
