"""The load generator: arrivals, both loops in virtual time, figures and the sweep against queueing theory."""

import asyncio
import math
import selectors
import statistics
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import httpx
import numpy as np
import pytest
from scipy import stats

from service.client import exchange
from service.loadtest.arrivals import times
from service.loadtest.figures import Figures, percentile, summarize
from service.loadtest.generator import closed_loop, open_loop
from service.loadtest.sample import OK, Sample, Told, read
from service.loadtest.sweep import bracket, next_load
from service.loadtest.wire import NoAnswerError, Reply, Wire, encode
from stub import Asked, problem, serving
from stub import Reply as Says

ANSWERED = Told(OK, 200)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"


class Jumping(selectors.DefaultSelector):
    """Waits by moving the clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


def virtually(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs it in no time: sleeping moves the loop's clock."""
    selector = Jumping()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(coroutine)


def one_at_a_time(service: float, stall: tuple[float, float]) -> Callable[[int], Awaitable[Told]]:
    """A server that takes `service` seconds for each request in turn, and none during the stall."""
    turn = asyncio.Lock()

    async def ask(_: int) -> Told:
        async with turn:
            now = asyncio.get_running_loop().time()
            if stall[0] <= now < stall[1]:
                await asyncio.sleep(stall[1] - now)
            await asyncio.sleep(service)
        return ANSWERED

    return ask


# Arrivals


def test_poisson_arrivals_have_exponential_gaps() -> None:
    due = times("poisson", 200, 100, np.random.default_rng(1))
    gaps = np.diff(due, prepend=0)
    assert abs(len(due) - 20_000) < 3 * math.sqrt(20_000)
    assert gaps.min() >= 0
    assert due[-1] < 100
    assert stats.kstest(gaps, stats.expon(scale=1 / 200).cdf).pvalue > 0.01
    assert due.tolist() == times("poisson", 200, 100, np.random.default_rng(1)).tolist()


def test_constant_arrivals_have_one_gap() -> None:
    assert times("constant", 4, 1.1, np.random.default_rng(0)).tolist() == [0, 0.25, 0.5, 0.75, 1.0]
    assert len(times("poisson", 0.001, 1, np.random.default_rng(0))) == 0


# The loops


def test_an_open_loop_counts_what_a_stall_keeps_waiting() -> None:
    """Coordinated omission: all 200 requests that were due while nothing was answered waited, and their wait counts."""
    service, stall, due = 0.004, (1.0, 3.0), [place / 100 for place in range(600)]
    samples: list[Sample] = []
    virtually(open_loop(one_at_a_time(service, stall), due, samples))
    done, expected = 0.0, []
    for at in due:  # Lindley: one begins when it is due and the one before is done
        begin = max(at, done)
        done = (stall[1] if stall[0] <= begin < stall[1] else begin) + service
        expected.append(done - at)
    assert [sample.due for sample in samples] == due
    assert [sample.took for sample in samples] == pytest.approx(expected, abs=1e-6)
    waited = [sample for sample in samples if stall[0] <= sample.due < stall[1]]
    assert len(waited) == 200
    assert all(sample.took > stall[1] - sample.due for sample in waited)
    assert max(sample.late for sample in samples) < 1e-6


def test_a_closed_loop_sees_one_slow_answer_of_the_same_stall() -> None:
    samples: list[Sample] = []
    virtually(closed_loop(one_at_a_time(0.01, (1.0, 3.0)), 1, 6.0, samples))
    assert sum(sample.took > 0.02 for sample in samples) == 1
    assert all(sample.due < 6.0 for sample in samples)
    assert len(samples) == pytest.approx(400, abs=2)


def test_clients_of_a_closed_loop_are_as_many_as_wished() -> None:
    under_way: list[int] = [0, 0]

    async def ask(_: int) -> Told:
        under_way[0] += 1
        under_way[1] = max(under_way)
        await asyncio.sleep(0.125)
        under_way[0] -= 1
        return ANSWERED

    samples: list[Sample] = []
    virtually(closed_loop(ask, 7, 1.0, samples))
    assert under_way == [0, 7]
    assert len(samples) == 7 * 8


def test_waiting_for_a_connection_is_the_generators_fault() -> None:
    samples: list[Sample] = []

    async def ask(_: int) -> Told:
        await asyncio.sleep(1.0)
        return ANSWERED

    virtually(open_loop(ask, [0.0, 0.1, 0.2], samples, most=1))
    assert [sample.late for sample in samples] == pytest.approx([0, 0.9, 1.8], abs=1e-6)
    assert [sample.took for sample in samples] == pytest.approx([1, 1.9, 2.8], abs=1e-6)


# Figures


