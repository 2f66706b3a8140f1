"""Pictures of the pages: `python -m tests.pictures` writes all of them, `… --readme` docs/pictures.

All are of databases that are made up for it (`tests.scenes`): empty, on a quiet day, on a bad one;
narrow and wide, light and dark. For the README there are few, and small.
"""

import argparse
import os
import tempfile
from pathlib import Path

from reelwatch.config import settings
from reelwatch.storage import db, migrating
from reelwatch.storage.models import Delivery, Heartbeat, Job, PollError
from reelwatch.web.serving import Server
from tests import scenes
from tests.browser import Browser, open_browser
from tests.processes import in_plain_environment
from tests.servers import ROOT

WIDTHS = (360, 800, 1_440)
PATHS = {"now": "/", "jobs": "/jobs", "job": "/jobs/{job}", "going": "/jobs/{going}",
         "deliveries": "/deliveries", "endpoints": "/endpoints", "accounts": "/accounts",
         "models": "/models", "problem": "/jobs/0", "search": "/search?q=acme"}  # fmt: skip
README = (  # scene, page, width, height, dark
    ("bad", "now", 1_200, 720, False),
    ("bad", "job", 1_200, 900, False),
)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readme", action="store_true", help="those of docs/pictures alone")
    parser.add_argument("--to", type=Path, default=Path("pictures"), help="a folder for all")
    options = parser.parse_args()
    folder = ROOT / "docs" / "pictures" if options.readme else options.to
    folder.mkdir(parents=True, exist_ok=True)
    with open_browser() as browser, tempfile.TemporaryDirectory() as work:
        for scene in scenes.NAMES:
            with in_plain_environment():
                _scene(browser, Path(work), scene, folder, readme=options.readme)


def _scene(browser: Browser, work: Path, scene: str, folder: Path, *, readme: bool) -> None:
    url = f"sqlite:///{work / scene}.db"
    migrating.migrate(url)
    with db.transaction(url) as session:
        scenes.SCENES[scene](session)
        numbers = {
            "job": session.query(Delivery.job_id).filter_by(state="dead").limit(1).scalar()
            or session.query(PollError.job_id).limit(1).scalar(),
            "going": session.query(Job.id).filter_by(state="running").limit(1).scalar(),
        }
    os.environ["DATABASE_URL"] = url
    server = Server(settings.load(), port=0)
    server.start()
    try:
        for name, path in PATHS.items():
            _tick(url)
            address = server.url + path.format(**numbers)
            if readme:
                _for_readme(browser, address, scene, name, folder)
            elif numbers.get(name, 0) is not None:
                _all_sizes(browser, address, folder / f"{scene}-{name}")
    finally:
        server.stop()


def _tick(url: str) -> None:
    """As if workers ran."""
    with db.transaction(url) as session:
        if (tick := session.get(Heartbeat, "tick")) is not None:
            tick.at = db.now(session)


def _for_readme(browser: Browser, address: str, scene: str, name: str, folder: Path) -> None:
    for its_scene, its_name, width, height, dark in README:
        if (its_scene, its_name) == (scene, name):
            page = browser.page(width, height, dark=dark)
            page.go(address)
            page.picture(folder / f"{name}.png", whole=False)
            page.close()


def _all_sizes(browser: Browser, address: str, begin: Path) -> None:
    for width in WIDTHS:
        for dark in (False, True):
            page = browser.page(width, dark=dark)
            page.go(address)
            page.picture(begin.with_name(f"{begin.name}-{width}{'-dark' if dark else ''}.png"))
            page.close()


if __name__ == "__main__":
    main()
