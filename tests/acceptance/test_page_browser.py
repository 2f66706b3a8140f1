"""The page as a person uses it: by mouse, by keyboard alone, in light and dark, on a phone.

Needs Chromium; skipped where it is not installed, required in CI.
"""

import gzip
from collections.abc import Iterator
from datetime import timedelta
from functools import cache, partial
from typing import Any

import pytest

from reelwatch import track
from reelwatch.storage import db
from reelwatch.storage.models import Account, Delivery, Job, Transition
from tests import scenes, seeding
from tests.browser import Browser, Page, open_browser
from tests.processes import ROOT
from tests.web import Web, served

PAGES = ("/", "/jobs", "/jobs/{dead}", "/jobs/{going}", "/deliveries", "/endpoints", "/accounts",
         "/models", "/search?q=acme")  # fmt: skip
WIDTHS = (360, 800, 1_440)
AXE = ROOT / "tests" / "data" / "axe" / "axe.min.js.gz"
HOOK = "https://hooks.example.com/in"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as running:
        yield running


@pytest.fixture
def web(lite: str) -> Iterator[Web]:
    with served() as running:
        yield running


@cache
def axe() -> str:
    return gzip.decompress(AXE.read_bytes()).decode()


def addresses(web: Web, url: str) -> list[str]:
    """All pages, with a job in each kind of state where there are any."""
    with db.reading(url) as session:
        dead = session.query(Delivery.job_id).filter_by(state="dead").limit(1).scalar()
        going = session.query(Job.id).filter_by(state="running").limit(1).scalar()
    numbers = {"dead": dead or 0, "going": going or 0}
    return [web.url + path.format(**numbers) for path in PAGES]


# ---------------------------------------------------------------- looked at


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("scene", scenes.NAMES)
def test_nothing_hinders_anybody_on_any_page(
    browser: Browser, web: Web, lite: str, scene: str, dark: bool
) -> None:
    """By axe's rules: contrast, names, order of headings, what a screen reader is told.

    In the dark by those about colours: nothing else differs.
    """
    with db.transaction(lite) as session:
        scenes.SCENES[scene](session)
    page = browser.page(800, dark=dark)
    for address in addresses(web, lite):
        page.go(address)
        assert violations(page, dark=dark) == [], address
    page.close()


