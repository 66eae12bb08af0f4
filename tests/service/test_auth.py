"""API keys: who gets in, how much they get, and what they are told, over real sockets and on a clock of our own."""

import hashlib
import importlib
import logging
import os
import pkgutil
import random
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from fakes import write_colour_bundle
from live import serve
from service import api
from service.__main__ import main
from service.api.gate import scope_of
from service.auth import ANYBODY, BURST_SECONDS, Bucket, Caller, KeyFile, KeyFileError, read_keys
from service.client import Client, ClientError
from service.errors import ForbiddenError, QuotaExceededError, UnauthorizedError
from service.settings import Settings

CLASSIFY = "/v1/models/colours:classify"
INFER, ADMIN, METRICS, SLOW = "infer-key-0001", "admin-key-0002", "metrics-key-0003", "slow-key-0004"
OPERATIONS = Path(__file__).parents[2] / "docs/operations.md"
Plain = Callable[..., bytes]


def entry(name: str, key: str, *scopes: str, rate: float | None = None) -> str:
    """With a hash that is made here, as `sha256sum` makes it."""
    lines = [f'name = "{name}"', f'sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"', f"scopes = {list(scopes)}"]
    return "\n".join(["[[keys]]", *lines, *([] if rate is None else [f"views_per_second = {rate}"]), ""])


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def guarded(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    entries = [
        entry("alice", INFER, "infer"),
        entry("boss", ADMIN, "infer", "admin"),
        entry("prometheus", METRICS, "metrics"),
        entry("slow", SLOW, "infer", rate=0.001),
    ]
    path.write_text("\n".join(entries))
    with serve(Settings(repository=repository, port=0, keys=path, max_image_bytes=100_000)) as client:
        yield client


def test_probes_are_open(guarded: httpx.Client) -> None:
    assert [guarded.get(path).status_code for path in ("/livez", "/readyz")] == [200, 200]


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/docs", "/openapi.json", "/nowhere", "/v2", "/livez/x"])
def test_everything_else_is_closed(guarded: httpx.Client, path: str) -> None:
    answer = guarded.get(path)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
    assert answer.headers["X-Request-Id"] == answer.json()["request_id"]


def test_all_that_can_be_wrong_with_a_key_is_told_alike(guarded: httpx.Client) -> None:
    headers: list[list[tuple[str, str]]] = [
        [],
        [("Authorization", "Bearer nobody's")],
        [("Authorization", f"Bearer {INFER}x")],
        [("Authorization", "Bearer")],
        [("Authorization", INFER)],
        [("Authorization", f"Basic {INFER}")],
        [("X-API-Key", "")],
        [("X-API-Key", hashlib.sha256(INFER.encode()).hexdigest())],
        [("X-API-Key", INFER), ("X-API-Key", INFER)],
        [("X-API-Key", INFER), ("Authorization", f"Bearer {ADMIN}")],
    ]
    told = [guarded.get("/v1/models", headers=[*each, ("X-Request-Id", "one")]) for each in headers]
    assert {answer.status_code for answer in told} == {401}
    assert len({answer.content for answer in told}) == 1


@pytest.mark.parametrize("headers", [bearer(INFER), {"Authorization": f"bearer  {INFER}"}, {"X-API-Key": INFER}])
def test_a_key_opens_what_it_is_for(guarded: httpx.Client, plain: Plain, headers: dict[str, str]) -> None:
    answer = guarded.post(CLASSIFY, content=plain("blue"), headers=headers)
    assert answer.json()["predictions"][0]["label"] == "blue"
    assert guarded.get("/openapi.json", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/metrics", METRICS, 200),
        ("/metrics", INFER, 403),
        ("/v1/models", METRICS, 403),
        ("/v1/repository", INFER, 403),
        ("/v2/repository/models/colours/load", INFER, 403),
        ("/v1/repository", METRICS, 403),
    ],
)
def test_scopes(guarded: httpx.Client, path: str, key: str, status: int) -> None:
    answer = guarded.get(path, headers=bearer(key))
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["code"] == "forbidden"
        assert key not in answer.text


def test_admin_routes_open_for_admins(guarded: httpx.Client) -> None:
    """404 where the admin API is off: past the gate."""
    assert guarded.get("/v1/repository", headers=bearer(ADMIN)).status_code == 404


