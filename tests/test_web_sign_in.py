"""The cookie of who has signed in with a browser: what it opens, how long, and where one lands."""

import time
from urllib.parse import quote

import pytest

from reelwatch.config.tokens import parse_tokens
from reelwatch.web.access import COOKIE, COOKIE_SECONDS, Caller, by_cookie
from tests.processes import PATIENCE
from tests.web import TOKENS, VARIABLE, Web

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def signed_in(web: Web, role: str, path: str = "/sign-in", **headers: str) -> tuple[str, str, str]:
    """The cookie's value and its attributes, and where the browser is sent."""
    answer = web.post(path, data=f"token={TOKENS[role]}", headers={**FORM, **headers})
    assert answer.status_code == 303
    set_cookie = answer.headers["set-cookie"]
    return answer.cookies[COOKIE].strip('"'), set_cookie, answer.headers["location"]


@pytest.mark.parametrize(("role", "acts"), [("read", 403), ("operate", 303)])
def test_it_opens_the_pages_with_the_role_of_its_token(
    guarded_web: Web, role: str, acts: int
) -> None:
    value, _, _ = signed_in(guarded_web, role)
    cookie = {"Cookie": f"{COOKIE}={value}"}
    assert guarded_web.get("/accounts", headers=cookie).status_code == 200
    tried = guarded_web.post("/deliveries/redeliver", data="", headers={**cookie, **FORM})
    assert tried.status_code == acts


def test_it_opens_nothing_of_the_api(guarded_web: Web) -> None:
    """No page of another site can have a browser ask for it there, whatever the browser sends."""
    value, _, _ = signed_in(guarded_web, "operate")
    answer = guarded_web.get("/api/v1/jobs", headers={"Cookie": f"{COOKIE}={value}"})
    assert answer.status_code == 401


def test_no_script_and_no_other_site_gets_it(guarded_web: Web) -> None:
    value, attributes, _ = signed_in(guarded_web, "operate")
    assert TOKENS["operate"] not in value
    told = {each.strip().lower() for each in attributes.split(";")[1:]}
    assert told == {"httponly", "samesite=strict", "path=/", f"max-age={COOKIE_SECONDS}"}
    _, attributes, _ = signed_in(guarded_web, "operate", **{"X-Forwarded-Proto": "https"})
    assert "; Secure" in attributes


def test_it_is_worth_nothing_after_its_end_nor_when_anything_of_it_is_changed(
    guarded_web: Web,
) -> None:
    value, _, _ = signed_in(guarded_web, "read")
    name, until, seal = value.split("|")
    tokens, now = parse_tokens(VARIABLE), time.time()
    assert by_cookie(tokens, value, now) == Caller("read-caller", "read")
    for changed, at in (
        (value, now + COOKIE_SECONDS + 1),
        (f"{name}|{int(until) + 9_999}|{seal}", now),
        (f"operate-caller|{until}|{seal}", now),
        (f"{name}|{until}|{'0' * len(seal)}", now),
        (f"{name}|{until}", now),
        ("", now),
    ):
        assert by_cookie(tokens, changed, at) is None, changed
    new_token = parse_tokens(VARIABLE.replace(TOKENS["read"], "another-0123456789"))
    assert by_cookie(new_token, value, now) is None


@pytest.mark.parametrize(
    ("wanted", "led"),
    [
        ("/jobs?state=failed", "/jobs?state=failed"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("/jobs\r\nX: y", "/"),
        ("", "/"),
    ],
)
def test_who_signs_in_is_led_to_no_other_site(guarded_web: Web, wanted: str, led: str) -> None:
    _, _, location = signed_in(guarded_web, "read", f"/sign-in?next={quote(wanted, safe='')}")
    assert location == led


def test_who_signs_out_has_it_no_longer(guarded_web: Web) -> None:
    answer = guarded_web.post("/sign-out", data="", headers=FORM)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert f'{COOKIE}=""; ' in answer.headers["set-cookie"]
    assert "Max-Age=0" in answer.headers["set-cookie"]


def test_a_program_with_a_wrong_token_reads_no_page(guarded_web: Web) -> None:
    wrong = {"Authorization": "Bearer wrong-0123456789abc"}
    assert guarded_web.get("/accounts", headers=wrong).status_code == 303


def test_a_wrong_token_is_told_and_gives_none(guarded_web: Web) -> None:
    answer = guarded_web.post("/sign-in", data="token=wrong-0123456789abc", headers=FORM)
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
    assert "This is no token" in answer.text


def test_a_large_form_is_not_taken_apart(guarded_web: Web) -> None:
    """Nobody else would be answered meanwhile, and nobody needs a token to send it."""
    for data in ("a&" * 40_000, "token=" + "%" * 1_000_000):
        assert guarded_web.post("/sign-in", data=data, headers=FORM).status_code == 413
    assert guarded_web.post("/sign-in", data="a&" * 30_000, headers=FORM).status_code == 401


def test_a_long_cookie_takes_no_time(guarded_web: Web) -> None:
    """Some Pythons take seconds for one that is quoted, and nobody else is answered meanwhile."""
    value, _, _ = signed_in(guarded_web, "read")
    begun = time.monotonic()
    for quoted in ('\\"' * 28_000, f'x"; a={COOKIE}; {COOKIE}x={value}; b="'):
        long = {"Cookie": f'{COOKIE}="{quoted}"'}
        assert guarded_web.get("/accounts", headers=long).status_code == 303
    assert time.monotonic() - begun < 4 * PATIENCE
    among = {"Cookie": f"a=b; {COOKIE}={value} ; c"}
    assert guarded_web.get("/accounts", headers=among).status_code == 200
