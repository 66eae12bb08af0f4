"""The recipes: what the papers print, what each network takes without asking, and recipes of one's own."""

from dataclasses import replace
from pathlib import Path

import pytest

from export.architectures import ARCHITECTURES, find
from export.errors import ExportError
from export.train.recipe import Area, OneCycle, Padded, RmsProp, Scale, Sgd, Square
from export.train.recipe_file import check, find_recipe, to_toml
from export.train.recipes import RECIPES, default_recipe
from export.train.run import choose_recipe
from tiny import job, stripes

# batch, highest rate, momentum, decay of the weights, epochs, iterations, dropout, smoothing, auxiliary, mirrored
PUBLISHED = {
    "alexnet": (128, 0.01, 0.9, 5e-4, 90, None, 0.5, 0.0, 0.0, True),
    "vgg": (256, 0.01, 0.9, 5e-4, 74, None, 0.5, 0.0, 0.0, True),
    "googlenet": (32, 0.01, 0.9, 2e-4, 250, None, 0.4, 0.0, 0.3, True),
    "googlenet-caffe": (32, 0.01, 0.9, 2e-4, None, 2_400_000, 0.4, 0.0, 0.3, True),
    "bn-inception": (32, 0.0015, 0.9, 2e-4, 332, None, None, 0.0, 0.0, True),
    "bn-inception-x5": (32, 0.0075, 0.9, 2e-4 / 5, 52, None, 0.0, 0.0, 0.0, True),
    "bn-inception-x30": (32, 0.045, 0.9, 2e-4 / 5, 150, None, 0.0, 0.0, 0.0, True),
    "bn-inception-x5-sigmoid": (32, 0.0075, 0.9, 2e-4 / 5, 52, None, 0.0, 0.0, 0.0, True),
    "inception-v3": (50 * 32, 0.045, 0.9, 4e-5, 100, None, None, 0.1, 0.4, True),
    "resnet-imagenet": (256, 0.1, 0.9, 1e-4, 120, None, None, 0.0, 0.0, True),
    "resnet-cifar": (128, 0.1, 0.9, 1e-4, None, 64_000, None, 0.0, 0.0, True),
    "resnet-cifar-110": (128, 0.1, 0.9, 1e-4, None, 64_000, None, 0.0, 0.0, True),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_numbers_of_its_paper(name: str) -> None:
    recipe = RECIPES[name]
    assert isinstance(recipe.optimizer, Sgd | RmsProp)
    assert (
        *(recipe.batch, recipe.rate, recipe.optimizer.momentum, recipe.optimizer.weight_decay),
        *(recipe.epochs, recipe.iterations, recipe.dropout, recipe.smoothing, recipe.auxiliary),
        recipe.augmentation.mirror,
    ) == PUBLISHED[name]


def test_the_crops_are_those_of_the_papers() -> None:
    crops = {name: recipe.augmentation.crop for name, recipe in RECIPES.items()}
    assert crops["alexnet"] == Square(side=256)
    assert crops["vgg"] == Scale(shortest=256, longest=512)
    assert crops["resnet-imagenet"] == Scale(shortest=256, longest=480)
    assert crops["googlenet"] == crops["inception-v3"] == Area(least=0.08, aspect=4 / 3)
    assert crops["resnet-cifar"] == Padded(padding=4)
    assert {name for name, recipe in RECIPES.items() if recipe.augmentation.pca} == {
        "alexnet",
        "vgg",
        "resnet-imagenet",
    }


def test_no_digit_is_mirrored() -> None:
    assert {name for name, recipe in RECIPES.items() if not recipe.augmentation.mirror} == {
        "digits",
        "lenet",
        "lenet-distorted",
    }


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_whole_data(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(RECIPES[name]))
    assert find_recipe(str(path)) == ("mine", RECIPES[name])


def test_every_network_has_a_recipe() -> None:
    found = {name: default_recipe(name, row.size) for name, row in ARCHITECTURES.items()}
    assert set(found.values()) == set(RECIPES) - {
        *("digits", "lenet-distorted", "fine-tune", "googlenet-caffe"),
        *("bn-inception-x5", "bn-inception-x30", "bn-inception-x5-sigmoid"),
    }
    assert {found[name] for name in ("resnet50", "resnet18_a", "plain34")} == {"resnet-imagenet"}
    assert (found["resnet110"], found["plain20"]) == ("resnet-cifar-110", "resnet-cifar")
    assert (found["lenet_caffe"], found["inception_v2"]) == ("lenet", "inception-v3")


def test_a_file_changes_what_it_says_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'base = "resnet-cifar"\nepochs = 3\n[optimizer]\nweight_decay = 5e-4\n[schedule]\nkind = "one-cycle"\n'
    )
    name, recipe = find_recipe(str(path))
    assert name == "mine"
    assert recipe.optimizer == Sgd(weight_decay=5e-4, momentum=0.9, form="caffe")
    assert recipe.schedule == OneCycle()
    assert (recipe.epochs, recipe.iterations) == (3, None)
    assert recipe.augmentation == RECIPES["resnet-cifar"].augmentation
    assert recipe.source == "resnet-cifar, changed"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base = "resnet"', r"mine.toml: there is no recipe 'resnet' to begin from; choose one of digits, lenet"),
        ("rate = 1", r"mine.toml is no recipe: source: Field required; optimizer: Field required"),
        ('base = "vgg"\nrates = 1', "rates: Extra inputs are not permitted"),
        ('base = "vgg"\nepochs = 1\niterations = 2', "a recipe has either epochs or iterations"),
        ('base = "vgg"\n[augmentation.crop]\nkind = "scale"\nshortest = 600', "shortest 600 is above longest 512"),
        ("rate = ", "mine.toml is no TOML: "),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ExportError, match=message):
        find_recipe(str(tmp_path / "mine.toml"))


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"there is no recipe 'resnet'; choose one of digits, .* or name a \.toml file"
    ):
        find_recipe("resnet")
    with pytest.raises(ExportError, match=r"none\.toml cannot be read: No such file .* --recipe"):
        find_recipe(str(tmp_path / "none.toml"))


