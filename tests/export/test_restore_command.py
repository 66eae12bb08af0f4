"""`multicrop-export restore`: pictures of the right size, known pixels as they were, one clear line for each error."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.views import Size
from export.__main__ import main
from export.restore.freeze import draw
from export.restore.job import DenoiseJob, InpaintJob, SuperresolveJob
from export.verify import sample_images

DOCS = (Path(__file__).parents[2] / "docs" / "restore.md").read_text()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With photo.png, 37 x 50, a mask for it, a black one, and what is no image."""
    photo = sample_images(1, Size(37, 50), 3)[0]
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(photo[:25]).save(tmp_path / "half.png")
    Image.fromarray(photo[:20, :20]).save(tmp_path / "small.png")
    mask = np.full((50, 37), 255, np.uint8)
    mask[10:20, 5:30] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(0 * mask).save(tmp_path / "black.png")
    Image.new("RGB", (2000, 1000)).save(tmp_path / "large.png")
    (tmp_path / "words.png").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def restore(arguments: str) -> int:
    return main(["restore", *arguments.split()])


def test_inpainting_keeps_every_known_pixel(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert restore("inpaint photo.png --mask mask.png --net small --iterations 4 --out out.png") == 0
    assert capsys.readouterr().out == "out.png\n"  # and no PSNR: nobody said how it should be
    photo, out, known = pixels(folder / "photo.png"), pixels(folder / "out.png"), pixels(folder / "mask.png") > 0
    assert (out[known] == photo[known]).all()
    assert (out[~known] != photo[~known]).any()


def test_what_the_mask_leaves_out_is_not_looked_at(folder: Path) -> None:
    photo, known = pixels(folder / "photo.png"), pixels(folder / "mask.png") > 0
    Image.fromarray(np.where(known, photo, 255).astype(np.uint8)).save(folder / "scratched.png")
    for name in ("photo", "scratched"):
        assert restore(f"inpaint {name}.png --mask mask.png --net small --iterations 4 --out {name}-out.png") == 0
    assert (pixels(folder / "photo-out.png") == pixels(folder / "scratched-out.png")).all()


def test_the_truth_is_told_about_and_changes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = "denoise photo.png --net small --iterations 12"
    assert restore(f"{common} --out blind.png") == 0
    assert restore(f"{common} --out seen.png --truth photo.png") == 0
    assert (pixels(folder / "blind.png") == pixels(folder / "seen.png")).all()
    said = re.search(r"^PSNR to the truth (\d+\.\d\d) dB$", capsys.readouterr().out, re.MULTILINE)
    assert said
    error = ((pixels(folder / "seen.png") - pixels(folder / "photo.png")) ** 2).mean() / 255**2
    assert float(said[1]) == pytest.approx(-10 * np.log10(error), abs=0.02)


def test_superresolution_is_factor_times_as_large(folder: Path) -> None:
    options = "--net encoder-decoder --depth 2 --iterations 2 --out out.png"
    assert restore(f"superresolve small.png {options}") == 0
    assert pixels(folder / "out.png").shape == (80, 80, 3)
    assert restore(f"superresolve small.png --factor 8 --truth photo.png {options}") == 1
    assert restore(f"superresolve half.png --factor 8 {options}") == 0
    assert pixels(folder / "out.png").shape == (200, 296, 3)


def test_frames_and_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--net small --iterations 6 --every 3 --frames frames --runs 2 --out both.png"
    assert restore(f"inpaint photo.png --missing 0.5 {options}") == 0
    assert "PSNR to the truth" in capsys.readouterr().out  # the image itself is the truth of what was left out
    names = sorted(path.name for path in (folder / "frames").iterdir())
    assert names == ["000003.png", "000006.png", "000009.png", "000012.png"]
    ends = [pixels(folder / "frames" / name) for name in (names[1], names[3])]
    assert (ends[0] != ends[1]).any()
    assert np.abs(pixels(folder / "both.png") - (ends[0] + ends[1]) / 2).max() <= 1


def test_the_last_output_alone_is_what_the_frozen_generator_draws(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--net small --iterations 5 --average 0 --out out.png --freeze out.onnx"
    assert restore(f"denoise photo.png --add-noise 25 {options}") == 0
    assert "out.onnx differs from the fitted generator by " in capsys.readouterr().out
    frozen = draw((folder / "out.onnx").read_bytes())[0].transpose(1, 2, 0)
    assert np.abs(frozen * 255 - pixels(folder / "out.png")).max() <= 0.5 + 255e-4


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("inpaint photo.png --mask absent.png", "absent.png, given as --mask: No such file or directory"),
        ("inpaint absent.png --missing 0.5", "absent.png, given as IMAGE: No such file or directory"),
        ("inpaint words.png --missing 0.5", "words.png, given as IMAGE: the bytes are not a JPEG, PNG or WebP image"),
        ("inpaint half.png --mask mask.png", "mask.png is 37 x 50 and half.png is 37 x 25; make them one size"),
        ("inpaint photo.png --mask black.png", "black.png is black: no pixel is known"),
        ("denoise photo.png --truth half.png", "half.png is 37 x 25, and the picture will be 37 x 50"),
        ("superresolve photo.png --truth half.png", "half.png is 37 x 25, and the picture will be 148 x 200"),
        ("denoise large.png", "large.png: the picture would be 2000 x 1000; at most 1048576 pixels are fitted"),
        (
            "denoise photo.png --freeze no/g.onnx",
            "no/g.onnx: there is no folder no; make it, or choose another --freeze",
        ),
        ("denoise photo.png --frames words.png", "words.png cannot be made a folder: File exists; choose another"),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_work(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, line: str
) -> None:
    assert restore(f"{arguments} --out out.png") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"multicrop-export: {line}")
    assert captured.err.count("\n") == 1
    assert not (folder / "out.png").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("inpaint photo.png --out out.png", "inpaint: say what is missing: --mask FILE, or --missing 0.5"),
        ("inpaint photo.png --mask m.png --missing 0.5 --out out.png", "inpaint: say what is missing"),
        ("inpaint photo.png --missing 1 --out out.png", "inpaint.missing: Input should be less than 1, not '1'"),
        ("superresolve photo.png --factor 3 --out out.png", "superresolve.factor: 3 is no factor; take 4 or 8"),
        ("denoise photo.png --out out.jpg", "denoise.out: out.jpg does not end in .png"),
        ("denoise photo.png --out out.png --freeze g.pt", "denoise.freeze: g.pt does not end in .onnx"),
        ("denoise photo.png --out out.png --net unet --depth 4", "denoise: unet has one depth; leave --depth out"),
        ("denoise photo.png --out out.png --net vgg16", "denoise.net: Input should be 'skip', "),
        ("denoise photo.png --out out.png --runs 2 --freeze g.onnx", "denoise: --freeze writes one generator"),
        ("", "say what to do"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(capsys: pytest.CaptureFixture[str], arguments: str, line: str) -> None:
    assert restore(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"multicrop-export: {line}")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("job", [InpaintJob, DenoiseJob, SuperresolveJob])
def test_every_option_is_documented(job: type[InpaintJob | DenoiseJob | SuperresolveJob]) -> None:
    for name in job.model_fields:
        if name != "image":
            assert f"| `--{name.replace('_', '-')}`" in DOCS
