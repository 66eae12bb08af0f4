"""The client against a scripted server: what it sends, when it waits, and when it gives up; then against a real one."""

import asyncio
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from fakes import COLOURS, write_colour_bundle
from live import serve
from service.client import AsyncClient, Client, ClientError
from service.client import exchange as module
from service.settings import Settings
from stub import Asked, Reply, problem, serving

LOOKS = {"plan": "center", "planned": 1, "computed": 1, "gmacs": 0.5, "average": "logits", "stop": "exact"}
ANSWER = {
    "model": "cats",
    "version": 3,
    "views": LOOKS,
    "predictions": [{"index": 1, "label": "tabby", "probability": 0.75}],
    "a field of a later version": None,
}


class Clock:
    """In the place of the event that a client waits on: the pauses, without the time."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self._set = False

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        return False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set


def script(*replies: Reply) -> Callable[[Asked], Reply]:
    """One after the other, the last one for ever."""
    left: Iterator[Reply] = iter(replies)
    return lambda _: next(left, replies[-1])


def patient(url: str) -> tuple[Client, list[float]]:
    """A client, and its pauses in seconds."""
    client, clock = Client(url), Clock()
    client._closed = clock  # type: ignore[assignment]
    return client, clock.pauses


def test_an_answer_is_typed_and_what_is_unknown_in_it_is_passed_over() -> None:
    with serving(script(Reply(json=ANSWER))) as (url, asked), Client(url) as client:
        answer = client.classify("cats", b"pixels", views="ten_crop", average="logits", top_k=3)
    assert (asked[0].method, asked[0].path, asked[0].body) == ("POST", "/v1/models/cats:classify", b"pixels")
    assert asked[0].query == {"views": "ten_crop", "average": "logits", "top_k": "3"}
    assert (answer.version, answer.predictions[0].label) == (3, "tabby")
    assert [(look.average, look.stop) for look in answer.looks] == [("logits", "exact")]


def test_members_of_an_ensemble_are_what_looked() -> None:
    views = [LOOKS, None, {**LOOKS, "computed": 7}]
    members = [{"model": f"m{place}", "views": look} for place, look in enumerate(views)]
    reply = Reply(json={**ANSWER, "version": None, "views": None, "members": members})
    with serving(script(reply)) as (url, _), Client(url) as client:
        answer = client.classify("cats", b"")
    assert [look.computed for look in answer.looks] == [1, 7]


def test_names_stay_inside_their_part_of_the_path() -> None:
    with (
        serving(script(Reply(json={"name": "", "version": 1, "labels": ["a"]}))) as (url, asked),
        Client(url) as client,
    ):
        client.model("a/../b?c#d")
    assert asked[0].path == "/v1/models/a%2F..%2Fb%3Fc%23d"


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    busy = [problem(503, "overloaded", Retry_After=seconds) for seconds in ("2", "7")]
    with serving(script(*busy, Reply(json=ANSWER))) as (url, asked):
        client, pauses = patient(url)
        with client:
            assert client.classify("cats", b"pixels", stop="exact").version == 3
    assert pauses == [2, 7]
    assert [(a.body, a.query) for a in asked] == [(b"pixels", {"stop": "exact"})] * 3


@pytest.mark.parametrize(
    ("reply", "pause"),
    [
        (problem(503, "model_not_ready"), 0.5),
        (problem(408, "request_timeout"), 0.5),
        (problem(429, "quota", Retry_After="5"), 5),
        (problem(503, "overloaded", Retry_After="86400"), 60),
        (problem(503, "overloaded", Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"), 1),
        (problem(503, "overloaded", Retry_After="-1"), 1),
        (Reply(503, "a proxy's page", {"Retry-After": "3"}), 3),
    ],
    ids=["nothing", "408", "429", "a day", "date", "negative", "proxy"],
)
def test_how_long_it_waits(reply: Reply, pause: float) -> None:
    with serving(script(reply, Reply(json=ANSWER))) as (url, _):
        client, pauses = patient(url)
        with client:
            client.classify("cats", b"")
    assert pauses == [pause]


def test_it_does_not_wait_for_ever() -> None:
    with serving(script(problem(503, "overloaded", Retry_After="1"))) as (url, asked):
        client, pauses = patient(url)
        with client, pytest.raises(ClientError) as refused:
            client.classify("cats", b"")
    assert (refused.value.status, refused.value.code, refused.value.detail) == (503, "overloaded", "overloaded it is")
    assert (len(asked), len(pauses)) == (30, 29)


def test_what_breaks_is_tried_again_a_few_times() -> None:
    broken = [problem(504, "deadline_exceeded"), Reply(hang_up=True), Reply(502, "a proxy's page")]
    with serving(script(*broken, Reply(json=ANSWER))) as (url, asked):
        client, pauses = patient(url)
        with client:
            assert client.classify("cats", b"pixels").version == 3
    assert pauses == [0.5, 1, 2]
    assert [a.body for a in asked] == [b"pixels"] * 4


@pytest.mark.parametrize("reply", [problem(504, "deadline_exceeded"), Reply(hang_up=True)], ids=["504", "hang up"])
def test_what_stays_broken_is_an_error(reply: Reply) -> None:
    with serving(script(reply)) as (url, asked):
        client, pauses = patient(url)
        with client, pytest.raises(ClientError) as failed:
            client.classify("cats", b"")
    assert len(asked) == 4
    assert pauses == [0.5, 1, 2]
    assert (failed.value.status, failed.value.code) == (
        (504, "deadline_exceeded") if not reply.hang_up else (None, "no_answer")
    )


def test_a_server_that_does_not_answer_in_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BROKEN_TRIES", 1)
    release = threading.Event()

    def hang(_: Asked) -> Reply:
        assert release.wait(10)
        return Reply(json=ANSWER)

    with serving(hang) as (url, _), Client(url, timeout=0.1) as client:
        with pytest.raises(ClientError, match=r"no_answer: no answer from .*timed out"):
            client.classify("cats", b"")
        release.set()


def test_no_server_is_named() -> None:
    with serving(script(Reply())) as (url, _):
        pass
    client, pauses = patient(url)
    with client, pytest.raises(ClientError, match=rf"no answer from {url} \(.*refused.*\); is a server running there"):
        client.model("cats")
    assert len(pauses) == 3


@pytest.mark.parametrize(
    ("status", "code"), [(422, "unknown_views"), (404, "model_not_found"), (500, "inference_failed")]
)
def test_refusals_and_failures_are_errors_at_once(status: int, code: str) -> None:
    with serving(script(problem(status, code))) as (url, asked):
        client, pauses = patient(url)
        with client, pytest.raises(ClientError) as refused:
            client.model("cats/a")
    assert (refused.value.status, refused.value.code, refused.value.detail) == (status, code, f"{code} it is")
    assert (len(asked), pauses) == (1, [])
    assert asked[0].path == "/v1/models/cats%2Fa"


@pytest.mark.parametrize(
    "reply",
    [Reply(json="hello"), Reply(404, "hello"), Reply(json={**ANSWER, "views": None})],
    ids=["200", "404", "no views"],
)
def test_another_server_is_recognised(reply: Reply) -> None:
    with (
        serving(script(reply)) as (url, _),
        Client(url) as client,
        pytest.raises(ClientError, match=f"unexpected_answer: {url} answers /v1/models/cats:classify with status"),
    ):
        client.classify("cats", b"")


def test_closing_ends_the_wait_of_another_thread() -> None:
    busy = threading.Event()

    def refuse(_: Asked) -> Reply:
        busy.set()
        return problem(503, "overloaded", Retry_After="60")

    with serving(refuse) as (url, _), ThreadPoolExecutor(1) as pool:
        client = Client(url)
        waiting = pool.submit(client.model, "cats")
        assert busy.wait(10)
        client.close()
        error = waiting.exception(timeout=10)
    assert isinstance(error, ClientError)


KEY = "of printable characters!"


def test_the_key_is_sent_with_every_request() -> None:
    async def ask(url: str) -> None:
        async with AsyncClient(url, api_key=KEY) as client:
            await client.classify("cats", b"")

    with serving(script(Reply(json=ANSWER))) as (url, asked):
        with Client(url, api_key=KEY) as client:
            client.classify("cats", b"")
        asyncio.run(ask(url))
        with Client(url) as client:
            client.classify("cats", b"")
    assert [one.authorization for one in asked] == [f"Bearer {KEY}", f"Bearer {KEY}", None]


@pytest.mark.parametrize("key", ["", " ", "secret\nsecret", "s\u00e9cret"])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_key_that_no_header_holds_is_refused_and_not_told(kind: type[Client | AsyncClient], key: str) -> None:
    with pytest.raises(ValueError, match="the API key is empty, or has other characters") as refused:
        kind("http://127.0.0.1:1", api_key=key)
    assert "secret" not in str(refused.value)


def test_an_answer_that_cannot_be_unpacked_is_none() -> None:
    with serving(script(Reply(json=ANSWER, headers={"Content-Encoding": "gzip"}))) as (url, asked):
        client, pauses = patient(url)
        with client, pytest.raises(ClientError, match="no_answer"):
            client.classify("cats", b"")
    assert (len(asked), pauses) == (4, [0.5, 1, 2])


def test_every_option_is_sent_as_it_is_and_none_is_left_out() -> None:
    with serving(script(Reply(json=ANSWER))) as (url, asked), Client(url) as client:
        client.classify("cats", b"", merge="near", detail="views", version="stable", timeout_ms=250, priority=-1)
        client.classify("cats", b"", views=None, top_k=None)
    first = {"merge": "near", "detail": "views", "version": "stable", "timeout_ms": "250", "priority": "-1"}
    assert [one.query for one in asked] == [first, {}]


def test_tasks_wait_and_give_up_as_threads_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same script to both kinds: the same requests, pauses and errors."""
    pauses: list[float] = []

    async def closed_within(_: AsyncClient, seconds: float) -> bool:
        pauses.append(seconds)
        return False

    monkeypatch.setattr(AsyncClient, "_closed_within", closed_within)
    replies = [problem(503, "overloaded", Retry_After="7"), *[Reply(hang_up=True)] * 3]

    async def ask(url: str) -> None:
        async with AsyncClient(url) as client:
            await client.classify("cats", b"pixels", views="center")

    with serving(script(*replies, Reply(json=ANSWER))) as (url, asked):
        asyncio.run(ask(url))
    assert pauses == [7, 0.5, 1, 2]
    assert [(one.body, one.query) for one in asked] == [(b"pixels", {"views": "center"})] * 5
    with serving(script(*replies, Reply(hang_up=True))) as (url, _):
        with pytest.raises(ClientError, match="no_answer"):
            asyncio.run(ask(url))
        with pytest.raises(ClientError, match="no_answer"), patient(url)[0] as client:
            client.classify("cats", b"")