def test_values_that_are_no_recipe_are_refused() -> None:
    values = RECIPES["vgg"].model_dump(mode="json") | {"rate": -1}
    with pytest.raises(ExportError, match="it is no recipe: rate: Input should be greater than 0"):
        check(values, "it")


def test_the_command_line_has_the_last_word() -> None:
    asked = job(epochs=7, batch=8, rate=0.5, clip="norm:1.5", activation="tanh")
    name, recipe = choose_recipe(asked, find("resnet20"), stripes())
    assert name == "resnet-cifar"
    assert (recipe.epochs, recipe.iterations, recipe.batch, recipe.rate) == (7, None, 8, 0.5)
    assert recipe.clip is not None
    assert (recipe.clip.kind, recipe.clip.threshold, recipe.activation) == ("norm", 1.5, "tanh")


def test_a_checkpoint_is_tuned_by_default() -> None:
    assert choose_recipe(job(weights="x.pth"), find("resnet20"), stripes())[0] == "fine-tune"


def test_digits_are_not_mirrored_whatever_the_recipe_unless_a_file_says_so(tmp_path: Path) -> None:
    digits = replace(stripes(), digits=True)
    assert not choose_recipe(job(), find("resnet20"), digits)[1].augmentation.mirror
    assert choose_recipe(job(), find("resnet20"), stripes())[1].augmentation.mirror
    (tmp_path / "fashion.toml").write_text('base = "resnet-cifar"\n')
    asked = job(recipe=str(tmp_path / "fashion.toml"))
    assert choose_recipe(asked, find("resnet20"), digits)[1].augmentation.mirror
