"""Evaluation against a graph whose answer is known: the mean colour of what it sees."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from PIL import Image

from bundle.accuracy import Accuracies
from bundle.aggregate import Average
from bundle.calibration import Calibration, Measured, fingerprint
from bundle.labelled import Labelled, open_labelled
from bundle.plan import Part, Plan
from bundle.plans import PUBLISHED
from bundle.preprocess import Pixels
from bundle.stop import Confident, Exact, Never, Rule, replay
from bundle.store import Bundle, open_bundle
from bundle.views import Size
from export import runner
from export.__main__ import main
from export.errors import ExportError
from export.evaluate import Distinct, evaluate, measure, score
from export.jobs import FreezeJob
from export.pipeline import freeze
from export.verify import run
from fakes import write_colour_bundle
from labelling import binary
from live import encode

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)

MACS = 1000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logits: the mean red, green and blue in 0 to 1 of 4 x 4 pixels; images are resized to 8."""
    folder = tmp_path_factory.mktemp("models")
    write_colour_bundle(folder, size=4, resize=8, scale=1.0, dynamic=True, macs=MACS)
    write_colour_bundle(folder, "fixed", size=4, resize=8)
    return folder


@pytest.fixture(scope="module")
def colours(models: Path) -> Bundle:
    return open_bundle(models, "colours", 1)


def square(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (8, 8), colour)


def target() -> Image.Image:
    """Green in the middle, red around it."""
    image = square(RED)
    image.paste(GREEN, (2, 2, 6, 6))
    return image


def write(folder: Path, images: dict[str, Image.Image | bytes]) -> Path:
    """Files by CLASS/NAME."""
    for name, image in images.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image if isinstance(image, bytes) else encode(image))
    return folder


@pytest.fixture
def labelled(tmp_path: Path, colours: Bundle) -> Callable[..., Labelled]:
    def make(**images: Image.Image | bytes) -> Labelled:
        named = {name.replace("_", "/", 1): image for name, image in images.items()}
        return open_labelled(write(tmp_path / "squares", named), colours.labels)

    return make


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory, colours: Bundle) -> Labelled:
    """40 images of 8 x 8 noise and of other shapes: every view of them is another."""
    generator = np.random.default_rng(3)
    images: dict[str, Image.Image | bytes] = {}
    for index in range(40):
        height, width = (8, 8) if index % 2 else (9, 15)
        pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
        images[f"{'red' if index % 3 else 'blue'}/{index:02}"] = Image.fromarray(pixels)
    return open_labelled(write(tmp_path_factory.mktemp("noise"), images), colours.labels)


def test_what_a_graph_answers_for_its_manifest(colours: Bundle) -> None:
    images = [encode(square(colour)) for colour in (RED, GREEN, BLUE, BLUE)]
    found = evaluate(colours.model, colours.manifest.input, images, [0, 1, 2, 0], data="squares")
    assert [answer.index for answer in found.answers] == [0, 1, 2, 2]
    assert found.answers[0].probability == pytest.approx(np.e / (np.e + 2))
    assert found.evaluation.model_dump() == {
        "data": "squares",
        "views": "center",
        "average": "probabilities",
        "images": 4,
        "top1": 3,
    }


def test_views_are_those_of_the_plan(colours: Bundle) -> None:
    images, wanted = [encode(target())], colours.manifest.input
    assert evaluate(colours.model, wanted, images, [1], data="target").evaluation.top1 == 1
    # Each corner is one quarter green: 8 red votes, 2 green ones.
    ten = evaluate(colours.model, wanted, images, [0], data="target", views="ten_crop", averaging="logits")
    assert (ten.evaluation.top1, ten.evaluation.views, ten.evaluation.average) == (1, "ten_crop", "logits")
    scores = np.exp([0.8 * 0.75, 0.8 * 0.25 + 0.2, 0.0])
    assert ten.answers[0].probability == pytest.approx(scores[0] / scores.sum(), rel=1e-6)


