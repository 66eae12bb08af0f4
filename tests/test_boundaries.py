"""Who never imports whom (docs/adr): by the source, also inside functions, and by what a fresh process has loaded."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

NEVER = {
    "bundle": ["torch", "onnx", "onnxruntime", "fastapi", "service", "export", "pages"],
    "pages": ["torch", "onnx", "onnxruntime", "fastapi", "service", "export", "bundle"],
    "service.engine": ["fastapi", "PIL", "bundle"],
    "service": ["torch", "torchvision", "onnx", "export"],
    "export": ["fastapi", "uvicorn", "service"],
}
ENGINE_MAY_USE = ["service.engine", "service.errors", "service.metrics"]

IMPORT_ALL = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
modules = [module.name for module in pkgutil.walk_packages(package.__path__, f"{sys.argv[1]}.")]
for module in modules:
    importlib.import_module(module)
print(json.dumps({"found": modules, "loaded": sorted(sys.modules)}))
"""


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def forbidden(package: str, modules: Iterator[str] | list[str]) -> list[str]:
    """Those of `modules` that `package` never imports."""
    return [
        module
        for module in modules
        if any(within(module, other) for other in NEVER[package])
        or (
            package == "service.engine"
            and module.startswith("service.")
            and not any(within(module, allowed) for allowed in ENGINE_MAY_USE)
        )
    ]


def imports(source: str, package: str) -> Iterator[str]:
    """Every module that the source names, wherever in it; of `from a import b` also `a.b`, which may be a module."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                parents = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                base = ".".join([*parents, *([module] if module else [])])
                yield base
                yield from (f"{base}.{alias.name}" for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


def sources(package: str) -> list[Path]:
    return sorted(ROOT.joinpath(*package.split(".")).rglob("*.py"))


@pytest.mark.parametrize("package", NEVER)
def test_the_source_names_no_forbidden_module(package: str) -> None:
    files = sources(package)
    assert files
    found = {
        str(path.relative_to(ROOT)): bad
        for path in files
        if (bad := forbidden(package, imports(path.read_text(), ".".join(path.relative_to(ROOT).parent.parts))))
    }
    assert found == {}


@pytest.mark.parametrize("package", NEVER)
def test_a_fresh_process_loads_no_forbidden_module(package: str) -> None:
    command = [sys.executable, "-c", IMPORT_ALL, package]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout.splitlines()[-1])
    assert len(answer["found"]) >= len([path for path in sources(package) if path.name != "__init__.py"])
    assert forbidden(package, answer["loaded"]) == []


@pytest.mark.parametrize(
    ("package", "source", "bad"),
    [
        ("bundle", "import torch.nn as nn", ["torch.nn"]),
        ("bundle", "def f():\n    if x:\n        from onnx import helper", ["onnx", "onnx.helper"]),
        ("bundle", "import onnx_ir, torchvision", []),
        ("bundle", "importlib.import_module('export.fold')", ["export.fold"]),
        ("service.engine", "from service import registry", ["service.registry"]),
        ("service.engine", "from ..model import ServedModel", ["service.model", "service.model.ServedModel"]),
        ("service.engine", "from .queue import Entry\nfrom ..errors import ServiceError", []),
        ("service.engine", "from service.errors import QueueFullError\nimport service.metrics", []),
        ("service", "if TYPE_CHECKING:\n    import torch", ["torch"]),
        ("export", "import service", ["service"]),
    ],
)
def test_the_rules_see_every_way_to_import(package: str, source: str, bad: list[str]) -> None:
    assert forbidden(package, imports(source, package)) == bad


def test_the_commands_load_nothing_that_only_pages_need() -> None:
    command = [
        sys.executable,
        "-c",
        "import json, sys, service.__main__, service.app; print(json.dumps([*sys.modules]))",
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"matplotlib", "jinja2", "pages"} & set(json.loads(run.stdout)) == set()


def test_only_one_onnx_runtime_is_installed() -> None:
    """The packages onnxruntime and onnxruntime-gpu install the same files: of both, neither can be trusted."""
    installed = {(distribution.metadata["Name"] or "").lower() for distribution in importlib.metadata.distributions()}
    assert len(installed & {"onnxruntime", "onnxruntime-gpu"}) == 1


def extras() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional: dict[str, list[str]] = project["optional-dependencies"]
    return optional


def resolved(extra: str) -> set[str]:
    """The requirements of an extra, with those of the project's own extras that it names."""
    found = set()
    for requirement in extras()[extra]:
        if own := re.fullmatch(r"multicrop\[([\w,]+)\]", requirement):
            found |= set().union(*(resolved(name) for name in own[1].split(",")))
        else:
            found.add(requirement)
    return found


def test_service_and_export_require_the_same_onnx_runtime() -> None:
    runtimes = [
        {requirement for requirement in resolved(extra) if requirement.startswith("onnxruntime")}
        for extra in ("service", "export", "dev")
    ]
    assert runtimes[0] == runtimes[1] == runtimes[2]
    # One distribution or the other, by markers that exclude each other.
    assert {re.split(r"[>=;]", requirement)[0] for requirement in runtimes[0]} == {"onnxruntime", "onnxruntime-gpu"}
    markers = {requirement.split("; ")[1] for requirement in runtimes[0]}
    assert markers == {
        "sys_platform == 'linux' and platform_machine == 'x86_64'",
        "sys_platform != 'linux' or platform_machine != 'x86_64'",
    }


def test_only_export_requires_torch() -> None:
    for extra in ("service", "runtime", "gpu"):
        assert not [
            requirement for requirement in resolved(extra) if re.match(r"(torch|onnx|lightning)\b(?!-)", requirement)
        ]
    assert "torch==2.13.0" in resolved("export")


def test_pages_are_an_extra_of_the_service_and_a_part_of_export() -> None:
    assert resolved("page") <= resolved("export")
    assert not resolved("page") & resolved("service")
