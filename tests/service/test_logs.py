"""The lines on stderr of a real process, under hostile headers and paths, and Triton's metrics of the same requests."""

import contextlib
import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fakes import write_colour_bundle
from service.logs import MAX_FIELD, MAX_MESSAGE, JsonLines, TextLines, Told, Writer, log_request
from service.metrics import Metrics

CLASSIFY = "/v1/models/colours:classify"
Plain = Callable[..., bytes]
OF_ALL = {"time", "level", "logger", "message"}
OF_A_REQUEST = OF_ALL | {
    "id", "key", "method", "route", "model", "version", "plan", "code", "images", "failed", "views", "status",
    "bytes_in", "bytes_out", "decode_ms", "queue_ms", "compute_ms", "merge_ms", "total_ms",
}  # fmt: skip


class Process:
    """A server process that logs JSON, and the lines so far."""

    def __init__(self, repository: Path, log_format: str) -> None:
        command = [sys.executable, "-m", "service", "run", "--repository", str(repository), "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--drain-delay", "0", "--log-format", log_format],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ},
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.address = self.wait(r"http://[\d.:]+")

    def wait(self, pattern: str) -> str:
        """The first match in any line, once there is one."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found[0]
            time.sleep(0.01)
        raise AssertionError(f"no line has {pattern}: {self.lines}")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)


@contextlib.contextmanager
def running(folder: Path, log_format: str) -> Iterator[Process]:
    write_colour_bundle(folder)
    server = Process(folder, log_format)
    try:
        while httpx.get(f"{server.address}/readyz").status_code != 200:
            time.sleep(0.01)
        yield server
    finally:
        server.close()


FORGED = '{"level": "INFO", "message": "request", "id": "forged", "status": 200}'


def ask_badly(address: str) -> None:
    """Everything that a client may write itself, with line breaks, quotes, escapes and a line that looks like ours."""
    odd = f'x\n{FORGED}\n"\\\x1b[2J'
    with httpx.Client(base_url=address) as client:
        client.get("/v1/models/" + "".join(f"%{byte:02x}" for byte in odd.encode()))
        client.post(CLASSIFY, params={"views": odd, FORGED: "1"}, content=odd.encode())
        client.post(CLASSIFY, content=FORGED, headers={"Content-Type": "application/json", "X-API-Key": FORGED})
        client.get("/livez", headers={"X-Request-Id": FORGED, "User-Agent": FORGED})
        client.get("/livez", headers={"X-Request-Id": "a" * 65})
        client.request("PROPFIND", f"/{FORGED}")
    port = int(address.rpartition(":")[2])
    for raw in (b"GET / HTTP/9\n" + FORGED.encode() + b"\r\n\r\n", b"\x00\xff\r\n" + FORGED.encode() + b"\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(raw)
            with contextlib.suppress(OSError):
                connection.recv(1000)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, plain: Plain) -> tuple[list[str], str]:
    """The lines of a process that was asked well and badly, and its metrics before it ended."""
    with running(tmp_path_factory.mktemp("repository"), "json") as server:
        with httpx.Client(base_url=server.address) as client:
            image = plain("red", (16, 8))
            client.post(CLASSIFY, content=image, params={"views": "ten_crop"}, headers={"X-Request-Id": "good"})
            files = [("images", ("secret-name.png", image)), ("images", ("b", b"no image"))]
            client.post(CLASSIFY, files=files, headers={"X-Request-Id": "several"})
            client.post(CLASSIFY, content=b"", headers={"X-Request-Id": "empty"})
            client.post("/v1/models/dogs:classify", content=image, headers={"X-Request-Id": "unknown"})
        ask_badly(server.address)
        metrics = httpx.get(f"{server.address}/metrics", headers={"X-Request-Id": "last"}).text
        server.wait('"last"')
    return server.lines, metrics


def request(lines: list[str], id_: str) -> dict[str, Any]:
    (found,) = [line for line in map(json.loads, lines) if line.get("id") == id_]
    assert isinstance(found, dict)
    return found


def test_every_line_is_an_object_of_fixed_fields(told: tuple[list[str], str]) -> None:
    lines = [json.loads(line) for line in told[0]]
    assert len(lines) > 12
    for line in lines:
        fields = OF_A_REQUEST if line["message"] == "request" else OF_ALL
        assert line.keys() == fields, line
        assert abs(datetime.fromisoformat(line["time"]) - datetime.now(UTC)) < timedelta(minutes=5)
        assert all(len(value) <= MAX_FIELD for value in line.values() if isinstance(value, str))


def test_no_client_forges_a_line_or_leaves_words_in_one(told: tuple[list[str], str]) -> None:
    assert not [line for line in told[0] if "forged" in line.lower() or "secret-name" in line or "\x1b" in line]
    methods = {line["method"] for line in map(json.loads, told[0]) if "method" in line}
    assert methods == {"GET", "POST", "other", None}, "None: no request"


def test_the_line_of_an_answer(told: tuple[list[str], str]) -> None:
    """ten_crop of 16 x 8: six views differ (worked out in test_classify)."""
    line = request(told[0], "good")
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/models/{name}:classify", 200)
    assert (line["model"], line["version"], line["plan"], line["views"]) == ("colours", 1, "ten_crop", 6)
    assert (line["code"], line["key"], line["images"], line["failed"]) == (None, None, 1, 0)
    assert line["bytes_in"] > 50
    assert line["bytes_out"] > 200
    parts = [line[f"{stage}_ms"] for stage in ("decode", "queue", "compute", "merge")]
    assert 0 < sum(parts) <= line["total_ms"]


def test_the_line_of_several_images(told: tuple[list[str], str]) -> None:
    line = request(told[0], "several")
    assert (line["status"], line["images"], line["failed"]) == (200, 2, 1)
    assert (line["code"], line["views"]) == ("image_format_unsupported", 1)


def test_the_lines_of_refusals(told: tuple[list[str], str]) -> None:
    line = request(told[0], "empty")
    assert (line["status"], line["code"], line["model"], line["bytes_in"]) == (422, "image_empty", "colours", 0)
    line = request(told[0], "unknown")
    assert (line["status"], line["code"], line["model"]) == (404, "model_not_found", None)


def test_a_refused_connection_has_a_line_and_a_count(told: tuple[list[str], str]) -> None:
    """The two of `ask_badly` that are no HTTP: of these nothing is known but the refusal."""
    found = [line for line in map(json.loads, told[0]) if line["message"] == "request" and line["route"] is None]
    assert [(line["status"], line["code"]) for line in found] == 2 * [(400, "bad_request")]
    assert len({line["id"] for line in found}) == 2
    for line in found:
        assert {line[name] for name in ("method", "key", "model", "version", "plan")} == {None}
        assert 0 <= line["total_ms"] < 5000
    counted = [line for line in told[1].splitlines() if line.startswith("multicrop_http_requests_total")]
    assert 'multicrop_http_requests_total{method="other",route="other",status="400"} 2.0' in counted


def series(text: str, name: str, **labels: str) -> float:
    """Read by prometheus_client's own parser, which calls whatever is a counter `…_total`."""
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"{name}_total" and sample.labels == {"model": "colours", "version": "1", **labels}
    ]
    assert len(found) == 1, name
    return found[0]


