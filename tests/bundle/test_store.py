"""Bundles on disk: whole or not there, unchanged or refused by name."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle.errors import BundleError, BundleExistsError
from bundle.store import check_name, names, open_bundle, parse_labels, versions, write_bundle
from samples import files, golden, manifest

FILES = ["manifest.json", "model.onnx", "labels.txt", "golden.npz"]


def publish(repository: Path, name: str = "lenet", version: int | None = None) -> Path:
    return write_bundle(repository, name, manifest(), files(), version)


def everything(folder: Path) -> list[str]:
    """What lies in the folder, hidden things too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- round trip


def test_a_bundle_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = publish(tmp_path / "new" / "repository")
    assert folder == tmp_path / "new" / "repository" / "lenet" / "1"
    bundle = open_bundle(tmp_path / "new" / "repository", "lenet", 1)
    assert (bundle.name, bundle.version) == ("lenet", 1)
    assert bundle.model == b"a graph"
    assert bundle.labels == ("cat", "dog", "cow")
    np.testing.assert_array_equal(bundle.golden.logits, golden().logits)
    assert bundle.manifest.files.keys() == files().keys()
    assert bundle.digest == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def test_only_the_bundle_is_left_behind(tmp_path: Path) -> None:
    publish(tmp_path)
    assert everything(tmp_path) == sorted(["lenet", "lenet/1", *(f"lenet/1/{file}" for file in FILES)])


def test_the_same_bundle_has_the_same_digest_everywhere(tmp_path: Path) -> None:
    publish(tmp_path / "here")
    publish(tmp_path / "there", "other", version=7)
    here, there = open_bundle(tmp_path / "here", "lenet", 1), open_bundle(tmp_path / "there", "other", 7)
    assert here.digest == there.digest


def test_other_users_may_read_a_bundle(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert all((folder / file).stat().st_mode & 0o044 == 0o044 for file in FILES)


# --- versions


def test_the_next_version_is_the_largest_plus_one(tmp_path: Path) -> None:
    publish(tmp_path, version=9)
    publish(tmp_path, version=3)
    assert publish(tmp_path).name == "10"
    assert versions(tmp_path, "lenet") == [3, 9, 10]


def test_a_version_is_written_once(tmp_path: Path) -> None:
    publish(tmp_path, version=3)
    before = everything(tmp_path)
    with pytest.raises(BundleExistsError, match="lenet has a version 3; leave --version out, or choose another"):
        publish(tmp_path, version=3)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("version", [0, -1, 10**9])
def test_a_version_that_no_reader_would_see_is_refused(tmp_path: Path, version: int) -> None:
    with pytest.raises(BundleError, match=f"{version} is no version"):
        publish(tmp_path, version=version)
    assert everything(tmp_path) == []


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_a_file_or_dead_link_named_like_a_version_is_passed_over(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    """The next version was tried for ever."""
    (tmp_path / "lenet").mkdir()
    make(tmp_path / "lenet" / "1")
    assert publish(tmp_path).name == "2"
    with pytest.raises(BundleExistsError):
        publish(tmp_path, version=1)


def test_what_is_no_version_is_passed_over(tmp_path: Path) -> None:
    publish(tmp_path)
    for folder in ("0", "01", "-2", "2.0", "v3", ".4", "\u0665"):
        (tmp_path / "lenet" / folder).mkdir()
    (tmp_path / "lenet" / "serving.toml").touch()
    assert versions(tmp_path, "lenet") == [1]
    assert publish(tmp_path).name == "2"


def test_an_unknown_model_has_no_versions(tmp_path: Path) -> None:
    assert versions(tmp_path, "ghost") == []
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(tmp_path, "ghost", 1)


def test_names_are_the_models_in_order(tmp_path: Path) -> None:
    for name in ("vgg16", "alexnet", "ResNet-18_a.b"):
        publish(tmp_path, name)
    (tmp_path / ".alexnet-being-written").mkdir()
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "notes.txt").touch()
    assert names(tmp_path) == ["ResNet-18_a.b", "alexnet", "vgg16"]


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a\\b", ".hidden", "-x", "a b", "ä", "a\n", "x" * 65])
def test_a_name_that_is_no_plain_word_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="is no model name; use letters, digits"):
        publish(tmp_path / "repository", name)
    assert everything(tmp_path) == []


@pytest.mark.parametrize("name", ["a", "7", "vgg16", "ResNet-50_v1.5", "x" * 64])
def test_a_plain_word_is_a_name(name: str) -> None:
    assert check_name(name) == name


