"""What training sees of an image: the geometry of the crops, and the colours."""

from collections import Counter

import numpy as np
import pytest
import torch

from bundle.manifest import Input
from bundle.views import Box, Size, View
from export.errors import ExportError
from export.train.augment import PCA_COMPONENTS, Colours, draw_view, pca_shift, require_fits, warp
from export.train.recipe import Area, Augmentation, Centre, Crop, Padded, Scale, Square, Warp

IMAGE = Size(500, 375)
WANTED = Input(height=224, width=224, channels=3, dynamic=True, resize=256)
SMALL = Input(height=32, width=32, channels=3, dynamic=True, resize=32)


def draws(crop: Crop, image: Size = IMAGE, wanted: Input = WANTED, count: int = 3000) -> list[View]:
    generator = np.random.default_rng(0)
    return [draw_view(crop, image, wanted, generator) for _ in range(count)]


def test_alexnet_cuts_224_anywhere_in_the_central_256() -> None:
    views = draws(Square(side=256))
    assert {view.resized for view in views} == {Size(341, 256)}
    # the central square begins at 42 (SPEC of the ten crops), and 33 x 33 places are in it
    assert {view.box.left for view in views} == set(range(42, 42 + 33))
    assert {view.box.top for view in views} == set(range(33))
    assert {view.box[2:] for view in views} == {(224, 224)}


def test_vgg_and_resnet_draw_the_scale_and_cut_anywhere() -> None:
    views = draws(Scale(shortest=256, longest=480), count=20_000)
    assert {view.resized.height for view in views} == set(range(256, 481))
    assert {view.resized.width for view in views if view.resized.height == 300} == {400}
    smallest = [view for view in views if view.resized.height == 256]
    assert max(view.box.left for view in smallest) > 100  # the whole width of 341, not a square of it
    for view in views:
        assert 0 <= view.box.left <= view.resized.width - 224
        assert 0 <= view.box.top <= view.resized.height - 224


def test_googlenet_takes_8_to_100_percent_of_the_area_at_aspects_of_3_to_4() -> None:
    views = draws(Area())
    scales = np.array([(view.resized.width / IMAGE.width, view.resized.height / IMAGE.height) for view in views])
    widths, heights = 224 / scales[:, 0], 224 / scales[:, 1]
    areas, aspects = widths * heights / (IMAGE.width * IMAGE.height), widths / heights
    assert 0.079 < areas.min() < 0.1
    assert 0.95 < areas.max() <= 1.01
    assert (
        np.histogram(areas, 3, (0.08, 0.6))[0].min() > 0.9 * 3000 * 0.52 / 0.92 / 3
    )  # even, but larger parts may not fit
    assert 0.745 < aspects.min() < 0.78
    assert 1.29 < aspects.max() < 1.343
    assert {view.box[2:] for view in views} == {(224, 224)}


def test_an_area_of_a_narrow_image_stays_inside() -> None:
    for view in draws(Area(), Size(40, 900), SMALL):
        assert 0 <= view.box.left <= view.resized.width - 32
        assert 0 <= view.box.top <= view.resized.height - 32


def test_cifar_is_padded_by_four() -> None:
    views = draws(Padded(padding=4), Size(32, 32), SMALL)
    places = Counter((view.box.left, view.box.top) for view in views)
    assert set(places) == {(left, top) for left in range(-4, 5) for top in range(-4, 5)}
    assert {view.resized for view in views} == {Size(32, 32)}


def test_without_augmentation_training_sees_what_the_service_shows() -> None:
    assert draw_view(Centre(), IMAGE, WANTED, np.random.default_rng(0)) == View(
        Size(341, 256), Box(58, 16, 224, 224), Size(224, 224)
    )


@pytest.mark.parametrize("crop", [Square(side=200), Scale(shortest=128, longest=480)])
def test_a_crop_of_an_image_that_is_too_small_is_refused(crop: Crop) -> None:
    with pytest.raises(ExportError, match=r"cuts 224 x 224 of images resized to (200|128)"):
        require_fits(crop, WANTED)


def test_colours_are_shifted_along_the_principal_components() -> None:
    shift = pca_shift(torch.tensor([[0.1, 0.0, 0.0], [0.0, -0.2, 1.0]]))
    assert shift[0].tolist() == pytest.approx([-0.1 * 0.2175 * 0.5675, -0.1 * 0.2175 * 0.5808, -0.1 * 0.2175 * 0.5836])
    red = -0.2 * 0.0188 * 0.7192 + 0.0045 * 0.4009
    assert float(shift[1, 0]) == pytest.approx(red, rel=1e-4)
    components = torch.tensor(PCA_COMPONENTS)
    torch.testing.assert_close(components.T @ components, torch.eye(3), atol=1e-3, rtol=0)


def test_every_image_has_a_shift_of_its_own_over_all_its_pixels() -> None:
    torch.manual_seed(0)
    images = torch.full((4, 8, 8, 3), 128.0)
    seen = Colours(Augmentation(pca=0.1))(images)
    assert torch.equal(seen, seen[:, :1, :1].expand_as(seen))
    assert len({tuple(row) for row in seen[:, 0, 0].tolist()}) == 4
    many = Colours(Augmentation(pca=0.1))(torch.zeros(20_000, 1, 1, 3))[:, 0, 0]
    first = many @ torch.tensor(PCA_COMPONENTS)[:, 0]
    assert float(first.std()) == pytest.approx(255 * 0.1 * 0.2175, rel=0.02)


def test_jitter_changes_brightness_and_keeps_the_range() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (16, 8, 8, 3)).float()
    seen = Colours(Augmentation(jitter=0.4))(images)
    assert seen.min() >= 0
    assert seen.max() <= 255.001
    ratio = seen.mean((1, 2, 3)) / images.mean((1, 2, 3))
    assert ratio.min() < 0.9
    assert ratio.max() > 1.1


def test_grey_images_have_no_colours_to_shift() -> None:
    images = torch.rand(2, 4, 4, 1)
    assert Colours(Augmentation(pca=0.1, jitter=0.4))(images) is images


def test_without_disturbance_a_warp_is_the_centre() -> None:
    images = torch.randint(0, 256, (3, 36, 36, 1), dtype=torch.uint8)
    seen = warp(images, Size(32, 32), Warp(degrees=0, zoom=0, shift=0))
    torch.testing.assert_close(seen, images[:, 2:34, 2:34].float(), atol=1e-2, rtol=0)


def test_warped_images_are_never_mirrored() -> None:
    image = torch.zeros(1, 36, 36, 1, dtype=torch.uint8)
    image[:, 8:28, 12:15] = 255  # an L: the stroke is left of the foot's end
    image[:, 25:28, 12:24] = 255
    crops = warp(image.repeat(200, 1, 1, 1), Size(32, 32), Warp())[..., 0]
    columns = torch.arange(32.0)
    upper = (crops[:, :16].sum(1) * columns).sum(1) / crops[:, :16].sum((1, 2))
    lower = (crops[:, 16:].sum(1) * columns).sum(1) / crops[:, 16:].sum((1, 2))
    assert (upper < lower + 4).all()
    assert len({crop.numpy().tobytes() for crop in crops}) == 200