def test_every_image_needs_its_answer(colours: Bundle) -> None:
    images = [encode(square(RED))] * 2
    with pytest.raises(ValueError, match="shorter"):
        evaluate(colours.model, colours.manifest.input, images, [0], data="squares")


def test_right_answers_are_counted(colours: Bundle, labelled: Callable[..., Labelled]) -> None:
    data = labelled(red_1=square(RED), red_2=square(BLUE), green_1=target(), blue_1=square(BLUE))
    ticks: list[None] = []
    found = measure(colours, data, PUBLISHED["ten_crop"], answered=lambda: ticks.append(None))
    accuracy = found.accuracy
    assert [(example.name, answer and answer.index) for example, answer in zip(data, found.answers, strict=True)] == [
        ("blue/1.png", 2),
        ("green/1.png", 0),
        ("red/1.png", 0),
        ("red/2.png", 2),
    ]
    assert (accuracy.top1, accuracy.top5, accuracy.images, len(ticks)) == (2, 4, 4, 4)
    assert (accuracy.views, accuracy.average, accuracy.stop) == ("ten_crop", "probabilities", "never")
    assert (accuracy.data, accuracy.data_sha256) == ("squares", data.digest())
    assert accuracy.mean_views == 10
    assert accuracy.gmacs == pytest.approx(10 * MACS / 1e9)
    assert accuracy.images_per_second > 0