# --- a kill in the middle, and two at once


class Killed(BaseException):
    """Nothing expects it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, n: int, error: BaseException) -> Callable[[], bool]:
    """Makes the n-th call of `owner.name` raise; the answer tells whether it came to that."""
    calls = 0
    original = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == n:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)
    return lambda: calls >= n


@pytest.mark.parametrize("error", [Killed(), OSError(errno.ENOSPC, "no space left")])
@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "rename"), (Path, "open"), (Path, "mkdir")])
def test_a_writer_that_dies_leaves_the_whole_bundle_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: BaseException
) -> None:
    deaths = 0
    for n in range(1, 20):
        repository = tmp_path / str(n)
        with monkeypatch.context() as patch:
            died = kill_at(patch, owner, name, n, error)
            try:
                publish(repository)
            except type(error):
                deaths += 1
        if versions(repository, "lenet"):
            assert open_bundle(repository, "lenet", 1).model == b"a graph"
        else:
            assert not repository.exists() or not [path for path in repository.rglob("*") if path.name != "lenet"]
        if not died():
            assert versions(repository, "lenet") == [1]
            break
        version = publish(repository).name
        assert version in {"1", "2"}
    assert deaths >= 1


@pytest.mark.parametrize("n", [1, 5])
def test_a_writer_that_is_killed_leaves_nothing_visible(tmp_path: Path, n: int) -> None:
    program = f"""
import os, pathlib, sys
from bundle.store import write_bundle
from samples import files, manifest
calls = iter(range(1, {n}))
os.fsync = lambda descriptor: next(calls, None) or os._exit(9)
write_bundle(pathlib.Path(sys.argv[1]), "lenet", manifest(), files())
"""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])}
    command = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(command, env=environment, check=False).returncode == 9
    assert names(tmp_path) == []
    assert versions(tmp_path, "lenet") == []
    assert publish(tmp_path).name == "1"


def test_a_failed_write_leaves_no_empty_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_at(monkeypatch, Path, "rename", 1, OSError(errno.EIO, "a broken disk"))
    with pytest.raises(OSError, match="a broken disk"):
        publish(tmp_path)
    assert everything(tmp_path) == []


def test_a_bundle_is_on_the_disk_before_it_is_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    def note(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*args: Any) -> Any:
            events.append(name)
            return original(*args)

        monkeypatch.setattr(owner, name, call)

    note(os, "fsync")
    note(Path, "rename")
    publish(tmp_path)
    assert events == ["fsync"] * 5 + ["rename"] + ["fsync"] * 2  # four files and their folder; the two that changed


def test_racing_writers_get_a_version_each(tmp_path: Path) -> None:
    writers = 8
    together = threading.Barrier(writers)
    folders: list[Path] = []

    def write() -> None:
        together.wait()
        folders.append(publish(tmp_path))

    threads = [threading.Thread(target=write) for _ in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(folder.name) for folder in folders) == versions(tmp_path, "lenet") == list(range(1, writers + 1))
    assert names(tmp_path) == ["lenet"]
    assert all(open_bundle(tmp_path, "lenet", version).model == b"a graph" for version in range(1, writers + 1))
    assert not list(tmp_path.glob(".*"))


def test_a_writer_that_loses_the_race_takes_the_next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def lose_once(aside: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        publish(tmp_path)  # another one is quicker
        return rename(aside, target)

    monkeypatch.setattr(Path, "rename", lose_once)
    assert publish(tmp_path).name == "2"


def test_of_two_writers_of_one_version_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def lose(aside: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        publish(tmp_path, version=5)
        return rename(aside, target)

    monkeypatch.setattr(Path, "rename", lose)
    with pytest.raises(BundleExistsError):
        publish(tmp_path, version=5)
    assert versions(tmp_path, "lenet") == [5]
    assert not list(tmp_path.glob(".*"))


# --- damage


@pytest.mark.parametrize("file", FILES[1:])
def test_a_changed_byte_is_refused_by_name(tmp_path: Path, file: str) -> None:
    path = publish(tmp_path) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=rf"^{file} is not the file that was exported"):
        open_bundle(tmp_path, "lenet", 1)


@pytest.mark.parametrize("change", [lambda old: old[:-1], lambda old: old + b"\n", lambda _: b""])
def test_a_file_of_another_length_is_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = publish(tmp_path) / "labels.txt"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BundleError, match=r"^labels\.txt is not the file that was exported"):
        open_bundle(tmp_path, "lenet", 1)


def test_a_changed_manifest_has_another_digest_or_is_refused(tmp_path: Path) -> None:
    """Its own digest is the bundle's name: whoever pins that notices."""
    path = publish(tmp_path) / "manifest.json"
    before, content = open_bundle(tmp_path, "lenet", 1).digest, path.read_bytes()
    path.write_bytes(content.replace(b'"macs":416520', b'"macs":416521'))
    assert open_bundle(tmp_path, "lenet", 1).digest != before
    path.write_bytes(content.replace(b'"manifest":1', b'"manifest":2'))
    with pytest.raises(BundleError, match=r"^manifest\.json: manifest: "):
        open_bundle(tmp_path, "lenet", 1)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_refused_by_name(tmp_path: Path, file: str) -> None:
    (publish(tmp_path) / file).unlink()
    with pytest.raises(BundleError, match=f"^{file} cannot be read"):
        open_bundle(tmp_path, "lenet", 1)