def test_triton_s_metrics_count_the_same_requests(told: tuple[list[str], str]) -> None:
    """Good and several succeed, with 6 + 1 views; empty fails, as do three of the bad ones that found the model."""
    text = told[1]
    assert series(text, "nv_inference_request_success") == 2
    assert series(text, "nv_inference_count") == 7
    assert 2 <= series(text, "nv_inference_exec_count") <= 7
    assert series(text, "nv_inference_request_failure", reason="BACKEND") == 0
    assert series(text, "nv_inference_request_failure", reason="REJECTED") == 0
    failed = [line for line in map(json.loads, told[0]) if line.get("model") and line["status"] != 200]
    assert series(text, "nv_inference_request_failure", reason="OTHER") == len(failed) >= 2


def test_triton_s_durations_are_those_of_the_lines_in_microseconds(told: tuple[list[str], str]) -> None:
    answered = [request(told[0], id_) for id_ in ("good", "several")]
    stages = {"request": "total", "queue": "queue", "compute_input": "decode", "compute_infer": "compute"}
    for theirs, ours in {**stages, "compute_output": "merge"}.items():
        expected = 1000 * sum(line[f"{ours}_ms"] for line in answered)
        assert series(told[1], f"nv_inference_{theirs}_duration_us") == pytest.approx(expected, abs=5)


