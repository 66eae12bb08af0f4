"""A list of models: every mistake in it is named, relative paths are the file's own."""

from pathlib import Path

import pytest

from export.joblist import JobsError, read_jobs

GOOD = """
repository = "models"

[defaults]
weights = "random:0"

[[models]]
network = "lenet5"

[[models]]
network = "resnet20"
weights = "files/mine.pth"
labels = "/elsewhere/labels.txt"
name = "mine"
version = 3
mean = [0.5, 0.5, 0.5]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "jobs.toml"
    path.write_text(text)
    return path


def test_models_in_their_order_with_defaults_and_paths_from_the_files_own_folder(tmp_path: Path) -> None:
    first, second = read_jobs(write(tmp_path, GOOD))
    assert (first.network, first.weights, first.model, first.version) == ("lenet5", "random:0", "lenet5", None)
    assert first.repository == second.repository == tmp_path / "models"
    assert (second.weights, second.model, second.version) == (str(tmp_path / "files/mine.pth"), "mine", 3)
    assert second.labels == Path("/elsewhere/labels.txt")
    assert second.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("repository = ", "is no TOML"),
        ("[[models]]\nnetwork = 'lenet5'\nweights = 'random:0'", "repository is missing"),
        ("repository = 'm'", "models is missing"),
        ("repository = 'm'\nmodels = []", "models: List should have at least 1 item"),
        ("repository = 'm'\nworkers = 2\n[[models]]\nnetwork = 'lenet5'", "unknown key 'workers'"),
        (
            "repository = 'm'\n[defaults]\nname = 'x'\n[[models]]\nnetwork = 'a'\nweights = 'b'",
            "name belongs to a model",
        ),
        ("repository = 'm'\n[[models]]\nnetwork = 'lenet5'\nwieghts = 'x'", "model 1 (lenet5): unknown key 'wieghts'"),
        (
            "repository = 'm'\n[[models]]\nname = 'x'\nnetwork = 'lenet5'\nversion = 0",
            "model 1 (x): version: Input should",
        ),
        ("repository = 'm'\n[[models]]\nnetwork = 'a'\nrepository = 'n'", "model 1 (a): repository stands once"),
        ("repository = 'm'\n[[models]]\nweights = 'random:0'", "model 1: name one network"),
        (GOOD + "\n[[models]]\nnetwork = 'lenet5'", "2 models are called lenet5"),
        (GOOD + "\n[[models]]\nnetwork = 'lenet5'\nname = 'mine'\nversion = 3", "2 models are called mine"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(JobsError) as caught:
        read_jobs(write(tmp_path, text))
    assert "jobs.toml" in str(caught.value)
    assert problem in str(caught.value)


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    text = (
        "repository = 'm'\n[defaults]\nodd = 1\nweights = 'random:0'\n[[models]]\nnetwork = 'a'\n[[models]]\nname = 'b'"
    )
    with pytest.raises(JobsError) as caught:
        read_jobs(write(tmp_path, text))
    assert len(str(caught.value).splitlines()) == 1 + 2  # what holds for both tables, for each
    assert "model 1 (a): unknown key 'odd'" in str(caught.value)
    assert "model 2 (b): unknown key 'odd'" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobsError, match=r"absent\.toml cannot be read"):
        read_jobs(tmp_path / "absent.toml")


def test_two_versions_of_one_name_are_two_models(tmp_path: Path) -> None:
    text = GOOD + "\n[[models]]\nnetwork = 'lenet5'\nname = 'mine'\nversion = 4"
    assert [job.version for job in read_jobs(write(tmp_path, text))] == [None, 3, 4]
