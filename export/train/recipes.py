"""The published recipes by name, and which of them a network has without asking."""

from export.train.recipe import (
    AdamW,
    AlexNetStart,
    Area,
    Augmentation,
    Clip,
    Exponential,
    Named,
    OneCycle,
    Padded,
    Plateau,
    Polynomial,
    Recipe,
    RmsProp,
    Scale,
    Sgd,
    Square,
    Steps,
    WarmUp,
    Warp,
)

BATCHNORM = Recipe(
    source="Ioffe and Szegedy (2015), section 4.2.1, BN-Baseline: Inception's rate of 0.0015 and batches of 32; "
    "13.3 million steps, in epochs of ImageNet; weight decay as in Caffe's GoogLeNet, colour and the start ours",
    optimizer=Sgd(weight_decay=2e-4),
    rate=0.0015,
    schedule=Exponential(factor=0.96, every=8),
    batch=32,
    epochs=332,
    initialisation=Named(kind="he"),
    augmentation=Augmentation(crop=Area(), mirror=True, jitter=0.4),
)

# "Accelerating BN networks" (4.2.1): no dropout, a fifth of the L2, the rate falls 6 times as fast, less distortion.
ACCELERATED = BATCHNORM.model_copy(
    update={
        "optimizer": Sgd(weight_decay=4e-5),
        "schedule": Exponential(factor=0.96, every=8 / 6),
        "dropout": 0.0,
        "augmentation": Augmentation(crop=Area(), mirror=True, jitter=0.2),
    }
)

GOOGLENET = Recipe(
    source="Szegedy et al. (2014), sections 5 and 6: dropout, momentum, the rate 4 % lower every 8 epochs, averaged "
    "weights; the rate itself and the weight decay are Caffe's, the length, the average's decay and the colour ours",
    optimizer=Sgd(weight_decay=2e-4),
    rate=0.01,
    schedule=Exponential(factor=0.96, every=8),
    batch=32,
    epochs=250,
    dropout=0.4,
    auxiliary=0.3,
    ema=0.9999,
    initialisation=Named(kind="glorot"),
    augmentation=Augmentation(crop=Area(), mirror=True, jitter=0.4),
)

CIFAR = Recipe(
    source="He et al. (2015), section 4.2",
    optimizer=Sgd(weight_decay=1e-4),
    rate=0.1,
    schedule=Steps(at=(32_000, 48_000), unit="iteration"),
    batch=128,
    iterations=64_000,
    initialisation=Named(kind="he"),
    augmentation=Augmentation(crop=Padded(padding=4), mirror=True),
)

LENET = Recipe(
    source="LeCun et al. (1998): 20 passes, weights within 2.4 / inputs, no distortion; "
    "the optimiser is ours, for the paper's second-order rates of one image at a time",
    optimizer=Sgd(momentum=0.9),
    rate=0.05,
    schedule=OneCycle(),
    batch=64,
    epochs=20,
    initialisation=Named(kind="lecun"),
)

