"""The manifest's bytes are its identity; what is unknown, not finite or a way out of the folder is refused by name."""

import json
import math
from typing import Any

import pytest
from pydantic import ValidationError

from bundle.errors import BundleError
from bundle.manifest import (
    CalibrationImages,
    Cost,
    Difference,
    Evaluation,
    FileRecord,
    Input,
    Manifest,
    Parity,
    ParityCase,
    Quantization,
    Source,
    Tried,
    Validation,
)
from bundle.views import Size
from samples import manifest

CANONICAL = (
    b'{"architecture":"lenet5","classes":3,"costs":[],'
    b'"evaluations":[{"average":"probabilities","data":"digits","images":360,"top1":355,"views":"center"}],'
    b'"files":{"labels.txt":{"sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","size":3}},'
    b'"folded_parameters":61706,"folding":{"folded_error":0.0,"layers":0,"unfolded_error":0.0},'
    b'"input":{"channels":1,"dynamic":false,"height":32,"interpolation":"bilinear","resize":32,"width":32},'
    b'"macs":416520,"manifest":1,"parameters":61706,'
    b'"parity":{"cases":[{"batch":2,"height":32,"max_abs":1e-06,"max_rel":2e-06,"top1_agreement":1.0,"width":32}],'
    b'"images":0,"tolerance":0.0001},'
    b'"precision":"fp32",'
    b'"source":{"kind":"trained","name":"K\\u00e4se","recipe":{"epoch":7,"lr":0.1,"split":[60,20,20]},"sha256":null},'
    b'"tools":{"torch":"2.13.0"}}\n'
)


def published() -> Manifest:
    return manifest(
        evaluations=(Evaluation(data="digits", views="center", average="probabilities", images=360, top1=355),),
        source=Source(kind="trained", name="Käse", recipe={"split": [60, 20, 20], "lr": 0.1, "epoch": 7}),
        files={"labels.txt": FileRecord.of(b"abc")},
    )


def changed(*path: str | int, value: Any) -> bytes:
    """The canonical manifest with one value set."""
    facts = json.loads(CANONICAL)
    part = facts
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return json.dumps(facts).encode()


def test_canonical_bytes_are_stable() -> None:
    assert published().to_json() == CANONICAL


def test_reading_and_writing_again_changes_nothing() -> None:
    assert Manifest.from_json(CANONICAL) == published()
    assert Manifest.from_json(CANONICAL).to_json() == CANONICAL


def test_the_order_in_which_facts_are_given_does_not_matter() -> None:
    backwards = json.dumps(dict(reversed(json.loads(CANONICAL).items())), indent=2).encode()
    assert Manifest.from_json(backwards).to_json() == CANONICAL


def test_a_file_record_is_the_published_sha256() -> None:
    assert FileRecord.of(b"abc").sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert FileRecord.of(b"abc").size == 3


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("trained_at",), "2026-11-23", "trained_at"),
        (("input", "mean"), [0.5], r"input\.mean"),
        (("parity", "cases", 0, "milliseconds"), 3, r"parity\.cases\.0\.milliseconds"),
        (("manifest",), 2, "manifest"),
        (("precision",), "int4", "precision"),
        (("classes",), 0, "classes"),
        (("input", "channels"), 4, r"input\.channels"),
        (("input", "interpolation"), "nearest", r"input\.interpolation"),
        (("files", "labels.txt", "sha256"), "BA" * 32, r"files\.labels\.txt\.sha256"),
    ],
)
def test_what_is_not_known_is_refused_by_name(path: tuple[str | int, ...], value: Any, named: str) -> None:
    with pytest.raises(BundleError, match=rf"^manifest\.json: {named}: "):
        Manifest.from_json(changed(*path, value=value))


@pytest.mark.parametrize(
    "name", ["../model.onnx", "/etc/passwd", "a/b", "a\\b", "..", ".hidden", "", "model.onnx\n", "mödel", "a\0"]
)
def test_a_file_name_that_leaves_the_folder_is_refused(name: str) -> None:
    record = {"sha256": "0" * 64, "size": 0}
    with pytest.raises(BundleError, match=r"manifest\.json: files"):
        Manifest.from_json(changed("files", name, value=record))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_measurement_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(BundleError, match=r"parity\.cases\.0\.max_rel"):
        Manifest.from_json(changed("parity", "cases", 0, "max_rel", value=value))
    with pytest.raises(ValidationError):
        ParityCase(batch=1, height=1, width=1, max_abs=value, max_rel=0, top1_agreement=1)
    with pytest.raises(ValidationError):
        Parity(tolerance=value, cases=())


