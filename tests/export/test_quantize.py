"""The command `quantize`: what it publishes, what it says, and what it refuses."""

import contextlib
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnxruntime.quantization.calibrate import save_tensors_data
from PIL import Image

from bundle.accuracy import Accuracies
from bundle.golden import TOLERANCES
from bundle.labelled import open_labelled, png
from bundle.manifest import Quantization
from bundle.plans import PUBLISHED
from bundle.render import render
from bundle.stop import Never
from bundle.store import Bundle, open_bundle, versions
from bundle.views import Size, center_view
from export import pipeline
from export.__main__ import main
from export.errors import ExportError
from export.evaluate import measure
from export.jobs import FreezeJob
from export.quantize.difference import ask
from export.quantize.images import MOST_IMAGES, draw, most_images, of_labelled, open_pictures
from export.runner import Runner
from export.verify import sample_images
from fakes import write_colour_bundle
from live import encode, serve
from service.settings import Settings

CLASSES = [f"class {index}" for index in range(10)]


@pytest.fixture(scope="module", autouse=True)
def soon_measured() -> Iterator[None]:
    """No test looks at the speed itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.quantize.speed.SECONDS", 0.01)
        yield


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet-20 with random weights: REPOSITORY/NAME/1."""
    folder = tmp_path_factory.mktemp("frozen")
    (folder / "labels.txt").write_text("\n".join(CLASSES))
    job = FreezeJob(network="resnet20", weights="random:0", repository=folder / "models", labels=folder / "labels.txt")
    return pipeline.freeze(job)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, frozen: Path) -> Path:
    """160 images, labelled by what the float graph says of them: it is always right."""
    folder = tmp_path_factory.mktemp("data") / "images"
    images = sample_images(160, Size(32, 32), 3, seed=7)
    for index, answer in enumerate(ask((frozen / "model.onnx").read_bytes(), images).argmax(1)):
        (folder / CLASSES[answer]).mkdir(parents=True, exist_ok=True)
        (folder / CLASSES[answer] / f"{index:03}.png").write_bytes(png(images[index]))
    return folder


@pytest.fixture
def model(tmp_path: Path, frozen: Path) -> Path:
    """A copy of NAME with its version 1."""
    return Path(shutil.copytree(frozen.parent, tmp_path / "models" / "resnet20"))


def opened(model: Path, version: int) -> Bundle:
    return open_bundle(model.parent, model.name, version)


def quantization(bundle: Bundle) -> Quantization:
    assert bundle.manifest.quantization
    return bundle.manifest.quantization


@pytest.fixture(scope="module")
def nearest(tmp_path_factory: pytest.TempPathFactory, frozen: Path, data: Path) -> tuple[Path, str]:
    """NAME with its versions 1 and, in int8 without labels, 2; and what the command said."""
    model = Path(shutil.copytree(frozen.parent, tmp_path_factory.mktemp("nearest") / "resnet20"))
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert main(["quantize", str(model), "--to", "int8", "--calibration", str(data)]) == 0
    return model, output.getvalue()


