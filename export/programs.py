"""`torch.export` programs: read from a file without running what is in it, and made one tensor in, one tensor out."""

import contextlib
import hashlib
import io
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import fx

from export.errors import ExportError

Program = torch.export.ExportedProgram
aten = torch.ops.aten

# All that torch.export.save writes for a network of tensors. Not: pickled constants, compiled libraries.
_MEMBERS = re.compile(
    r"archive_format|archive_version|version|byteorder|\.data/\w+|models/model\.json|data/sample_inputs/model\.pt|"
    r"data/weights/(model_weights_config\.json|weight_\d+)|data/constants/(model_constants_config\.json|tensor_\d+)"
)
_TARGET = re.compile(r"torch\.ops\.(aten|prims|higher_order)\.\w+(\.\w+)?|_operator\.\w+|math\.\w+|torch\.sym_\w+")
_SYMBOLS = re.compile(
    r"(Symbol\('[a-z]+\d+'|Integer|Rational|Add|Mul|Pow|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|Max|Min|"
    r"(positive|integer|nonnegative)=True|Eq|Ne|Lt|Le|Gt|Ge|-?\d+|[a-z]\d+|int_oo|[-+*/(), ])*"
)
"""What shapes are computed with. The loader evaluates these words as Python, so others are refused."""


_TRAINING = (aten._native_batch_norm_legit_functional.default, aten.native_dropout.default)  # noqa: SLF001 torch's name
_TRAINING_FLAGS: dict[Any, int] = {
    aten.batch_norm.default: 5,
    aten._native_batch_norm_legit.default: 5,  # noqa: SLF001 likewise
    aten.native_batch_norm.default: 5,
    aten.dropout.default: 2,
    aten.dropout_.default: 2,
    aten.feature_dropout.default: 2,
    aten.alpha_dropout.default: 2,
    aten.feature_alpha_dropout.default: 2,
}


def read_program(path: Path) -> tuple[Program, str]:
    """The program of a file, and the file's sha256.

    `torch.export.load` would unpickle objects, load compiled libraries and evaluate expressions that it finds; a file
    that holds any of these is refused first, and what was examined is what is loaded.

    Raises:
        ExportError: no program, or one with code in it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ExportError(f"{path.name} cannot be read; check the path given with --program") from error
    try:
        members = _members(content)
        found = _code(members)
    except Exception as error:  # readers of archives and JSON raise whatever the damage led to
        raise ExportError(f"{path.name} is no program; write it with torch.export.save(program, FILE)") from error
    if found:
        raise ExportError(
            f"{path.name} holds more than operators and weights ({found[0]}), and loading that could run code; "
            "export the network again with torch.export.save, or name its factory with --module"
        )
    try:
        with quiet():
            program = torch.export.load(io.BytesIO(_archive(members)))
    except Exception as error:
        raise ExportError(
            f"{path.name} cannot be loaded (damaged, or of another torch); save it with torch {torch.__version__}"
        ) from error
    return program, hashlib.sha256(content).hexdigest()


def as_functions(name: str, program: Program) -> fx.GraphModule:
    """The program as a module of one tensor to one tensor.

    Raises:
        ExportError: it takes or gives more, or was exported in train mode.
    """
    with quiet():
        module = program.module(check_guards=False)
    graph = module.graph
    graph.set_codegen(fx.graph.CodeGen())  # without the trees of arguments
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    (output,) = (node for node in graph.nodes if node.op == "output")
    answers = output.args[0] if isinstance(output.args[0], tuple | list) else output.args
    if len(inputs) != 1 or len(answers) != 1:
        counts = f"{len(inputs)} inputs and {len(answers)} outputs"
        raise ExportError(f"{name} has {counts}; a program must take the images and give the logits")
    output.args = (answers[0],)
    if training := [node.name for node in graph.nodes if _trains(node)]:
        raise ExportError(
            f"{name} does what only training does ({', '.join(training)}); call eval() before torch.export.export, "
            "and in forward say training=self.training"
        )
    graph.eliminate_dead_code()
    plain = fx.GraphModule(module, graph)
    plain.delete_all_unused_submodules()
    return plain.requires_grad_(requires_grad=False).eval()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps torch's remarks on itself from the user; its errors say what matters."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as said:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(said):
                yield
    finally:
        logger.setLevel(level)


def _members(content: bytes) -> dict[str, bytes]:
    """Name to bytes, without the folder that holds them all."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names) or not names:
            raise ValueError("a name occurs twice, or none")
        return {name.partition("/")[2]: archive.read(name) for name in names}


def _archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # not compressed: torch maps it
        for name, content in members.items():
            archive.writestr(f"program/{name}", content)
    return buffer.getvalue()


def _code(members: dict[str, bytes]) -> list[str]:
    """What there is beside operators and weights.

    Raises:
        ValueError: it is no program at all.
    """
    if members.get("archive_format") != b"pt2" or "models/model.json" not in members:
        raise ValueError("no program")
    found = [member for member in members if not _MEMBERS.fullmatch(member)]
    for member, content in members.items():
        if member.endswith(".json"):
            found += [f"{key} {value!r}"[:80] for key, value in _facts(json.loads(content)) if _is_code(key, value)]
    return found


def _facts(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    for part in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        yield from _facts(part)
    if isinstance(value, dict):
        yield from value.items()


def _is_code(key: str, value: Any) -> bool:
    if key == "use_pickle":
        return value is not False
    if key == "target" and isinstance(value, str):
        return not _TARGET.fullmatch(value)
    return key == "expr_str" and not (isinstance(value, str) and _SYMBOLS.fullmatch(value))


def _trains(node: fx.Node) -> bool:
    """Whether a node does what only training does."""
    if node.op != "call_function":
        return False
    if node.target in _TRAINING:
        return True
    place = _TRAINING_FLAGS.get(node.target)
    if place is None or len(node.args) <= place or not node.args[place]:
        return False
    return "batch_norm" not in str(node.target) or node.args[3] is not None  # without stored statistics it must be