def test_a_recipe_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValidationError, match="finite number"):
        Source(kind="trained", name="digits", recipe={"loss": math.nan})
    with pytest.raises(BundleError, match="a number is not finite"):
        Manifest.from_json(changed("source", "recipe", value={"loss": math.inf}))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe{\x00}\x00", CANONICAL[:-10]])
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"^manifest\.json: the file: "):
        Manifest.from_json(content)


@pytest.mark.parametrize("missing", ["architecture", "classes", "input", "parity", "files"])
def test_a_missing_fact_is_refused_by_name(missing: str) -> None:
    facts = json.loads(CANONICAL)
    del facts[missing]
    with pytest.raises(BundleError, match=rf"^manifest\.json: {missing}: "):
        Manifest.from_json(json.dumps(facts).encode())


def test_a_resize_smaller_than_the_crop_is_refused() -> None:
    """Its views would lie outside the image."""
    with pytest.raises(ValidationError, match="shorter side of 224 is smaller than the input 256 x 224"):
        Input(height=224, width=256, channels=3, dynamic=False, resize=224)
    assert Input(height=224, width=256, channels=3, dynamic=False, resize=256).size == Size(256, 224)


def test_a_view_of_another_size_costs_its_pixels_where_nothing_else_is_known() -> None:
    network = manifest()  # 416,520 at 32 x 32
    assert network.macs_at(Size(32, 32)) == 416_520
    assert network.macs_at(Size(64, 32)) == 2 * 416_520
    assert network.macs_at(Size(33, 31)) == 416_520 * 33 * 31 // 1024


def test_a_view_of_another_size_costs_each_layer_at_its_places() -> None:
    """Of a stem of stride 2 with padding, a layer at stride 32 less a window of 7, and a head after global pooling."""
    costs = (Cost(stride=2, offset=1, macs=3), Cost(stride=32, offset=-192, macs=5), Cost(stride=0, offset=0, macs=7))
    network = manifest(input=Input(height=224, width=224, channels=3, dynamic=True, resize=256), costs=costs, macs=9)
    assert network.macs_at(Size(224, 224)) == 9  # what was counted, whatever the layers say
    assert network.macs_at(Size(341, 256)) == 3 * 128 * 171 + 5 * 2 * 4 + 7
    assert network.macs_at(Size(682, 512)) == 3 * 256 * 341 + 5 * 10 * 15 + 7
    assert Manifest.from_json(network.to_json()) == network


def test_a_manifest_without_costs_is_read() -> None:
    """As they were written before there were any."""
    assert Manifest.from_json(CANONICAL.replace(b'"costs":[],', b"")) == published()


def test_facts_are_frozen() -> None:
    with pytest.raises(ValidationError):
        published().classes = 4  # type: ignore[misc]  # what the checker says, the object says too


def quantised(precision: str = "int8", **changes: Any) -> Manifest:
    difference = Difference(images=80, error=0.04, max_rel=0.05, top1_agreement=0.99)
    facts: dict[str, Any] = {
        "source": "a" * 64,
        "difference": difference,
        "calibrator": "percentile",
        "tried": (Tried(calibrator="percentile", difference=difference, right=461),),
        "float_layers": ("conv1", "fc"),
        "calibration": CalibrationImages(data="photos", images=80, sha256="b" * 64),
        "validation": Validation(
            data="photos validation", data_sha256="c" * 64, seed=0, images=500, right_float=459, right=461, budget=1.0
        ),
    }
    return manifest(precision=precision, quantization=Quantization(**{**facts, **changes}))


def test_how_it_was_quantised_survives_its_file() -> None:
    assert Manifest.from_json(quantised().to_json()) == quantised()
    bare = quantised("fp16", calibrator=None, tried=(), float_layers=(), calibration=None, validation=None)
    assert Manifest.from_json(bare.to_json()) == bare


def test_a_float_bundle_does_not_speak_of_quantization() -> None:
    """Its bytes, and so its digest, are those of before there was any."""
    assert b"quantization" not in published().to_json()
    assert b'"quantization":{"calibration":{"data":"photos"' in quantised().to_json()


def test_precision_and_quantization_belong_together() -> None:
    with pytest.raises(BundleError, match="says how it was quantised if it was; this one is int8"):
        Manifest.from_json(CANONICAL.replace(b'"precision":"fp32"', b'"precision":"int8"'))
    with pytest.raises(BundleError, match="this one is fp32"):
        Manifest.from_json(quantised().to_json().replace(b'"precision":"int8"', b'"precision":"fp32"'))


@pytest.mark.parametrize(("before", "after"), [("percentile", "luck"), ("aaaa", "xyzw"), ("0.99", "1.99")])
def test_a_wrong_fact_of_quantization_is_refused_by_name(before: str, after: str) -> None:
    with pytest.raises(BundleError, match=r"^manifest\.json: quantization\."):
        Manifest.from_json(quantised().to_json().replace(before.encode(), after.encode()))