def violations(page: Page, *, dark: bool = False) -> Any:
    """What axe finds where all that can be opened is open."""
    rules = "runOnly: {type: 'rule', values: ['color-contrast', 'link-in-text-block']}"
    options = f"{{resultTypes: ['violations'], {rules if dark else ''}}}"
    page.run("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    page.run(axe())
    return page.run(
        f"axe.run(document, {options}).then((r) => r.violations.map("
        "(v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160))}`))"
    )


@pytest.mark.parametrize(("width", "screens"), [(360, 8), (800, 6), (1_440, 6)])
def test_very_many_accounts_fit_into_a_few_screens(
    browser: Browser, web: Web, lite: str, width: int, screens: int
) -> None:
    with db.transaction(lite) as session:
        scenes.bad(session)
        for number in range(94):
            seeding.add_account(session, f"tenant-{number:03}")
    page = browser.page(width, 900)
    page.go(f"{web.url}/accounts")
    assert page.run("document.documentElement.scrollHeight") <= 900 * screens
    page.click("#tenant-093 summary")
    page.click("#tenant-093 input[name=reason]")
    page.type("the bill is not paid")
    page.click("#tenant-093 form button")
    page.until(lambda: "the bill is not paid" in page.text("#tenant-093"), "it is paused")
    rows = "[...document.querySelectorAll('tbody tr')].map((each) => each.id).slice(0, 3)"
    assert page.run(rows) == ["tenant-b", "tenant-093", "tenant-a"]
    assert violations(page) == []
    assert page.run("document.documentElement.scrollWidth") <= width
    page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_its_window(
    browser: Browser, web: Web, lite: str, width: int
) -> None:
    with db.transaction(lite) as session:
        scenes.bad(session)
    page = browser.page(width)
    for address in addresses(web, lite):
        page.go(address)
        page.run("document.querySelectorAll('details').forEach((each) => { each.open = true })")
        assert page.run("document.documentElement.scrollWidth") <= width, address
    assert page.complaints() == []
    page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_left_empty_or_cut_in_two(
    browser: Browser, web: Web, lite: str, width: int
) -> None:
    """Rows of figures are full, an endpoint's mark is whole, a legend without values has none."""
    with db.transaction(lite) as session:
        scenes.bad(session)
    page = browser.page(width)
    page.go(web.url)
    style = "getComputedStyle(document.querySelector('.figures'))"
    columns = page.run(f"{style}.gridTemplateColumns.split(' ').length")
    assert page.run("document.querySelectorAll('.figures li').length") % columns == 0
    page.go(f"{web.url}/deliveries?state=dead")
    mark = "document.querySelector('td.endpoint span:last-child')"
    assert page.run(f"{mark}.getClientRects().length") == 1
    page.go(f"{web.url}/endpoints")
    whole = "[...document.querySelectorAll('.whole')].map((each) => each.getClientRects().length)"
    assert set(page.run(whole)) == {1}
    page.go(f"{web.url}/models")
    page.until(lambda: "measured" in page.text(".u-legend"), "the chart is drawn")
    assert ":" not in page.text(".u-legend")
    colon = "getComputedStyle(document.querySelector('.u-legend th'), '::after').display"
    assert page.run(colon) == "none"
    page.close()


SECONDS = (864, 86_340, 124 * 86_400)  # 14m24s, 23h59m, 124d00h
CUT_TIMES = """[...document.querySelectorAll("td.time")]
    .filter((cell) => cell.scrollWidth > cell.clientWidth).map((cell) => cell.innerText)"""


@pytest.mark.parametrize("width", [*WIDTHS, 640, 1_000, 1_300])
def test_a_list_shows_times_whole(browser: Browser, web: Web, lite: str, width: int) -> None:
    with db.transaction(lite) as session:
        seeding.add_account(session)
        for seconds in SECONDS:
            began = seeding.at(seconds=seconds)
            seeding.add_job(session, tracked_at=began, upstream_created_at=began)
    page = browser.page(width)
    page.go(f"{web.url}/jobs")
    assert page.run("document.querySelectorAll('td.time').length") == len(SECONDS)
    assert page.run(CUT_TIMES) == []
    page.close()


def test_the_card_of_an_account_is_short_on_a_phone_too(
    browser: Browser, web: Web, lite: str
) -> None:
    track("grok:1770350082-trii1OXZc3")
    page = browser.page(360)
    page.go(f"{web.url}/accounts")
    style = "getComputedStyle(document.querySelector('.facts2'))"
    assert page.run(f"{style}.gridTemplateColumns.split(' ').length") == 2
    page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_events_are_picked_by_boxes_that_a_finger_finds(
    browser: Browser, web: Web, lite: str, width: int
) -> None:
    event = owed(lite)
    page = browser.page(width)
    page.go(f"{web.url}/deliveries")
    size = "(() => {{ const r = document.querySelector('{}').getBoundingClientRect();"
    size += "return [r.width, r.height]; }})()"
    assert page.run(size.format(".pick input")) == [16, 16]
    assert min(page.run(size.format("td.pick label"))) >= 24
    x, y = page.place("td.pick label")
    hits = [page.run(f"document.elementFromPoint({x + dx}, {y + dy})?.closest('label') !== null")
            for dx in (-12, 0, 11) for dy in (-12, 0, 11)]  # fmt: skip
    assert all(hits)
    page.click("td.pick label")
    assert page.run("document.querySelector('.pick input').checked")
    assert state_of(lite, event) == "dead"
    page.close()


def test_all_can_be_read_and_done_without_javascript(browser: Browser, web: Web, lite: str) -> None:
    event = owed(lite)
    page = browser.page()
    page.javascript(on=False)
    page.go(f"{web.url}/jobs/{event['job_id']}")
    page.click(f"[id='{event['id']}'] form button")
    page.until(lambda: state_of(lite, event) == "pending", "the event is owed again")
    page.close()


# ------------------------------------------------------------------- a person


def owed(url: str) -> dict[str, Any]:
    with db.transaction(url) as session:
        return seeding.add_owed(session, HOOK, state="dead", next_attempt_at=None)


def state_of(url: str, event: dict[str, Any]) -> str:
    with db.reading(url) as session:
        return session.get_one(Delivery, event["id"]).state


def move(url: str, job_id: int, status: str, state: str = "running") -> None:
    """What a worker writes when upstream has said something new."""
    with db.transaction(url) as session:
        job = session.get_one(Job, job_id)
        now = db.now(session)
        session.add(Transition(
            job_id=job_id, sequence=job.sequence + 1, from_state=job.state, to_state=state,
            from_status=job.upstream_status, to_status=status, at=now,
        ))  # fmt: skip
        job.sequence, job.state, job.upstream_status = job.sequence + 1, state, status
        job.polls, job.last_polled_at, job.next_poll_at = job.polls + 1, now, now


def test_a_video_is_tracked_and_seen_to_move_and_its_story_opened(
    browser: Browser, web: Web, lite: str
) -> None:
    first = track("veo3.1-fast:1770350082-trii1OXZc3")
    page = browser.page()
    page.go(f"{web.url}/jobs")
    assert "pending" in page.text(f"#job-{first.id}")
    move(lite, first.id, "video_generating")
    page.until(lambda: "video_generating" in page.text(f"#job-{first.id}"), "its row says so")
    track("veo3.1-fast:1770350090-another001")
    page.until(lambda: "show them" in page.text(".newer"), "a newer job is told of")
    page.click(".newer a")
    page.until(lambda: page.run("document.querySelectorAll('tbody tr').length") == 2, "both")
    page.click(f"#job-{first.id} a")
    page.until(lambda: "Under way for" in page.text(".verdict"), "its page is open")
    move(lite, first.id, "video_upsampling")
    page.until(lambda: "video_upsampling" in page.text(".story"), "its story goes on by itself")
    assert page.complaints() == []
    page.close()


def test_a_change_arrives_on_the_open_page_without_loading_it_anew(
    browser: Browser, web: Web, lite: str
) -> None:
    """Within a deadline, and in the document that was there before."""
    job = track("veo3.1-fast:1770350082-trii1OXZc3")
    page = browser.page()
    page.go(web.url)
    page.run("window.opened = 'before the change'")
    assert "video_generating" not in page.text(".columns")
    move(lite, job.id, "video_generating")
    page.until(lambda: "video_generating" in page.text(".changes"), "the change is told")
    assert page.run("window.opened") == "before the change"
    assert page.complaints() == []
    page.close()


def test_what_goes_on_is_counted_while_nothing_changes(
    browser: Browser, web: Web, lite: str
) -> None:
    job = track("veo3.1-fast:1770350082-trii1OXZc3")
    page = browser.page()
    page.go(f"{web.url}/jobs/{job.id}")
    said = page.text(".verdict .big")
    page.until(lambda: page.text(".verdict .big") != said, "its age goes on")
    assert "Next poll: now" in page.text(".verdict") or "not known" in page.text(".verdict")
    assert page.complaints() == []
    page.close()


def test_what_was_counted_down_to_is_asked_for_anew_when_it_has_passed(
    browser: Browser, web: Web, lite: str
) -> None:
    """Nothing changes meanwhile: the estimate alone has passed."""
    with db.transaction(lite) as session:
        scenes.quiet(session)
        going = session.query(Job.id).filter_by(state="running", model="veo3.1").limit(1).scalar()
    page = browser.page()
    page.go(f"{web.url}/jobs/{going}")
    left = "document.querySelector('.verdict time[data-count=down]')"
    said = page.run(f"{left}.dateTime")
    page.run(f"""
        said = []; setInterval(() => said.push({left}?.textContent), 100);
        {left}.dateTime = new Date(Date.now() - 1000).toISOString();
    """)
    page.until(lambda: page.run(f"{left}.dateTime") >= said, "it is told anew")
    assert "0s" not in page.run("said")
    assert page.complaints() == []
    page.close()


def test_a_dead_event_is_found_and_sent_again(browser: Browser, web: Web, lite: str) -> None:
    event = owed(lite)
    page = browser.page()
    page.go(web.url)
    page.until(lambda: "1 event is dead" in page.text(), "the first page says it")
    page.run("[...document.querySelectorAll('.facts a')].find("
             "(each) => each.textContent.includes('dead')).id = 'dead'")  # fmt: skip
    page.click("#dead")
    page.until(lambda: "/deliveries" in page.run("location.pathname"), "the dead ones are listed")
    page.click(".type a")
    page.until(lambda: "/jobs/" in page.run("location.pathname"), "its job is open")
    page.loaded()
    page.click(f"[id='{event['id']}'] form button")
    page.until(lambda: state_of(lite, event) == "pending", "it is owed again")
    page.until(lambda: "pending" in page.text(f"[id='{event['id']}'] h3"), "the page says so")
    page.close()


def test_an_account_is_paused_and_resumed_with_the_keyboard_alone(
    browser: Browser, web: Web, lite: str
) -> None:
    track("grok:1770350082-trii1OXZc3")
    page = browser.page()
    page.go(f"{web.url}/accounts")
    to(page, "Pause…")
    page.press("Enter")
    page.press("Tab")
    page.type("the bill is not paid")
    to(page, "Pause default")
    page.press("Enter")
    page.until(lambda: "paused by hand" in page.text(), "it is paused")
    assert "the bill is not paid" in page.text()
    to(page, "Resume")
    page.press("Space")
    page.until(lambda: "polls as configured" in page.text(), "it polls again")
    page.close()


def to(page: Page, text: str) -> None:
    """Press Tab until that is where the focus is."""
    for _ in range(60):
        page.press("Tab")
        if page.run("document.activeElement.innerText") == text:
            return
    raise AssertionError(f"the keyboard does not lead to {text!r}")


def test_the_keyboard_leads_to_the_search_and_past_the_navigation(
    browser: Browser, web: Web, lite: str
) -> None:
    job = track("grok:1770350082-trii1OXZc3")
    page = browser.page()
    page.go(web.url)
    page.press("Tab")
    assert page.run("document.activeElement.className") == "skip"
    page.press("/")
    page.type(job.video_id)
    page.press("Enter")
    page.until(lambda: page.run("location.pathname") == f"/jobs/{job.id}", "it is looked for")
    page.until(lambda: job.video_id in page.text("h1"), "it is found")
    page.close()


# ------------------------------------------------- while somebody is about to click


def test_what_is_under_the_pointer_stays_there_while_the_page_changes(
    browser: Browser, web: Web, lite: str
) -> None:
    event = owed(lite)
    button = f"[id='{event['id']}'] form button"
    page = browser.page(360, 700)
    page.go(f"{web.url}/jobs/{event['job_id']}")
    page.point(button)
    before = page.run(f'document.querySelector("{button}").getBoundingClientRect().top')
    lines = page.run("document.querySelectorAll('.story li').length")
    with db.transaction(lite) as session:  # the story above it grows
        for seconds in range(8):
            at = db.now(session) + timedelta(seconds=seconds)
            seeding.add_attempt(session, event, at=at, error="502 Bad Gateway", http_status=502)
    page.until(lambda: page.run("document.querySelectorAll('.story li').length") > lines, "it grew")
    after = page.run(f'document.querySelector("{button}").getBoundingClientRect().top')
    assert abs(after - before) <= 1
    page.close()


def is_told(page: Page, text: str) -> bool:
    """Is that what is said of newer rows?"""
    return page.text(".newer") == text


def under(page: Page, x: float, y: float) -> str:
    """The id of the row at that place."""
    return str(page.run(f"document.elementFromPoint({x}, {y})?.closest('li')?.id ?? ''"))


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_the_list_of_changes_is_held_while_it_is_pointed_at_or_focused(
    browser: Browser, web: Web, lite: str, by: str
) -> None:
    """What came meanwhile is told of, and shown when nobody aims at a row any more."""
    job = track("veo3.1-fast:1770350082-trii1OXZc3")
    for number in range(12):
        move(lite, job.id, f"at {number} %")
    page = browser.page()
    page.go(web.url)
    row = ".changes li:nth-child(4) a"
    x, y = page.place(row)
    if by == "mouse":
        page.point(row)
    else:
        page.run(f"document.querySelector('{row}').focus()")
    aimed = under(page, x, y)
    for told_of in ("1 newer: show it", "2 newer: show them"):
        move(lite, job.id, "still going")
        page.until(partial(is_told, page, told_of), "newer ones are told of")
        assert under(page, x, y) == aimed
    if by == "mouse":
        page.point("h1")
    else:
        assert page.run("document.activeElement.closest('li').id") == aimed
        page.run("document.activeElement.blur()")
    page.until(lambda: page.text(".newer") == "", "they are shown")
    assert under(page, x, y) != aimed
    assert page.complaints() == []
    page.close()


@pytest.mark.parametrize("more", [True, False], ids=["comes", "goes"])
def test_a_page_with_nothing_to_scroll_keeps_what_is_pointed_at(
    browser: Browser, web: Web, lite: str, more: bool
) -> None:
    """A thing that needs a look comes above the one that somebody is about to click, or goes."""
    with db.transaction(lite) as session:
        seeding.add_account(session, "one", pause_reason="quota: used up")
        seeding.add_account(session, "two", pause_reason=None if more else "quota: used up")
        seeding.add_owed(session, HOOK, state="dead", next_attempt_at=None)
    page = browser.page()
    page.go(web.url)
    x, y = page.place("#fact-dead a")
    page.point("#fact-dead a")
    top = "document.querySelector('#fact-dead a').getBoundingClientRect().top"
    before = page.run(top)
    assert page.run("document.documentElement.scrollHeight <= innerHeight")
    with db.transaction(lite) as session:
        session.get_one(Account, "two").pause_reason = "quota: used up" if more else None
    page.until(lambda: ("Account two" in page.text(".facts")) == more, "it is told")
    page.until(lambda: under(page, x, y) == "fact-dead", "it is where it was")
    assert abs(page.run(top) - before) <= 1
    page.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", ["/jobs", "/deliveries"])
def test_a_list_does_not_move_when_newer_ones_are_there(
    browser: Browser, web: Web, lite: str, path: str, width: int
) -> None:
    owed(lite)
    page = browser.page(width)
    page.go(web.url + path)
    top = "document.querySelector('tbody tr').getBoundingClientRect().top + scrollY"
    before = page.run(top)
    owed(lite)
    page.until(lambda: "show them" in page.text(".newer"), "newer ones are there")
    assert page.run(top) == before
    page.close()


def test_what_somebody_writes_is_not_overwritten(browser: Browser, web: Web, lite: str) -> None:
    job = track("grok:1770350082-trii1OXZc3")
    page = browser.page()
    page.go(f"{web.url}/jobs/{job.id}")
    page.click(".actions details summary")
    page.click("input[name=webhook_url]")
    page.type("https://new.exa")
    move(lite, job.id, "video_generating")
    page.until(lambda: told(web, page), "the server has told the page of the change")
    page.type("mple.com/in")
    assert page.run("document.querySelector('input[name=webhook_url]').value") == (
        "https://new.example.com/in"
    )
    page.press("Enter")
    page.until(lambda: webhook_of(lite, job.id) == "https://new.example.com/in", "it is changed")
    page.close()


def test_a_form_that_is_refused_says_so_on_a_page_that_lives_on(
    browser: Browser, web: Web, lite: str
) -> None:
    """Its reason stays and what was typed too, at the address of the job."""
    job = track("grok:1770350082-trii1OXZc3")
    page = browser.page()
    page.go(f"{web.url}/jobs/{job.id}")
    page.click(".actions details summary")
    page.click("input[name=webhook_url]")
    page.type("http://10.0.0.1/in")
    page.press("Enter")
    page.until(lambda: "refused" in page.text("[role=alert]"), "it is refused")
    assert page.run("location.pathname") == f"/jobs/{job.id}"
    assert page.run("[document.activeElement.name, document.activeElement.value]") == [
        "webhook_url", "http://10.0.0.1/in"
    ]  # fmt: skip
    page.run("document.activeElement.blur()")
    move(lite, job.id, "video_generating")
    page.until(lambda: "video_generating" in page.text(".verdict"), "the change is told")
    assert "10.0.0.1 is not a public address" in page.text("[role=alert]")
    page.close()


def test_no_line_of_a_story_stands_apart(browser: Browser, web: Web, lite: str) -> None:
    page = browser.page()
    page.go(f"{web.url}/jobs/{owed(lite)['job_id']}")
    margins = "[...document.querySelectorAll('.story li')].map(e => getComputedStyle(e).margin)"
    assert page.run("document.querySelectorAll('.story .event').length") > 0
    assert set(page.run(margins)) == {"0px"}
    page.close()


def webhook_of(url: str, job_id: int) -> str | None:
    with db.reading(url) as session:
        return session.get_one(Job, job_id).webhook_url


def told(web: Web, page: Page) -> bool:
    """Has the page's token become an old one?"""
    token, topics = page.run("[page.dataset.token, page.dataset.topics]")
    return bool(web.get(f"/changes?token={token}&topics={topics}").json()["changed"])