def test_triton_s_names_are_written_as_triton_writes_them(told: tuple[list[str], str]) -> None:
    """No `_total`, not even in the type, and labels in its order."""
    for name in ("nv_inference_count", "nv_inference_request_failure", "nv_inference_request_duration_us"):
        assert f"# TYPE {name} counter\n{name}{{model=" in told[1]
        assert f"{name}_total" not in told[1]
    assert re.search(r'^nv_inference_count\{model="colours",version="1"\} \d+$', told[1], re.MULTILINE)


def test_triton_s_metrics_by_hand() -> None:
    """One series a version from its first moment; a failure has one of four reasons; an ensemble has no version."""
    metrics = Metrics()
    engine = metrics.of("colours", 3)
    assert 'nv_inference_count{model="colours",version="3"} 0\n' in metrics.triton.text()
    engine.batch(8)
    engine.batch(1)
    metrics.triton.succeeded("colours", 3, total=0.5, queue=0.25, draw=0.125, compute=0.0625, merge=0.00001)
    for code in ("overloaded", "rate_limited", "deadline_exceeded", "cancelled", "inference_failed", "unknown_views"):
        metrics.triton.failed("colours", 3, code)
    metrics.triton.failed("both", None, "internal_error")
    wanted = {
        "count": 9, "exec_count": 2, "request_success": 1, "request_duration_us": 500_000,
        "queue_duration_us": 250_000, "compute_input_duration_us": 125_000, "compute_infer_duration_us": 62_500,
        "compute_output_duration_us": 10,
    }  # fmt: skip
    lines = metrics.triton.text().splitlines()
    for name, value in wanted.items():
        assert f'nv_inference_{name}{{model="colours",version="3"}} {value}' in lines
    for reason, count in {"REJECTED": 3, "CANCELED": 1, "BACKEND": 1, "OTHER": 1}.items():
        assert f'nv_inference_request_failure{{model="colours",reason="{reason}",version="3"}} {count}' in lines
    assert 'nv_inference_request_failure{model="both",reason="OTHER",version="ensemble"} 1' in lines


def test_every_one_of_triton_s_metrics_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    names = re.findall(r"^# TYPE (\w+) counter$", Metrics().triton.text(), re.MULTILINE)
    assert len(names) == 9
    assert [name for name in names if f"`{name}`" not in page] == []


def test_every_field_of_a_line_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    assert [name for name in OF_A_REQUEST if f"`{name}`" not in page] == []


def record(message: str, *args: object, **more: Any) -> logging.LogRecord:
    found = logging.makeLogRecord({"name": "a.library", "levelname": "WARNING", "msg": message, "args": args})
    found.__dict__.update(more)
    return found


def test_a_library_s_line_stays_one_line() -> None:
    said = record("got %r\r\n%s\u2028\x1b[31m\x85", "é", FORGED)
    line = JsonLines().format(said)
    assert len(line.splitlines()) == 1
    assert line.isascii()
    assert json.loads(line)["message"] == said.getMessage()
    assert len(TextLines().format(said).splitlines()) == 1
    assert TextLines().format(said).startswith("WARNING a.library: got 'é'\\x0d\\x0a{")