def test_closing_ends_the_wait_of_another_task() -> None:
    pauses = asyncio.Event()

    class Watched(AsyncClient):
        async def _closed_within(self, seconds: float) -> bool:
            pauses.set()
            return await super()._closed_within(seconds)

    async def close_while_waiting(url: str) -> None:
        client = Watched(url)
        waiting = asyncio.create_task(client.model("cats"))
        await asyncio.wait_for(pauses.wait(), 10)
        await client.close()
        with pytest.raises(ClientError, match="overloaded"):
            await asyncio.wait_for(waiting, 10)

    with serving(script(problem(503, "overloaded", Retry_After="60"))) as (url, _):
        asyncio.run(close_while_waiting(url))


def test_tasks_share_a_bounded_number_of_connections() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def count(_: Asked) -> Reply:
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        threading.Event().wait(0.002)
        with lock:
            now -= 1
        return Reply(json=ANSWER)

    async def ask(url: str) -> int:
        async with AsyncClient(url, connections=3) as client:
            return len(await asyncio.gather(*(client.classify("cats", b"%d" % place) for place in range(50))))

    with serving(count) as (url, asked):
        assert asyncio.run(ask(url)) == 50
    assert sorted(one.body for one in asked) == sorted(b"%d" % place for place in range(50))
    assert len({one.port for one in asked}) <= 3
    assert 1 < most <= 3