def test_identical_views_are_run_once(
    labelled: Callable[..., Labelled], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of an image that is as large as the view all ten crops are the centre or its mirror image."""
    write_colour_bundle(tmp_path, size=8, resize=8)
    sizes: list[int] = []

    def counted(session: InferenceSession, rows: Pixels) -> np.ndarray:
        sizes.append(len(rows))
        return run(session, rows)

    monkeypatch.setattr("export.runner.run", counted)
    data = labelled(red_1=square(RED), red_2=Image.new("RGB", (16, 8), RED))
    found = measure(open_bundle(tmp_path, "colours", 1), data, PUBLISHED["ten_crop"])
    assert [answer.views for answer in found.answers if answer] == [2, 6]  # left, right and centre, mirrored
    assert sizes == [2, 6]
    assert found.accuracy.mean_views == 4


def test_views_of_other_sizes_cost_more(colours: Bundle, labelled: Callable[..., Labelled]) -> None:
    """Scales of 256, 384 and 512 for 224 are 5, 7 and 9 for 4, and what it costs grows with the pixels."""
    found = measure(colours, labelled(red_1=square(RED)), PUBLISHED["dense_multiscale"])
    assert found.accuracy.mean_views == 6
    assert found.accuracy.gmacs == pytest.approx(2 * sum(MACS * side**2 // 4**2 for side in (5, 7, 9)) / 1e9)


def test_images_that_cannot_be_read_count_as_wrong(colours: Bundle, labelled: Callable[..., Labelled]) -> None:
    data = labelled(red_1=square(RED), red_2=encode(square(RED))[:-20], red_3=b"GIF89a")
    found = measure(colours, data, PUBLISHED["center"])
    assert (found.accuracy.images, found.accuracy.top1, found.accuracy.top5, found.accuracy.mean_views) == (3, 1, 1, 1)
    assert [answer and answer.index for answer in found.answers] == [0, None, None]
    assert [name for name, _ in found.unread] == ["red/2.png", "red/3.png"]
    assert "not a JPEG, PNG or WebP" in found.unread[1].reason
    assert len(score(colours, data, PUBLISHED["center"])) == 1


def test_an_image_that_a_server_would_refuse_counts_as_wrong(
    colours: Bundle, labelled: Callable[..., Labelled]
) -> None:
    """A dense view of a long strip takes gigabytes: here as there it is not run."""
    wide = colours.manifest.input.model_copy(update={"resize": 1024})
    bundle = replace(colours, manifest=colours.manifest.model_copy(update={"input": wide}))
    data = labelled(red_1=Image.new("RGB", (10, 10), "red"), red_2=Image.new("RGB", (200, 10), "red"))
    found = measure(bundle, data, PUBLISHED["dense"])
    assert [name for name, _ in found.unread] == ["red/2.png"]
    assert "would be 20480 x 1024, at most 1572864 pixels are allowed" in found.unread[0].reason
    assert (found.accuracy.images, found.accuracy.top1) == (2, 1)


def test_no_image_at_all(colours: Bundle, labelled: Callable[..., Labelled]) -> None:
    data = labelled(red_1=b"GIF89a")
    for ask in (measure, score):
        with pytest.raises(ExportError, match=r"no image of squares can be read; red/1.png: the bytes are not a JPEG"):
            ask(colours, data, PUBLISHED["center"])


def seen(image: Image.Image, plan: Plan, bundle: Bundle) -> np.ndarray:
    """The mean colour of each planned view: resized by Pillow, cut and averaged here."""
    found = []
    for view in plan.views(Size(*image.size), bundle.manifest.input):
        pixels = np.asarray(image.resize(view.resized, Image.Resampling.BILINEAR), np.float64)
        left, top, width, height = view.box
        black = np.zeros((height, width, 3))
        rows, columns = (slice(max(start, 0), start + length) for start, length in ((top, height), (left, width)))
        inside = pixels[rows, columns]
        black[max(-top, 0) : max(-top, 0) + len(inside), max(-left, 0) : max(-left, 0) + inside.shape[1]] = inside
        found.append(black.mean((0, 1)) / 255)
    return np.array(found)


SHIFTS = Plan(name="shifts_3", source="", parts=(Part(crops="shifts", distance=3),))
"""Part of each view but the first is outside the image: black."""


@pytest.mark.parametrize("plan", [SHIFTS, PUBLISHED["ten_crop"], PUBLISHED["dense_mirrored"]], ids=lambda p: p.name)
def test_scores_are_of_every_planned_view(colours: Bundle, noise: Labelled, plan: Plan) -> None:
    scores = score(colours, noise, plan)
    assert scores.logits.dtype == np.float32
    assert scores.logits.shape == (40, len(plan), 3)
    assert scores.labels.tolist() == noise.labels.tolist()
    for index in (0, 1, 39):
        image = Image.open(noise_file(noise, index)).convert("RGB")
        assert scores.logits[index] == pytest.approx(seen(image, plan, colours), abs=1 / 255)


def noise_file(noise: Labelled, index: int) -> Path:
    listed = noise._images.listed  # type: ignore[attr-defined]
    return Path(listed.folder) / noise[index].name


def test_identical_views_are_scored_once_and_repeated(tmp_path: Path, labelled: Callable[..., Labelled]) -> None:
    write_colour_bundle(tmp_path, size=8, resize=8, scale=1.0)
    image = square(RED)
    image.paste(GREEN, (0, 0, 4, 4))
    scores = score(open_bundle(tmp_path, "colours", 1), labelled(red_1=image), PUBLISHED["ten_crop"])
    assert scores.logits.shape == (1, 10, 3)
    assert scores.logits[0] == pytest.approx(np.tile([0.75, 0.25, 0], (10, 1)), abs=1e-6)
    assert list(scores.distinct) == [Distinct([0, 1], [5, 5])]
    ((logits, weights),) = scores.each()
    assert (logits.shape, weights) == ((2, 3), [5, 5])


def calibration(plan: Plan, threshold: float) -> Calibration:
    figures = Measured(images=1, right=1, right_full=1, mean_views=1, mean_views_full=1)
    return Calibration(
        plan_sha256=fingerprint(plan),
        average="probabilities",
        temperatures=(0.8, 0.7),
        threshold=threshold,
        data="noise",
        data_sha256="0" * 64,
        seed=0,
        validation=figures,
        test=figures,
    )


@pytest.mark.parametrize(
    ("stop", "rule", "how"),
    [
        ("never", Never(), "logits"),
        ("exact", Exact(), "probabilities"),
        ("confident", Confident(0.7, (0.8, 0.7)), "probabilities"),
        ("confident:.6", Confident(0.6, (0.8, 0.7)), "probabilities"),
    ],
)
def test_waves_end_as_if_all_views_had_been_scored(
    models: Path, noise: Labelled, stop: str, rule: Rule, how: Average
) -> None:
    bundle, plan = open_bundle(models, "fixed", 1), PUBLISHED["ten_crop"]
    known = {plan.name: calibration(plan, 0.7)}
    found = measure(bundle, noise, plan, average=how, stop=stop, calibrations=known)
    expected = [replay(logits, weights, rule, how) for logits, weights in score(bundle, noise, plan).each()]
    answers = [answer for answer in found.answers if answer]
    used = [answer.views for answer in answers]
    assert used == [views for _, views in expected]
    assert [answer.index for answer in answers] == [int(mean.argmax()) for mean, _ in expected]
    assert [answer.probability for answer in answers] == pytest.approx([mean.max() for mean, _ in expected], abs=1e-6)
    assert found.accuracy.mean_views == sum(used) / 40
    assert found.accuracy.gmacs == pytest.approx(sum(used) / 40 / 1e9)
    assert (set(used) == {10}) == (stop == "never")


def test_several_lanes_answer_in_order(colours: Bundle, noise: Labelled) -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            found.append(measure(colours, noise, PUBLISHED["ten_crop"]).answers)
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_batches_are_of_one_size_and_bounded(colours: Bundle) -> None:
    """The three squares of a landscape at two scales, then the whole of it, then 40 views more."""
    parts = (Part(scales=(8, 12), squares=3), Part(crops="dense"), Part(scales=(32,), crops=7))
    views = Plan(name="mixed", source="", parts=parts).views(Size(300, 200), colours.manifest.input)
    batches = runner._batches(views.views)
    assert [len(batch) for batch in batches] == [6, 1, 32, 17]
    assert [view for batch in batches for view in batch] == list(views)
    large = Plan(name="large", source="", parts=(Part(scales=(512,), size=224, crops=3),))
    assert [len(batch) for batch in runner._batches(large.views(Size(512, 512), colours.manifest.input).views)] == [
        *(2, 2, 2, 2, 1)
    ]


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("fixed", "--views center,dense", "fixed cannot run dense: it needs a network that takes any size"),
        ("fixed", "--views eleven", "fixed has no plan 'eleven'; choose one of center, flips, "),
        ("fixed", "--views broken", "broken.toml: base 'eleven' is no published plan"),
        ("fixed", "--views center,tilted", "fixed cannot run tilted: it needs a network that takes any size"),
        ("fixed", "--views flips --stop exact --average logits", ": flips has average=logits; stop=exact holds for"),
        ("fixed", "--views flips --stop confident", ": flips with average=probabilities is not calibrated"),
        ("fixed", "--views flips --stop soon", "at most 1; 'soon' is none of these"),
        ("fixed", "--views flips --part 7:", "part 7: of squares is empty"),
        ("fixed/2", "--views flips", "fixed has no version 2; its versions are 1"),
        ("fixed/0", "--views flips", "fixed has no version 0"),
        ("absent", "--views flips", "absent holds no version; name a bundle as REPOSITORY/NAME or"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_runs(
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    options: str,
    words: str,
) -> None:
    plans = models / "fixed" / "plans"
    plans.mkdir(exist_ok=True)
    (plans / "broken.toml").write_text('base = "eleven"\n')
    (plans / "tilted.toml").write_text("[[parts]]\nsize = 6\n")
    monkeypatch.setattr("export.runner.run", None)
    data = write(tmp_path / "squares", {"red/1": square(RED)})
    assert main(["evaluate", str(models / model), "--data", str(data), *options.split()]) == 1
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""
    assert not (models / "fixed" / "evaluations").exists()


def test_the_command_prints_a_row_a_plan_and_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        folder = write_colour_bundle(tmp_path, size=4, resize=8)
    (tmp_path / "colours" / "plans").mkdir()
    (tmp_path / "colours" / "plans" / "tilted.toml").write_text('average = "logits"\n[[parts]]\ncrops = "corners"\n')
    images: dict[str, Image.Image | bytes] = {"red/1": square(RED), "green/1": target(), "blue/1": b"GIF89a"}
    data = write(tmp_path / "squares", images)
    asked = ["--data", str(data), "--views", "center,tilted,center"]
    assert main(["evaluate", str(tmp_path / "colours"), *asked]) == 0
    digest = open_bundle(tmp_path, "colours", 2).digest
    first, _, center, tilted, count, bad, last = capsys.readouterr().out.splitlines()
    assert folder.name == "2"
    assert first.startswith("colours/2, 3 images of squares (sha256:")
    assert center.split()[:4] == ["center", "probabilities", "never", "33.33"]
    assert tilted.split()[:4] == ["tilted", "logits", "never", "66.67"]
    assert count == "1 image cannot be read, counted as wrong:"
    assert bad.startswith("  blue/1.png: the bytes are not a JPEG")
    kept = tmp_path / "colours" / "evaluations" / f"{digest}.json"
    assert last == f"kept in {kept}"
    results = Accuracies.model_validate_json(kept.read_bytes()).results
    assert [(result.views, result.top1, result.images) for result in results] == [("center", 2, 3), ("tilted", 1, 3)]
    assert main(["evaluate", str(tmp_path / "colours" / "1"), *asked, "--part", "1:2"]) == 0
    assert capsys.readouterr().out.startswith("colours/1, 1 images of squares[1:2] (")


@pytest.mark.slow
def test_resnet20_on_the_real_images_of_cifar(shared: Path, tmp_path: Path) -> None:
    """915 right and 998 among the five best are the published weights' figures for these images."""
    with np.load(shared / "cifar10" / "cifar10_test_first1000.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"].tolist()
    weights = shared / "weights" / "cifar10_resnet20-12fca82f.th"
    freeze(FreezeJob(network="resnet20", weights=str(weights), repository=tmp_path))
    bundle = open_bundle(tmp_path, "resnet20", 1)
    (tmp_path / "test_batch.bin").write_bytes(binary(images, labels))
    data = open_labelled(tmp_path / "test_batch.bin", bundle.labels)
    center = measure(bundle, data, PUBLISHED["center"]).accuracy
    assert (center.top1, center.top5, center.images, center.mean_views) == (915, 998, 1000, 1)
    assert center.gmacs == pytest.approx(0.04055104)  # 40.55 million multiply-adds
    for name in ("flips", "shifts"):
        plain, exact = (measure(bundle, data, PUBLISHED[name], stop=stop) for stop in ("never", "exact"))
        pairs = zip(plain.answers, exact.answers, strict=True)
        assert all(first and second and first.index == second.index for first, second in pairs)
        print(f"{name}: {plain.accuracy.top1} right of 1000, exact after {exact.accuracy.mean_views:.4g} views")
        assert exact.accuracy.mean_views <= plain.accuracy.mean_views
        assert plain.accuracy.top1 > center.top1


def test_a_damaged_file_of_results_is_named_before_hours_of_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_colour_bundle(tmp_path, size=4, resize=8)
    kept = tmp_path / "colours" / "evaluations" / f"{open_bundle(tmp_path, 'colours', 1).digest}.json"
    kept.parent.mkdir()
    kept.write_text("{")
    monkeypatch.setattr("export.runner.run", None)
    data = write(tmp_path / "squares", {"red/1": square(RED)})
    assert main(["evaluate", str(folder), "--data", str(data), "--views", "center"]) == 1
    assert kept.name in capsys.readouterr().err
    assert kept.read_text() == "{"