def routes() -> set[str]:
    """The paths of all routers there are, mounted or not."""
    modules = [importlib.import_module(f"service.api.{each.name}") for each in pkgutil.iter_modules(api.__path__)]
    return {route.path for module in modules if hasattr(module, "router") for route in module.router.routes}


OPEN = {"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"}


def test_probes_ask_for_no_key(guarded: httpx.Client) -> None:
    """Both protocols'; that of one model tells of what is served, and asks."""
    assert {guarded.get(path).status_code for path in OPEN} == {200}
    assert guarded.get("/v2/models/colours/ready").status_code == 401


def test_the_schema_says_how_a_key_is_sent(guarded: httpx.Client, client: httpx.Client) -> None:
    document = guarded.get("/openapi.json", headers=bearer(ADMIN)).json()
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"] == {"type": "http", "scheme": "bearer"}
    assert schemes["header"] == {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    either: list[dict[str, list[str]]] = [{"bearer": []}, {"header": []}]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation.get("security") == (None if path in OPEN else either), path
    assert "securitySchemes" not in client.get("/openapi.json").json()["components"], "no key is asked for there"


def test_every_route_has_the_scope_of_its_kind() -> None:
    assert {"/livez", "/metrics", "/v1/models", "/v1/models/{name}:classify"} <= routes()
    for path in routes():
        changing = "/repository" in path and not path.endswith("/index")
        open_ = path in OPEN
        wanted = {"/metrics": "metrics"}.get(path, "admin" if changing else None if open_ else "infer")
        assert scope_of(path) == wanted, path


def test_no_method_of_any_route_is_open(guarded: httpx.Client) -> None:
    """Every path there is, and odd spellings of some, with every method: no key, no answer."""
    paths = {*routes(), "/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"} - OPEN
    odd = [
        "/livez/",
        "//livez",
        "/livez/../metrics",
        "/%6detrics",
        "/v1/../livez",
        "/LIVEZ",
        "/livez%2f",
        "/livez;/metrics",
    ]
    for path in [*sorted(paths), *odd]:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"):
            with socket.create_connection((guarded.base_url.host, guarded.base_url.port or 0), timeout=5) as raw:
                raw.sendall(f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
                assert raw.recv(100).startswith(b"HTTP/1.1 401 "), (method, path)


def test_a_body_is_not_waited_for_without_a_key(guarded: httpx.Client) -> None:
    """The answer comes while the body is still to be sent."""
    address = (guarded.base_url.host, guarded.base_url.port or 0)
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(b"POST " + CLASSIFY.encode() + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")


def test_a_quota_is_charged_in_views_before_anything_is_queued(guarded: httpx.Client, plain: Plain) -> None:
    """0.001 views a second: what is saved up is less than a view, so the first request empties it."""
    assert guarded.post(CLASSIFY, content=plain("red"), headers=bearer(SLOW)).status_code == 200
    refused = guarded.post(CLASSIFY, content=plain("red"), headers=bearer(SLOW))
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert 990 <= int(refused.headers["Retry-After"]) <= 1000
    results = guarded.post(CLASSIFY, files=[("images", ("a.png", plain("red")))] * 2, headers=bearer(SLOW)).json()
    assert [each["code"] for each in results["results"]] == ["rate_limited"] * 2
    bad = guarded.post(CLASSIFY, content=b"no image", headers=bearer(SLOW))
    assert bad.status_code == 415, "what costs nothing is not charged"
    assert guarded.post(CLASSIFY, content=plain("red"), headers=bearer(INFER)).status_code == 200
    series = guarded.get("/metrics", headers=bearer(METRICS)).text
    assert 'nv_inference_request_failure{model="colours",reason="REJECTED",version="1"} 2\n' in series


def test_larger_views_and_members_are_charged_as_several(
    tmp_path: Path, plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 32 x 8 at native 8 x 8: ten crops are six different views, the dense one costs four; an ensemble both."""
    charged: list[int] = []
    monkeypatch.setattr(Caller, "charge", lambda _, views: charged.append(views))
    write_colour_bundle(tmp_path, "any", dynamic=True, macs=1000)
    (tmp_path / "both").mkdir()
    members = [f'[[members]]\nmodel = "any"\nviews = "{views}"\n' for views in ("ten_crop", "dense")]
    (tmp_path / "both" / "ensemble.toml").write_text("\n".join(members))
    image = plain("red", (32, 8))
    with serve(Settings(repository=tmp_path, port=0)) as client:
        for name, views in (("any", "ten_crop"), ("any", "dense"), ("both", None), ("any", "none")):
            client.post(f"/v1/models/{name}:classify", content=image, params={"views": views} if views else {})
    assert charged == [6, 4, 10]


def test_the_other_protocol_has_the_same_gate_and_quota(guarded: httpx.Client, plain: Plain) -> None:
    """And tells in `error`, all that its clients read; `slow` has spent its quota above, or does so here."""
    url, raw = "/v2/models/colours-center/infer", {"Inference-Header-Content-Length": "0"}
    answers = [guarded.post(url, content=plain("red"), headers={**bearer(SLOW), **raw}) for _ in range(2)]
    assert (answers[1].status_code, answers[1].json()["code"]) == (429, "rate_limited")
    assert answers[1].json()["error"] == answers[1].json()["detail"]
    pixels = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [0] * 192}
    tensors = guarded.post("/v2/models/colours/infer", json={"inputs": [pixels]}, headers=bearer(SLOW))
    assert (tensors.status_code, tensors.json()["code"]) == (429, "rate_limited")
    assert guarded.get("/v2").json()["error"] == guarded.get("/v2").json()["detail"]


def test_our_own_client_brings_its_key(guarded: httpx.Client) -> None:
    with Client(str(guarded.base_url), api_key=INFER) as client:
        assert client.model("colours").name == "colours"
    with Client(str(guarded.base_url)) as client, pytest.raises(ClientError, match="needs an API key") as refused:
        client.model("colours")
    assert (refused.value.status, refused.value.code) == (401, "unauthorized")


def test_without_a_file_of_keys_everything_is_open(client: httpx.Client) -> None:
    assert client.get("/v1/models").status_code == 200
    assert client.get("/metrics", headers=bearer("anything")).status_code == 200


def test_a_bucket_by_hand() -> None:
    """10 views a second, 100 saved up."""
    bucket = Bucket(10.0, now=0.0)
    assert bucket.take(60, 0.0) == 0.0
    assert bucket.take(60, 0.0) == pytest.approx(2.0)
    assert bucket.take(60, 1.9) == pytest.approx(0.1)
    assert bucket.take(60, 2.0) == 0.0
    assert bucket.take(1, 1.0) == pytest.approx(0.1), "a clock of another thread that is a little behind"
    assert bucket.take(150, 5.0) == pytest.approx(7.0), "more than it holds waits until it is full"
    assert bucket.take(150, 12.0) == 0.0
    assert bucket.take(1, 16.0) == pytest.approx(1.1), "and leaves it 50 in debt"


@pytest.mark.parametrize("seed", range(20))
def test_a_bucket_never_gives_more_than_its_rate(seed: int) -> None:
    """Whoever asks again after just the time that was told gets it; over any time the mean rate holds."""
    chance = random.Random(seed)
    rate, now, given = chance.uniform(0.5, 200), 0.0, 0
    bucket = Bucket(rate, now)
    for _ in range(500):
        views = chance.choice([1, 10, 144, 150])
        wait = bucket.take(views, now)
        if wait:
            now += wait
            assert bucket.take(views, now) == 0.0
        given += views
        assert given <= rate * (now + BURST_SECONDS) + 150
        now += chance.choice([0.0, chance.expovariate(rate / 20)])


def test_a_caller_is_told_when_to_come_back() -> None:
    clock = Clock()
    caller = Caller("alice", frozenset({"infer"}), Bucket(10.0, clock.now), clock)
    caller.charge(100)
    with pytest.raises(QuotaExceededError, match=r"alice may have 10 views a second.* 10 s") as refused:
        caller.charge(99)
    assert refused.value.retry_after == pytest.approx(9.9)
    clock.now += 9.9
    caller.charge(99)
    with pytest.raises(ForbiddenError, match="infer; this route needs admin"):
        caller.require("admin")
    ANYBODY.charge(10**9)
    ANYBODY.require("admin")


def test_the_file_is_read_again_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, clock = tmp_path / "keys.toml", Clock()
    path.write_text(entry("alice", "one", "infer", rate=10) + entry("bob", "two", "admin"))
    keys = KeyFile(path, clock)
    keys.find("one").charge(100)
    path.write_text(entry("alice", "new", "infer", rate=10))
    assert keys.find("one").name == "alice", "not looked at within a second"
    clock.now += 1.0
    for gone in ("one", "two"):
        with pytest.raises(UnauthorizedError):
            keys.find(gone)
    assert keys.find("new").name == "alice"
    with pytest.raises(QuotaExceededError):
        keys.find("new").charge(11)  # what was used under the old key is not given back
    caplog.set_level(logging.ERROR)
    for broken in ("nonsense", "", entry("a", "x", "root"), entry("a b", "x", "infer"), None):
        clock.now += 1.0
        if broken is None:
            path.unlink()
        else:
            path.write_text(broken)
        assert keys.find("new").name == "alice", broken
    assert caplog.text.count("the keys before it stay") == 5
    path.write_text(entry("carol", "three", "infer"))
    clock.now += 1.0
    assert keys.find("three").name == "carol"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[keys]]\nname = "a"\nsha256 = "secret-key-in-clear"\n', "keys.0.sha256"),
        (entry("a", "x", "infer") + entry("a", "y", "infer"), "a name stands there twice"),
        (entry("a", "x", "infer") + entry("b", "x", "infer"), "a sha256 stands there twice"),
        (entry("a", "x", "infer", rate=-1), "views_per_second"),
        (entry("a", "x", "infer") + 'key = "secret-key-in-clear"', "keys.0.key"),
        ("secret-key-in-clear", "is no TOML file"),
        ("keys = []", "keys"),
        (entry("a", "x"), "scopes"),
    ],
)
def test_a_wrong_file_stops_the_start_and_is_not_repeated(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(KeyFileError, match=said) as refused:
        KeyFile(path)
    assert "secret-key-in-clear" not in str(refused.value)


def test_the_command_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--repository", str(tmp_path), "--keys", str(tmp_path / "none.toml")]) == 2
    assert "none.toml cannot be read" in capsys.readouterr().err


def test_every_entry_is_compared_whoever_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of an answer tells nothing of which key was nearly right, or stands first."""
    path = tmp_path / "keys.toml"
    path.write_text("".join(entry(f"k{number}", f"key {number}", "infer") for number in range(5)))
    keys, compared = KeyFile(path), []

    def compare(one: bytes, two: bytes) -> bool:
        compared.append(one)
        return one == two

    monkeypatch.setattr("service.auth.hmac.compare_digest", compare)
    assert keys.find("key 0").name == "k0"
    with pytest.raises(UnauthorizedError):
        keys.find("nobody's")
    assert len(compared) == 10


def test_a_key_of_any_characters_is_looked_up(tmp_path: Path) -> None:
    """Headers are Latin-1: what comes is hashed as UTF-8 of that, and matches nothing by accident."""
    path = tmp_path / "keys.toml"
    path.write_text(entry("a", "x", "infer"))
    keys = KeyFile(path)
    for odd in ("\x80\xff", "x\x00", " x", "X", os.fsdecode(b"\xff")):
        with pytest.raises(UnauthorizedError):
            keys.find(odd)


def test_the_line_of_the_documentation_makes_a_key() -> None:
    found = re.search(r"^python (-c .*hashlib.*)$", OPERATIONS.read_text(), re.MULTILINE)
    assert found
    printed = subprocess.run([sys.executable, *shlex.split(found[1])], capture_output=True, text=True, check=True)
    key, digest = printed.stdout.split()
    assert len(key) >= 32
    assert hashlib.sha256(key.encode()).hexdigest() == digest


def test_the_example_of_the_documentation_is_read(tmp_path: Path) -> None:
    found = re.search(r"```toml\n(\[\[keys\]\].*?)```", OPERATIONS.read_text(), re.DOTALL)
    assert found
    (tmp_path / "keys.toml").write_text(found[1])
    assert [key.name for key in read_keys(tmp_path / "keys.toml")] == ["alice", "prometheus"]
