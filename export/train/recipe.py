"""What a recipe can say, as data; `export.train.recipes` holds the published ones.

A recipe is frozen, has no times or paths, and goes whole into the manifest of what it trained.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Unit = Literal["epoch", "iteration"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Sgd(Part):
    """Stochastic gradient descent with momentum; the weight decay joins the gradient.

    The two forms are the same while the rate is constant. After a drop, Caffe's velocity still holds the old rate.
    """

    kind: Literal["sgd"] = "sgd"
    form: Literal["torch", "caffe"] = "caffe"
    """torch: v = mv + g, w -= rate * v. caffe, and Krizhevsky et al. (2012): v = mv + rate * g, w -= v."""
    momentum: Fraction = 0.9
    weight_decay: float = Field(default=0.0, ge=0)


class RmsProp(Part):
    """As TensorFlow has it: v starts at 1, epsilon stands within the root, the momentum holds the rate."""

    kind: Literal["rmsprop"] = "rmsprop"
    decay: Fraction = 0.9
    momentum: Fraction = 0.9
    epsilon: Positive = 1.0
    weight_decay: float = Field(default=0.0, ge=0)


class AdamW(Part):
    """Loshchilov and Hutter (2017), torch's."""

    kind: Literal["adamw"] = "adamw"
    weight_decay: float = Field(default=0.01, ge=0)


Optimizer = Annotated[Sgd | RmsProp | AdamW, Field(discriminator="kind")]


class Constant(Part):
    kind: Literal["constant"] = "constant"


class Steps(Part):
    """The rate times `factor` at each milestone."""

    kind: Literal["steps"] = "steps"
    at: tuple[Annotated[int, Field(gt=0)], ...]
    unit: Unit = "epoch"
    factor: Positive = 0.1


class Exponential(Part):
    """The rate times `factor` every so often, in steps."""

    kind: Literal["exponential"] = "exponential"
    factor: Positive
    every: Positive
    unit: Unit = "epoch"


class Polynomial(Part):
    """Caffe's `poly`: the rate times (1 - done / all) ** power."""

    kind: Literal["polynomial"] = "polynomial"
    power: Positive


class Plateau(Part):
    """The rate times `factor` when the validation error has not become smaller for `patience` epochs."""

    kind: Literal["plateau"] = "plateau"
    patience: int = Field(default=5, ge=1)
    factor: Positive = 0.1
    times: int = Field(default=3, ge=1)
    """How often at most."""


class OneCycle(Part):
    """Smith and Topin (2017): from 1/25 of the rate up to it in 30 % of the training, then down to almost nothing."""

    kind: Literal["one-cycle"] = "one-cycle"


Schedule = Annotated[Constant | Steps | Exponential | Polynomial | Plateau | OneCycle, Field(discriminator="kind")]


class WarmUp(Part):
    """A lower rate until the training error of the last 50 batches is below a bound; the schedule goes on beneath."""

    rate: Positive
    error: float = Field(gt=0, lt=1)


class Clip(Part):
    """Bounds the gradient before it is used."""

    kind: Literal["value", "norm", "global"]
    """value: each element (Keras' clipvalue). norm: each variable's norm (clipnorm). global: that of all together
    (global_clipnorm, torch's clip_grad_norm_)."""
    threshold: Positive

    @classmethod
    def parse(cls, text: str) -> Self:
        """KIND:THRESHOLD, as the command line has it."""
        kind, _, threshold = text.partition(":")
        return cls.model_validate({"kind": kind, "threshold": threshold})


class AlexNetStart(Part):
    """Krizhevsky et al. (2012), section 5: weights from N(0, std).

    The biases of the second, fourth and fifth convolution and of the hidden fully connected layers are `bias`, the
    others 0.
    """

    kind: Literal["alexnet"] = "alexnet"
    std: Positive = 0.01
    bias: float = 1.0
    """The paper's 1; Caffe's model has 0.1."""


