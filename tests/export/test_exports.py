"""When a bundle is up to date: weights, options and code are those that it was made from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundle.errors import BundleError
from bundle.store import open_bundle
from export import exports
from export.errors import WeightsError
from export.exports import EXPORTS, Export, code_digest, export_key, find_export, read_exports, record
from export.jobs import FreezeJob
from little import write

KEY, OTHER = "a" * 64, "b" * 64


def export(key: str = KEY) -> Export:
    return Export(key=key, batchnorm_nodes=0, seconds=1.5, peak_mib=100)


def job(repository: Path, **changes: Any) -> FreezeJob:
    return FreezeJob(**{"network": "lenet5", "weights": "random:0", "repository": repository, **changes})


def publish(repository: Path, key: str | None, weights: str = "random:0") -> str:
    """A bundle, with its record where there is a key; returns the digest."""
    folder = write(job(repository, weights=weights))
    digest = open_bundle(repository, "lenet5", int(folder.name)).digest
    if key:
        record(repository / "lenet5", digest, export(key))
    return digest


def test_the_key_is_of_content_and_not_of_place(tmp_path: Path) -> None:
    weights, labels = tmp_path / "a.pth", tmp_path / "labels.txt"
    weights.write_bytes(b"1")
    labels.write_text("cat\n")
    first = job(tmp_path, weights=str(weights), labels=labels)
    key = export_key(first)
    assert export_key(first.model_copy(update={"repository": tmp_path / "b", "name": "x", "version": 3})) == key
    labels.rename(tmp_path / "other.txt")
    assert export_key(first.model_copy(update={"labels": tmp_path / "other.txt"})) == key
    assert export_key(first.model_copy(update={"labels": None})) != key
    (tmp_path / "other.txt").write_text("dog\n")
    assert export_key(first.model_copy(update={"labels": tmp_path / "other.txt"})) != key
    labels.write_text("cat\n")
    weights.write_bytes(b"2")
    assert export_key(first) != key


def test_every_option_seed_and_folder_of_images_is_in_the_key(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(b"1")
    changes: list[dict[str, Any]] = [
        {},
        {"weights": "random:1"},
        {"network": "resnet20"},
        {"resize": 40},
        {"mean": (0.5,)},
        {"std": (0.5,)},
        {"images": tmp_path / "images"},
    ]
    keys = [export_key(job(tmp_path, **change)) for change in changes]
    (tmp_path / "images" / "1.png").write_bytes(b"2")
    keys.append(export_key(job(tmp_path, **changes[-1])))
    assert len(set(keys)) == len(changes) + 1


def test_the_source_of_a_module_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_in_the_key.py").write_text("def net(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    asked = FreezeJob(module="mine_in_the_key:net", input="3x8x8", repository=tmp_path)
    key = export_key(asked)
    (tmp_path / "mine_in_the_key.py").write_text("def net(): return 1\n")
    assert export_key(asked) != key


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that stands for export and bundle."""
    folder = tmp_path / "code_in_the_key"
    (folder / "deep").mkdir(parents=True)
    for file in ("__init__.py", "deep/inside.py"):
        (folder / file).write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(exports, "PACKAGES", ("code_in_the_key",))
    code_digest.cache_clear()
    yield folder
    code_digest.cache_clear()


def test_sources_are_in_the_key(tmp_path: Path, sources: Path) -> None:
    def key() -> str:
        code_digest.cache_clear()
        return export_key(job(tmp_path))

    first = key()
    (sources / "notes.txt").write_text("no code")
    assert key() == first
    (sources / "deep" / "inside.py").write_text("x = 1\n")
    second = key()
    assert second != first
    (sources / "deep" / "inside.py").rename(sources / "inside.py")
    assert key() not in (first, second)


@pytest.mark.usefixtures("sources")
def test_tools_are_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = export_key(job(tmp_path))
    code_digest.cache_clear()
    monkeypatch.setattr(exports, "version", lambda _: "0")
    assert export_key(job(tmp_path)) != key


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"absent\.pth cannot be read"):
        export_key(job(tmp_path, weights=str(tmp_path / "absent.pth")))


def test_the_newest_export_decides(tmp_path: Path) -> None:
    digest = publish(tmp_path, KEY)
    found = find_export(tmp_path, "lenet5", None, KEY)
    assert found is not None
    assert (found[0], found[1], found[3]) == (1, digest, export())
    publish(tmp_path, OTHER, "random:1")
    assert find_export(tmp_path, "lenet5", None, KEY) is None  # what serves is now the other
    assert find_export(tmp_path, "lenet5", 1, KEY) is not None
    assert find_export(tmp_path, "lenet5", 3, KEY) is None


def test_a_version_that_no_batch_made_is_passed_over(tmp_path: Path) -> None:
    """As `quantize` and `freeze` leave one: it must not have every batch export again."""
    publish(tmp_path, KEY)
    publish(tmp_path, None, "random:1")
    found = find_export(tmp_path, "lenet5", None, KEY)
    assert found is not None
    assert found[0] == 1


def test_a_record_without_a_bundle_means_nothing(tmp_path: Path) -> None:
    """As a kill between the two leaves it."""
    record(tmp_path / "lenet5", "c" * 64, export())
    assert find_export(tmp_path, "lenet5", None, KEY) is None


@pytest.mark.parametrize("file", ["model.onnx", "golden.npz", "manifest.json"])
def test_a_bundle_that_is_not_whole_is_not_up_to_date(tmp_path: Path, file: str) -> None:
    publish(tmp_path, KEY)
    (tmp_path / "lenet5" / "1" / file).unlink()
    assert find_export(tmp_path, "lenet5", None, KEY) is None


def test_records_are_added_and_leave_nothing_aside(tmp_path: Path) -> None:
    record(tmp_path / "x", KEY, export())
    record(tmp_path / "x", OTHER, export(OTHER))
    assert read_exports(tmp_path / "x") == {KEY: export(), OTHER: export(OTHER)}
    assert [path.name for path in (tmp_path / "x").iterdir()] == [EXPORTS]


def test_damaged_records_are_named(tmp_path: Path) -> None:
    (tmp_path / EXPORTS).write_text("{")
    with pytest.raises(BundleError, match=f"{EXPORTS} is damaged; delete it"):
        read_exports(tmp_path)


def test_a_public_file_is_found_in_the_cache_and_missed_by_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    public = job(tmp_path, network="resnet50", weights=str(tmp_path / "resnet50-0676ba61.pth"))
    with pytest.raises(WeightsError, match="weights fetch resnet50"):
        export_key(public)
    (tmp_path / "cache" / "multicrop").mkdir(parents=True)
    (tmp_path / "cache" / "multicrop" / "resnet50-0676ba61.pth").write_bytes(b"1")
    cached = export_key(public)
    (tmp_path / "resnet50-0676ba61.pth").write_bytes(b"1")
    assert export_key(public) == cached
