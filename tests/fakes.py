"""Stand-ins: a device that answers after a fixed time, and a bundle whose answers can be worked out by hand."""

import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bundle import store
from bundle.golden import TOLERANCE, Golden
from bundle.manifest import Folding, Input, Manifest, Parity, ParityCase, Source
from service.engine.backend import Provider
from service.engine.entry import Pixels, Scores, Shape

COLOURS = ("red", "green", "blue")


class FakeBackend:
    """Answers the first pixel of each row, after `seconds` a batch."""

    provider: Provider = "cpu"

    def __init__(
        self,
        *,
        seconds: float = 0.0,
        max_batch_size: int = 8,
        lanes: int = 1,
        at_once: int | None = None,
        fills_ahead: bool = False,
    ) -> None:
        self.seconds = seconds
        self.max_batch_size = max_batch_size
        self.lanes = lanes
        self.at_once = at_once or lanes
        self.fills_ahead = fills_ahead
        self.batches: list[int] = []

    def run(self, images: Pixels, *, alone: bool = False) -> Scores:
        self.batches.append(len(images))
        time.sleep(self.seconds)
        return images[:, 0, 0, :].astype(np.float32)

    def warm(self, shape: Shape) -> None:
        """There is nothing to warm."""


def write_colour_bundle(
    repository: Path,
    name: str = "colours",
    *,
    size: int = 8,
    resize: int = 8,
    scale: float = 10.0,
    dynamic: bool = False,
    macs: int = 1,
    labels: tuple[str, ...] = COLOURS,
) -> Path:
    """Classes red, green and blue; the logits are `scale` times the mean of the channel in 0 to 1.

    With `dynamic` it takes any size; what it costs is said by `macs`, and grows with the pixels.
    """
    images = np.zeros((3, size, size, 3), np.uint8)
    for channel in range(3):
        images[channel, :, :, channel] = 255
    manifest = Manifest(
        architecture="colours",
        classes=3,
        input=Input(height=size, width=size, channels=3, dynamic=dynamic, resize=resize),
        parameters=0,
        folded_parameters=0,
        macs=macs,
        source=Source(kind="random", name="by hand"),
        folding=Folding(layers=0, folded_error=0, unfolded_error=0),
        parity=Parity(
            tolerance=1e-6,
            cases=(ParityCase(batch=1, height=size, width=size, max_abs=0, max_rel=0, top1_agreement=1),),
        ),
        files={},
    )
    golden = Golden(images, (scale * np.eye(3)).astype(np.float32), TOLERANCE)
    files = {
        store.MODEL: _colour_graph(size, scale, dynamic),
        store.LABELS: "\n".join(labels).encode(),
        store.GOLDEN: golden.to_bytes(),
    }
    return store.write_bundle(repository, name, manifest, files)


def _colour_graph(size: int, scale: float, dynamic: bool) -> bytes:
    height, width = ("H", "W") if dynamic else (size, size)
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled", "axes"], ["logits"], keepdims=0),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", height, width, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("logits", "probabilities")],
        [
            numpy_helper.from_array(np.array(scale / 255, np.float32), "scale"),
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())
