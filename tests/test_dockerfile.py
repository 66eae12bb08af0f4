"""The Dockerfile by its text: no container engine runs where this is developed."""

import ast
import json
import re
import shlex
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import pytest
from dockerfile_parse import DockerfileParser

from service.settings import Settings

ROOT = Path(__file__).parents[1]
TARGETS = ["export", "service"]


class Instruction(NamedTuple):
    name: str
    value: str


class Stage(NamedTuple):
    parent: str
    instructions: list[Instruction]

    def values(self, name: str) -> list[str]:
        return [instruction.value for instruction in self.instructions if instruction.name == name]


def read_stages() -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    parser = DockerfileParser(str(ROOT / "Dockerfile"))
    for entry in parser.structure:
        instruction = Instruction(entry["instruction"], entry["value"])
        if instruction.name == "FROM":
            parent, name = re.fullmatch(r"(\S+) AS (\S+)", instruction.value).groups()  # type: ignore[union-attr]  # each has a name
            stages[name] = Stage(parent, [])
        elif stages and instruction.name != "COMMENT":
            stages[name].instructions.append(instruction)
    return stages


STAGES = read_stages()


def with_parents(target: str) -> Stage:
    """The stage and those that it is built upon, the first of them first."""
    stage = STAGES[target]
    if stage.parent not in STAGES:
        return stage
    below = with_parents(stage.parent)
    return Stage(below.parent, below.instructions + stage.instructions)


def copied_from(target: str) -> list[str]:
    """The stages that the target takes files from."""
    return [source[1] for value in with_parents(target).values("COPY") if (source := re.match(r"--from=(\S+)", value))]


def pairs(stage: Stage, name: str) -> dict[str, str]:
    """What ENV or ARG set."""
    words = [word for value in stage.values(name) for word in shlex.split(value)]
    return dict(word.split("=", 1) for word in words)


def sources() -> Iterator[str]:
    """What is copied from the checkout."""
    for stage in STAGES.values():
        for value in stage.values("COPY"):
            words = [word for word in shlex.split(value) if not word.startswith("--")]
            if "--from=" not in value:
                yield from words[:-1]