def test_a_traceback_stands_in_the_line() -> None:
    try:
        int("of it")
    except ValueError:
        said = record("failed", exc_info=sys.exc_info())
    assert json.loads(JsonLines().format(said))["exception"].endswith("base 10: 'of it'")
    assert TextLines().format(said).endswith("base 10: 'of it'")


def test_a_library_s_mistake_is_one_line_too() -> None:
    """Logging itself would print a traceback between the lines."""
    assert json.loads(JsonLines().format(record("%d of %d", "one")))["message"] == "%d of %d"


def test_lines_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    assert len(json.loads(JsonLines().format(record("x" * 10**6)))["message"]) == MAX_MESSAGE
    caplog.set_level(logging.INFO)
    log_request(Told("id", plan="p" * 1000), "GET", "/", 200, 0.1)
    assert len(json.loads(JsonLines().format(caplog.records[0]))["plan"]) == MAX_FIELD


def test_text_is_for_people_and_says_the_same(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log_request(Told("mine", model="colours", code="overloaded"), "POST", "/v1", 503, 0.25)
    line = TextLines().format(caplog.records[0])
    assert line.startswith("INFO service.logs: id=mine model=colours code=overloaded ")
    assert " status=503 " in line
    assert line.endswith(" total_ms=250.0")
    assert "None" not in line


def test_what_python_says_itself_is_a_line_too(tmp_path: Path) -> None:
    """Warnings, and what ends a thread; in a process of its own, since they are caught for all of it."""
    script = """
import threading, warnings
from service.logs import configure
configure("json")
warnings.warn("old\\nthing")
thread = threading.Thread(target=int, args=("seven",), name="lane-0")
thread.start()
thread.join()
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    first, second = map(json.loads, ran.stderr.splitlines())
    assert "old\nthing" in first["message"]
    assert second["message"] == "the thread lane-0 ended"
    assert second["exception"].endswith("'seven'")


class Pipe(io.StringIO):
    """A reader that stands still until it is let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = threading.Event()

    def write(self, text: str) -> int:
        assert self.reads.wait(10)
        return super().write(text)


def test_a_reader_that_stands_still_holds_up_nobody_and_is_told_what_it_missed() -> None:
    pipe = Pipe()
    writer = Writer(pipe, most=10)
    writer.setFormatter(TextLines())
    own = logging.getLogger("service.logs")
    own.addHandler(writer)
    try:
        for number in range(100):
            own.warning("line %d", number)
        pipe.reads.set()
        writer.flush()
        own.warning("the last")
        while "the last" not in pipe.getvalue():
            time.sleep(0.001)
        writer.flush()
    finally:
        own.removeHandler(writer)
    lines = pipe.getvalue().splitlines()
    written = [int(line.removeprefix("WARNING service.logs: line ")) for line in lines if ": line " in line]
    assert written == sorted(set(written))
    assert 10 <= len(written) <= 11, "what waits, and what is being written"
    assert (
        f"WARNING service.logs: {100 - len(written)} lines are not here: they came faster than they were read" in lines
    )


def test_a_reader_that_has_gone_ends_nothing(tmp_path: Path) -> None:
    """As after `2>&1 | head`: requests go on, and the process ends as it is told to."""
    write_colour_bundle(tmp_path)
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "service", "run", "--repository", str(tmp_path), "--port", "0"]
    server = subprocess.Popen([*command, "--drain-delay", "0"], stderr=writing)
    os.close(writing)
    with open(reading) as lines:  # noqa: PTH123 no path
        address = next(found[0] for line in lines if (found := re.search(r"http://[\d.:]+", line)))
    with httpx.Client(base_url=address) as client:
        assert {client.get("/livez").status_code for _ in range(50)} == {200}
    server.terminate()
    assert server.wait(20) in (0, 120)  # 120: Python could not flush stderr when it ended
