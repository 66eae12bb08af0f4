"""Bundles that must not serve: each maker turns a good one, version 1, into a bad version 2 beside it.

Unless a maker says otherwise the manifest and its digests are right: only what the bundle holds is wrong.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper

from bundle import store
from bundle.golden import TOLERANCE, Golden
from bundle.manifest import Manifest

SCALE = 10.0
MATRIX = np.eye(3, dtype=np.float32)

WEIGHTS = "w.bin"
"""What an external weight is called; it lies, with the right content, where a careless reader would look."""

Maker = Callable[[Path], object]
"""Given NAME/ in the repository."""


def republish(
    folder: Path, files: dict[str, bytes] | None = None, seen: dict[str, int] | None = None, **changes: object
) -> Path:
    """Version 1 again with other files, another input, or other facts, and digests that are right."""
    old = folder / "1"
    manifest = Manifest.from_json((old / store.MANIFEST).read_bytes())
    content = {name: (old / name).read_bytes() for name in (store.MODEL, store.LABELS, store.GOLDEN)}
    facts = manifest.model_dump()
    changed = Manifest.model_validate({**facts, **changes, "input": facts["input"] | (seen or {})})
    return store.write_bundle(folder.parent, folder.name, changed, {**content, **(files or {})})


def model(content: bytes | Callable[[bytes], bytes]) -> Maker:
    """Other bytes as model.onnx."""

    def make(folder: Path) -> None:
        old = (folder / "1" / store.MODEL).read_bytes()
        republish(folder, {store.MODEL: content if isinstance(content, bytes) else content(old)})

    return make


def graph(change: Callable[[ModelProto], None]) -> Maker:
    """The same graph but for a change."""

    def changed(old: bytes) -> bytes:
        proto = onnx.load_model_from_string(old)
        change(proto)
        return bytes(proto.SerializeToString())

    return model(changed)


def labels(content: bytes) -> Maker:
    return lambda folder: republish(folder, {store.LABELS: content})


def golden(images: np.ndarray, logits: np.ndarray, **seen: int) -> Maker:
    """Other golden answers, and another input in the manifest."""
    content = Golden(images, logits.astype(np.float32), TOLERANCE).to_bytes()
    return lambda folder: republish(folder, {store.GOLDEN: content}, seen)


def after(act: Callable[[Path], object]) -> Maker:
    """A good version 2, to which something happens afterwards."""

    def make(folder: Path) -> None:
        act(republish(folder))

    return make


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Maker:
    """A file that is changed after its digest was taken."""
    return after(lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())))


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def linked(folder: Path, name: str, target: Path | str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(target)


def piped(folder: Path) -> None:
    (folder / store.MODEL).unlink()
    os.mkfifo(folder / store.MODEL)


def moved_out(folder: Path) -> None:
    """The version is a link to a folder outside of the repository."""
    outside = folder.parents[2] / f"outside-{folder.parent.name}"
    shutil.move(folder, outside)
    folder.symlink_to(outside)


def initializer(graph: GraphProto, name: str) -> TensorProto:
    (found,) = (tensor for tensor in graph.initializer if tensor.name == name)
    assert isinstance(found, TensorProto)
    return found


def outside(tensor: TensorProto, location: str, **more: str) -> None:
    """Says that the tensor's content lies in a file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)


def multiplied(proto: ModelProto) -> TensorProto:
    """The logits times a matrix that changes nothing, which is returned. Optimizers, which would read it, do not."""
    proto.graph.node[2].output[0] = "before"
    proto.graph.node.insert(3, helper.make_node("MatMul", ["before", "matrix"], ["logits"]))
    return numpy_helper.from_array(MATRIX, "matrix")


def external(location: str, **more: str) -> Maker:
    def change(proto: ModelProto) -> None:
        matrix = multiplied(proto)
        outside(matrix, location, **more)
        proto.graph.initializer.append(matrix)

    return graph(change)


def in_an_attribute(proto: ModelProto) -> None:
    matrix = multiplied(proto)
    outside(matrix, WEIGHTS)
    node = helper.make_node("Constant", [], ["matrix"])
    node.attribute.append(AttributeProto(name="value", type=AttributeProto.TENSOR, t=matrix))
    proto.graph.node.insert(0, node)


def in_a_subgraph(proto: ModelProto) -> None:
    """Both branches of an If hold the weight."""
    matrix = multiplied(proto)
    outside(matrix, WEIGHTS)
    matrix.name = "inner"
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, MATRIX.shape)
    body = helper.make_graph([helper.make_node("Identity", ["inner"], ["out"])], "body", [], [out], [matrix])
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    proto.graph.node.insert(0, helper.make_node("If", ["yes"], ["matrix"], then_branch=body, else_branch=body))


def renamed(node: int, name: str, domain: str = "") -> Maker:
    def change(proto: ModelProto) -> None:
        proto.graph.node[node].op_type = name
        proto.graph.node[node].domain = domain
        if domain:
            proto.opset_import.add(domain=domain, version=1)

    return graph(change)


def a_cycle(proto: ModelProto) -> None:
    proto.graph.node[0].input[0] = "logits"


def no_number(proto: ModelProto) -> None:
    initializer(proto.graph, "scale").CopyFrom(numpy_helper.from_array(np.array(np.nan, np.float32), "scale"))


