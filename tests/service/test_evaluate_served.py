"""`multicrop-service evaluate`: counts made by hand with a real server, and what goes wrong with a scripted one."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from bundle.accuracy import Accuracy
from fakes import COLOURS, write_colour_bundle
from live import encode, serve
from service.__main__ import main
from service.client import exchange
from service.commands.evaluate import EvaluateJob
from service.settings import Settings
from stub import Asked, Reply, problem, serving

Answering = Callable[[Asked], Reply]


def command(url: httpx.URL | str, data: Path, *options: str) -> list[str]:
    return ["evaluate", "--url", str(url), "--model", "colours", "--data", str(data), *options]


def picture(colour: str, size: tuple[int, int] = (8, 8)) -> bytes:
    return encode(Image.new("RGB", size, colour))


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


# A real server


@pytest.fixture(scope="module")
def ten_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven that are what their folder says, two that are not, one that is no image."""
    wide = (16, 8)
    return write(
        tmp_path_factory.mktemp("ten"),
        {
            **{f"red/{place}.png": picture("red") for place in range(3)},
            "red/3.png": picture("lime"),
            "green/0.png": picture("lime", wide),
            "green/1.png": picture("lime", wide),
            "green/2.png": picture("blue", wide),
            "blue/0.png": picture("blue"),
            "blue/1.png": picture("blue"),
            "blue/2.png": b"no image",
        },
    )


