"""`multicrop-service classify`: lines worked out by hand, runs that are killed and go on, names that do harm."""

import csv
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as some

from service.__main__ import main
from service.client import Prediction, exchange
from service.commands.bulk import ClassifyJob, find
from service.commands.output import OutFile, OutputError
from service.commands.paths import take_paths
from service.commands.report import Csv, Fault, Format, JsonLines, Row, spell
from stub import Asked, Reply, problem, serving

Answering = Callable[[Asked], Reply]

ANSWER: dict[str, Any] = {
    "model": "cats",
    "version": 3,
    "digest": "d1",
    "views": {"plan": "center", "computed": 1, "gmacs": 0.5},
    "predictions": [
        {"index": 1, "label": "tabby", "probability": 0.75},
        {"index": 0, "label": "Siamese", "probability": 0.25},
    ],
}
SUMMARY = re.compile(
    r"^multicrop-service: (\d+) answered, (\d+) failed(?:, (\d+) had an answer before)?$", re.MULTILINE
)


def answer(asked: Asked) -> Reply:
    """The label is what the body says: an answer at another image's line is seen."""
    best = {"index": 0, "label": asked.body.decode(), "probability": 0.5}
    return Reply(json={**ANSWER, "predictions": [best]})


def command(url: httpx.URL | str, paths: Sequence[Path | str], *options: str, model: str = "cats") -> list[str]:
    return ["classify", *map(str, paths), "--url", str(url), "--model", model, *options]


