"""`multicrop-service loadtest`: against a real server, and what it refuses before any load is sent."""

import importlib.util
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import pytest

from live import serve
from service.__main__ import main
from service.commands.loadtest import LoadtestJob
from service.loadtest.figures import Figures, summarize
from service.loadtest.page import to_html
from service.loadtest.report import Report
from service.loadtest.sample import OK, Sample, Told
from service.settings import Settings
from stub import Asked, Reply, problem, serving

MODEL = {"name": "cats", "version": 3, "labels": ["cat"], "versions": [{"version": 3, "state": "READY"}]}
ANSWER = {
    "model": "cats",
    "version": 3,
    "digest": "d1",
    "views": {"plan": "center", "computed": 1, "gmacs": 0.5},
    "predictions": [{"index": 0, "label": "cat", "probability": 0.75}],
    "timings_ms": {"decode": 1.0, "queue": 2.0, "compute": 3.0},
}


def answer(asked: Asked) -> Reply:
    return Reply(json=MODEL if asked.method == "GET" else ANSWER)


def command(url: httpx.URL | str, *options: str, model: str = "cats") -> list[str]:
    return ["loadtest", "--url", str(url), "--model", model, "--duration", "0.5", "--warmup", "0.1", *options]


@pytest.fixture
def photos(tmp_path: Path, plain: Callable[..., bytes]) -> str:
    for name in ("red", "lime"):
        (tmp_path / f"{name}.png").write_bytes(plain(name))
    return str(tmp_path)


def test_a_real_server_fills_the_table_the_json_and_the_page(
    client: httpx.Client, photos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--json", str(tmp_path / "out/a.json"), "--page", str(tmp_path / "a.html")]
    options = ("--rate", "100", "--arrivals", "constant", "--views", "center", "--deadline", "20000", *files)
    assert main(command(client.base_url, photos, *options, model="colours")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    report = json.loads((tmp_path / "out/a.json").read_text())
    (step,) = report["steps"]
    assert step["sent"] == step["answered"] == step["in_time"] == 50
    assert step["goodput"] == 100
    assert step["percentiles_ms"]["99"] is None
    assert step["server_ms"].keys() == {"decode", "queue", "compute"}
    assert (report["model"], report["version"], report["images"]) == ("colours", 1, 2)
    assert report["digest"] == client.get("/v1/models").json()[0]["versions"][0]["digest"]
    assert report["options"] == {"views": "center", "timeout_ms": "20000"}
    header, row = (line.split() for line in out.splitlines()[:2])
    assert header[:3] == ["requests/s", "sent", "answered"]
    assert row[:5] == ["100", "50", "50", "0", "0"]
    assert "colours" in (tmp_path / "a.html").read_text()


def test_clients_wait_and_refusals_are_counted_by_code(photos: str, capsys: pytest.CaptureFixture[str]) -> None:
    posts = itertools.count()

    def reply(asked: Asked) -> Reply:
        refuses = asked.method == "POST" and next(posts) % 2
        return problem(503, "queue_full", Retry_After="60") if refuses else answer(asked)

    with serving(reply) as (url, _):
        assert main(command(url, photos, "--concurrency", "3")) == 0
    row, causes = capsys.readouterr().out.splitlines()[1:3]
    _, sent, answered, refused, errors = map(int, row.split()[:5])
    assert sent == answered + refused
    assert errors == 0
    assert abs(answered - refused) <= 6  # each second one, with three under way at either end
    assert causes == f"3 clients: {refused} x 503 queue_full"


def test_a_sweep_says_the_capacity(photos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(answer) as (url, _):
        options = ("--sweep", "--concurrency", "4", "--deadline", "10000", "--json", str(tmp_path / "a.json"))
        assert main([*command(url, photos, *options), "--duration", "0.5"]) == 0
    report = Report.model_validate_json((tmp_path / "a.json").read_text())
    assert len(report.steps) > 1
    assert report.knee in report.steps
    said = capsys.readouterr().out.splitlines()
    assert any(re.match(r"capacity [\d,.]+ answers/s within 10000 ms; p99 .* at \d+ clients?", line) for line in said)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (problem(404, "model_not_found"), "model_not_found: model_not_found it is"),
        (problem(401, "unauthorized"), "unauthorized: unauthorized it is"),
        (Reply(json={"hello": 1}), "unexpected_answer: .* is this its address"),
    ],
    ids=["model", "key", "address"],
)
def test_a_wrong_question_ends_it_before_any_load(
    reply: Reply, said: str, photos: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda _: reply) as (url, asked):
        assert main(command(url, photos, "--rate", "10")) == 1
    assert len(asked) == 1
    assert re.fullmatch(f"multicrop-service: {said}.*\n", capsys.readouterr().err)


def test_a_wrong_option_ends_it_after_one_request(
    client: httpx.Client, photos: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(client.base_url, photos, "--views", "no_plan", model="colours")) == 1
    assert "no_plan" in capsys.readouterr().err


def test_nobody_there_is_one_line(photos: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("service.client.exchange.BROKEN_PAUSE", 0.0)
    with serving(answer) as (url, _):
        pass
    assert main(command(url, photos)) == 1
    assert re.fullmatch(r"multicrop-service: no_answer: .*is a server running there\?\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rate", "5", "--concurrency", "5"), "--rate is an open loop, --concurrency a closed one; give one of them"),
        (("--rate", "0"), "rate"),
        (("--page", "x.html"), "pip install 'multicrop[page]'"),
    ],
    ids=["both loops", "no rate", "no extra"],
)
def test_a_wrong_command_line_ends_with_2(
    options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert main(command("http://127.0.0.1:1", "a.png", *options)) == 2
    assert said in capsys.readouterr().err


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("http://127.0.0.1:1", str(tmp_path / "gone.png"))) == 1
    assert main(command("http://127.0.0.1:1", str(tmp_path))) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("gone.png cannot be read: No such file or directory; take it out")
    assert "no image in" in second