def project() -> dict[str, dict[str, object]]:
    facts: dict[str, dict[str, object]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return facts


def installed_extras(target: str) -> list[str]:
    """As pip is asked for them, with CUDA."""
    runs = [run for builder in copied_from(target) for run in with_parents(builder).values("RUN")]
    asked = [found[1] for run in runs if (found := re.search(r'pip install "\.\[(.+)\]"', run))]
    assert len(asked) == 1
    return re.sub(r"\$\{CUDA:\+(.*?)\}", r"\1", asked[0]).split(",")


def test_both_targets_exist_and_the_service_is_the_default() -> None:
    assert set(TARGETS) <= STAGES.keys()
    assert list(STAGES)[-1] == "service"


def test_stages_are_built_upon_earlier_stages_or_the_slim_image_of_this_python() -> None:
    earlier: list[str] = []
    for name, stage in STAGES.items():
        assert stage.parent in [*earlier, "python:${PYTHON}-slim"]
        earlier.append(name)
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()
    assert "ARG PYTHON=3.11\n" in (ROOT / "Dockerfile").read_text()


def test_copied_stages_are_earlier_ones() -> None:
    order = list(STAGES)
    for target in STAGES:
        for source in copied_from(target):
            assert order.index(source) < order.index(target)


def test_every_copied_file_is_in_the_checkout_and_reaches_the_build() -> None:
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    assert patterns.index("*") < min(index for index, line in enumerate(patterns) if line.startswith("!"))
    assert set(sources()) == {line.removeprefix("!") for line in patterns if line.startswith("!")}
    for source in sources():
        assert (ROOT / source).exists(), source


def test_every_package_of_the_project_is_copied() -> None:
    assert {path.parent.name for path in ROOT.glob("*/py.typed")} <= set(sources())


@pytest.mark.parametrize("target", TARGETS)
def test_installed_extras_are_the_projects(target: str) -> None:
    assert installed_extras(target) == [target, "gpu"]
    assert set(installed_extras(target)) <= set(project()["optional-dependencies"])


@pytest.mark.parametrize("target", TARGETS)
def test_cuda_is_left_out_unless_it_is_asked_for(target: str) -> None:
    (builder,) = copied_from(target)
    assert f'pip install ".[{target}${{CUDA:+,gpu}}]"' in STAGES[builder].values("RUN")
    assert pairs(STAGES[builder], "ARG")["CUDA"] == ""


@pytest.mark.parametrize("target", TARGETS)
def test_another_package_index_can_be_named_and_none_is(target: str) -> None:
    (builder,) = copied_from(target)
    assert pairs(with_parents(builder), "ARG")["PIP_EXTRA_INDEX_URL"] == ""
    assert "://" not in re.sub(r"http://127\.0\.0\.1", "", (ROOT / "Dockerfile").read_text())


def test_dependencies_are_installed_before_the_code_is_copied() -> None:
    """A change of code does not install torch again."""
    for target in TARGETS:
        (builder,) = copied_from(target)
        before = list(takewhile(lambda step: step.name != "RUN", STAGES[builder].instructions))
        assert not [step for step in before if step.name == "COPY"]


def test_the_service_has_neither_torch_nor_a_compiler() -> None:
    stages = [with_parents(name) for name in ("service", *copied_from("service"))]
    words = " ".join(run for stage in stages for run in stage.values("RUN"))
    assert not re.search(r"\b(torch|apt|apt-get|apk|gcc|g\+\+|build-essential|cmake|export)\b", words)
    assert "export" not in installed_extras("service")
    assert copied_from("service") == ["service-builder"]


@pytest.mark.parametrize("target", TARGETS)
def test_no_target_runs_as_root(target: str) -> None:
    last = with_parents(target).values("USER")[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last), "a number can be checked without a list of users"
    assert "VOLUME" in {step.name for step in with_parents(target).instructions}


@pytest.mark.parametrize("target", TARGETS)
def test_entry_points_are_commands_of_the_project(target: str) -> None:
    """Without a shell, so that signals reach the server."""
    (entrypoint,) = with_parents(target).values("ENTRYPOINT")
    (arguments,) = with_parents(target).values("CMD")
    assert json.loads(entrypoint) == [f"multicrop-{target}"]
    assert f"multicrop-{target}" in project()["scripts"]
    assert json.loads(arguments) == {"service": ["run"], "export": ["--help"]}[target]


def test_the_service_listens_to_other_machines_and_serves_the_volume() -> None:
    stage = with_parents("service")
    settings = {name: value for name, value in pairs(stage, "ENV").items() if name.startswith("MULTICROP_")}
    assert settings == {"MULTICROP_HOST": "0.0.0.0", "MULTICROP_PORT": "8000", "MULTICROP_REPOSITORY": "/models"}  # noqa: S104
    assert {name.removeprefix("MULTICROP_").lower() for name in settings} <= set(Settings.model_fields)
    assert Settings.model_config["env_prefix"] == "MULTICROP_"
    assert stage.values("VOLUME") == [settings["MULTICROP_REPOSITORY"]]
    assert stage.values("EXPOSE") == [settings["MULTICROP_PORT"]]
    assert stage.values("STOPSIGNAL") == ["SIGTERM"]


class Answer(BaseHTTPRequestHandler):
    """Alive until it is said not to be."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/livez" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not on the terminal."""


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_health_check_asks_the_server_itself(status: int, healthy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = with_parents("service").values("HEALTHCHECK")
    command = json.loads(check[check.index("CMD ") + 4 :])
    assert command[:2] == ["python", "-c"]
    ast.parse(command[2])

    monkeypatch.setattr(Answer, "status", status)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody is there
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        monkeypatch.setenv("MULTICROP_PORT", str(server.server_port))
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        try:
            exec(command[2], {})  # noqa: S102 as the engine would run it
            alive = True
        except OSError:
            alive = False
        thread.join()
    assert alive == healthy
