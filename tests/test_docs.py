"""What the documentation promises is what the code has."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from prometheus_client import Metric
from pydantic_settings import CliApp, get_subcommand

from export.__main__ import Cli
from fakes import write_colour_bundle
from live import encode, serve
from service.api.errors import STATUS
from service.commands.command import Command
from service.metrics import Metrics
from service.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md"))


def text(page: str) -> str:
    return (ROOT / page).read_text()


def test_the_readme_stays_short() -> None:
    assert len(text("README.md").splitlines()) <= 170


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    assert f"`--{name.replace('_', '-')}`" in text("docs/operations.md")


def test_no_setting_is_documented_that_is_not_there() -> None:
    options = set(re.findall(r"^\| `--([a-z-]+)`", text("docs/operations.md"), re.MULTILINE))
    assert options == {name.replace("_", "-") for name in Settings.model_fields}


def test_every_error_code_is_documented_at_its_status() -> None:
    table = text("docs/api.md")
    documented = {
        (int(status), code)
        for status, codes in re.findall(r"^\| (\d{3}) \| (`[^|]*) \|", table, re.MULTILINE)
        for code in re.findall(r"`(\w+)`", codes)
    }
    assert set(STATUS.values()) <= documented
    code_of_an_image = re.findall(r"\bimage_[a-z_]+\b", text("bundle/preprocess.py") + text("bundle/errors.py"))
    assert set(code_of_an_image) <= {code for _, code in documented}


def test_every_metric_is_documented() -> None:
    metrics: list[Metric] = list(Metrics().registry.collect())
    for metric in metrics:
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        assert f"`{name}`" in text("docs/operations.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def commands(name: str) -> list[str]:
    found = [line for page in PAGES for line in re.findall(rf"^{name} [^\n`#|]*", page.read_text(), re.MULTILINE)]
    assert found
    return found


@pytest.mark.parametrize("command", commands("multicrop-service"))
def test_service_commands_parse(command: str) -> None:
    assert get_subcommand(CliApp.run(Command, cli_args=command.split()[1:])) is not None


@pytest.mark.parametrize("command", commands("multicrop-export"))
def test_export_commands_parse(command: str) -> None:
    assert get_subcommand(CliApp.run(Cli, cli_args=command.split()[1:])) is not None


@pytest.mark.parametrize("path", re.findall(r"python (\S+\.py)", text("README.md") + text("docs/benchmarks.md")))
def test_scripts_exist(path: str) -> None:
    assert (ROOT / path).is_file()


def test_every_bench_is_in_the_readme_and_says_what_it_measures() -> None:
    table = text("README.md").partition("| bench | measures |")[2].partition("\n\n")[0]
    benches = [path.stem for path in (ROOT / "tests/bench").glob("*.py") if "if __name__" in path.read_text()]
    named = [
        name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")
    ]
    assert sorted(named) == sorted(benches)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake (\w+)", text("README.md")))))
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", text("Makefile"), re.MULTILINE)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_of_the_readme_is_answered(tmp_path: Path) -> None:
    """With curl itself, whose default content type is a form's."""
    write_colour_bundle(tmp_path, "cats")
    found = re.search(r"^(curl .*/v1/models/cats:classify\S*)$", text("README.md"), re.MULTILINE)
    assert found
    (tmp_path / "cat.jpg").write_bytes(encode(Image.new("RGB", (20, 10), "blue"), "JPEG"))
    with serve(Settings(repository=tmp_path, port=0)) as client:
        command = found[1].replace("http://127.0.0.1:8000", str(client.base_url).rstrip("/"))
        answer = subprocess.run(shlex.split(f"{command} --silent"), cwd=tmp_path, capture_output=True, check=True)
    assert json.loads(answer.stdout)["predictions"][0]["label"] == "blue"