class Named(Part):
    """Initialisations without a number of their own.

    torch: as the layers begin by themselves. glorot: Glorot and Bengio (2010), uniform. he: He et al. (2015), normal,
    by the inputs of a unit. lecun: LeCun et al. (1998), uniform within 2.4 / inputs. But for torch, biases are 0.
    """

    kind: Literal["torch", "glorot", "he", "lecun"] = "torch"


Initialisation = Annotated[AlexNetStart | Named, Field(discriminator="kind")]


class Centre(Part):
    """What the service shows a network: the middle of the resized image."""

    kind: Literal["centre"] = "centre"


class Padded(Part):
    """A crop at a random place of the resized image with a border of black pixels (He et al., 2015, section 4.2)."""

    kind: Literal["padded"] = "padded"
    padding: int = Field(default=4, ge=1)


class Square(Part):
    """A crop at a random place of the central square (Krizhevsky et al., 2012, section 4.1)."""

    kind: Literal["square"] = "square"
    side: int = Field(default=256, ge=1)
    """Of the square, which is the shorter side of the resized image."""


class Scale(Part):
    """A crop at a random place of the image, whose shorter side is drawn from a range.

    Simonyan and Zisserman (2014), section 3.1; He et al. (2015), section 3.4.
    """

    kind: Literal["scale"] = "scale"
    shortest: int = Field(ge=1)
    longest: int = Field(ge=1)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} is above longest {self.longest}")
        return self


class Area(Part):
    """A part of the image of random area and aspect, resized to the input (Szegedy et al., 2014, section 6)."""

    kind: Literal["area"] = "area"
    least: float = Field(default=0.08, gt=0, le=1)
    """Of the image's area."""
    aspect: float = Field(default=4 / 3, ge=1)
    """At most, and its inverse at least."""


class Warp(Part):
    """A crop at a random place of the resized image, turned and zoomed a little."""

    kind: Literal["warp"] = "warp"
    degrees: float = Field(default=15.0, ge=0, le=180)
    zoom: Fraction = 0.15
    shift: Fraction = 0.2
    """Of half the image."""


Crop = Annotated[Centre | Padded | Square | Scale | Area | Warp, Field(discriminator="kind")]


class Augmentation(Part):
    """What training sees of an image, beyond what the service would show."""

    crop: Crop = Centre()
    mirror: bool = False
    """Half of the images, left for right."""
    pca: float = Field(default=0.0, ge=0)
    """Deviation of the colour's shift along its principal components (Krizhevsky et al., 2012, section 4.1)."""
    jitter: Fraction = 0.0
    """Brightness, contrast and saturation each times 1 - jitter to 1 + jitter, in random order (Howard, 2013)."""


class Recipe(Part):
    """How a network is trained."""

    source: str
    """Where it is from."""
    optimizer: Optimizer
    rate: Positive
    """The highest."""
    schedule: Schedule = Constant()
    warm_up: WarmUp | None = None
    clip: Clip | None = None
    batch: int = Field(ge=1)
    """Images a step, over all devices."""
    epochs: int | None = Field(default=None, ge=1)
    iterations: int | None = Field(default=None, ge=1)
    """Instead of epochs, rounded up to whole ones."""
    smoothing: Fraction = 0.0
    """Of the labels: (1 - s) of the right class and s spread evenly over all (Szegedy et al., 2015, section 7)."""
    dropout: Fraction | None = None
    """Of the network's own dropout layers; as the network has it when left out. Auxiliary heads keep theirs."""
    auxiliary: float = Field(default=0.0, ge=0)
    """Of the loss of each auxiliary head, where the network has them; 0: without."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the moving average of the weights, which is what is validated and published."""
    activation: Literal["relu", "tanh", "sigmoid"] | None = None
    """In place of the network's own."""
    initialisation: Initialisation = Named()
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError("a recipe has either epochs or iterations")
        return self
