"""What the command line says of an image's way into the network, over what the table or the weights say."""

from dataclasses import replace

from bundle.manifest import Source
from export import catalogue
from export.architectures import Architecture, Preprocessing, Statistics
from export.errors import ExportError
from export.jobs import FreezeJob


def reshaped(architecture: Architecture, job: FreezeJob) -> Architecture:
    """The row of a network without weights of its own: `--channels` chooses between colour and grey."""
    if job.channels is None:
        return architecture
    return architecture.shaped(architecture.classes, 1 if job.channels == "grey" else 3)


def as_published(architecture: Architecture, source: Source) -> Architecture:
    """The row as the authors of public weights evaluated them; of other weights, the row itself."""
    known = catalogue.find(source.sha256) if source.kind == "file" and source.sha256 else None
    if known is None:
        return architecture
    preprocessing = replace(architecture.preprocessing, resize=known.resize)
    return replace(architecture, size=known.crop, preprocessing=preprocessing)


def overridden(architecture: Architecture, job: FreezeJob) -> Architecture:
    """The row as the job wants it; the number of channels is the network's.

    Raises:
        ExportError: an option that the network cannot follow.
    """
    row = replace(architecture, preprocessing=_preprocessing(architecture, job))
    if job.crop is not None:
        row = _cropped(row, job.crop)
    longer = max(row.size, row.width or 0)
    if row.preprocessing.resize < longer:
        raise ExportError(
            f"{row.name} resizes the shorter side to {row.preprocessing.resize} and crops {longer}; "
            f"give --resize {longer} or more"
        )
    return row


def _cropped(row: Architecture, crop: int) -> Architecture:
    if crop == row.size and row.width is None:
        return row
    if not row.dynamic:
        raise ExportError(f"{row.name} takes {row.width or row.size} x {row.size} pixels only; leave --crop {crop} out")
    if crop < row.smallest:
        raise ExportError(f"{row.name} takes {row.smallest} x {row.smallest} pixels and more; --crop {crop} is less")
    return replace(row, size=crop, width=None)


def _preprocessing(architecture: Architecture, job: FreezeJob) -> Preprocessing:
    own = architecture.preprocessing
    if job.channels is not None and (job.channels == "grey") != (architecture.channels == 1):
        orders = "grey" if architecture.channels == 1 else "rgb or bgr"
        raise ExportError(f"{architecture.name} takes {architecture.channels} channels; give --channels {orders}")
    return replace(
        own,
        resize=job.resize or own.resize,
        interpolation=job.interpolation or own.interpolation,
        channels=job.channels or own.channels,
        scale=job.scale or own.scale,
        mean=_each("--mean", job.mean, architecture) or own.mean,
        std=_each("--std", job.std, architecture) or own.std,
    )


def _each(option: str, values: Statistics | None, architecture: Architecture) -> Statistics | None:
    """One value for each channel of the network."""
    if values is None:
        return None
    if len(values) not in (1, architecture.channels):
        raise ExportError(
            f"{option} has {len(values)} values; {architecture.name} takes {architecture.channels} channels: "
            "give one for each, or one for all"
        )
    return values if len(values) == architecture.channels else values * architecture.channels