def test_int8_without_labels_is_the_calibrator_nearest_to_float(nearest: tuple[Path, str], data: Path) -> None:
    model, output = nearest
    before, after = opened(model, 1), opened(model, 2)
    made, manifest = quantization(after), after.manifest
    assert manifest.precision == "int8"
    assert made.source == before.digest
    assert {tried.calibrator for tried in made.tried} == {"minmax", "entropy", "percentile"}
    best = min(made.tried, key=lambda tried: tried.difference.error)
    assert (made.calibrator, made.difference) == (best.calibrator, best.difference)
    assert (made.float_layers, made.validation) == ((), None)
    assert made.calibration
    assert (made.calibration.images, made.difference.images, manifest.parity.images) == (80, 80, 32)
    same = ("architecture", "classes", "input", "parameters", "folded_parameters", "macs", "costs", "source", "folding")
    assert [getattr(manifest, name) for name in same] == [getattr(before.manifest, name) for name in same]
    assert after.labels == before.labels
    assert manifest.evaluations == ()
    assert (model / "2" / "model.onnx").stat().st_size < 0.3 * (model / "1" / "model.onnx").stat().st_size

    # The difference of images that did not calibrate, worked out again.
    drawn = draw(open_pictures(data, before.labels), before.manifest.input)
    first, second = (ask(bundle.model, drawn.held_out) for bundle in (before, after))
    assert made.difference.max_rel == pytest.approx(np.abs(second - first).max() / np.abs(first).max(), rel=1e-6)
    assert made.difference.top1_agreement == (first.argmax(1) == second.argmax(1)).mean()

    said = output.splitlines()
    assert said[0] == str(model / "2")
    assert said[1] == f"int8 of resnet20/1 (sha256:{before.digest})"
    assert said[-1] == f"sha256:{after.digest}"
    assert f"  {best.calibrator}: " in "\n".join(said)
    assert sum(line.endswith(", chosen") for line in said) == 1
    assert "accuracy: not known, no labels were given (--data)" in said
    assert re.search(r"^speed: fp32 [\d.]+, int8 [\d.]+ images/s, [\d.]+ times as fast$", "\n".join(said), re.MULTILINE)
    assert not (model / "evaluations").exists()


def test_golden_answers_are_the_graphs_own_and_not_those_of_float(nearest: tuple[Path, str]) -> None:
    before, after = (opened(nearest[0], version) for version in (1, 2))
    np.testing.assert_array_equal(after.golden.images, before.golden.images)
    np.testing.assert_array_equal(after.golden.logits, ask(after.model, after.golden.images))
    assert after.golden.tolerance == TOLERANCES["int8"]
    assert after.golden.check(ask(after.model, after.golden.images[::-1])[::-1], "cpu") < 1e-6
    assert np.abs(after.golden.logits - before.golden.logits).max() > 1e-3


def test_a_server_gives_its_answers_at_any_size(nearest: tuple[Path, str]) -> None:
    model, _ = nearest
    image = encode(Image.fromarray(sample_images(1, Size(90, 70), 3, seed=5)[0]))
    after = opened(model, 2)
    with serve(Settings(repository=model.parent, port=0, provider="cpu")) as client:
        for plan in ("center", "flips", "dense"):
            answer = client.post(f"/v1/models/{model.name}:classify", content=image, params={"views": plan}).json()
            expected = Runner(after.model, after.manifest.input).answer(
                image, PUBLISHED[plan], Never(), "probabilities"
            )
            assert (answer["version"], answer["digest"]) == (2, after.digest)
            best = answer["predictions"][0]
            assert best["index"] == expected.index
            assert best["probability"] == pytest.approx(expected.probability, abs=1e-5)


def test_the_same_images_give_the_same_digest(model: Path, nearest: tuple[Path, str], data: Path) -> None:
    assert main(["quantize", str(model), "--to", "int8", "--calibration", str(data)]) == 0
    assert opened(model, 2).digest == opened(nearest[0], 2).digest


def test_labels_choose_on_one_half_and_the_other_is_the_figure(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", str(model), "--to", "int8", "--data", str(data), "--budget", "60"]) == 0
    before, after = opened(model, 1), opened(model, 2)
    made = quantization(after)
    validation, test = open_labelled(data, before.labels).split(0)
    assert made.validation
    assert made.validation.data_sha256 == validation.digest()
    assert (made.validation.images, made.validation.right_float) == (80, 80)
    assert made.validation.right == max(tried.right or 0 for tried in made.tried)
    assert made.validation.right == measure(after, validation, PUBLISHED["center"]).accuracy.top1 < 80
    assert made.calibration
    assert made.calibration.images == 40, "of the validation half the rest is held out"
    errors = []
    for bundle in (before, after):
        kept = Accuracies.model_validate_json((model / "evaluations" / f"{bundle.digest}.json").read_bytes())
        (figure,) = kept.results
        assert figure.data_sha256 == test.digest()
        assert figure.top1 == measure(bundle, test, PUBLISHED["center"]).accuracy.top1
        errors.append(f"{figure.error():.2f} %")
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("test: "))
    assert re.findall(r"[\d.]+ %", said) == errors


