"""The table of public files against what is known of them."""

import re

import pytest

from export import catalogue
from export.architectures import ARCHITECTURES
from export.catalogue import PUBLIC
from export.errors import ExportError


@pytest.mark.parametrize("row", PUBLIC, ids=lambda row: row.file)
def test_a_row_agrees_with_its_file_name_and_its_network(row: catalogue.PublicWeights) -> None:
    assert re.fullmatch(r"[0-9a-f]{8}", row.sha256_prefix)
    assert row.file.rpartition(".")[0].endswith(f"-{row.sha256_prefix}")
    assert row.url.startswith("https://")
    assert row.url.endswith(f"/{row.file}")
    architecture = ARCHITECTURES[row.network]
    assert row.crop == architecture.size
    assert row.resize >= row.crop


# Float32 weights and a little around them; the files of googlenet and inception_v3 hold the auxiliary heads too.
@pytest.mark.parametrize(
    ("file", "parameters"),
    [
        ("alexnet-owt-7be5be79.pth", 61_100_840),
        ("vgg16-397923af.pth", 138_357_544),
        ("vgg19_bn-c79401a0.pth", 143_678_248),
        ("googlenet-1378be20.pth", 13_004_888),
        ("inception_v3_google-0cc3c7bd.pth", 27_161_264),
        ("resnet18-f37072fd.pth", 11_689_512),
        ("resnet152-394f9c45.pth", 60_192_808),
        ("resnet20-12fca82f.th", 269_722),
        ("resnet56-4bfd9763.th", 853_018),
    ],
)
def test_a_file_is_as_large_as_its_networks_published_parameters(file: str, parameters: int) -> None:
    row = catalogue.named(file)
    assert row is not None
    assert 0 <= row.mib * 2**20 - 4 * parameters < 0.01 * 4 * parameters + 120_000


def test_no_two_rows_share_a_file_or_a_digest() -> None:
    assert len({row.file for row in PUBLIC}) == len({row.sha256_prefix for row in PUBLIC}) == len(PUBLIC) == 24


def test_weights_are_found_by_the_whole_digest() -> None:
    digest = "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8"
    row = catalogue.find(digest)
    assert row is not None
    assert (row.network, row.file, row.license) == ("resnet20", "resnet20-12fca82f.th", "BSD-2-Clause")
    assert catalogue.find("f" + digest[1:]) is None


def test_the_second_weights_of_a_resnet_want_another_resize() -> None:
    resize = {row.file: row.resize for row in PUBLIC if row.network == "resnet50"}
    assert resize == {"resnet50-0676ba61.pth": 256, "resnet50-11ad3fa6.pth": 232}


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["resnet50-0676ba61.pth"], ["resnet50-0676ba61.pth"]),
        (["resnet50"], ["resnet50-11ad3fa6.pth"]),
        (["vgg16"], ["vgg16-397923af.pth"]),
        (["resnet20", "resnet20-12fca82f.th"], ["resnet20-12fca82f.th"]),
        (["all"], [row.file for row in PUBLIC]),
    ],
)
def test_names_mean_files(names: list[str], files: list[str]) -> None:
    assert [row.file for row in catalogue.chosen(names)] == files


def test_a_name_that_means_nothing_is_refused() -> None:
    with pytest.raises(ExportError, match="there are no public weights 'resnet21'; multicrop-export weights list"):
        catalogue.chosen(["resnet50", "resnet21"])
