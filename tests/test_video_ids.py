"""Ids that can't be any are refused with a hint, whichever way they come; files of ids are read."""

import json
import string
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelwatch.app import tasks
from reelwatch.errors import ReelwatchError, Refused
from reelwatch.jobs import intake, tracking
from reelwatch.rules import id_files, video_ids
from reelwatch.rules.id_files import Found
from reelwatch.rules.video_ids import can_be, check_tracked_id, check_video_id, looks_usual
from reelwatch.storage import db
from tests import seeding
from tests.commands import done, run

GOOD = (
    "veo3.1-fast:1770350082-trii1OXZc3", "sora-2:task_01k6x", f"sora-2:{uuid.UUID(int=7)}",
    f"grok:{uuid.UUID(int=7)}", str(uuid.UUID(int=7)), "task_" + "a" * 32, "cgt-20260206-abc",
    "8c1f0a4e2b", "1770350082", "models/veo-3.0/operations/abc", "veo3:aB+/==", "a@b:c~d",
    "-abc_", "_x", "veo3:a#1", "x", "veo3.1:v1.5", "kling:task-v1.6", "None-1", "veo3:nullable",
    "veo3:true1", "видео-1", "ab%zz", "a&b", "file:x",
)  # fmt: skip

MIXED_UP = {
    "ids.txt": "a file's name; `reelwatch track --file FILE`",
    "data/ids.CSV": "a file's name",
    "./ids": "a file's name",
    "~/ids": "a file's name",
    "@ids.txt": "a file's name",
    r"C:\ids": "backslash",
    "cat.mp4": "a file's name",
    "veo3:a,5": "comma or semicolon",
    "veo3:a;veo3:b": "comma or semicolon",
    '"veo3:a"': "quotes; leave them out",
    "'veo3:a'": "quotes",
    "`veo3:a`": "quotes",
    "\u201cveo3:a\u201d": "quotes",
    "veo3:a # note": "a comment behind it",
    "# note": "it is a comment",
    "veo3:a veo3:b": "has a blank",
    "veo3:a\u00a0b": "has a blank",
    "https://api.quickrouter.ai/v1/video/query?id=veo3:a": "it is a URL",
    "www.example.com/a": "it is a URL",
    '{"id": "veo3:a"}': "a piece of JSON",
    '["veo3:a"]': "a piece of JSON",
    "{video_id}": "JSON, or of a template",
    "<task id>": "has a blank",
    "<task-id>": "a placeholder or a pattern",
    "$VIDEO_ID": "a placeholder or a pattern",
    "veo3:*": "a placeholder or a pattern",
    "id=veo3:a": "what stands before its `=`",
    "veo3%3Aa": "percent-encoded",
    "veo3:": "nothing stands behind its colon",
    "veo3\uff1aa": "full-width",
    "veo3:17703…": "has been cut",
    "veo3:17703...": "has been cut",
    "None": "it ends in `None`, a placeholder or what an empty variable leaves",
    "null": "it ends in `null`, a placeholder",
    "undefined": "it ends in `undefined`, a placeholder",
    "veo3:undefined": "it ends in `undefined`, a placeholder",
    "nosuch:id": "it ends in `id`, a placeholder",
    "video_id": "it ends in `video_id`, a placeholder",
    "veo3:videoId": "it ends in `videoId`, a placeholder",
    "-": "an option",
    "--file": "an option",
}


@pytest.mark.parametrize("video_id", GOOD)
def test_what_could_be_an_id_is_one(video_id: str) -> None:
    assert check_video_id(f" {video_id} ") == video_id


@pytest.mark.parametrize(("video_id", "hint"), MIXED_UP.items())
def test_what_can_not_be_an_id_is_refused_with_a_hint(video_id: str, hint: str) -> None:
    """And what is tracked under such an id already can still be cancelled."""
    with pytest.raises(Refused) as caught:
        check_video_id(video_id)
    assert str(caught.value).startswith(f"{video_id!r} can't be a video id: ")
    assert str(caught.value).replace(video_id, "").count(": ") == 1, "one sentence"
    assert hint in str(caught.value)
    assert check_tracked_id(video_id) == video_id


MODELS = st.from_regex(r"[a-z][a-z0-9.-]{0,20}[a-z0-9]", fullmatch=True)
RANDOM = st.one_of(
    st.text(string.ascii_letters + string.digits + "-_", min_size=12, max_size=60),
    st.uuids().map(str),
    st.binary(min_size=12, max_size=40).map(bytes.hex),
)


@given(MODELS, RANDOM)
def test_ids_of_relays_are_accepted_whatever_their_random_part(model: str, rest: str) -> None:
    assert check_video_id(f"{model}:{rest}") == f"{model}:{rest}"
    assert check_video_id(f"task_{rest}") == f"task_{rest}"
    assert looks_usual(f"{model}:{rest}")


PARTS = st.sampled_from(["veo3", "7", "-", "_", ".", "none", "NULL", "id", "video_id", "txt", "é"])
SHORT = st.lists(PARTS, max_size=3).map("".join)