def test_ctrl_c_tells_what_there_is(photos: str) -> None:
    with serving(answer) as (url, asked):
        arguments = command(url, photos, "--rate", "50")
        process = subprocess.Popen(
            [sys.executable, "-m", "service", *arguments, "--duration", "600"],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while len(asked) < 40:  # it sends 5 to warm up
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    assert int(out.splitlines()[1].split()[1]) > 10
    assert out.endswith("interrupted: what was under way does not count\n")


def test_every_option_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/loadtest.md").read_text().split("## Tuning")[0]
    fields = {field.alias or name for name, field in LoadtestJob.model_fields.items()} - {"paths"}
    assert set(re.findall(r"^\| `--([a-z-]+)`", page, re.MULTILINE)) == {name.replace("_", "-") for name in fields}


# What it says


def step(load: float, took_ms: float, count: int, *, refused: int = 0, late_ms: float = 0.1) -> Figures:
    samples = [Sample(place / 100, late_ms / 1000, took_ms / 1000, Told(OK, 200, (1, 2, 3))) for place in range(count)]
    samples += [Sample(5, 0, 0.001, Told("queue_full", 503))] * refused
    return summarize(samples, 0, 10, deadline_ms=100, cores=0.2, rate=load)


def report(*steps: Figures, sweep: bool = True) -> Report:
    return Report(
        when=datetime(2026, 1, 2, 3, 4, tzinfo=UTC), host="h:1", model="<cats>", version=3, digest="d" * 64,
        options={"views": "center"}, images=2, image_bytes=1_500_000, arrivals="poisson", deadline_ms=100, warmup=1,
        duration=10, sweep=sweep, interrupted=False, steps=steps,
    )  # fmt: skip


def test_the_capacity_is_said_and_doubts_too() -> None:
    low, high = step(20, 30, 200), step(40, 90, 300, refused=100, late_ms=30)
    capacity, doubt = report(low, high).said()
    assert capacity == "capacity 30 answers/s within 100 ms; p99 30 ms at 20/s"
    assert doubt.startswith("the load generator was behind by up to 30 ms (p99): it shares its machine")
    assert report(high).said()[0] == "no capacity found within 100 ms: already at 40/s only 75.0 % were answered so"
    assert report(low).said() == [
        "capacity 20 answers/s within 100 ms; p99 30 ms at 20/s; it was not found out how much more it bears"
    ]
    assert report(low, high).causes() == ["40/s: 100 x 503 queue_full"]
    assert report(low, sweep=False).said() == []


@pytest.mark.parametrize("steps", [1, 2], ids=["single", "sweep"])
def test_the_page_is_well_formed_and_has_every_figure(steps: int) -> None:
    shown = report(*[step(20, 30, 200), step(40, 90, 300, refused=100)][:steps], sweep=steps > 1)
    page = to_html(shown)
    assert "<cats>" not in page
    assert "&lt;cats&gt;" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 2
    titles = [found.text for found in ET.fromstring(pictures[0]).iter("{http://www.w3.org/2000/svg}title")]  # noqa: S314
    assert titles == ["20/s: p50 30 ms, p99 30 ms", "40/s: p50 90 ms, p99 90 ms"][:steps]
    assert page.count("<tr") == 1 + steps
    if steps > 1:
        assert "Capacity 30 answers/s within 100 ms; p99 30 ms at 20/s." in page
        assert '<tr class="chosen">' in page


def test_a_server_with_keys_is_asked_with_the_key(
    repository: Path, photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"  # of "key"
    (tmp_path / "keys.toml").write_text(f'[[keys]]\nname = "me"\nsha256 = "{digest}"\n')
    with serve(Settings(repository=repository, port=0, keys=tmp_path / "keys.toml")) as client:
        monkeypatch.setenv("MULTICROP_API_KEY", "wrong")
        assert main(command(client.base_url, photos, model="colours")) == 1
        assert "unauthorized" in capsys.readouterr().err
        monkeypatch.setenv("MULTICROP_API_KEY", "key")
        assert main(command(client.base_url, photos, "--rate", "20", model="colours")) == 0
    assert os.environ["MULTICROP_API_KEY"] not in capsys.readouterr().out.split()
