"""The client against a scripted server: what it sends, when it waits, and when it gives up; then against a real one."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from fakes import COLOURS
from service import client as module
from service.client import Client, ClientError
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

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        return False

    def set(self) -> None:
        """Nobody waits."""


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
        (problem(429, "quota", Retry_After="5"), 5),
        (problem(503, "overloaded", Retry_After="86400"), 60),
        (problem(503, "overloaded", Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"), 1),
        (problem(503, "overloaded", Retry_After="-1"), 1),
        (Reply(503, "a proxy's page", {"Retry-After": "3"}), 3),
    ],
    ids=["nothing", "429", "a day", "date", "negative", "proxy"],
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
        ]
        assert [score.label for score in answer.predictions] == ["blue", "red"]
        with pytest.raises(ClientError, match="unknown_views"):
            ours.classify("colours", plain("blue"), views="eleven_crop")
        with pytest.raises(ClientError, match="image_format_unsupported"):
            ours.classify("colours", b"no image")
