"""How an answer is written."""

from typing import Any

from service.transport import Answer


class Wire:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def answer_on(wire: Any) -> Answer:
    return Answer(wire)


def test_a_head_leaves_with_the_first_part_of_its_body() -> None:
    answer = answer_on(wire := Wire())
    for part in (b"HTTP/1.1 200 OK\r\n\r\n", b"one", b"two"):
        answer.write(part)
    assert wire.written == [b"HTTP/1.1 200 OK\r\n\r\none", b"two"]


def test_a_head_whose_body_is_empty_leaves_with_that() -> None:
    answer = answer_on(wire := Wire())
    answer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert wire.written == []
    answer.write(b"")
    assert wire.written == [b"HTTP/1.1 204 No Content\r\n\r\n"]


def test_who_waits_for_100_continue_has_it_at_once() -> None:
    answer = answer_on(wire := Wire())
    answer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert wire.written == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    answer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    answer.write(b"body")
    assert wire.written[1:] == [b"HTTP/1.1 200 OK\r\n\r\nbody"]


def test_a_body_that_looks_like_a_head_is_written_like_any_other() -> None:
    answer = answer_on(wire := Wire())
    for part in (b"HTTP/1.1 200 OK\r\n\r\n", b"", b"HTTP/1.1 100 Continue\r\n\r\n"):
        answer.write(part)
    assert wire.written == [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]


def test_a_head_without_its_body_leaves_before_the_connection_closes() -> None:
    answer = answer_on(wire := Wire())
    answer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    assert not answer.is_closing()
    answer.close()
    assert (wire.written, wire.closed, answer.is_closing()) == ([b"HTTP/1.1 200 OK\r\n\r\n"], True, True)
