"""Both of torch's exporters, and what happens when the first one fails."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from bundle import store
from bundle.manifest import Input
from export import pipeline
from export.errors import ExportError
from export.exporters import EXPORTERS, Exporter, from_script
from export.jobs import FreezeJob
from export.models.normalization import LocalResponseNorm


class Small(nn.Module):
    """uint8 NHWC to (logits, probabilities), with a convolution and a local response normalisation between."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), LocalResponseNorm())

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.layers(images.float().permute(0, 3, 1, 2) / 255).mean((2, 3))
        return logits, logits.softmax(1)


@pytest.mark.parametrize("exporter", EXPORTERS.values(), ids=EXPORTERS)
def test_the_graph_is_the_network_at_any_size_with_one_lrn_node(exporter: Exporter) -> None:
    module = Small().eval()
    wanted = Input(height=16, width=16, channels=3, dynamic=True, resize=16)
    model = exporter(module, wanted, 8)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node].count("LRN") == 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for shape in ((1, 16, 16, 3), (5, 9, 31, 3)):
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        expected = module(torch.from_numpy(images))[0].detach().numpy()
        assert session.run(["logits"], {"images": images})[0] == pytest.approx(expected, abs=1e-6)


def broken(*_: object) -> onnx.ModelProto:
    raise RuntimeError("operator xyz is not known")


def job(repository: Path) -> FreezeJob:
    return FreezeJob(network="lenet5", weights="random:0", repository=repository)


def test_the_older_exporter_is_tried_when_the_first_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "EXPORTERS", {"broken": broken, "TorchScript": from_script})
    pipeline.freeze(job(tmp_path))
    assert store.open_bundle(tmp_path, "lenet5", 1).manifest.tools["exporter"] == "TorchScript"


def test_the_older_exporter_is_tried_when_the_graph_of_the_first_answers_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(module: nn.Module, wanted: Input, smallest: int) -> onnx.ModelProto:
        model = EXPORTERS["torch.export"](module, wanted, smallest)
        bias = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("fc3.bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.1), bias.name))
        return model

    monkeypatch.setattr(pipeline, "EXPORTERS", {"wrong": wrong, **EXPORTERS})
    pipeline.freeze(job(tmp_path))
    assert store.open_bundle(tmp_path, "lenet5", 1).manifest.tools["exporter"] == "torch.export"


def test_when_all_fail_the_report_names_each_and_nothing_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "EXPORTERS", {"one": broken, "two": broken})
    with pytest.raises(ExportError, match=r"through one: .*xyz.*through two: .*xyz"):
        pipeline.freeze(job(tmp_path))
    assert list(tmp_path.iterdir()) == []
