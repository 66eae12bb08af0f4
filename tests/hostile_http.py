"""Requests and connections that nobody means well with."""

import re
import socket

from catalogue import (
    ADMIN,
    INFER,
    MAX_IMAGE_BYTES,
    METRICS,
    PATH,
    POOR,
    RED,
    Answer,
    Case,
    One,
    Served,
    received,
)

KEY = b"X-API-Key: %s\r\n" % INFER.encode()
POST = b"POST %s HTTP/1.1\r\nHost: a\r\n" % PATH.encode() + KEY
LIVE = b"GET /livez HTTP/1.1\r\nHost: a\r\n"
BAD, CHUNKED = "400 bad_request", b"Transfer-Encoding: chunked\r\n\r\n"


def raw(data: bytes, method: str = "POST") -> One:
    return lambda served: served.raw(data, method)


def chunked(data: bytes) -> One:
    return raw(POST + CHUNKED + data)


def endless_header(served: Served) -> Answer:
    return served.raw([LIVE + b"X: ", *[b"y" * (1 << 20)] * 30, b"\r\n\r\n"], "GET")


def million_chunks(served: Served) -> Answer:
    return served.raw([POST + CHUNKED, *[b"1\r\na\r\n" * 10_000] * 100, b"0\r\n\r\n"])