def one_class_too_few(proto: ModelProto) -> None:
    """It answers [N, 2]."""
    proto.graph.node[2].output[0] = "all"
    for name, values in (("starts", [0]), ("ends", [2]), ("axis", [1])):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    proto.graph.node.insert(3, helper.make_node("Slice", ["all", "starts", "ends", "axis"], ["logits"]))
    for value in proto.graph.output:
        value.type.tensor_type.shape.dim[1].dim_value = 2


def colours(size: int, channels: int = 3) -> np.ndarray:
    """The golden images of the good bundle, in another size."""
    images = np.zeros((3, size, size, channels), np.uint8)
    for index in range(3):
        images[index, ..., index % channels] = 255
    return images


GOOD = SCALE * np.eye(3)
GRAPH, GOLDEN_OFF = "the graph cannot be loaded; see the server's log", "golden.npz: the answers are off by"

CASES: dict[str, tuple[Maker, str]] = {
    "R01-empty": (model(b""), GRAPH),
    "R01-garbage": (model(b"\xff\xfe" * 500), GRAPH),
    "R01-truncated": (model(lambda old: old[: len(old) // 2]), GRAPH),
    "R02-digest": (rewrite(store.MODEL, flip), "model.onnx is not the file that was exported"),
    "R03-no-manifest": (after(lambda folder: (folder / store.MANIFEST).unlink()), "manifest.json cannot be read"),
    "R03-unknown-version": (
        rewrite(store.MANIFEST, lambda old: old.replace(b'"manifest":1', b'"manifest":2')),
        "manifest.json: manifest:",
    ),
    "R03-unknown-field": (rewrite(store.MANIFEST, lambda old: b'{"more":1,' + old[1:]), "manifest.json: more:"),
    "R03-no-json": (rewrite(store.MANIFEST, lambda old: old[:-9]), "manifest.json"),
    "R04-size": (golden(colours(9), GOOD, height=9, width=9, resize=9), GRAPH),
    "R04-channels": (golden(colours(8, 1), GOOD, channels=1), GRAPH),
    "R04-classes": (
        lambda folder: republish(folder, {store.LABELS: b"a\nb\nc\nd"}, classes=4),
        "golden.npz: the answers are not 3 times 4 finite numbers",
    ),
    "R05-missing": (after(lambda folder: (folder / store.LABELS).unlink()), "labels.txt cannot be read"),
    "R05-count": (labels(b"red\ngreen"), "there are 2 labels for 3 classes"),
    "R05-not-utf8": (labels(b"red\ngr\xfcn\nblue"), "the labels are not UTF-8"),
    "R05-empty-line": (labels(b"red\n\nblue"), "label 2 is empty"),
    "R06-shape": (graph(one_class_too_few), "golden.npz: the graph answers (3, 2), expected (3, 3)"),
    "R06-not-finite": (graph(no_number), f"{GOLDEN_OFF} nan"),
    "R07-top-1": (golden(colours(8), np.roll(GOOD, 1, axis=1)), f"{GOLDEN_OFF} 1 of the largest, 0.0001 is allowed"),
    "R07-tolerance": (golden(colours(8), 1.001 * GOOD), f"{GOLDEN_OFF} 0.001 of the largest, 0.0001 is allowed"),
    "R08-opset-999": (graph(lambda proto: setattr(proto.opset_import[0], "version", 999)), GRAPH),
    "R08-ir-999": (graph(lambda proto: setattr(proto, "ir_version", 999)), GRAPH),
    "R08-unknown-op": (renamed(1, "Multiplex"), GRAPH),
    "R08-custom-domain": (renamed(1, "Mul", "com.example"), GRAPH),
    "R08-cycle": (graph(a_cycle), GRAPH),
    "R09-beside": (external(WEIGHTS), GRAPH),
    "R09-parent": (external(f"../{WEIGHTS}"), GRAPH),
    "R09-nested": (external(f"sub/{WEIGHTS}"), GRAPH),
    "R09-absolute": (external("/etc/hostname"), GRAPH),
    "R09-link": (external("link.bin"), GRAPH),
    "R09-linked-parent": (external(f"linked/{WEIGHTS}"), GRAPH),
    "R09-hard-link": (external("hard.bin"), GRAPH),
    "R09-sparse": (external("sparse.bin"), GRAPH),
    "R09-attribute": (graph(in_an_attribute), GRAPH),
    "R09-subgraph": (graph(in_a_subgraph), GRAPH),
    "R09-length": (external(WEIGHTS, length=str(1 << 60)), GRAPH),
    "R09-offset": (external(WEIGHTS, offset="-1"), GRAPH),
    "R10-link-out": (after(moved_out), "2 is a link or a file"),
    "R10-linked-file": (after(lambda folder: linked(folder, store.MODEL, "../1/model.onnx")), "model.onnx is a link"),
    "R10-pipe": (after(piped), "model.onnx is a link or no file"),
    "R10-device": (after(lambda folder: linked(folder, store.GOLDEN, "/dev/zero")), "golden.npz is a link"),
}
"""By id: how it is made, and what the reason says."""


def write_weights(folder: Path) -> None:
    """The right weights wherever a graph of `CASES` says that they are: whoever follows it would serve the bundle."""
    content = MATRIX.tobytes()
    for place in (WEIGHTS, f"sub/{WEIGHTS}", f"../{WEIGHTS}"):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_bytes(content)
    (folder / "link.bin").symlink_to(folder / WEIGHTS)
    (folder / "linked").symlink_to(folder / "sub")
    os.link(folder / WEIGHTS, folder / "hard.bin")
    with (folder / "sparse.bin").open("wb") as file:
        file.write(content)
        file.truncate(1 << 40)