RECIPES: dict[str, Recipe] = {
    "digits": Recipe(
        source="ours, for 8 x 8 digits",
        optimizer=AdamW(weight_decay=0.05),
        rate=3e-3,
        schedule=OneCycle(),
        batch=32,
        epochs=60,
        smoothing=0.1,
        augmentation=Augmentation(crop=Warp()),
    ),
    "lenet": LENET,
    "lenet-distorted": LENET.model_copy(
        update={
            "source": "as lenet, with distorted images (LeCun et al., 1998, section III.B); their amount is ours",
            "augmentation": Augmentation(crop=Warp(degrees=10, zoom=0.1, shift=0.1)),
        }
    ),
    "alexnet": Recipe(
        source="Krizhevsky et al. (2012), sections 4 and 5; the rate fell by hand, here on a plateau",
        optimizer=Sgd(weight_decay=5e-4),
        rate=0.01,
        schedule=Plateau(patience=5, times=3),
        batch=128,
        epochs=90,
        dropout=0.5,
        initialisation=AlexNetStart(),
        augmentation=Augmentation(crop=Square(side=256), mirror=True, pca=0.1),
    ),
    "vgg": Recipe(
        source="Simonyan and Zisserman (2014), section 3.1, with S from 256 to 512; the start is Glorot's, with which, "
        "the section says, no smaller network need be trained first",
        optimizer=Sgd(weight_decay=5e-4),
        rate=0.01,
        schedule=Plateau(patience=5, times=3),
        batch=256,
        epochs=74,
        dropout=0.5,
        initialisation=Named(kind="glorot"),
        augmentation=Augmentation(crop=Scale(shortest=256, longest=512), mirror=True, pca=0.1),
    ),
    "googlenet": GOOGLENET,
    "googlenet-caffe": GOOGLENET.model_copy(
        update={
            "source": "Caffe's quick solver of GoogLeNet: 2.4 million steps of 32; the crops are the paper's",
            "schedule": Polynomial(power=0.5),
            "epochs": None,
            "iterations": 2_400_000,
            "ema": None,
        }
    ),
    "bn-inception": BATCHNORM,
    "bn-inception-x5": ACCELERATED.model_copy(
        update={
            "source": "as bn-inception, BN-x5: five times the rate; 2.1 million steps",
            "rate": 0.0075,
            "epochs": 52,
        }
    ),
    "bn-inception-x30": ACCELERATED.model_copy(
        update={"source": "as bn-inception, BN-x30: 30 times the rate; 6 million steps", "rate": 0.045, "epochs": 150}
    ),
    "bn-inception-x5-sigmoid": ACCELERATED.model_copy(
        update={
            "source": "as bn-inception, BN-x5-Sigmoid; the paper does not say how long, here as BN-x5",
            "rate": 0.0075,
            "epochs": 52,
            "activation": "sigmoid",
            "initialisation": Named(kind="glorot"),
        }
    ),
    "inception-v3": Recipe(
        source="Szegedy et al. (2015), sections 7 and 8; the threshold is taken of all gradients together, "
        "momentum, the auxiliary weight and the averages' decay are those of its published code, colour ours",
        optimizer=RmsProp(decay=0.9, momentum=0.9, epsilon=1.0, weight_decay=4e-5),
        rate=0.045,
        schedule=Exponential(factor=0.94, every=2),
        clip=Clip(kind="global", threshold=2.0),
        batch=1600,
        epochs=100,
        smoothing=0.1,
        auxiliary=0.4,
        ema=0.9999,
        initialisation=Named(kind="he"),
        augmentation=Augmentation(crop=Area(), mirror=True, jitter=0.4),
    ),
    "resnet-imagenet": Recipe(
        source="He et al. (2015), section 3.4: at most 600,000 steps of 256",
        optimizer=Sgd(weight_decay=1e-4),
        rate=0.1,
        schedule=Plateau(patience=5, times=3),
        batch=256,
        epochs=120,
        initialisation=Named(kind="he"),
        augmentation=Augmentation(crop=Scale(shortest=256, longest=480), mirror=True, pca=0.1),
    ),
    "resnet-cifar": CIFAR,
    "resnet-cifar-110": CIFAR.model_copy(
        update={
            "source": "He et al. (2015), section 4.2, for 110 layers: a rate of 0.01 until the error is below 80 %",
            "warm_up": WarmUp(rate=0.01, error=0.8),
        }
    ),
    "fine-tune": Recipe(
        source="ours, for a checkpoint with a new head",
        optimizer=Sgd(form="torch", weight_decay=1e-4),
        rate=0.01,
        schedule=OneCycle(),
        batch=32,
        epochs=20,
        augmentation=Augmentation(crop=Area(least=0.25), mirror=True),
    ),
}

_FAMILIES = {
    "lenet": "lenet",
    "alexnet": "alexnet",
    "vgg": "vgg",
    "googlenet": "googlenet",
    "bn_inception": "bn-inception",
    "inception": "inception-v3",
}
"""How names of networks begin, and their recipes."""


def default_recipe(network: str, size: int, *, digits: bool = False, tuned: bool = False) -> str:
    """The name of the recipe that a network has without asking.

    Args:
        network: its name.
        size: of its input; that of the residual networks for CIFAR is 32.
        digits: the data are scikit-learn's digits.
        tuned: it starts from a checkpoint.
    """
    if digits:
        return "digits"
    if tuned:
        return "fine-tune"
    for begin, recipe in _FAMILIES.items():
        if network.startswith(begin):
            return recipe
    if size > 32:  # noqa: PLR2004 CIFAR's
        return "resnet-imagenet"
    return "resnet-cifar-110" if network.endswith("110") else "resnet-cifar"