def test_sensitive_layers_stay_in_float_when_the_budget_asks(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", str(model), "--to", "int8", "--data", str(data), "--budget", "8"]) == 0
    made = quantization(opened(model, 2))
    assert made.validation
    best = max(tried.right or 0 for tried in made.tried)
    assert best < 74 <= made.validation.right, "6 of 80 may be lost, with all layers in int8 more are"
    assert len(made.float_layers) in (1, 2, 4, 8)
    assert f"layers in float: {', '.join(made.float_layers)}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_budget_that_cannot_be_met_publishes_nothing(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", str(model), "--to", "int8", "--data", str(data), "--budget", "0"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(
        r"multicrop-export: int8 loses \d\.\d\d points of top-1 on 80 validation images \(80 right in float, 7\d "
        r"now\), the budget is 0, with up to half of the layers in float; nothing was published\. .*",
        said,
    )
    assert versions(model.parent, model.name) == [1]


def test_fp16_needs_no_images(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", str(model), "--to", "fp16"]) == 0
    after = opened(model, 2)
    made = quantization(after)
    assert (after.manifest.precision, made.calibrator, made.tried, made.calibration) == ("fp16", None, (), None)
    assert 0 < max(case.max_rel for case in after.manifest.parity.cases) < 0.02
    assert [case.height for case in after.manifest.parity.cases] == [32, 32, 32, 32, 37, 48]
    assert after.golden.tolerance == TOLERANCES["fp16"]
    assert "speed" not in capsys.readouterr().out, "it is for GPUs"


def test_fp16_has_a_budget_too(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["quantize", str(model), "--to", "fp16", "--data", str(data), "--budget"]
    assert main([*asked, "0"]) == 1
    said = "fp16 loses 1.25 points of top-1 on 80 validation images (80 right in float, 79 now), the budget is 0"
    assert said in capsys.readouterr().err
    assert versions(model.parent, model.name) == [1]
    assert main([*asked, "1.25"]) == 0
    said = "validation: 80 images, 80 right in fp32, 79 in fp16, 1.25 points lost, 1.25 may be lost"
    assert said in capsys.readouterr().out


def test_what_is_quantised_is_not_quantised_again(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", str(model), "--to", "fp16"]) == 0
    assert main(["quantize", str(model), "--to", "fp16"]) == 1
    said = "resnet20/2 is fp16 already; name the fp32 version that it was made of"
    assert said in capsys.readouterr().err
    assert main(["quantize", str(model / "1"), "--to", "fp16"]) == 0
    assert versions(model.parent, model.name) == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--to int8", "quantize: int8 needs images to calibrate on: --calibration DIR, or --data with labelled ones"),
        ("--to fp16 --calibration .", "quantize: fp16 needs no calibration; leave --calibration out"),
        ("--to fp16 --budget 1", "quantize: --budget is of labelled images; give them with --data, or leave"),
        ("--to int8 --calibration . --part 1:", "quantize: --part is of labelled images; give them with --data"),
        ("--to int4", "to: Input should be 'int8' or 'fp16', not 'int4'"),
        ("--to int8 --data . --budget 101", "budget: Input should be less than or equal to 100"),
    ],
)
def test_what_is_asked_wrongly_is_refused(options: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", "models/cats", *options.split()]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_images_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "one.txt").write_text("one")
    for path, said in (("notes", "notes holds no .jpg, .jpeg, .png, .webp file"), ("gone", "gone is no folder")):
        assert main(["quantize", str(model), "--to", "int8", "--calibration", str(tmp_path / path)]) == 1
        assert f"{said}" in capsys.readouterr().err
    assert versions(model.parent, model.name) == [1]


def test_a_graph_that_answers_otherwise_is_refused(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one does that was calibrated on ranges a tenth of what they are."""

    def a_tenth(ranges: object, path: Path) -> None:
        for found in ranges.values():  # type: ignore[attr-defined] # the library's own
            found.lowest, found.highest = found.lowest / np.float32(10), found.highest / np.float32(10)
        save_tensors_data(ranges, path)

    monkeypatch.setattr("export.quantize.int8.save_tensors_data", a_tenth)
    assert main(["quantize", str(model), "--to", "int8", "--calibration", str(data)]) == 1
    assert "the int8 graph is too far from the float one" in capsys.readouterr().err
    assert versions(model.parent, model.name) == [1]


@pytest.fixture
def colours(tmp_path: Path) -> Bundle:
    write_colour_bundle(tmp_path / "models", size=4, resize=8)
    return open_bundle(tmp_path / "models", "colours", 1)


def write_images(folder: Path, count: int) -> Path:
    generator = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        pixels = generator.integers(0, 256, (20, 30, 3), np.uint8)
        (folder / f"{index:04}.png").write_bytes(encode(Image.fromarray(pixels)))
    return folder


def test_every_other_image_calibrates_drawn_as_the_service_draws_it(tmp_path: Path, colours: Bundle) -> None:
    folder = write_images(tmp_path / "images", 7)
    drawn = draw(open_pictures(folder, colours.labels), colours.manifest.input)
    expected = np.empty((7, 4, 4, 3), np.uint8)
    for row, path in zip(expected, sorted(folder.iterdir()), strict=True):
        render(Image.open(path), [center_view(Size(30, 20), Size(4, 4), 8)], row[None])
    np.testing.assert_array_equal(drawn.calibration, expected[::2])
    np.testing.assert_array_equal(drawn.held_out, expected[1::2])
    assert drawn.data == "images"


def test_images_that_cannot_be_read_are_left_out_and_named(tmp_path: Path, colours: Bundle) -> None:
    folder = write_images(tmp_path / "images", 5)
    (folder / "0001.png").write_bytes(b"no image")
    drawn = draw(open_pictures(folder, colours.labels), colours.manifest.input)
    assert (len(drawn.calibration), len(drawn.held_out)) == (2, 2)
    assert [unread.name for unread in drawn.unread] == ["0001.png"]
    for path in sorted(folder.iterdir())[2:]:
        path.write_bytes(b"")
    with pytest.raises(
        ExportError, match=r"images: 1 of 5 images can be read, calibration needs 2 or more; 0001\.png: "
    ):
        draw(open_pictures(folder, colours.labels), colours.manifest.input)


def test_of_many_images_some_are_taken_evenly_spaced(
    tmp_path: Path, colours: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert most_images(colours.manifest.input) == MOST_IMAGES
    assert most_images(colours.manifest.input.model_copy(update={"height": 224, "width": 224})) == 128
    pictures, wanted = open_pictures(write_images(tmp_path / "images", 8), colours.labels), colours.manifest.input
    every = draw(pictures, wanted)
    monkeypatch.setattr("export.quantize.images.MOST_IMAGES", 2)
    some = draw(pictures, wanted)
    # Places 0, 2, 4 and 6 of eight, of which the first and the third calibrate.
    np.testing.assert_array_equal(some.calibration, every.calibration[[0, 2]])
    np.testing.assert_array_equal(some.held_out, every.calibration[[1, 3]])


def test_labelled_data_is_taken_without_its_labels(tmp_path: Path, colours: Bundle) -> None:
    folder = write_images(tmp_path / "images", 4)
    (tmp_path / "list.csv").write_text("".join(f"images/{path.name},red\n" for path in sorted(folder.iterdir())))
    pictures = open_pictures(tmp_path / "list.csv", colours.labels)
    listed = draw(pictures, colours.manifest.input)
    plain = draw(open_pictures(folder, colours.labels), colours.manifest.input)
    np.testing.assert_array_equal(listed.calibration, plain.calibration)
    assert of_labelled(open_labelled(tmp_path / "list.csv", colours.labels)).count == 4