def test_figures_worked_out_by_hand() -> None:
    refused, gone = Told("queue_full", 503), Told("no_connection")
    samples = [
        Sample(0.5, 0, 0.6, ANSWERED),  # warms up, but its answer comes in the measured time
        Sample(1.0, 0.001, 0.010, Told(OK, 200, (1.0, 2.0, 3.0))),
        Sample(1.5, 0.002, 0.030, Told(OK, 200, (2.0, 4.0, 6.0))),
        Sample(1.6, 0.003, 0.200, ANSWERED),  # too late
        Sample(1.7, 0.001, 0.001, refused),
        Sample(2.0, 0.001, 0.001, refused),
        Sample(2.5, 0.001, 0.5, gone),
        Sample(2.9, 0.001, 0.2, ANSWERED),  # comes after the end
        Sample(3.0, 0.001, 0.01, ANSWERED),  # too late to count
    ]
    found = summarize(samples, 1.0, 3.0, deadline_ms=100, cores=0.1, rate=4.0)
    assert (found.sent, found.answered, found.in_time) == (7, 4, 2)
    assert found.refused == {"503 queue_full": 2}
    assert found.errors == {"no_connection": 1}
    assert found.throughput == 4 / 2
    assert found.goodput == 2 / 2
    assert found.mean_ms == pytest.approx(110)
    assert found.max_ms == 200
    assert found.percentile(50) == pytest.approx(115)
    assert found.percentile(90) is None
    assert found.server_ms == {"decode": 1.5, "queue": 3.0, "compute": 4.5}
    assert found.late_p99_ms == pytest.approx(np.percentile([1, 2, 3, 1, 1, 1, 1], 99))
    assert [(second.answered, second.failed) for second in found.course] == [(3, 1), (1, 2)]
    assert found.course[0].p50_ms == pytest.approx(30)


def test_percentiles_are_those_of_the_statistics_module_and_need_enough_samples() -> None:
    values = np.random.default_rng(3).lognormal(2, 1, 1000).tolist()
    assert percentile(values, 99) == pytest.approx(statistics.quantiles(values, n=100, method="inclusive")[98])
    assert percentile(values, 99.9) == pytest.approx(statistics.quantiles(values, n=1000, method="inclusive")[998])
    assert percentile(values[:999], 99.9) is None
    assert percentile(values[:99], 99) is None
    assert percentile(values[:100], 99) is not None
    assert percentile([], 50) is None


def test_an_answer_is_read() -> None:
    timings = b'{"timings_ms": {"decode": 1, "queue": 2.5, "compute": 3, "total": 9}}'
    assert read(Reply(200, timings)) == Told(OK, 200, (1.0, 2.5, 3.0))
    assert read(Reply(503, b'{"code": "queue_full"}')) == Told("queue_full", 503)
    for odd in (b"<html>", b"[]", b"{}", b"\xff"):
        assert read(Reply(502, odd)) == Told("unexpected_answer", 502)
    assert read(Reply(200, b"<html>")) == Told("unexpected_answer", 200)


# The sweep

SERVICE = 0.02


def in_time_of_md1(rate: float, seconds: float) -> float:
    """P(wait <= seconds) in an M/D/1 queue (Erlang, 1909), with a service of `SERVICE` seconds."""
    terms = [
        (rate * (k * SERVICE - seconds)) ** k / math.factorial(k) * math.exp(-rate * (k * SERVICE - seconds))
        for k in range(int(seconds / SERVICE) + 1)
    ]
    return (1 - rate * SERVICE) * sum(terms)


def one_queue(rate: float, deadline_ms: float | None) -> Figures:
    """A server with one lane under Poisson arrivals, for 200 s."""
    due = times("poisson", rate, 200, np.random.default_rng(5))
    order = np.arange(len(due))
    done = np.maximum.accumulate(due - order * SERVICE) + (order + 1) * SERVICE
    samples = [Sample(at, 0, took, ANSWERED) for at, took in zip(due.tolist(), (done - due).tolist(), strict=True)]
    return summarize(samples, 0, 200, deadline_ms=deadline_ms, cores=0, rate=rate)


def sweep(measure: Callable[[float], Figures], first: float, most: float = math.inf) -> list[Figures]:
    steps: list[Figures] = []
    while (load := next_load(steps, first, most)) is not None:
        steps.append(measure(load))
        assert len(steps) < 20
    return steps


@pytest.mark.parametrize("first", [5.0, 300.0], ids=["from below", "from above"])
def test_the_knee_is_where_theory_has_one_request_in_a_hundred_late(first: float) -> None:
    exact = max(rate for rate in np.arange(1, 50, 0.1) if in_time_of_md1(rate, 0.100 - SERVICE) >= 0.99)
    steps = sweep(lambda rate: one_queue(rate, 100), first)
    knee, beyond = bracket(steps)
    assert knee is not None
    assert beyond is not None
    assert knee.load == pytest.approx(exact, rel=0.1)
    assert beyond.load / knee.load < 1.05


def test_without_a_deadline_the_knee_is_the_capacity() -> None:
    knee, _ = bracket(sweep(lambda rate: one_queue(rate, None), 5.0))
    assert knee is not None
    assert knee.load == pytest.approx(1 / SERVICE, rel=0.06)