def test_threads_share_a_bounded_number_of_connections() -> None:
    """None is closed under another thread, and nothing is sent twice."""
    with (
        serving(script(Reply(json=ANSWER))) as (url, asked),
        Client(url, connections=3) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        answers = list(pool.map(lambda place: client.classify("cats", b"%d" % place), range(60)))
    assert len(answers) == 60
    assert sorted(a.body for a in asked) == sorted(b"%d" % place for place in range(60))
    assert len({a.port for a in asked}) <= 3


def test_a_real_server_answers_it(client: httpx.Client, plain: Callable[..., bytes]) -> None:
    with Client(str(client.base_url)) as ours:
        model = ours.model("colours")
        assert (model.version, tuple(model.labels)) == (1, COLOURS)
        answer = ours.classify("colours", plain("blue"), views="ten_crop", top_k=2)
        assert [look.model_dump() for look in answer.looks] == [
            {"plan": "ten_crop", "computed": 2, "gmacs": 2e-9, "average": "probabilities", "stop": "never"}
            | {"details": None}
        ]
        assert [score.label for score in answer.predictions] == ["blue", "red"]
        with pytest.raises(ClientError, match="unknown_views"):
            ours.classify("colours", plain("blue"), views="eleven_crop")
        with pytest.raises(ClientError, match="image_format_unsupported"):
            ours.classify("colours", b"no image")


def test_a_real_server_tells_its_models_and_where_a_plan_looks(
    client: httpx.Client, plain: Callable[..., bytes]
) -> None:
    with Client(str(client.base_url)) as ours:
        (found,) = ours.models()
        assert (found.name, [(one.version, one.state) for one in found.versions]) == ("colours", [(1, "READY")])
        geometry = ours.geometry("colours", "flips", (16, 8))
        answer = ours.classify("colours", plain("lime", (16, 8)), views="flips", detail="views")
        assert ours.model("colours").digest is None
        assert "flips" in ours.model("colours", 1).views
    # The square in the middle of an image of 16 x 8, and its mirror image.
    assert [(view.resized, view.box, view.size, view.mirrored) for view in geometry.views] == [
        ((16, 8), (4, 0, 8, 8), (8, 8), mirrored) for mirrored in (False, True)
    ]
    assert (geometry.planned, geometry.computed, geometry.refusal) == (2, 2, None)
    details = answer.looks[0].details or []
    assert [view.model_copy(update={"top1": None}) for view in details] == geometry.views
    assert [view.top1.label for view in details if view.top1] == ["green", "green"]
    assert answer.digest == found.versions[0].digest
    assert answer.request_id
    assert answer.timings_ms["total"] > 0


def test_fifty_tasks_at_a_real_server_get_their_own_answers(client: httpx.Client, plain: Callable[..., bytes]) -> None:
    async def ask() -> list[str]:
        images = [plain(colour) for colour in ("red", "lime", "blue")]
        async with AsyncClient(str(client.base_url), connections=50) as ours:
            assert (await ours.model("colours")).labels == list(COLOURS)
            assert [one.name for one in await ours.models()] == ["colours"]
            assert (await ours.geometry("colours", "center", (8, 8))).computed == 1
            answers = (ours.classify("colours", images[place % 3], views="flips") for place in range(50))
            return [answer.predictions[0].label for answer in await asyncio.gather(*answers)]

    assert asyncio.run(ask()) == [COLOURS[place % 3] for place in range(50)]


def test_a_real_server_wants_the_key(repository: Path, tmp_path: Path, plain: Callable[..., bytes]) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[keys]]\nname = "us"\nsha256 = "{hashlib.sha256(KEY.encode()).hexdigest()}"\n')
    with serve(Settings(repository=repository, port=0, keys=keys)) as client:
        with Client(str(client.base_url)) as ours, pytest.raises(ClientError, match="unauthorized"):
            ours.models()
        with Client(str(client.base_url), api_key=KEY) as ours:
            assert ours.classify("colours", plain("lime")).predictions[0].label == "green"


@pytest.mark.parametrize("place", [0, 1], ids=["threads", "asyncio"])
def test_the_code_of_the_page_runs(
    place: int,
    tmp_path: Path,
    plain: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (Path(__file__).parents[2] / "docs/client.md").read_text()
    code = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[place]
    write_colour_bundle(tmp_path, "cats")
    (tmp_path / "cat.jpg").write_bytes(plain("blue", kind="JPEG"))
    monkeypatch.chdir(tmp_path)
    with serve(Settings(repository=tmp_path, port=0)) as client:
        address = str(client.base_url).rstrip("/")
        assert "http://127.0.0.1:8000" in code
        exec(code.replace("http://127.0.0.1:8000", address), {})  # noqa: S102 it is ours
    assert "blue" in capsys.readouterr().out