def over_the_cap_in_chunks(served: Served) -> Answer:
    chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    return served.raw([POST + CHUNKED, *[chunk] * (MAX_IMAGE_BYTES // (1 << 16) + 1), b"0\r\n\r\n"])


def over_the_cap_announced(served: Served) -> Answer:
    """Refused without its body; and where the client waits to be asked for it, it is not."""
    with served.connect() as connection:
        length = b"Content-Length: %d\r\n" % (MAX_IMAGE_BYTES + 1)
        connection.sendall(POST + length + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL) == b"HTTP/1.1 413"
        return received(connection)


def random_methods(served: Served) -> list[Answer]:
    """In the metrics all of them are `other`: the number of series is bounded."""
    words = ["PROPFIND", "MKCOL", "LOCK", "PURGE", "REPORT", "SEARCH", "QUERY", "M-SEARCH", "LINK", "REBIND"]
    made = ["".join(chr(65 + (seed * 7 + place * 11) % 26) for place in range(8)) for seed in range(100)]
    lines = [f"{word} {PATH} HTTP/1.1\r\nHost: a\r\n".encode() for word in words + made]
    answers = [served.raw(line + key + b"\r\n") for line in lines for key in (KEY, b"")]
    labels = set(re.findall(r'method="([^"]*)"', served.ask("GET", "/metrics", key=METRICS).body.decode()))
    assert "other" in labels
    assert labels <= {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"}
    return answers


def keyless(*lines: bytes) -> One:
    """Answered before the body, which never comes."""

    def act(served: Served) -> Answer:
        header = b"POST %s HTTP/1.1\r\nHost: a\r\n" % PATH.encode()
        answer = served.raw(header + b"".join(lines) + b"Content-Length: 1000\r\n\r\n")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        return answer

    return act


def admin_route(served: Served) -> Answer:
    return served.ask("POST", "/v1/repository/reload", key=INFER)


def admin_route_by_another_name(served: Served) -> Answer:
    return served.ask("POST", "/v2/repository/models/colours/unload", key=INFER)


def forged_address(served: Served) -> Answer:
    """A quota is a key's, wherever it says that it comes from."""
    answers = [
        served.ask("POST", PATH, key=POOR, content=RED, headers={"X-Forwarded-For": f"10.0.0.{number}"})
        for number in range(2)
    ]
    return answers[-1]


ODD = '\r\n{"message": "forged"}\x1b[2J\U0001f600'


def odd_path(served: Served) -> Answer:
    return served.ask("GET", "/" + "".join(f"%{byte:02x}" for byte in ODD.encode()))


def odd_agent(served: Served) -> Answer:
    return served.ask("GET", "/livez", headers={"User-Agent": b"\xf0\x9f\x98\x80 \x85"})


def request_id(given: bytes) -> One:
    def act(served: Served) -> Answer:
        answer = served.raw(LIVE + b"X-Request-Id: %s\r\n\r\n" % given, "GET")
        assert not answer.headers or re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
        return answer

    return act


def encoded(encoding: str) -> One:
    return lambda served: served.classify(RED, Content_Encoding=encoding)


def typed(kind: str | None) -> One:
    return lambda served: served.classify(RED, **({"Content_Type": kind} if kind else {}))


def queried(query: str) -> One:
    return lambda served: served.classify(RED, f"?{query}")


def named(name: str) -> One:
    return raw(
        b"POST /v1/models/%s:classify HTTP/1.1\r\nHost: a\r\n" % name.encode() + KEY + b"Content-Length: 0\r\n\r\n"
    )


NAMES = {
    "dots": "..%2f..", "dots-twice-encoded": "%252e%252e%252f", "nul": "%00", "backslashes": "\\..\\",
    "10-kb": "a" * 10_240, "look-alike": "c%D0%BElours", "trailing-space": "colours%20", "drive": "C:%5c",
}  # fmt: skip
HOSTS = {"slash": b"a/x", "query": b"a?x", "fragment": b"a#x", "user": b"u@a", "space": b"a b", "empty": b""}
ENCODED = "415 media_type_unsupported"

CASES = [
    Case("H01-one-header-of-30-mb", endless_header, "431 headers_too_large"),
    Case("H02-101-headers", raw(LIVE + b"X: y\r\n" * 100 + b"\r\n", "GET"), "431 headers_too_large"),
    Case("H03-no-host", raw(b"GET /livez HTTP/1.1\r\n\r\n", "GET"), "400 bad_host"),
    Case("H03-two-hosts", raw(LIVE + b"Host: a\r\n\r\n", "GET"), "400 bad_host"),
    *(
        Case(f"H04-host-with-{name}", raw(b"GET /livez HTTP/1.1\r\nHost: %s\r\n\r\n" % host, "GET"), "400 bad_host")
        for name, host in HOSTS.items()
    ),
    Case("H05-content-length-and-chunked", raw(POST + b"Content-Length: 3\r\n" + CHUNKED + b"0\r\n\r\n"), BAD),
    Case("H05-chunked-and-content-length", raw(POST + CHUNKED[:-2] + b"Content-Length: 3\r\n\r\n0\r\n\r\n"), BAD),
    Case("H06-two-lengths", raw(POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"), BAD),
    *(
        Case(f"H06-length-{name}", raw(POST + b"Content-Length: %s\r\n\r\nabc" % length), BAD)
        for name, length in {"signed": b"+13", "negative": b"-1", "huge": b"1" + b"0" * 22, "list": b"3, 3"}.items()
    ),
    *(
        Case(f"H07-{name}", raw(POST + b"Transfer-Encoding: %s\r\n\r\n0\r\n\r\n" % coding), BAD)
        for name, coding in {
            "xchunked": b"xchunked",
            "gzip-chunked": b"gzip, chunked",
            "twice": b"chunked, chunked",
        }.items()
    ),
    Case("H08-chunk-without-its-end", chunked(b"1\r\naXX0\r\n\r\n"), BAD),
    Case("H08-chunk-longer-than-it-says", chunked(b"1\r\nab\r\n0\r\n\r\n"), BAD),
    Case("H09-chunk-of-2-to-the-64", chunked(b"10000000000000000\r\n"), BAD),
    Case("H09-chunk-of-2-to-the-64-less-one", chunked(b"FFFFFFFFFFFFFFFF\r\nab"), "408 request_timeout | " + BAD),
    Case("H10-1-000-000-chunks-of-a-byte", million_chunks, "400 too_many_chunks", repeated=True),
    Case("H11-bare-newline", raw(b"GET /livez HTTP/1.1\nHost: a\n\n", "GET"), BAD),
    Case("H11-folded-line", raw(LIVE + b"X: b\r\n c\r\n\r\n", "GET"), BAD),
    Case("H11-nul-in-a-value", raw(LIVE + b"X: b\0c\r\n\r\n", "GET"), BAD),
    Case("H11-space-before-the-colon", raw(LIVE + b"X : b\r\n\r\n", "GET"), BAD),
    Case("H12-unknown-method", raw(b"FOO /livez HTTP/1.1\r\nHost: a\r\n\r\n"), BAD, why="the parser's list is closed"),
    Case("H12-random-methods", random_methods, f"401 unauthorized | 405 method_not_allowed | {BAD}"),
    Case("H13-trace", raw(LIVE.replace(b"GET", b"TRACE") + b"\r\n"), "405 method_not_allowed"),
    Case("H13-connect", raw(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"), BAD, why="its target is no path"),
    *(
        Case(f"H14-model-{name}", named(text), "404 model_not_found | 404 route_not_found", why="a slash is a slash")
        for name, text in NAMES.items()
    ),
    Case("H15-announced-over-the-cap", over_the_cap_announced, "413 body_too_large"),
    Case("H16-over-the-cap-in-chunks", over_the_cap_in_chunks, "413 body_too_large"),
    *(
        Case(f"H17-{encoding}", encoded(encoding), ENCODED)
        for encoding in ("gzip", "br", "zstd", "deflate", "x" * 9999)
    ),
    *(
        Case(f"H18-{name}", typed(kind), "200", why="the bytes decide")
        for name, kind in {
            "no-type": None,
            "html": "text/html",
            "no-type-at-all": "x" * 9999,
            "other": "image/gif",
        }.items()
    ),
    Case("H18-multipart-that-is-none", typed("multipart/form-data; boundary=b"), "400 multipart_invalid"),
    Case("H18-json-that-is-none", typed("application/json"), "400 json_invalid"),
    Case(
        "H19-websocket",
        raw(LIVE + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n", "GET"),
        "200",
        why="a server may pass over an offer (RFC 9110, 7.8)",
    ),
    Case("H19-http-2", raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), BAD),
    Case("H26-no-key", keyless(), "401 unauthorized"),
    Case("H26-wrong-key", keyless(b"Authorization: Bearer nobody\r\n"), "401 unauthorized"),
    Case("H26-two-keys", keyless(KEY, b"X-API-Key: %s\r\n" % ADMIN.encode()), "401 unauthorized"),
    Case("H26-key-of-20-kb", keyless(b"X-API-Key: " + b"x" * 20_000 + b"\r\n"), "401 unauthorized"),
    Case("H27-admin-route", admin_route, "403 forbidden"),
    Case("H27-admin-route-of-v2", admin_route_by_another_name, "403 forbidden"),
    Case("H28-forged-address", forged_address, "429 rate_limited"),
    Case("H29-odd-path", odd_path, "404 route_not_found"),
    Case("H29-odd-agent", odd_agent, "200"),
    Case("H29-escape-in-agent", raw(LIVE + b"User-Agent: \x1b[2J\r\n\r\n", "GET"), f"200 | {BAD}"),
    Case("H30-id-of-10-kb", request_id(b"a" * 10_240), "200"),
    Case("H30-id-that-is-no-token", request_id(b'a"; {x}'), "200"),
    Case("H31-unknown-option", queried("colour=red"), "422 unknown_parameter"),
    Case("H32-option-twice", queried("top_k=1&top_k=1"), "422 invalid_parameter"),
]
