"""The bundle that a bench of speed is about, read without the project's own code, whose libraries would cost memory."""

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Model:
    repository: Path
    name: str
    version: int

    @classmethod
    def of(cls, repository: Path, text: str) -> "Model":
        """From NAME, which is its newest version, or NAME@VERSION.

        Raises:
            FileNotFoundError: there is none.
        """
        name, _, number = text.partition("@")
        versions = [int(path.name) for path in (repository / name).glob("*") if path.name.isdigit()]
        version = int(number or max(versions, default=0))
        if version not in versions:
            raise FileNotFoundError(f"{repository} has no {text}; freeze one with multicrop-export")
        return cls(repository, name, version)

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def folder(self) -> Path:
        return self.repository / self.name / str(self.version)

    @property
    def graph(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def labels(self) -> Path:
        return self.folder / "labels.txt"

    @property
    def side(self) -> int:
        """Of the crop, in pixels."""
        return int(self._input["height"])

    @property
    def resize(self) -> int:
        """The shorter side to which an image is resized."""
        return int(self._input["resize"])

    @property
    def _input(self) -> dict[str, int]:
        found: dict[str, int] = json.loads((self.folder / "manifest.json").read_text())["input"]
        return found

    def alone(self, repository: Path) -> "Model":
        """A copy that is the only bundle of a repository: others would cost memory and time."""
        copy = Model(repository / str(self), self.name, self.version)
        shutil.copytree(self.folder, copy.folder)
        return copy


def add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models",
        nargs="+",
        required=True,
        metavar=("REPOSITORY", "NAME[@VERSION]"),
        help="bundles; the newest of each",
    )


def chosen(words: list[str]) -> list[Model]:
    """Of `--models`."""
    repository, *names = words
    return [Model.of(Path(repository), name) for name in names]
