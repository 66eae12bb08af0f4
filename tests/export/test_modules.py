"""Networks that are not in the table: the same stages and checks, and errors that name the factory or the file."""

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import foreign
from bundle.errors import BundleError
from bundle.store import Bundle, open_bundle
from export.errors import ExportError
from export.jobs import FreezeJob
from export.layers import as_layers
from export.modules import Shape, load_module, load_program
from export.pipeline import freeze
from export.programs import as_functions
from export.verify import open_session, run
from live import encode, serve
from samples import photographs
from service.settings import Settings

N = torch.export.Dim("N", min=1)
FREE = torch.export.Dim.DYNAMIC


def job(repository: Path, **changes: Any) -> FreezeJob:
    if "program" not in changes:
        changes = {"module": "foreign:build", "input": "1x32x32", **changes}
    return FreezeJob(**{"repository": repository, **changes})


def bundle_of(folder: Path) -> Bundle:
    return open_bundle(folder.parent.parent, folder.parent.name, int(folder.name))


def logits(bundle: Bundle, images: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, Any]:
    return run(open_session(bundle.model), images)


def noise(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def in_torch(network: nn.Module, images: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
        answer: np.ndarray[Any, Any] = network.double().eval()(pixels).numpy()
    return answer


@pytest.fixture(scope="module")
def stencil(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Five classes, one channel."""
    return bundle_of(freeze(job(tmp_path_factory.mktemp("stencil"))))


# --- a factory


def test_the_graph_of_a_factory_answers_as_its_network_does(stencil: Bundle) -> None:
    images = noise(3, 32, 32, 1)
    expected = in_torch(foreign.build(), images)
    assert np.abs(logits(stencil, images) - expected).max() < 1e-5 * np.abs(expected).max()


def test_every_batchnorm_of_a_factory_is_folded(stencil: Bundle) -> None:
    operators = [node.op_type for node in onnx.load_from_string(stencil.model).graph.node]
    assert "BatchNormalization" not in operators
    assert (operators.count("Conv"), operators.count("ConvTranspose")) == (2, 1)
    assert stencil.manifest.folding.layers == 3


def test_the_manifest_of_a_factory(stencil: Bundle) -> None:
    manifest = stencil.manifest
    # stem 8 x 9 + 2 x 8, grouped 16 x 2 x 9 + 2 x 16, up 16 x 4 x 16 + 8 + 2 x 8, head 8 x 5 + 5
    assert manifest.parameters == 72 + 16 + 288 + 32 + 1024 + 8 + 16 + 45
    assert manifest.folded_parameters == (72 + 8) + (288 + 16) + (1024 + 8) + 45
    assert manifest.macs == 72 * 32 * 32 + 288 * 16 * 16 + 1024 * 16 * 16 + 40
    assert (manifest.architecture, manifest.classes, stencil.labels) == ("foreign:build", 5, tuple("01234"))
    assert (manifest.source.kind, manifest.source.name) == ("module", "foreign:build")
    wanted = manifest.input
    assert (wanted.height, wanted.width, wanted.channels, wanted.dynamic, wanted.resize) == (32, 32, 1, False, 32)
    assert manifest.parity.tolerance == 1e-4


def test_the_same_factory_gives_the_same_digest(stencil: Bundle, tmp_path: Path) -> None:
    assert bundle_of(freeze(job(tmp_path))).digest == stencil.digest


def test_a_factory_is_told_classes_and_channels(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\n")
    folder = freeze(job(tmp_path, module="foreign:Stencil", input="3x16x16", weights="random:3", labels=labels))
    bundle = bundle_of(folder)
    assert (folder.parent.name, bundle.manifest.classes, bundle.manifest.input.channels) == ("Stencil", 3, 3)
    assert (bundle.manifest.source.kind, bundle.manifest.source.name) == ("random", "random:3")


def test_the_seed_decides_what_a_factory_draws() -> None:
    def weight(seed: int) -> torch.Tensor:
        loaded = load_module("foreign:Stencil", Shape(1, 8, 8), weights=f"random:{seed}", classes=2, dynamic=False)
        return loaded.network.get_parameter("up.weight")

    state = torch.random.get_rng_state()
    assert torch.equal(weight(3), weight(3))
    assert not torch.equal(weight(3), weight(4))
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's own draws go on undisturbed


def test_a_checkpoint_of_a_factory(tmp_path: Path) -> None:
    torch.manual_seed(99)
    trained = foreign.Stencil()
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in trained.state_dict().items()}}, tmp_path / "w.pth"
    )
    bundle = bundle_of(freeze(job(tmp_path, weights=str(tmp_path / "w.pth"))))
    images = noise(2, 32, 32, 1)
    expected = in_torch(trained, images)
    assert np.abs(logits(bundle, images) - expected).max() < 1e-5 * np.abs(expected).max()
    assert (bundle.manifest.source.kind, bundle.manifest.source.name) == ("file", "w.pth")


def test_a_dynamic_network_takes_other_sizes(tmp_path: Path) -> None:
    bundle = bundle_of(freeze(job(tmp_path, dynamic=True)))
    images = noise(2, 40, 56, 1)
    expected = in_torch(foreign.build(), images)
    assert np.abs(logits(bundle, images) - expected).max() < 1e-5 * np.abs(expected).max()
    sizes = [(case.height, case.width) for case in bundle.manifest.parity.cases]
    assert sizes == [(32, 32)] * 4 + [(37, 41), (48, 32)]


MY_NETWORK = """
from torch import nn

class make:
    @staticmethod
    def net():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
"""


def test_the_current_directory_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_network.py").write_text(MY_NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path != str(tmp_path)])
    loaded = load_module("my_network:make.net", Shape(1, 8, 8), weights=None, classes=None, dynamic=False)
    assert loaded.architecture.classes == 4


@pytest.mark.parametrize("dynamic", [False, True])
def test_an_input_need_not_be_square(tmp_path: Path, dynamic: bool) -> None:
    bundle = bundle_of(freeze(job(tmp_path, input="1x24x40", dynamic=dynamic)))
    wanted = bundle.manifest.input
    assert (wanted.height, wanted.width, wanted.resize) == (24, 40, 40)
    images = noise(2, 24, 40, 1)
    expected = in_torch(foreign.build(), images)
    assert np.abs(logits(bundle, images) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("foreign:failing", r"foreign:failing\(\) fails with RuntimeError: no such luck$"),
        ("foreign:no_module", r"foreign:no_module\(\) returns a str; it must return an nn.Module"),
        ("foreign:tuple_answer", "answers a tuple; forward must return the logits alone"),
        ("foreign:map_answer", r"answers torch.float32 \[2, 5, 6, 6\] for 2 images; logits are \[2, classes\]"),
        ("foreign:softmax_answer", "answers probabilities; leave its softmax out"),
        ("foreign:nan_weights", "head.bias holds NaN or infinity"),
        ("foreign:own_statistics", "its statistics are computed from each batch"),
        ("foreign:branching", "cannot be captured by torch.export: .*may not depend on the values"),
        ("foreign:always_dropping", r"does what only training does \(dropout\)"),
        ("foreign:needs_classes", r"needs_classes\(\) fails with TypeError: .*--labels tells the number of classes"),
        ("foreign:absent", "foreign holds no callable 'absent'"),
        ("nowhere.at_all:build", "there is no module 'nowhere'; run from the folder that holds it"),
        ("broken_module:build", "importing broken_module fails with SyntaxError"),
    ],
)
def test_a_factory_that_does_not_do_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], factory: str, message: str
) -> None:
    (tmp_path / "broken_module.py").write_text("def build(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ExportError, match=message) as caught:
        freeze(job(tmp_path / "models", module=factory, input="1x8x8"))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "models").exists()


def test_another_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"fails on images of 3x8x8 with RuntimeError: .*is --input right?"):
        freeze(job(tmp_path, input="3x8x8"))


def test_a_network_of_one_size_cannot_be_dynamic(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="takes 1x8x8 only, leave --dynamic out; with 1x10x11 it fails"):
        freeze(job(tmp_path, module="foreign:one_size", input="1x8x8", dynamic=True))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ExportError, match=r"not the weights of foreign:build; missing: stem.weight"):
        freeze(job(tmp_path / "models", weights=str(tmp_path / "w.pth")))


def test_labels_must_be_as_many_as_the_answers(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    with pytest.raises(BundleError, match="there are 2 labels for 5 classes"):
        freeze(job(tmp_path / "models", labels=tmp_path / "labels.txt"))
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "name one network"),
        ({"network": "lenet5", "module": "a:b", "weights": "random:0"}, "name one network"),
        ({"network": "lenet5"}, "lenet5 needs --weights"),
        ({"module": "a:b"}, "--module needs --input CxHxW"),
        ({"module": "a.b", "input": "1x8x8"}, "pattern"),
        ({"module": "a:b", "input": "2x8x8"}, "pattern"),
        ({"module": "a:b", "input": "1x0x8"}, "pattern"),
        ({"program": "p.pt2", "weights": "w.pth"}, "a program holds its weights"),
        ({"network": "lenet5", "weights": "random:0", "input": "1x8x8"}, "lenet5 knows its input"),
        ({"network": "lenet5", "weights": "random:0", "dynamic": True}, "lenet5 knows its input"),
    ],
)
def test_exactly_one_network_with_what_it_needs(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FreezeJob(repository=Path("r"), **given)


# --- asked over HTTP


def test_a_network_that_is_not_ours_answers_over_http(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("ant\nbee\ncat\ndog\neel\n")
    freeze(job(tmp_path / "models", name="stencil", labels=tmp_path / "labels.txt"))
    photo = photographs()[1].convert("L").resize((32, 32))
    with serve(Settings(repository=tmp_path / "models", port=0)) as client:
        answer = client.post("/v1/models/stencil:classify", content=encode(photo)).json()
    scores = torch.from_numpy(in_torch(foreign.build(), np.asarray(photo)[None, :, :, None].copy())).softmax(1)[0]
    assert [score["index"] for score in answer["predictions"]] == scores.argsort(descending=True).tolist()
    assert answer["predictions"][0]["label"] == ["ant", "bee", "cat", "dog", "eel"][int(scores.argmax())]
    assert answer["predictions"][0]["probability"] == pytest.approx(float(scores.max()), rel=1e-5)


# --- a program


def save(
    path: Path, network: nn.Module, dims: dict[int, Any] | None, size: int = 32, *, decomposed: bool = False
) -> Path:
    free = None if dims is None else (dims,)
    program = torch.export.export(network, (torch.zeros(2, 1, size, size),), dynamic_shapes=free)
    with pytest.warns() if decomposed else io.BytesIO():  # torch remarks on its own internals
        program = program.run_decompositions() if decomposed else program
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("program") / "stencil.pt2", foreign.build().eval(), {0: N})


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_program_is_folded_and_answers_as_its_network_does(tmp_path: Path, decomposed: bool) -> None:
    path = save(tmp_path / "net.pt2", foreign.build().eval(), {0: N}, decomposed=decomposed)
    bundle = bundle_of(freeze(job(tmp_path, program=path)))
    images = noise(5, 32, 32, 1)
    expected = in_torch(foreign.build(), images)
    assert np.abs(logits(bundle, images) - expected).max() < 1e-5 * np.abs(expected).max()
    assert (bundle.name, bundle.manifest.classes, bundle.manifest.folding.layers) == ("net", 5, 3)
    assert (bundle.manifest.source.kind, bundle.manifest.source.name) == ("file", "net.pt2")
    assert all(node.op_type != "BatchNormalization" for node in onnx.load_from_string(bundle.model).graph.node)


def test_a_program_of_any_size_is_told_its_native_one(tmp_path: Path) -> None:
    path = save(tmp_path / "net.pt2", foreign.build().eval(), {0: N, 2: FREE, 3: FREE})
    with pytest.raises(ExportError, match=r"net.pt2 takes several sizes; say the native one with --input CxHxW"):
        load_program(path, None, dynamic=True)
    bundle = bundle_of(freeze(job(tmp_path, program=path, input="1x24x24", dynamic=True)))
    images = noise(1, 30, 50, 1)
    expected = in_torch(foreign.build(), images)
    assert np.abs(logits(bundle, images) - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_program_of_another_shape_is_refused(program: Path) -> None:
    with pytest.raises(ExportError, match=r"stencil.pt2 takes 1x32x32, and --input says 1x33x32"):
        load_program(program, Shape(1, 33, 32), dynamic=False)
    with pytest.raises(ExportError, match="takes one height and width only; leave --dynamic out"):
        load_program(program, None, dynamic=True)


def test_a_program_of_one_batch_size_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "two.pt2", foreign.build().eval(), None)
    with pytest.raises(ExportError, match=r"two.pt2 takes 2 images at a time; .*dynamic_shapes=\(\{0: "):
        load_program(path, None, dynamic=False)


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_program_in_train_mode_is_refused(tmp_path: Path, decomposed: bool) -> None:
    path = save(tmp_path / "net.pt2", foreign.build().train(), {0: N}, decomposed=decomposed)
    with pytest.raises(ExportError, match=r"only training does \(.*batch_norm.*dropout\); call eval\(\)"):
        load_program(path, None, dynamic=False)


Members = dict[str, bytes]


def pickled_weight(members: Members) -> None:
    config = json.loads(members["data/weights/model_weights_config.json"])
    config["config"]["head.bias"]["use_pickle"] = True
    members["data/weights/model_weights_config.json"] = json.dumps(config).encode()


def pickled_object(members: Members) -> None:
    members["data/constants/opaque_obj_0"] = b"a pickle"


def compiled_library(members: Members) -> None:
    members["data/aotinductor/model/model.so"] = b"\x7fELF"


def old_weights(members: Members) -> None:
    members["data/weights/model.pt"] = b"a pickle"


def expression(members: Members) -> None:
    replaced = members["models/model.json"].replace(b"Symbol('s", b"exec(chr(112)) or Symbol('s")
    assert replaced != members["models/model.json"]
    members["models/model.json"] = replaced


def function(members: Members) -> None:
    members["models/model.json"] = members["models/model.json"].replace(b"torch.ops.aten.relu.default", b"os.system")


@pytest.mark.parametrize("forge", [pickled_weight, pickled_object, compiled_library, old_weights, expression, function])
def test_a_program_with_code_in_it_is_refused_and_not_loaded(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch, forge: Callable[[Members], None]
) -> None:
    with zipfile.ZipFile(program) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    forge(members)
    with zipfile.ZipFile(tmp_path / "evil.pt2", "w") as archive:
        for name, content in members.items():
            archive.writestr(f"evil/{name}", content)
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(ExportError, match=r"evil.pt2 holds more than operators and weights .*could run code"):
        load_program(tmp_path / "evil.pt2", None, dynamic=False)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_program_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.pt2").write_bytes(content)
    with pytest.raises(ExportError, match=r"net.pt2 is no program; write it with torch.export.save"):
        load_program(tmp_path / "net.pt2", None, dynamic=False)


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b"\xff"])
def test_a_program_whose_graph_is_not_readable_is_refused(tmp_path: Path, content: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        archive.writestr("net/archive_format", b"pt2")
        archive.writestr("net/models/model.json", content)
    with pytest.raises(ExportError, match=r"net.pt2 is no program"):
        load_program(tmp_path / "net.pt2", None, dynamic=False)


def test_a_program_cut_short_is_refused(tmp_path: Path, program: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(program.read_bytes()[:-2000])
    with pytest.raises(ExportError, match=r"net.pt2 is no program"):
        load_program(tmp_path / "net.pt2", None, dynamic=False)


def test_an_absent_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"absent.pt2 cannot be read; check the path given with --program"):
        load_program(tmp_path / "absent.pt2", None, dynamic=False)


# --- layers


@pytest.mark.parametrize(
    ("network", "shape", "kinds"),
    [
        (
            nn.Sequential(nn.Conv1d(4, 6, 3, padding=1, groups=2), nn.BatchNorm1d(6)),
            (2, 4, 9),
            ["Conv1d", "BatchNorm1d"],
        ),
        (nn.Conv2d(2, 4, (3, 5), (2, 1), (1, 2), (1, 2), padding_mode="reflect"), (2, 2, 12, 12), ["Conv2d"]),
        (nn.Conv2d(2, 4, 3, padding="same", bias=False), (2, 2, 7, 7), ["Conv2d"]),
        (nn.Conv3d(2, 4, 3), (2, 2, 5, 5, 5), ["Conv3d"]),
        (nn.ConvTranspose1d(4, 2, 3, stride=2), (2, 4, 9), ["ConvTranspose1d"]),
        (
            nn.ConvTranspose2d(4, 6, (3, 2), (3, 2), (1, 0), (2, 1), groups=2, dilation=(2, 1)),
            (2, 4, 5, 6),
            ["ConvTranspose2d"],
        ),
        (
            nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4, affine=False)),
            (2, 3),
            ["Linear", "BatchNorm1d"],
        ),
        (nn.BatchNorm3d(2, eps=0.1), (2, 2, 3, 3, 3), ["BatchNorm3d"]),
    ],
)
def test_layers_compute_what_the_functions_did(network: nn.Module, shape: tuple[int, ...], kinds: list[str]) -> None:
    torch.manual_seed(0)
    for name, buffer in network.named_buffers():
        if "running" in name:
            nn.init.uniform_(buffer, 0.5, 1.5)
    network.eval()
    x = torch.randn(shape)
    layers = as_layers(as_functions("net", torch.export.export(network, (x,))))
    found = [type(module).__name__ for module in layers.children() if not list(module.children())]
    assert [kind for kind in found if kind != "Module"] == kinds
    assert all(node.op != "call_function" or "pad" in str(node.target) for node in layers.graph.nodes)
    torch.testing.assert_close(layers(x), network(x), rtol=0, atol=0)


def test_computed_weights_stay_functions() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 torch's name
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return nn.functional.conv2d(input, weight, self.bias)

    network, x = Standardised(2, 3, 3).eval(), torch.randn(2, 2, 6, 6)
    layers = as_layers(as_functions("net", torch.export.export(network, (x,))))
    assert torch.ops.aten.conv2d.default in {node.target for node in layers.graph.nodes}
    torch.testing.assert_close(layers(x), network(x))