def clients(count: float, throughput: float, took_ms: float, deadline_ms: float = 1000) -> Figures:
    taken = [Sample(place / throughput, 0, took_ms / 1000, ANSWERED) for place in range(int(throughput * 10))]
    return summarize(taken, 0, 10, deadline_ms=deadline_ms, cores=0, concurrency=int(count))


def test_more_clients_are_tried_until_they_bring_no_more() -> None:
    steps = sweep(lambda count: clients(count, min(10 * count, 80), 100), 1)
    assert [step.load for step in steps] == [1, 2, 4, 8, 16, 32, 11, 9]
    knee, beyond = bracket(steps)
    assert knee is not None
    assert beyond is not None
    assert (knee.load, beyond.load) == (8, 9)


def test_one_unlucky_step_does_not_end_a_sweep() -> None:
    rates: list[float] = []

    def measure(rate: float) -> Figures:
        rates.append(rate)
        return one_queue(rate, 100) if rate != 10.0 else one_queue(100.0, 100).model_copy(update={"rate": 10.0})

    knee, _ = bracket(sweep(measure, 5.0))
    assert rates[:5] == [5, 10, 20, 40, 80]
    assert knee is not None
    assert knee.load > 20


def test_a_sweep_ends_at_the_most_that_may_be_tried_and_where_nothing_holds() -> None:
    assert [step.load for step in sweep(lambda count: clients(count, 10 * count, 100), 3, most=10)] == [3, 6, 10]
    never = sweep(lambda count: clients(count, 10, 2000), 4)
    assert [step.load for step in never] == [4, 2, 1]
    assert bracket(never).holds is None


def test_a_step_in_which_nothing_was_due_proves_nothing() -> None:
    assert bracket([summarize([], 0, 10, deadline_ms=None, cores=0, rate=0.01)]).holds is None


def test_one_late_answer_of_few_does_not_end_a_sweep() -> None:
    samples = [Sample(place / 5, 0, 0.01 if place else 2.0, ANSWERED) for place in range(50)]
    one_late = summarize(samples, 0, 10, deadline_ms=1000, cores=0, rate=5)
    assert bracket([one_late]).holds == one_late
    two = [Sample(s.due, 0, 2.0 if index < 2 else 0.01, ANSWERED) for index, s in enumerate(samples)]
    assert bracket([summarize(two, 0, 10, deadline_ms=1000, cores=0, rate=5)]).holds is None


# The connections


def ask(url: str, count: int = 1) -> list[Reply | str]:
    """Answers, or the codes of failures, one after the other."""

    async def main() -> list[Reply | str]:
        with httpx.Client(base_url=url, headers={"authorization": "Bearer k"}) as http:
            request = encode(http, exchange.classify("a b", b"image", {"views": "ten crop", "top_k": None}))
            wire = Wire(http.base_url)
        found: list[Reply | str] = []
        for _ in range(count):
            try:
                found.append(await wire.ask(request))
            except NoAnswerError as error:
                found.append(str(error))
        wire.close()
        return found

    return asyncio.run(main())


def test_requests_are_as_the_client_makes_them_and_share_a_connection() -> None:
    with serving(lambda _: problem(503, "queue_full")) as (url, asked):
        replies = ask(url, 3)
    assert [read(reply) for reply in replies if isinstance(reply, Reply)] == [Told("queue_full", 503)] * 3
    assert len({one.port for one in asked}) == 1
    path, query = "/v1/models/a%20b:classify", {"views": "ten crop"}
    port = asked[0].port
    assert asked[0] == Asked("POST", path, query, b"image", port, "Bearer k")


def test_a_connection_that_is_closed_is_an_error_and_the_next_request_has_a_new_one() -> None:
    replies = iter([Says(hang_up=True), Says(json={}), Says(json={}, headers={"Connection": "close"}), Says(json={})])
    with serving(lambda _: next(replies)) as (url, asked):
        first, *others = ask(url, 4)
    assert first == "connection_lost"
    assert [reply.status for reply in others if isinstance(reply, Reply)] == [200] * 3
    assert len({one.port for one in asked}) == 3


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            Reply(200, b"abcde"),
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Reply(204, b"")),
        (b"SSH-2.0-x\r\n", "no_http"),
    ],
    ids=["chunked", "empty", "not http"],
)
def test_odd_servers(said: bytes, heard: Reply | str) -> None:
    assert asyncio.run(from_server(said)) == heard


async def from_server(said: bytes) -> Reply | str:
    left = asyncio.Event()

    class Saying(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            for place in range(len(said)):  # each byte by itself
                asyncio.get_running_loop().call_soon(self.transport.write, said[place : place + 1])

        def connection_lost(self, exc: Exception | None) -> None:
            left.set()

    server = await asyncio.get_running_loop().create_server(Saying, "127.0.0.1", 0)
    async with server:
        wire = Wire(httpx.URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        try:
            return await wire.ask(b"GET / HTTP/1.1\r\n\r\n")
        except NoAnswerError as error:
            return str(error)
        finally:
            wire.close()
            await left.wait()


def test_nobody_there() -> None:
    with serving(lambda _: Says()) as (url, _):
        pass
    assert ask(url) == ["no_connection"]
