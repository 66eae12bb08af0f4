"""What a client reads of the server's answers. What it does not know in them it passes over."""

from typing import Self

from pydantic import BaseModel, Field, RootModel, model_validator

from bundle.aggregate import Average


class VersionInfo(BaseModel):
    version: int | None = None
    """None of an ensemble."""
    state: str
    """READY when it answers."""
    digest: str | None = None
    reason: str | None = None
    """Why it does not answer."""


class ModelSummary(BaseModel):
    """One of `GET /v1/models`."""

    name: str
    versions: list[VersionInfo]


class ModelList(RootModel[list[ModelSummary]]):
    """`GET /v1/models`."""


class ModelInfo(BaseModel):
    """What is read here of `GET /v1/models/NAME`."""

    name: str
    version: int | None = None
    """That answers when none is named; an ensemble has none."""
    labels: list[str] = Field(min_length=1)
    versions: list[VersionInfo] = []
    digest: str | None = None
    """Of an ensemble; that of a model stands at its version."""
    views: list[str] = []
    """The plans that it can run; an ensemble names none."""
    default_views: str | None = None


class Score(BaseModel):
    index: int
    label: str
    probability: float


class View(BaseModel):
    """The image is resized to `resized`, `box` is cut there, scaled to `size`, then mirrored or not. In pixels."""

    resized: tuple[int, int]
    """Width, height."""
    box: tuple[int, int, int, int]
    """Left, top, width, height."""
    size: tuple[int, int]
    """Width, height."""
    mirrored: bool
    weight: float
    """Relative to the others."""
    top1: Score | None = None
    """Its own best class, where it was run."""


class Geometry(BaseModel):
    """Where a plan looks in an image of one size, and what that costs; nothing was run."""

    plan: str
    planned: int
    computed: int
    """Views that differ."""
    gmacs: float
    """10^9 multiply-adds of those."""
    refusal: str | None = None
    """Why a request for it would be refused."""
    views: list[View]


class Looks(BaseModel):
    """What a model looked at."""

    plan: str
    computed: int = Field(ge=1)
    """Views that were run."""
    gmacs: float = Field(ge=0)
    """10^9 multiply-adds of those."""
    average: Average = "probabilities"
    stop: str = "never"
    details: list[View] | None = None
    """With detail="views": each view that was run."""


class Member(BaseModel):
    """Of an ensemble."""

    model: str
    views: Looks | None = None
    """None: it failed and was left out."""


class Prediction(BaseModel):
    """What is read here of an answer."""

    model: str
    version: int | None = None
    digest: str | None = None
    """Of what answered: the same digest is the same model, whatever its name and version."""
    views: Looks | None = None
    """None: an ensemble, whose members say what they looked at."""
    members: list[Member] = []
    predictions: list[Score] = Field(min_length=1)
    """The best first."""
    timings_ms: dict[str, float] = {}
    """Milliseconds by stage, as docs/api.md says."""
    request_id: str | None = None

    @model_validator(mode="after")
    def _looked_at_something(self) -> Self:
        if not self.looks:
            raise ValueError("neither views nor members with views")
        return self

    @property
    def looks(self) -> list[Looks]:
        """What was run: by the model, or by each member that answered."""
        asked = [member.views for member in self.members] or [self.views]
        return [views for views in asked if views]


class Problem(BaseModel):
    """What is read here of a problem document (RFC 9457)."""

    code: str
    detail: str