def test_a_real_server_is_counted_by_hand(
    client: httpx.Client, ten_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "result.json"
    assert main(command(client.base_url, ten_images, "--views", "center,ten_crop", "--json", str(file))) == 0
    center, ten_crop = (Accuracy.model_validate(result) for result in json.loads(file.read_text()))
    for result in (center, ten_crop):
        assert (result.images, result.top1, result.top5) == (10, 7, 9)  # of three classes all are among the best five
        assert (result.average, result.stop) == ("probabilities", "never")
        # The intervals are those of R's prop.test without continuity correction, for 3 and for 1 of 10.
        assert (result.error(1), *result.interval(1)) == pytest.approx((30, 10.77913, 60.32219), abs=1e-4)
        assert (result.error(5), *result.interval(5)) == pytest.approx((10, 1.787621, 40.415002), abs=1e-4)
    assert (center.views, center.mean_views) == ("center", 1)
    assert center.gmacs == pytest.approx(1e-9)
    # Of a square image all crops are one, and its mirror image: 2; of one of 16 x 8 left, right, centre: 6.
    assert ten_crop.mean_views == pytest.approx(30 / 9)
    assert ten_crop.gmacs == pytest.approx(30 / 9 * 1e-9)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == f"colours, 10 images of {ten_images.name} (sha256:{center.data_sha256})"
    assert lines[2].split()[:5] == ["center", "probabilities", "never", "30.00", "(10.78-60.32)"]
    assert lines[4:] == [f"{plan}: 1 image was refused and counts as wrong" for plan in ("center", "ten_crop")]
    assert err.count("multicrop-service: blue/2.png: image_format_unsupported: ") == 2
    assert "ten_crop: 100%" in err


def test_options_reach_a_real_server(client: httpx.Client, ten_images: Path, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    options = ("--views", "center", "--average", "logits", "--part=-3:", "--version", "1", "--stop", "never")
    assert main(command(client.base_url, ten_images, *options, "--json", str(file))) == 0
    (result,) = (Accuracy.model_validate(result) for result in json.loads(file.read_text()))
    # The last three in the order of the folders' names (blue, green, red): 1.png and 2.png of red, and the lime one.
    assert (result.images, result.top1, result.average) == (3, 2, "logits")


def test_early_exit_at_a_real_server(client: httpx.Client, ten_images: Path, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    options = ("--views", "ten_crop", "--stop", "exact", "--json", str(file))
    assert main(command(client.base_url, ten_images, *options)) == 0
    (result,) = (Accuracy.model_validate(result) for result in json.loads(file.read_text()))
    assert (result.top1, result.stop) == (7, "exact")
    # Of the six square images both views; of the three wide ones left, its mirror image and right: 6 of 10 by weight.
    assert result.mean_views == pytest.approx(21 / 9)
    assert result.gmacs == pytest.approx(21 / 9 * 1e-9)


def test_an_ensemble_of_a_real_server(ten_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The views of each member are counted and paid."""
    repository, file = tmp_path / "repository", tmp_path / "result.json"
    for name, scale in (("strong", 10.0), ("weak", 5.0)):
        write_colour_bundle(repository, name, scale=scale)
    write(repository, {"colours/ensemble.toml": b'[[members]]\nmodel = "strong"\n[[members]]\nmodel = "weak"\n'})
    with serve(Settings(repository=repository, port=0)) as client:
        assert main(command(client.base_url, ten_images, "--views", "ten_crop", "--json", str(file))) == 0
        assert main(command(client.base_url, ten_images, "--views", "center", "--stop", "exact")) == 1
    (result,) = (Accuracy.model_validate(result) for result in json.loads(file.read_text()))
    assert (result.images, result.top1, result.top5) == (10, 7, 9)
    assert result.mean_views == pytest.approx(2 * 30 / 9)
    assert result.gmacs == pytest.approx(2 * 30 / 9 * 1e-9)
    assert "invalid_parameter: colours is an ensemble" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--views", "center,eleven_crop"], "unknown_views: "),
        (["--views", "center", "--version", "9"], "model_not_found: colours has no version 9"),
        (
            ["--views", "center", "--stop", "exact", "--average", "logits"],
            "invalid_parameter: colours: center has average=logits; stop=exact",
        ),
        (["--views", "flips", "--stop", "confident"], "invalid_parameter: colours: flips with"),
        (["--views", "center", "--part", "10:"], "part 10: of "),
    ],
    ids=["plan", "version", "exact logits", "not calibrated", "part"],
)
def test_what_a_real_server_does_not_take_is_one_line(
    client: httpx.Client, ten_images: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(client.base_url, ten_images, *options)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"multicrop-service: {said}")
    assert err.count("\n") == 1


# A scripted one


def answer(index: int, computed: int = 1, **more: Any) -> Reply:
    scores = [{"index": other, "label": COLOURS[other], "probability": 1 / 3} for other in range(3)]
    scores.insert(0, scores.pop(index))
    views = {"plan": "center", "computed": computed, "gmacs": 0.5, "average": "probabilities", "stop": "never"}
    return Reply(json={"model": "colours", "version": 1, "views": views, "predictions": scores, **more})


def scripted(classify: Answering) -> Answering:
    """A server with the colour model."""

    def reply(asked: Asked) -> Reply:
        if asked.path == "/v1/models/colours":
            return Reply(json={"name": "colours", "version": 1, "labels": COLOURS})
        return classify(asked)

    return reply


def classified(asked: list[Asked]) -> list[Asked]:
    return [one for one in asked if one.method == "POST"]


@pytest.fixture
def three_images(tmp_path: Path) -> Path:
    return write(tmp_path / "three", {f"{colour}/0.png": picture(colour, (9, 8)) for colour in COLOURS})


def run_scripted(
    classify: Answering, data: Path, tmp_path: Path, *options: str
) -> tuple[int, list[Accuracy], list[Asked]]:
    """Exit status, results and what the server was asked."""
    file = tmp_path / "result.json"
    with serving(scripted(classify)) as (url, asked):
        status = main(command(url, data, *options, "--json", str(file)))
    found = json.loads(file.read_text()) if file.exists() else []
    return status, [Accuracy.model_validate(result) for result in found], asked


def test_a_busy_server_loses_nothing(three_images: Path, tmp_path: Path) -> None:
    tries: Counter[bytes] = Counter()

    def busy_twice(asked: Asked) -> Reply:
        tries[asked.body] += 1
        return answer(0) if tries[asked.body] > 2 else problem(503, "overloaded", Retry_After="0")

    status, (result,), asked = run_scripted(busy_twice, three_images, tmp_path, "--views", "center")
    assert (status, result.images, result.top1) == (0, 3, 1)
    assert sorted(tries.values()) == [3, 3, 4]  # the first image is also the one that the options are tried on
    assert {one.query["top_k"] for one in classified(asked)} == {"3"}


def test_a_class_that_is_not_among_the_best_is_wrong_twice(three_images: Path, tmp_path: Path) -> None:
    scores = [{"index": index, "label": COLOURS[index], "probability": 0.5} for index in (2, 0)]
    _, (result,), _ = run_scripted(lambda _: answer(0, predictions=scores), three_images, tmp_path, "--views", "center")
    assert (result.images, result.top1, result.top5) == (3, 1, 2)


def test_what_early_exit_leaves_out_is_not_paid(three_images: Path, tmp_path: Path) -> None:
    views = {"plan": "ten_crop", "computed": 3, "gmacs": 2.7, "average": "probabilities", "stop": "exact"}
    _, (result,), _ = run_scripted(lambda _: answer(0, views=views), three_images, tmp_path, "--views", "ten_crop")
    assert (result.mean_views, result.stop) == (3, "exact")  # by the server's own wish: nobody asked for it
    assert result.gmacs == pytest.approx(2.7)


def test_the_threshold_of_the_server_is_no_part_of_what_was_asked(three_images: Path, tmp_path: Path) -> None:
    views = {"plan": "center", "computed": 1, "gmacs": 1, "average": "logits", "stop": "confident:0.7070409212699365"}
    options = ("--views", "center", "--stop", "confident")
    _, (result,), asked = run_scripted(lambda _: answer(0, views=views), three_images, tmp_path, *options)
    assert (result.stop, result.average) == ("confident", "logits")
    assert {one.query["stop"] for one in classified(asked)} == {"confident"}


def test_the_members_of_an_ensemble_are_paid_each(three_images: Path, tmp_path: Path) -> None:
    first, second = {"plan": "center", "computed": 10, "gmacs": 9}, {"plan": "ten_crop", "computed": 5, "gmacs": 4.5}
    looks = {"m0": first, "m1": second, "failed": None}
    members = [{"model": model, "views": look} for model, look in looks.items()]
    ensemble: dict[str, Any] = {"version": None, "views": None, "members": members}
    _, (result,), _ = run_scripted(lambda _: answer(0, **ensemble), three_images, tmp_path, "--views", "center")
    assert result.mean_views == 15
    assert result.gmacs == pytest.approx(9 + 9 / 2)


def test_an_ensemble_is_evaluated_as_its_operator_wrote_it(three_images: Path, tmp_path: Path) -> None:
    looks = [{"plan": plan, "computed": 1, "gmacs": 1} for plan in ("ten_crop", "dense", "ten_crop")]
    ensemble: dict[str, Any] = {"views": None, "members": [{"model": "m", "views": look} for look in looks]}
    _, (result,), asked = run_scripted(lambda _: answer(0, **ensemble), three_images, tmp_path)
    assert (result.views, result.mean_views) == ("ten_crop+dense", 3)
    assert all("views" not in one.query for one in classified(asked))


def test_the_plan_of_a_model_is_its_own_when_none_is_named(three_images: Path, tmp_path: Path) -> None:
    _, (result,), asked = run_scripted(lambda _: answer(0), three_images, tmp_path)
    assert (result.views, result.images) == ("center", 3)
    assert all("views" not in one.query for one in classified(asked))


@pytest.mark.parametrize(
    ("status", "code"), [(413, "body_too_large"), (415, "image_format_unsupported"), (422, "image_truncated")]
)
def test_a_refused_image_is_wrong_and_named(
    status: int, code: str, three_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also the first one, on which the options are tried."""
    first = (three_images / "blue/0.png").read_bytes()
    ended, (result,), _ = run_scripted(
        lambda asked: problem(status, code) if asked.body == first else answer(0),
        three_images,
        tmp_path,
        "--views",
        "center",
    )
    assert (ended, result.images, result.top1, result.top5) == (0, 3, 1, 2)
    out, err = capsys.readouterr()
    assert f"multicrop-service: blue/0.png: {code}: {code} it is\n" in err
    assert out.endswith("center: 1 image was refused and counts as wrong\n")


def test_no_answer_at_all_is_no_result(three_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refuse = problem(422, "work_limit")
    status, found, _ = run_scripted(lambda _: refuse, three_images, tmp_path, "--views", "vgg_150")
    assert (status, found) == (1, [])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("multicrop-service: vgg_150: the server refused all 3 images of three; see above\n")


def test_every_plan_is_tried_before_the_images_are_sent(three_images: Path, tmp_path: Path) -> None:
    def know_one(asked: Asked) -> Reply:
        return answer(0) if asked.query["views"] == "center" else problem(422, "unknown_views")

    status, found, asked = run_scripted(know_one, three_images, tmp_path, "--views", "center,typo")
    assert (status, found) == (1, [])
    assert [one.query["views"] for one in classified(asked)] == ["center", "typo"]


def test_a_failing_server_ends_it_and_keeps_what_was_finished(
    three_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exchange, "BROKEN_PAUSE", 0.0)
    last = (three_images / "red/0.png").read_bytes()

    def slow(asked: Asked) -> Reply:
        late = asked.query["views"] == "ten_crop" and asked.body == last
        return problem(504, "deadline_exceeded") if late else answer(0)

    status, found, asked = run_scripted(slow, three_images, tmp_path, "--views", "center,ten_crop")
    assert (status, [result.views for result in found]) == (1, ["center"])
    assert len([one for one in classified(asked) if one.body == last and one.query["views"] == "ten_crop"]) == 4
    out, err = capsys.readouterr()
    assert "\ncenter  " in out
    assert "multicrop-service: deadline_exceeded: red/0.png: deadline_exceeded it is\n" in err


def test_a_version_with_other_labels_is_evaluated_by_its_own(three_images: Path, tmp_path: Path) -> None:
    def old(asked: Asked) -> Reply:
        assert asked.query["version"] == "1"
        return Reply(json={"name": "colours", "version": 1, "labels": COLOURS})

    def newest(_: Asked) -> Reply:
        return Reply(json={"name": "colours", "version": 2, "labels": ["cat", "dog"]})

    def reply(asked: Asked) -> Reply:
        if asked.method == "POST":
            return answer(0)
        return old(asked) if asked.query else newest(asked)

    with serving(reply) as (url, _):
        status = main(command(url, three_images, "--views", "center", "--version", "1", "--json", str(tmp_path / "r")))
    assert status == 0
    assert json.loads((tmp_path / "r").read_text())[0]["top1"] == 1


def test_labels_that_change_under_way_are_noticed(
    three_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = [{"index": 2, "label": "violet", "probability": 1.0}]
    options = ("--views", "center", "--version", "1")
    status, found, _ = run_scripted(lambda _: answer(0, predictions=other), three_images, tmp_path, *options)
    assert (status, found) == (1, [])
    assert "colours answers 'violet' for class 2, whose label was another when this began" in capsys.readouterr().err


def test_as_many_requests_as_asked_for_are_under_way(tmp_path: Path) -> None:
    data = write(tmp_path / "many", {f"red/{place}.png": picture("red", (8, 8 + place)) for place in range(12)})
    calls, together, lock, now, most = itertools.count(), threading.Barrier(3), threading.Lock(), 0, 0

    def meet(_: Asked) -> Reply:
        nonlocal now, most
        if next(calls):  # the first one, which tries the options, is alone
            with lock:
                now += 1
                most = max(most, now)
            together.wait(10)
            with lock:
                now -= 1
        return answer(0)

    status, (result,), _ = run_scripted(meet, data, tmp_path, "--views", "center", "--concurrency", "3")
    assert (status, result.top1, most) == (0, 12, 3)


def test_a_file_that_cannot_be_written_does_not_cost_the_table(
    three_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(scripted(lambda _: answer(0))) as (url, _):
        status = main(command(url, three_images, "--views", "center", "--json", str(three_images / "red/0.png/x.json")))
    out, err = capsys.readouterr()
    assert status == 1
    assert "\ncenter  " in out
    assert "x.json cannot be written: " in err
    assert list(tmp_path.glob("*.json")) == []


def test_ctrl_c_is_one_line_after_what_was_finished(three_images: Path) -> None:
    waiting, release = threading.Event(), threading.Event()
    calls: Counter[str] = Counter()

    def stay(asked: Asked) -> Reply:
        calls[asked.query["views"]] += 1
        if calls["ten_crop"] > 1:
            waiting.set()
            assert release.wait(10)
        return answer(0)

    with serving(scripted(stay)) as (url, asked):
        arguments = command(url, three_images, "--views", "center,ten_crop", "--concurrency", "1")
        process = subprocess.Popen(
            [sys.executable, "-m", "service", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "80"},
        )
        assert waiting.wait(30)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        head = [process.stdout.readline() for _ in range(3)]  # before the server has answered
        release.set()
        _, err = process.communicate(timeout=30)
    assert head[2].startswith("center  ")
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.endswith("multicrop-service: interrupted; what the server works on is waited for\n")
    assert len(classified(asked)) == 2 + 3 + 1  # the trials, the first plan, and the request under way


def test_every_option_is_documented() -> None:
    table = (Path(__file__).parents[2] / "docs/evaluate.md").read_text()
    fields = {(field.alias or name).replace("_", "-") for name, field in EvaluateJob.model_fields.items()}
    assert set(re.findall(r"^\| `--([a-z-]+)`", table, re.MULTILINE)) == fields


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "m", "--views", "center"], "--data"),
        (
            ["--model", "m", "--data", "d", "--views", "center", "--stop", "sometimes"],
            "stop is never, exact, confident",
        ),
        (["--model", "m", "--data", "d", "--views", "center", "--url", "localhost:8000"], "evaluate.url: "),
        (["--model", "m", "--data", "d", "--views", "center", "--concurrency", "0"], "evaluate.concurrency: "),
    ],
    ids=["no data", "stop", "url", "concurrency"],
)
def test_a_wrong_command_line_ends_with_2(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(["evaluate", *options])
    except SystemExit as exit_:
        status = int(str(exit_.code))
    assert status == 2
    assert said in capsys.readouterr().err
