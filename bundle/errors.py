"""What can be wrong with an image, a bundle, or labelled data.

    bytes -> probe, decode -> ImageFormatError | BadImageError
    folder -> open_bundle -> BundleError
    folder -> write_bundle -> BundleExistsError
    labelled images -> open_labelled -> LabelledError

Each message names the thing, the value and the way out, and holds no library's own words: it may be shown to a client.
"""


class ImageError(ValueError):
    """Bytes that are no image that this project reads."""


class ImageFormatError(ImageError):
    """The bytes are not of an allowed format."""


class BadImageError(ImageError):
    """The format is allowed, this file of it is not usable.

    `code` is one of image_empty, image_decode_failed, image_truncated, image_too_large, image_aspect_ratio,
    image_too_complex.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class BundleError(ValueError):
    """A folder that is not a whole and unchanged bundle."""


class BundleExistsError(BundleError):
    """The version asked for is there already; bundles are never changed."""


class LabelledError(ValueError):
    """Labelled images that cannot be read, or whose labels are not those of the model."""
