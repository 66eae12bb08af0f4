"""A padding with minus infinity, which eight bits cannot say, becomes the padding of the max pooling behind it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, NodeProto, helper, numpy_helper
from onnxruntime.quantization.onnx_model import ONNXModel

Array = npt.NDArray[Any]

PLACES = (2, 3, 6, 7)
"""Of top, left, bottom and right among the pads of [N, C, H, W]."""


def fold_padding(model: onnx.ModelProto) -> None:
    """Removes such paddings from the graph, which says the same afterwards: max pooling passes over its own padding.

    torch's exporters write them for `ceil_mode`, others with the least float. Those that anything else follows stay.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        pads = _pads(node, constants)
        behind = [after for after in model.graph.node if node.output[0] in after.input] if pads else []
        if pads and all(after.op_type == "MaxPool" and _takes(after, pads) for after in behind):
            for after in behind:
                _attribute(after, "pads").ints[:] = _sum(after, pads)
                after.input[0] = node.input[0]
        else:
            kept.append(node)
    if len(kept) < len(model.graph.node):
        nodes = [NodeProto.FromString(node.SerializeToString()) for node in kept]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        ONNXModel(model).clean_initializers()


def _pads(node: NodeProto, constants: dict[str, Array]) -> list[int] | None:
    """Top, left, bottom, right of a padding of images with minus infinity; None of anything else."""
    if node.op_type != "Pad" or len(node.input) != len(("images", "pads", "value")):  # with axes pads mean others
        return None
    pads, value = (constants.get(name) for name in node.input[1:])
    if pads is None or value is None or value.max() > np.finfo(np.float32).min or pads.min() < 0:
        return None
    found = [int(pads[place]) for place in PLACES] if len(pads) == 2 * len(PLACES) else []
    return found if sum(found) == pads.sum() else None  # of images and channels there is none


def _takes(pool: NodeProto, pads: list[int]) -> bool:
    """A window that lies in the padding alone has no answer."""
    kernel = _attribute(pool, "kernel_shape").ints
    return all(size < kernel[place % 2] for place, size in enumerate(_sum(pool, pads)))


def _sum(pool: NodeProto, pads: list[int]) -> list[int]:
    return [own + more for own, more in zip(_attribute(pool, "pads").ints, pads, strict=True)]


def _attribute(node: NodeProto, name: str) -> AttributeProto:
    if name not in [attribute.name for attribute in node.attribute]:  # pads may be left out
        node.attribute.append(helper.make_attribute(name, [0] * len(PLACES)))
    found: AttributeProto = next(attribute for attribute in node.attribute if attribute.name == name)
    return found