@given(SHORT, SHORT)
def test_nothing_is_mixed_up_with_an_id_that_is_accepted_by_its_plain_look(
    model: str, rest: str
) -> None:
    text = f"{model}:{rest}"
    found = [hint for pattern, hint, _ in video_ids._MIX_UPS if pattern.search(text)]
    assert not (found and video_ids._PLAIN.fullmatch(text))


@given(st.text(max_size=60))
def test_any_text_is_accepted_or_refused(text: str) -> None:
    try:
        accepted = check_video_id(text)
    except Refused:
        return
    assert accepted == text.strip(" ")
    assert check_video_id(accepted) == accepted


# ------------------------------------------------------------------- each way


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_each_way_in_refuses_it(commands: pytest.MonkeyPatch, database_url: str) -> None:
    with pytest.raises(Refused, match="a file's name"):
        tracking.track("ids.txt")
    with pytest.raises(Refused, match=r"^id 2 of 2, 'veo3:a,5' can't be a video id: "):
        tracking.track_many(["veo3:a", "veo3:a,5"])
    said = run("track", "ids.txt")
    assert said.exit_code == 2
    assert (
        "'ids.txt' can't be a video id: it is a file's name; `reelwatch track --file" in said.stderr
    )
    for video_id in ("veo3:a # note", "b # note"):
        message = intake.Message(video_id, "track", video_id, {}, "node")
        intake.take_in(database_url, message, tasks.ACTIONS["track"])
    assert json.loads(done("list", "--json")) == []
    doctor = run("doctor").output
    assert "2, as b # note, the last" in doctor, doctor
    assert "… can't be a video id: it has a comment behind it" in doctor


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("command", ["show", "cancel", "recheck", "watch"])
def test_who_asks_for_what_is_no_id_is_told(commands: pytest.MonkeyPatch, command: str) -> None:
    said = run(command, '"veo3:a"')
    assert said.exit_code == 1
    assert "can't be a video id: it has quotes; leave them out" in said.stderr
    assert "can't be" not in run(command, "veo3:a").stderr


# --------------------------------------------------------------------- files


def read(text: str, name: str = "ids.csv") -> Found:
    return id_files.read(text.encode(), name)


IDS = ["veo3:a", "grok:b"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("video_id,seconds\nveo3:a,5\ngrok:b,8\n", "column video_id"),
        ("seconds,Task ID\r\n5,veo3:a\r\n8,grok:b\r\n", "column Task ID"),
        ("id;video-id\n1;veo3:a\n2;grok:b\n", "column video-id"),
        ("n\tid\n1\tveo3:a\n2\tgrok:b\n", "column id"),
        ('"user","id"\n"a, b","veo3:a"\n"two\nlines","grok:b"\n', "column id"),
        ("veo3:a,5\ngrok:b,8\n", "column 1"),
        ("1,2026-02-06T03:58:49Z,12:30,veo3:a\n2,2026-02-06,9:15,grok:b\n", "column 4"),
        ("when,job\n2026-02-06,veo3:a\n2026-02-07,grok:b\n", "column job"),
        ("# exported today\n\nid\nveo3:a\n\n# that was one\ngrok:b\n", "column id"),
        ("veo3:a\ngrok:b\n", "column 1"),
        ("\ufeffid,user\nveo3:a,1\ngrok:b,2", "column id"),
    ],
)
def test_ids_are_found_in_a_column_of_csv(text: str, where: str) -> None:
    assert read(text) == Found(IDS, where)


def test_a_csv_file_is_known_by_its_header_too() -> None:
    """From standard input, or by another name."""
    assert read("video_id,n\nveo3:a,1\ngrok:b,2\n", "<stdin>") == Found(IDS, "column video_id")
    assert read("task_id\nveo3:a\ngrok:b\n", "ids.txt") == Found(IDS, "column task_id")


def test_json_says_more_of_its_ids() -> None:
    text = '[{"id": "veo3:a", "account": "studio", "metadata": {}, "state": "x"}, "grok:b"]'
    found = read(text)
    assert found == Found(IDS, "key id", [{"account": "studio"}, {}])
    assert found.told("x") == "2 ids from x, key id, with its account"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('["veo3:a", "grok:b"]', None),
        ('[{"id": 1, "video_id": "veo3:a"},\n {"id": 2, "video_id": "grok:b"}]', "key video_id"),
        ('{"task_id": "veo3:a"}\n\n{"task_id": "grok:b"}\n', "key task_id"),
    ],
)
def test_ids_are_found_in_json(text: str, where: str | None) -> None:
    assert read(text, "ids.json") == Found(IDS, where)


def test_ids_are_found_one_a_line() -> None:
    assert read("# today\n\nveo3:a\n  grok:b  \n", "ids.txt") == Found(IDS)
    assert read("# none\n") == read("[]") == Found([])
    assert read("video_id,n\n").ids == []
    assert read("veo3:a", "x").told("x") == "1 id from x"
    told = read("veo3:a\ngrok:b\nveo3:a\n", "x").told("x")
    assert told == "3 ids from x, 1 of them repeated"