@pytest.mark.parametrize("file", FILES)
def test_a_linked_file_is_refused_by_name(tmp_path: Path, file: str) -> None:
    path = publish(tmp_path) / file
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=f"^{file} is a link or no file; a bundle holds plain files"):
        open_bundle(tmp_path, "lenet", 1)


@pytest.mark.parametrize("file", FILES)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, file: str) -> None:
    path = publish(tmp_path) / file
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BundleError, match=f"^{file} is a link or no file"):
        open_bundle(tmp_path, "lenet", 1)


def test_a_linked_model_is_neither_written_nor_read(tmp_path: Path) -> None:
    publish(tmp_path / "elsewhere")
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "lenet").symlink_to(tmp_path / "elsewhere" / "lenet")
    with pytest.raises(BundleError, match="lenet is a symbolic link in the repository"):
        publish(repository)
    with pytest.raises(BundleError, match=r"^lenet is a link or a file"):
        open_bundle(repository, "lenet", 1)


def test_a_linked_version_is_not_read(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / "lenet" / "2").symlink_to("1")
    with pytest.raises(BundleError, match=r"^2 is a link or a file"):
        open_bundle(tmp_path, "lenet", 2)


@pytest.mark.parametrize("file", FILES[1:])
def test_a_manifest_that_names_too_few_files_is_refused(tmp_path: Path, file: str) -> None:
    fewer = {name: content for name, content in files().items() if name != file}
    write_bundle(tmp_path, "lenet", manifest(), fewer)
    with pytest.raises(BundleError, match=rf"^manifest\.json names no {file}; export the bundle again"):
        open_bundle(tmp_path, "lenet", 1)


@pytest.mark.parametrize("name", ["../model.onnx", "/tmp/model.onnx", "a/b", ".x", ""])  # noqa: S108 nothing is written
def test_a_file_outside_the_bundle_is_never_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json: files"):
        write_bundle(tmp_path / "repository", "lenet", manifest(), {**files(), name: b"x"})
    assert everything(tmp_path) in ([], ["repository"])


# --- labels


@pytest.mark.parametrize(
    "content",
    [
        b"cat\ndog\ncow\n",
        b"cat\ndog\ncow",
        b"cat\r\ndog\r\ncow\r\n",
        b" cat \ndog\t\ncow\n",
        b"\xef\xbb\xbfcat\ndog\ncow\n",
    ],
)
def test_labels_are_one_a_line_however_they_were_saved(content: bytes) -> None:
    assert parse_labels(content, 3) == ("cat", "dog", "cow")


def test_labels_are_unicode_and_may_hold_commas() -> None:
    assert parse_labels("tench, Tinca tinca\nKäse\n鳥\n".encode(), 3) == ("tench, Tinca tinca", "Käse", "鳥")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"cat\ndog\n", "there are 2 labels for 3 classes"),
        (b"cat\ndog\ncow\nhen\n", "there are 4 labels for 3 classes"),
        (b"cat\ndog\ncow\n\n", "there are 4 labels for 3 classes"),
        (b"", "there are 1 labels for 3 classes"),
        (b"cat\n\ncow\n", "label 2 is empty"),
        (b"cat\ndog\n \n", "label 3 is empty"),
        (b"cat\ndog\nK\xe4se\n", "the labels are not UTF-8"),
        ("cat\ndog\ncow".encode("utf-16"), "the labels are not UTF-8"),
    ],
)
def test_unusable_labels_are_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(BundleError, match=problem):
        parse_labels(content, 3)
    write_bundle(tmp_path, "lenet", manifest(), {**files(), "labels.txt": content})
    with pytest.raises(BundleError, match=problem):
        open_bundle(tmp_path, "lenet", 1)