def write(root: Path, names: Sequence[str]) -> Path:
    """Files whose content is their name in the folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(name))
    return root


def counted(err: str) -> tuple[int, ...]:
    (found,) = SUMMARY.findall(err)
    return tuple(int(number or 0) for number in found)


def json_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


# What is asked for


def test_a_folder_is_searched_in_order_and_other_files_are_left(tmp_path: Path) -> None:
    write(tmp_path, ["b.PNG", "a.jpg", "c.jpeg", "d.webp", "e.gif", "png", "x.png/in.jpg", "deep/er/y.png", "z.txt"])
    (tmp_path / "deep/loop").symlink_to(tmp_path)
    found = [str(Path(name).relative_to(tmp_path)) for name in find([str(tmp_path)])]
    assert found == ["a.jpg", "b.PNG", "c.jpeg", "d.webp", "deep/er/y.png", "x.png/in.jpg"]
    assert list(find(["./no/such//file"])) == ["no/such/file"]  # it is told of when it is read


def test_a_folder_that_cannot_be_listed_is_found_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, ["a.png", "closed/b.png"])
    scandir = os.scandir

    def closed(folder: str) -> Any:  # root lists folders whatever their mode
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    assert list(find([str(tmp_path)])) == [str(tmp_path / "a.png"), str(tmp_path / "closed")]


def test_paths_come_through_the_command_line_as_they_are() -> None:
    paths = ["a,b.png", "[x]", '"q', " sp ", "{", "n\nl", "\udcff", "12", "null", "\\", "a=b"]
    assert take_paths(["classify", *paths[:5], "--model", "m", *paths[5:], "--top-k=3", "--", "--x"]) == (
        ["classify", "--model", "m", "--top-k=3", "PATH"],
        [*paths, "--x"],
    )
    assert take_paths(["classify", "--help"]) == (["classify", "--help"], [])
    assert take_paths(["run", "x"]) == (["run", "x"], [])


def test_options_are_sent_and_the_key_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MULTICROP_API_KEY", "of the shell")
    options = {"views": "ten_crop", "average": "logits", "stop": "never", "top_k": "2", "version": "stable"}
    given = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", value)]
    with serving(answer) as (url, asked):
        assert main(command(url, [write(tmp_path, ["a.png"])], *given)) == 0
        assert main(command(url, [tmp_path], "--api-key", "of the line")) == 0
    assert [one.query for one in asked] == [options, {"top_k": "1"}]
    assert [one.authorization for one in asked] == ["Bearer of the shell", "Bearer of the line"]
    assert "of the" not in "".join(capsys.readouterr())


def test_every_option_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/client.md").read_text()
    fields = {name.replace("_", "-") for name in ClassifyJob.model_fields} - {"paths"}
    assert set(re.findall(r"^\| `--([a-z-]+)`", page, re.MULTILINE)) == fields


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["a.png"], "--model"),
        (["--model", "m"], "PATHS"),
        (["a.png", "--model", "m", "--out", "x.txt"], "a table cannot be carried on; give --format csv"),
        (["a.png", "--model", "m", "--api-key", "clear\ntext"], "classify.api_key: the API key is empty, or has"),
        (["a.png", "--model", "m", "--stop", "soon"], "stop is never, exact"),
    ],
    ids=["no model", "no path", "table", "key", "stop"],
)
def test_a_wrong_command_line_ends_with_2(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(["classify", *options])
    except SystemExit as exit_:
        status = int(str(exit_.code))
    err = capsys.readouterr().err
    assert status == 2
    assert said in err
    assert "clear" not in err


# What is written


def test_a_real_server_fills_a_table(
    client: httpx.Client,
    plain: Callable[..., bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in {"a.png": plain("lime"), "b.jpg": plain("blue", (16, 8), "JPEG"), "c.webp": b"none"}.items():
        (tmp_path / name).write_bytes(content)
    status = main(command(client.base_url, [".", "gone.png"], "--top-k", "2", model="colours"))
    out, err = capsys.readouterr()
    first, second, third, fourth = out.splitlines()
    # Of pure green the logits are 0, 10, 0: 1 / (1 + 2 / e^10) and e^-10 of that.
    assert first == "a.png     0.9999 green  0.0000 red"
    assert re.fullmatch(r"b\.jpg     0\.999\d blue  0\.000\d (red|green)", second)
    assert third.startswith("c.webp    image_format_unsupported: ")
    assert fourth == "gone.png  unreadable: No such file or directory"
    assert (status, counted(err)) == (1, (2, 2, 0))


def test_a_real_server_fills_a_file(client: httpx.Client, plain: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(plain("lime", (16, 8)))
    file = tmp_path / "out.jsonl"
    options = ("--format", "jsonl", "--out", str(file), "--views", "ten_crop", "--top-k", "1", "--version", "1")
    assert main(command(client.base_url, [tmp_path], *options, model="colours")) == 0
    (line,) = json_lines(file)
    digest = client.get("/v1/models").json()[0]["versions"][0]["digest"]
    (score,) = line.pop("predictions")
    assert line == {
        "file": f"{tmp_path}/a.png",
        "model": "colours",
        "asked": "views=ten_crop&top_k=1&version=1",
        "version": 1,
        "digest": digest,
        "views": "ten_crop",
        "computed": 6,
    }
    assert (score["index"], score["label"]) == (1, "green")


def test_csv_has_a_column_for_each_of_the_best_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, ["a.png", "b.png"])

    def reply(asked: Asked) -> Reply:
        return Reply(json=ANSWER) if asked.body == b"a.png" else problem(422, "image_truncated")

    with serving(reply) as (url, _):
        assert main(command(url, [tmp_path], "--format", "csv", "--top-k", "3")) == 1
    first, second = csv.DictReader(io.StringIO(capsys.readouterr().out))
    best = {"label_1": "tabby", "probability_1": "0.75", "index_1": "1", "label_2": "Siamese", "index_2": "0"}
    assert first.items() >= {**best, "label_3": "", "version": "3", "views": "center", "error": ""}.items()
    assert second.items() >= {"error": "image_truncated", "detail": "image_truncated it is", "label_1": ""}.items()
    assert [first["file"], second["file"]] == [f"{tmp_path}/a.png", f"{tmp_path}/b.png"]


def test_the_output_is_utf8_wherever_it_goes(tmp_path: Path) -> None:
    write(tmp_path, ["a.png"])
    scores = [{"index": 0, "label": "K\u00e4tzchen", "probability": 1}]
    with serving(lambda _: Reply(json={**ANSWER, "predictions": scores})) as (url, _):
        for form in ("table", "csv", "jsonl"):
            arguments = command(url, [tmp_path], "--format", form)
            environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
            run = [sys.executable, "-m", "service", *arguments]
            done = subprocess.run(run, env=environment, capture_output=True, check=True)
            assert "K\u00e4tzchen".encode() in done.stdout


def test_on_a_terminal_lines_stand_above_the_bar(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "b.png"])
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (25, 80))
    with serving(answer) as (url, _):
        arguments = [sys.executable, "-m", "service", *command(url, ["a.png", "b.png"])]
        root = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run(arguments, cwd=tmp_path, env=root, stdout=theirs, stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    # Each stands on a line of its own, from its beginning, and the bar is drawn again after it.
    assert re.search(r"\ra\.png  0\.5000 a\.png\r\n.*\rb\.png  0\.5000 b\.png\r\n.*2/2", shown, re.DOTALL)


def test_a_reader_that_leaves_ends_it_in_one_line(thirty: Path) -> None:
    with serving(answer) as (url, _):
        process = subprocess.Popen(
            [sys.executable, "-m", "service", *command(url, [thirty], "--format", "jsonl")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read().decode()
        assert process.wait(30) == 1
        process.stderr.close()
    assert err.endswith("multicrop-service: the output cannot be written: Broken pipe\n")


@given(some.text(some.characters(categories=("L", "Cc", "Cs", "Zs", "Zl", "Cf", "Po", "Sm")), max_size=12))
def test_any_name_is_one_printable_line_and_can_be_read_back(name: str) -> None:
    spelled = spell(name)
    assert spelled.isprintable()
    spelled.encode()  # no surrogate is left
    back = re.sub(r"\\(\\|x..|u....|U.{8})", lambda found: unescaped(found[1]), spelled)
    assert back == name


def unescaped(escape: str) -> str:
    if escape == "\\":
        return escape
    return chr(int(escape[1:], 16) + (0xDC00 if escape[0] == "x" else 0))


HARMFUL = [
    "=cmd|x",
    "+1",
    "-1",
    "@sum",
    "'=quoted",
    "=quoted",
    " =space",
    "\t=tab",
    "\n=line",
    "\\u000a=line",
    "\r\n",
    'a","=b',
    "\uff1dwide",
    "\x1b[2J",
    "\\x",
]


def row(file: str, label: str = "") -> Row:
    scores = [{"index": 0, "label": label, "probability": 0.5}]
    return Row(file, Prediction.model_validate({**ANSWER, "predictions": scores}))


@pytest.mark.parametrize("text", HARMFUL)
def test_no_cell_is_a_formula_and_no_line_is_two(text: str) -> None:
    """As a spreadsheet would read it: what the cells begin with once they are unquoted."""
    form = Csv(text, text, 1)
    for line in (form.line(row(text, text)), form.line(Row(text, Fault("code", text)))):
        assert line.isprintable()
        (cells,) = csv.reader([line])
        assert len(cells) == 12
        for cell in cells:
            assert cell.strip()[:1] not in {*"=+-@\t\r\n\uff1d"} or not cell
        read = form.read(line)
        assert read.file == form.key(text)
    assert len({form.key(name) for name in HARMFUL}) == len(HARMFUL)


@pytest.mark.parametrize("form", [JsonLines("cats", "x=1"), Csv("cats", "x=1", 1)], ids=["jsonl", "csv"])
def test_what_was_written_is_read_again(form: Format) -> None:
    for name in HARMFUL:
        for told in (row(name, name), Row(name, Fault("code", name))):
            asked = form.read(form.line(told))
            assert (asked.file, asked.model, asked.options) == (form.key(name), "cats", "x=1")
            assert asked.failed == isinstance(told.told, Fault)


def test_names_that_do_harm_are_asked_once_each_and_carried_on(tmp_path: Path) -> None:
    names = [f"{name.replace('/', '')}.png" for name in HARMFUL] + [os.fsdecode(b"\xff\xfe.png")]
    write(tmp_path / "odd", names)
    file = tmp_path / "out.csv"
    with serving(lambda _: Reply(json=ANSWER)) as (url, asked):
        for _ in range(2):
            assert main(command(url, [tmp_path / "odd"], "--format", "csv", "--out", str(file))) == 0
    assert sorted(one.body for one in asked) == sorted(map(os.fsencode, names))
    assert len(list(csv.DictReader(io.StringIO(file.read_text())))) == len(names)


# Carrying on

FORMS: dict[str, Format] = {"jsonl": JsonLines("cats", "x"), "csv": Csv("cats", "x", 1)}


@pytest.mark.parametrize("kind", FORMS)
def test_a_file_that_was_cut_anywhere_keeps_its_whole_lines(kind: str, tmp_path: Path) -> None:
    form, file = FORMS[kind], tmp_path / "out"
    lines = [f"{form.line(row(f'{place}é.png'))}\n".encode() for place in range(3)]
    head = f"{form.head}\n".encode() if form.head else b""
    whole = head + b"".join(lines)
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        with OutFile(file, form, "cats", "x") as out:
            answered = out.answered
        count = sum(cut >= len(head) + sum(map(len, lines[: place + 1])) for place in range(3))
        assert answered == {f"{place}é.png" for place in range(count)}
        assert file.read_bytes() == head + b"".join(lines[:count])


@pytest.mark.parametrize("kind", FORMS)
def test_errors_and_what_stands_twice_go_and_the_rest_stays_as_it_is(kind: str, tmp_path: Path) -> None:
    form, file = FORMS[kind], tmp_path / "out"
    head = [form.head] if form.head else []
    a, b, failed = form.line(row("a")), form.line(row("b")), form.line(Row("c", Fault("no_answer", "x")))
    file.write_text("\n".join([*head, a, failed, b, a, ""]))
    file.chmod(0o640)
    with OutFile(file, form, "cats", "x") as out:
        assert out.answered == {"a", "b"}
        out.write(form.line(row("c")))
    assert file.read_text().splitlines() == [*head, a, b, form.line(row("c"))]
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a letter to my mother\n", "out was not written with this --format"),
        ("{}\n", "out was not written with this --format"),
        ("HEAD{}\nLINE\n", "line . of out is none of this command's"),
        ("HEADOTHER\nLINE\n", r"out holds answers of dogs \(x\), not cats \(x\)"),
    ],
    ids=["letter", "json", "damaged", "another model"],
)
def test_a_file_with_something_else_is_left_alone(kind: str, content: str, said: str, tmp_path: Path) -> None:
    form, file = FORMS[kind], tmp_path / "out"
    others: dict[str, Format] = {"jsonl": JsonLines("dogs", "x"), "csv": Csv("dogs", "x", 1)}
    line = form.line(row("a"))
    content = content.replace("HEAD{}", f'{form.head}\n{{"file": "x' if form.head else '{"file": "x')
    content = content.replace("HEADOTHER", "\n".join([form.head, others[kind].line(row("b"))]).strip())
    file.write_text(content.replace("LINE", line))
    before = file.read_bytes()
    with pytest.raises(OutputError, match=said):
        OutFile(file, form, "cats", "x")
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_other_options_or_formats_do_not_mix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, ["a.png"])
    out = ("--out", str(tmp_path / "out"))
    with serving(answer) as (url, asked):
        assert main(command(url, [tmp_path], "--format", "jsonl", *out)) == 0
        before = (tmp_path / "out").read_bytes()
        assert main(command(url, [tmp_path], "--format", "jsonl", *out, "--views", "flips")) == 1
        assert main(command(url, [tmp_path], "--format", "csv", *out)) == 1
        assert main(command(url, [tmp_path], "--format", "csv", "--out", str(tmp_path))) == 1
        assert main(command(url, [tmp_path], "--format", "csv", "--out", str(tmp_path / "no/where"))) == 1
    assert len(asked) == 1
    assert (tmp_path / "out").read_bytes() == before
    err = capsys.readouterr().err
    assert "out holds answers of cats (top_k=1), not cats (views=flips&top_k=1); name another file with --out\n" in err
    assert "is no file; name another one" in err
    assert "no/where cannot be written: No such file or directory\n" in err


def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_file(tmp_path: Path) -> None:
    """SIGKILL while requests are under way, twice; what was written is never asked again."""
    names = [f"{place // 10}/{place}.png" for place in range(100)]
    write(tmp_path / "pictures", names)
    reached, calls, stop_at = threading.Event(), itertools.count(1), 0

    def reply(asked: Asked) -> Reply:
        if next(calls) >= stop_at > 0:
            reached.set()
            time.sleep(0.5)
        return answer(asked)

    with serving(reply) as (url, asked):
        whole, file = tmp_path / "whole.csv", tmp_path / "out.csv"
        options = ("--format", "csv", "--concurrency", "3", "--out")
        assert main(command(url, [tmp_path / "pictures"], *options, str(whole))) == 0
        asked.clear()
        for stop in (30, 40):
            reached.clear()
            calls, stop_at = itertools.count(1), stop
            before = {line.split(",")[0] for line in file.read_text().splitlines()} if file.exists() else set()
            bodies = len(asked)
            process = subprocess.Popen(
                [sys.executable, "-m", "service", *command(url, [tmp_path / "pictures"], *options, str(file))],
                stderr=subprocess.DEVNULL,
            )
            assert reached.wait(30)
            process.send_signal(signal.SIGKILL)
            process.wait(30)
            assert not {f'"{tmp_path}/pictures/{one.body.decode()}"' for one in asked[bodies:]} & before
            with file.open("ab") as torn:
                torn.write(b'"torn')
        stop_at = 0
        assert main(command(url, [tmp_path / "pictures"], *options, str(file))) == 0
    assert file.read_bytes() == whole.read_bytes()
    whole_bodies = {one.body for one in asked} - {b""}  # of a request that was cut the stand-in sees no body
    assert whole_bodies == {name.encode() for name in names}
    # Each kill costs at most what was begun and not yet written: two for each of three requests at a time.
    assert 100 <= len(asked) <= 100 + 2 * 2 * 3


def test_ctrl_c_keeps_what_is_written(tmp_path: Path) -> None:
    write(tmp_path / "pictures", [f"{place:02}.png" for place in range(20)])
    file, waiting, release = tmp_path / "out.jsonl", threading.Event(), threading.Event()
    calls = itertools.count()

    def reply(asked: Asked) -> Reply:
        if next(calls) >= 5:
            waiting.set()
            assert release.wait(30)
        return answer(asked)

    with serving(reply) as (url, asked):
        arguments = command(url, [tmp_path / "pictures"], "--format", "jsonl", "--out", str(file), "--concurrency", "1")
        process = subprocess.Popen(
            [sys.executable, "-m", "service", *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert waiting.wait(30)
        while len(file.read_text().splitlines()) < 5:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = next(line for line in process.stderr if "interrupted" in line)  # before the server has answered
        release.set()
        out, rest = process.communicate(timeout=30)
    assert said == f"multicrop-service: interrupted; the same command goes on with {file}\n"
    assert (process.returncode, out, rest) == (130, "", "")
    assert [line["predictions"][0]["label"] for line in json_lines(file)] == [f"{place:02}.png" for place in range(5)]
    assert len(asked) == 6


# What goes wrong


def run(reply: Answering, folder: Path, *options: str) -> tuple[int, list[dict[str, Any]], list[Asked]]:
    file = folder.parent / "out.jsonl"
    with serving(reply) as (url, asked):
        status = main(command(url, [folder], "--format", "jsonl", "--out", str(file), *options))
    return status, json_lines(file), asked


@pytest.fixture
def thirty(tmp_path: Path) -> Path:
    return write(tmp_path / "thirty", [f"{place:02}.png" for place in range(30)])


def test_a_bad_file_costs_its_line_and_is_asked_for_again(thirty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = {b"03.png": problem(415, "image_format_unsupported"), b"29.png": problem(422, "work_limit")}
    status, lines, _ = run(lambda asked: bad.get(asked.body) or answer(asked), thirty)
    assert (status, counted(capsys.readouterr().err)) == (1, (28, 2, 0))
    assert [line["file"] for line in lines] == [str(path) for path in sorted(thirty.iterdir())]
    assert {Path(line["file"]).name: line["error"] for line in lines if "error" in line} == {
        "03.png": "image_format_unsupported",
        "29.png": "work_limit",
    }
    status, lines, asked = run(answer, thirty)
    assert (status, counted(capsys.readouterr().err)) == (0, (2, 0, 28))
    assert sorted(one.body for one in asked) == [b"03.png", b"29.png"]
    assert sorted(line["file"] for line in lines) == [str(path) for path in sorted(thirty.iterdir())]


def test_a_busy_server_and_lost_connections_lose_nothing(thirty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BROKEN_PAUSE", 0.001)
    tries: Counter[bytes] = Counter()

    def reply(asked: Asked) -> Reply:
        tries[asked.body] += 1
        return [problem(503, "overloaded", Retry_After="0"), Reply(hang_up=True), answer(asked)][tries[asked.body] - 1]

    status, lines, _ = run(reply, thirty)
    assert status == 0
    assert [line["predictions"][0]["label"] for line in lines] == [path.name for path in sorted(thirty.iterdir())]
    assert set(tries.values()) == {3}


@pytest.mark.parametrize("poison", [problem(500, "inference_failed"), Reply(hang_up=True)], ids=["500", "hang up"])
def test_an_image_that_the_server_fails_at_costs_its_own_line(
    poison: Reply, thirty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "BROKEN_PAUSE", 0.0)
    bad = {b"00.png", b"11.png", b"29.png"}
    status, lines, _ = run(lambda asked: poison if asked.body in bad else answer(asked), thirty)
    assert (status, len(lines)) == (1, 30)
    failed = {Path(line["file"]).name: line["error"] for line in lines if "error" in line}
    assert failed == dict.fromkeys(
        ("00.png", "11.png", "29.png"), "no_answer" if poison.hang_up else "inference_failed"
    )


def test_a_server_that_goes_on_failing_ends_it_without_a_line_for_each(
    thirty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {f"{place:02}.png".encode() for place in range(5)}
    reply = problem(500, "internal_error")
    status, lines, asked = run(lambda one: answer(one) if one.body in good else reply, thirty, "--concurrency", "2")
    assert (status, len(lines)) == (1, 5)
    assert len(asked) <= 5 + 10 + 4
    err = capsys.readouterr().err
    assert err.endswith("multicrop-service: internal_error: " + f"{thirty}/14.png: internal_error it is\n")


def test_a_single_image_that_fails_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines, _ = run(lambda _: problem(500, "internal_error"), write(tmp_path / "one", ["a.png"]))
    assert (status, lines) == (1, [])
    assert "multicrop-service: internal_error: " in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(404, "model_not_found"), (422, "unknown_views"), (401, "unauthorized")])
def test_a_refusal_of_the_request_ends_it_at_once(
    number: int, code: str, thirty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines, asked = run(lambda _: problem(number, code), thirty, "--concurrency", "2")
    assert (status, lines) == (1, [])
    assert len(asked) <= 4
    assert capsys.readouterr().err.endswith(f"multicrop-service: {code}: {thirty}/00.png: {code} it is\n")


def test_no_image_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, ["a.txt"])
    with serving(answer) as (url, asked):
        assert main(command(url, [tmp_path])) == 1
    assert asked == []
    assert "multicrop-service: no image" in capsys.readouterr().err


def test_what_cannot_be_read_costs_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "some", ["a.png", "large.png"])
    os.mkfifo(folder / "pipe.png")
    (folder / "hanging.png").symlink_to("nowhere")
    monkeypatch.setattr("service.commands.bulk.MAX_BYTES", 8)
    status, lines, asked = run(answer, folder)
    assert (status, [one.body for one in asked]) == (1, [b"a.png"])
    assert {Path(line["file"]).name: line.get("error") for line in lines} == {
        "a.png": None,
        "hanging.png": "unreadable",
        "large.png": "body_too_large",
        "pipe.png": "unreadable",
    }


def test_an_image_named_twice_is_asked_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, ["a.png", "b.png"])
    with serving(answer) as (url, asked):
        assert main(command(url, [tmp_path / "b.png", tmp_path, f"{tmp_path}//./b.png"])) == 0
    assert sorted(one.body for one in asked) == [b"a.png", b"b.png"]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        f"{tmp_path}/b.png",
        f"{tmp_path}/a.png",
    ]


def test_never_more_is_begun_than_twice_the_requests_under_way(thirty: Path) -> None:
    """While the first image waits, the images that follow are not all held in memory."""
    release, begun = threading.Event(), threading.Semaphore(0)

    def reply(asked: Asked) -> Reply:
        begun.release()
        if asked.body == b"00.png":
            assert release.wait(30)
        return answer(asked)

    with serving(reply) as (url, asked):
        arguments = command(url, [thirty], "--concurrency", "3", "--format", "jsonl", "--out", str(thirty.parent / "o"))
        thread = threading.Thread(target=main, args=(arguments,))
        thread.start()
        for _ in range(6):
            assert begun.acquire(timeout=30)
        assert not begun.acquire(timeout=0.2)
        assert len(asked) == 6
        release.set()
        thread.join(30)
    assert len(asked) == 30


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell peak memory there")
def test_ten_thousand_files_in_bounded_memory(tmp_path: Path) -> None:
    """Peak memory of 10,000 files beside that of 100: what it takes for a file is a few names, not an answer."""
    for place in range(10_000):
        if place % 1000 == 0:
            (tmp_path / "many" / str(place // 1000)).mkdir(parents=True)
        (tmp_path / "many" / str(place // 1000) / f"{place:05}.png").write_bytes(b"%05d.png" % place)
    measure = (  # ru_maxrss would begin with the memory of this process
        "import re, sys; from service.__main__ import main; status = main(sys.argv[1:]);"
        " print(status, re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])"
    )

    def run(url: str, folder: Path, file: Path) -> tuple[int, float]:
        """Peak memory in KiB, and seconds."""
        arguments = command(url, [folder], "--format", "jsonl", "--out", str(file))
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-c", measure, *arguments], capture_output=True, text=True, check=True)
        status, peak = map(int, done.stdout.split())
        assert status == 0, done.stderr
        return peak, time.monotonic() - started

    few = write(tmp_path / "few", [f"{place}.png" for place in range(100)])
    with serving(answer) as (url, asked):
        base, start = run(url, few, tmp_path / "few.jsonl")
        asked.clear()
        peak, seconds = run(url, tmp_path / "many", tmp_path / "many.jsonl")
        assert len(asked) == 10_000
        again, resumed = run(url, tmp_path / "many", tmp_path / "many.jsonl")
        assert len(asked) == 10_000
    lines = json_lines(tmp_path / "many.jsonl")
    assert [line["predictions"][0]["label"] for line in lines] == [f"{place:05}.png" for place in range(10_000)]
    print(f"{10_000 / (seconds - start):.0f} files/s; peak {peak / 1024:.1f} MiB, of 100 files {base / 1024:.1f} MiB;")
    print(f"when all are done: {resumed:.2f} s, {again / 1024:.1f} MiB")
    assert peak - base < 10 * 1024
    assert again - base < 10 * 1024
