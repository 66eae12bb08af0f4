"""What a model is: the facts of a bundle, frozen, as canonical JSON without times.

What the operator wants of a model, and what is learned of it later, lives beside the versions and not here.
"""

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from bundle.errors import BundleError
from bundle.preprocess import Interpolation
from bundle.views import Size

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Precision = Literal["fp32", "fp16", "int8"]
Calibrator = Literal["minmax", "entropy", "percentile"]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A plain name in the bundle's own folder."""


class Facts(BaseModel):
    """A part of the manifest: frozen, and nothing unknown in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Input(Facts):
    """The network's input `images`: uint8 [N, height, width, channels]."""

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    channels: Literal[1, 3]
    """3: RGB. 1: grey."""
    dynamic: bool
    """Whether the graph also takes other heights and widths (a dense form)."""
    resize: int = Field(ge=1)
    """The shorter side of the image before the crop, in pixels."""
    interpolation: Interpolation = "bilinear"

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.resize < max(self.height, self.width):
            raise ValueError(f"a shorter side of {self.resize} is smaller than the input {self.width} x {self.height}")
        return self

    @property
    def size(self) -> Size:
        return Size(self.width, self.height)


class Source(Facts):
    """Where the weights came from."""

    kind: Literal["file", "random", "trained", "module"]
    name: str
    """The file's name without its folders, "random:SEED", the data that it was trained on, or module:factory."""
    sha256: Sha256 | None = None
    """Of the file; of the weights that a factory put into its network."""
    recipe: dict[str, JsonValue] = {}
    """Of a trained network: data split, seed, optimiser, the epoch chosen and why."""


class Folding(Facts):
    """How well the BatchNorm folding kept the function (largest |difference| of logits by largest |logit|)."""

    layers: int = Field(ge=0)
    """BatchNorm layers folded away."""
    folded_error: float = Field(ge=0)
    """Of the folded float32 network against the float64 one."""
    unfolded_error: float = Field(ge=0)
    """Of the float32 network as it was, against the float64 one."""


class ParityCase(Facts):
    """One comparison of the ONNX graph with torch, or with the float graph, on the same uint8 images."""

    batch: int = Field(ge=1)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    max_abs: float = Field(ge=0)
    """The largest |difference| of logits."""
    max_rel: float = Field(ge=0)
    """The same, divided by the largest |logit| of the case."""
    top1_agreement: float = Field(ge=0, le=1)


class Parity(Facts):
    """The comparison that the bundle passed before it was published: with torch, or with the float graph."""

    tolerance: float = Field(gt=0)
    """The bound on `max_rel`."""
    cases: tuple[ParityCase, ...]
    images: int = Field(default=0, ge=0)
    """Of the user's own, among those compared."""


class Evaluation(Facts):
    """Accuracy of the published graph on labelled images."""

    data: str
    views: str
    average: str
    images: int = Field(ge=1)
    top1: int = Field(ge=0)
    """Images whose best answer is right."""


class Difference(Facts):
    """How far a graph of lower precision is from the float one, on images that it was not calibrated on."""

    images: int = Field(ge=1)
    error: float = Field(ge=0)
    """The root mean square of the differences of logits by that of the logits, each image's taken from their mean."""
    max_rel: float = Field(ge=0)
    """The largest |difference| of logits by the largest |logit|."""
    top1_agreement: float = Field(ge=0, le=1)


class Tried(Facts):
    """A calibrator, and the graph with every layer quantised that it gave."""

    calibrator: Calibrator
    difference: Difference
    right: int | None = Field(default=None, ge=0)
    """Validation images whose best answer is right; None where there were no labels."""


class CalibrationImages(Facts):
    """The images that the ranges of the activations were taken from."""

    data: str
    images: int = Field(ge=1)
    sha256: Sha256
    """Of their pixels as the graph takes them."""


class Validation(Facts):
    """The labelled images by which the graph was chosen."""

    data: str
    data_sha256: Sha256
    seed: int = Field(ge=0)
    """Of the halves, of which this is the first."""
    images: int = Field(ge=1)
    right_float: int = Field(ge=0)
    """Images whose best answer is right, of the float graph."""
    right: int = Field(ge=0)
    """The same of this graph."""
    budget: float = Field(ge=0)
    """Percentage points that might be lost."""


class Quantization(Facts):
    """How a graph of lower precision was made of a float one."""

    source: Sha256
    """The digest of the bundle with the float graph."""
    difference: Difference
    calibrator: Calibrator | None = None
    """The one chosen; None of fp16, which needs none."""
    tried: tuple[Tried, ...] = ()
    float_layers: tuple[str, ...] = ()
    """Layers that were left in float, the most sensitive first."""
    calibration: CalibrationImages | None = None
    validation: Validation | None = None


class Cost(Facts):
    """The layers of one resolution: `macs` multiply-adds at each of h x w places, h = (height + offset) // stride."""

    stride: int = Field(ge=0)
    """0: there is one place, whatever the size (after global pooling)."""
    offset: int
    macs: int = Field(ge=0)

    def at(self, size: Size) -> int:
        if not self.stride:
            return self.macs
        return self.macs * ((size.height + self.offset) // self.stride) * ((size.width + self.offset) // self.stride)


class FileRecord(Facts):
    size: int = Field(ge=0)
    """In bytes."""
    sha256: Sha256

    @classmethod
    def of(cls, content: bytes) -> "FileRecord":
        return cls(size=len(content), sha256=hashlib.sha256(content).hexdigest())


class Manifest(Facts):
    """Everything that is known of a bundle when it is written; its sha256 is the bundle's digest."""

    # The manifest's own version; a reader refuses what it does not know.
    manifest: Literal[1] = 1
    architecture: str
    classes: int = Field(ge=1)
    input: Input
    precision: Precision = "fp32"
    """Of most of the graph; its input and outputs are the same in any."""
    parameters: int = Field(ge=0)
    folded_parameters: int = Field(ge=0)
    macs: int = Field(ge=0)
    """Multiply-adds of the convolutions and linear layers for one view at native size."""
    costs: tuple[Cost, ...] = ()
    """The same by resolution, of a graph that takes any size."""
    source: Source
    folding: Folding
    parity: Parity
    quantization: Quantization | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of fp16 and int8 alone; absent of fp32, whose bytes are what they were before there was this field."""
    evaluations: tuple[Evaluation, ...] = ()
    tools: dict[str, str] = {}
    """The versions of what exported it."""
    files: dict[FileName, FileRecord]

    @model_validator(mode="after")
    def _says_how_it_was_quantised(self) -> Self:
        if (self.precision == "fp32") != (self.quantization is None):
            raise ValueError(f"a bundle says how it was quantised if it was; this one is {self.precision}")
        return self

    def macs_at(self, size: Size) -> int:
        """Multiply-adds for one view of that size; in proportion to its pixels where `costs` are not known."""
        if size == self.input.size:
            return self.macs
        if self.costs:
            return sum(cost.at(size) for cost in self.costs)
        return self.macs * size.width * size.height // (self.input.width * self.input.height)

    def to_json(self) -> bytes:
        """Canonical: sorted keys, no spaces, ASCII, one final newline."""
        values = self.model_dump(mode="json")
        return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> "Manifest":
        try:
            manifest = cls.model_validate_json(content)
            manifest.to_json()  # pydantic lets NaN into a JsonValue
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, problem["loc"])) or "the file"
            raise BundleError(f"manifest.json: {where}: {problem['msg']}; export the bundle again") from error
        except ValueError as error:
            raise BundleError("manifest.json: a number is not finite; export the bundle again") from error
        return manifest
