"""fp16 by ONNX Runtime's own converter: the network in half precision, its pixels and its softmax in float32."""

import warnings

import onnx
from onnx.utils import Extractor
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from export.graph import serialize, strip
from export.quantize.int8 import WEIGHTED, require_layers

IN_FLOAT = [*DEFAULT_OP_BLOCK_LIST, "LRN"]
"""LRN squares its input, and 256 squared is more than float16 holds."""


def to_fp16(content: bytes) -> bytes:
    """The graph with the network between normalised pixels and logits in float16; input and outputs are as they were.

    Raises:
        GraphError: there is no such network.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    require_layers(model)
    first = next(node.input[0] for node in model.graph.node if node.op_type in WEIGHTED)
    # The network may ask for the shape of the images, too.
    parts = (["images"], [first]), ([first, "images"], ["logits"]), (["logits"], ["probabilities"])
    front, body, back = (Extractor(model).extract_model(*part) for part in parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers that float16 has no place for; the comparison tells if they matter
        half = convert_float_to_float16(body, keep_io_types=True, op_block_list=IN_FLOAT)
    sorted_half = ONNXModel(half)
    sorted_half.topological_sort()
    nodes: dict[str, onnx.NodeProto] = {}
    tensors: dict[str, onnx.TensorProto] = {}
    for graph in (front.graph, sorted_half.model.graph, back.graph):
        for node in graph.node:
            nodes.setdefault(node.output[0], node)  # a part may need what another one has
        for tensor in graph.initializer:
            tensors.setdefault(tensor.name, tensor)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes.values())
    model.graph.initializer.extend(tensors.values())
    strip(model)
    return serialize(model)