@pytest.mark.parametrize(
    ("text", "name", "why"),
    [
        ("veo3:a\ngrok:b # note\n", "ids.txt", "line 2 of ids.txt, 'grok:b # note'"),
        ("veo3:a,5\n", "ids.txt", "line 1 of ids.txt, 'veo3:a,5' can't be a video id"),
        ("id,n\nveo3:a,1\n'grok:b',2\n", "ids.csv", "line 3 of ids.csv, \"'grok:b'\""),
        ("name,n\nx,1\ny,2\n", "ids.csv", "no column is named video_id, task_id or id"),
        ('{"id": "veo3:a"}\nnonsense\n', "x", "line 2 of x: no JSON"),
        ('[{"name": "x"}]', "x", "no key in x is named video_id, task_id or id"),
        ('[{"id": "a"}, {}]', "x", "item 2 of x has no id"),
        ('[{"id": "veo:a"}, {"task_id": "veo:b"}]', "x", "item 1 of x has no task_id, only id; "),
        ('{"task_id": "veo:a"}\n{"task_id": null}', "x", "line 2 of x has no task_id"),
        ("{}", "x", "item 1 of x, video id: {} is not a text"),
        ('[{"id": 7}]', "x", "item 1 of x, video id: 7 is not a text"),
        ('"', "ids.csv", "no row of ids.csv holds anything"),
        ("id,n\nveo3:a,1\n,2\n", "ids.csv", "line 3 of ids.csv: column id is empty"),
        ('[{"id": "a", "webhook_url": "https://h/?k=[secret]"}]', "x", "item 1 of x: webhook_url"),
        ("[" * 100_000, "x", "line 1 of x: no JSON"),
        ('id,n\n"veo3:a,' + "x" * 200_000, "ids.csv", "line 2 of ids.csv: field larger"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_line(text: str, name: str, why: str) -> None:
    with pytest.raises(Refused) as caught:
        read(text, name)
    assert why in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n \r\n", "\ufeff"])
def test_a_file_in_which_nothing_stands_is_a_failure_and_no_list_of_none(text: str) -> None:
    with pytest.raises(ReelwatchError, match=r"nothing stands in ids.csv: did what writes it"):
        read(text)


@given(st.binary(max_size=200), st.sampled_from(["x.csv", "x.txt", "<stdin>"]))
def test_any_file_is_read_or_refused(data: bytes, name: str) -> None:
    try:
        found = id_files.read(data, name)
    except ReelwatchError:
        return
    for video_id in found.ids:
        assert check_video_id(video_id) == video_id


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_track_says_what_it_read(commands: pytest.MonkeyPatch, tmp_path_factory: object) -> None:
    with open("ids.csv", "w") as file:
        file.write("user,video_id\n7,veo3:a\n8,grok:b\n")
    said = run("track", "--file", "ids.csv")
    assert said.stdout == "tracking veo3:a\ntracking grok:b\n"
    assert said.stderr.splitlines()[0] == "2 ids from ids.csv, column video_id"
    # What `list` prints can be handed in again.
    again = run("track", "--file", "-", "--json", given=done("list", "--json"))
    assert [job["created"] for job in json.loads(again.stdout)] == [False, False]
    assert again.stderr.startswith("2 ids from <stdin>, key video_id, with its account, ")


def test_what_a_file_says_of_an_id_holds_for_it(
    commands: pytest.MonkeyPatch, database_url: str
) -> None:
    """A list that is handed in after a restore asks with the key that each job had."""
    with db.transaction(database_url) as session:
        seeding.add_account(session, "studio")
    entries = [
        {"video_id": "veo3:a", "account": "studio", "metadata": {"a": 1}, "webhook_url": None},
        {"video_id": "grok:b"},
        {"video_id": "veo3:a"},
    ]
    options = ("--file", "-", "--json", "--metadata", '{"b": 2}')
    jobs = json.loads(done("track", *options, given=json.dumps(entries)))
    assert {(job["video_id"], job["account"], str(job["metadata"])) for job in jobs} == {
        ("veo3:a", "studio", "{'a': 1}"),
        ("grok:b", "default", "{'b': 2}"),
        ("veo3:a", "default", "{'b': 2}"),
    }


def test_nothing_of_a_file_is_stored_if_one_account_is_unknown(
    commands: pytest.MonkeyPatch,
) -> None:
    entries = [{"video_id": "grok:b"}, {"video_id": "veo3:a", "account": "nosuch"}]
    said = run("track", "--file", "-", given=json.dumps(entries))
    assert said.exit_code == 2
    assert "reelwatch: veo3:a: account: 'nosuch' is not configured" in said.stderr
    assert json.loads(done("list", "--json")) == []


def test_whether_a_text_can_be_an_id_is_told_without_an_error() -> None:
    assert can_be("veo3:a")
    assert not can_be("")
