"""Files beside the versions: a reader sees the old content or the new, and what is wrong is said by name."""

import os
import threading
from pathlib import Path

import pytest

from bundle.beside import read_json, read_toml, write_text
from bundle.errors import BundleError
from bundle.manifest import Facts


class Wish(Facts):
    number: int
    words: tuple[str, ...] = ()


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path, contents = tmp_path / "file.json", ["a" * 1_000_000, "b" * 1_500_000]
    write_text(path, contents[0])
    done = threading.Event()

    def write() -> None:
        for turn in range(40):
            write_text(path, contents[turn % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_text())
    writer.join()
    assert seen <= set(contents)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


def test_who_has_the_old_file_open_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_text(path, "old")
    with path.open() as reader:
        write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_what_cannot_be_written_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


def test_folders_are_made_and_everyone_may_read(tmp_path: Path) -> None:
    path = tmp_path / "cats" / "plans" / "mine.toml"
    write_text(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_that_is_being_written_is_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers look for *.toml, and pathlib's * matches hidden names too."""
    seen: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.extend(str(path) for path in tmp_path.glob("*.toml")))
    write_text(tmp_path / "mine.toml", "")
    assert seen == []


def test_a_mark_before_the_text_is_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "wish.toml"
    path.write_bytes(b"\xef\xbb\xbfnumber = 1\r\nwords = ['a']\r\n")
    assert read_toml(path, Wish, lambda wish: wish) == Wish(number=1, words=("a",))


def test_what_is_made_of_a_file_may_refuse_it(tmp_path: Path) -> None:
    path = tmp_path / "wish.toml"
    path.write_text("number = 1")
    assert read_toml(path, Wish, lambda wish: wish.number + 1) == 2
    with pytest.raises(BundleError, match=r"^wish\.toml: number: Input should be a valid integer"):
        read_toml(path, Wish, lambda _: Wish.model_validate({"number": "x"}))


def test_a_long_value_is_cut_in_the_message(tmp_path: Path) -> None:
    path = tmp_path / "wish.toml"
    path.write_text(f'number = "{"x" * 1000}"')
    with pytest.raises(BundleError) as caught:
        read_toml(path, Wish, lambda wish: wish)
    assert len(str(caught.value)) < 150


def test_no_json_is_none_and_damaged_json_an_error(tmp_path: Path) -> None:
    path = tmp_path / "wish.json"
    assert read_json(path, Wish) is None
    path.write_text('{"number": 3}')
    assert read_json(path, Wish) == Wish(number=3)
    path.write_text('{"number": 3')
    with pytest.raises(BundleError, match=r"^wish\.json: Invalid JSON: "):
        read_json(path, Wish)
    path.unlink()
    path.mkdir()
    with pytest.raises(BundleError, match=r"^wish\.json is no file; write a plain one$"):
        read_json(path, Wish)


def test_a_broken_link_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "wish.json").symlink_to(tmp_path / "nowhere")
    assert read_json(tmp_path / "wish.json", Wish) is None


def test_a_pipe_in_the_place_of_a_file_does_not_keep_the_reader_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "wish.toml")
    with pytest.raises(BundleError, match=r"^wish\.toml is no file; write a plain one$"):
        read_toml(tmp_path / "wish.toml", Wish, lambda wish: wish)
