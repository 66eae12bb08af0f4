"""What can go wrong between a request and its answer. Nothing here knows HTTP; `api/errors.py` holds the one table.

    key -> UnauthorizedError | ForbiddenError | QuotaExceededError
    body -> BodyTooLargeError | MediaTypeError | MultipartError | JsonError | TooManyImagesError
    image -> bundle.errors.ImageFormatError | bundle.errors.BadImageError
    options -> InvalidParameterError | UnknownViewsError
    image and options -> WorkLimitError
    registry.get -> ModelNotFoundError | ModelNotReadyError
    Batcher.submit -> QueueFullError | DeadlineExceededError | ShuttingDownError
    run -> BackendError | ModelOutputError
    Open Inference Protocol -> InferenceRequestError | InvalidTensorError | UnsupportedError

A message names the thing, the value and the way out, and is shown to the client; causes stay in the log.
"""


class ServiceError(Exception):
    """Anything that this service refuses or fails to do."""


class UnauthorizedError(ServiceError):
    """No API key, or one that is none of ours."""


class ForbiddenError(ServiceError):
    """An API key that is not for this."""


class QuotaExceededError(ServiceError):
    """More views than the API key may have now; `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BodyTooLargeError(ServiceError):
    """More bytes than the settings allow."""


class MediaTypeError(ServiceError):
    """A content type or encoding that is not read here."""


class MultipartError(ServiceError):
    """A multipart body that cannot be taken apart."""


class JsonError(ServiceError):
    """A body that should be JSON and is none."""


class TooManyImagesError(ServiceError):
    """More files in one request than the settings allow."""


class InvalidParameterError(ServiceError):
    """An option with a value that this model cannot take."""


class UnknownViewsError(ServiceError):
    """A view plan that this model does not have."""


class WorkLimitError(ServiceError):
    """More work for one image than the operator allows."""


class ModelNotFoundError(ServiceError):
    """No model, or no version of it, by that name."""


class ModelNotReadyError(ServiceError):
    """The model is there and cannot answer: it is loading, or was refused."""

    def __init__(self, message: str, *, loading: bool) -> None:
        super().__init__(message)
        self.loading = loading


class LoadInProgressError(ServiceError):
    """The model is being loaded already."""


class QueueFullError(ServiceError):
    """The request would wait too long or does not fit; `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceededError(ServiceError):
    """The time of the request was over before its answer was there."""


class ShuttingDownError(ServiceError):
    """The process ends; another one has to answer."""


class BackendError(ServiceError):
    """The device failed."""


class ModelOutputError(ServiceError):
    """A network answered with values that are no numbers."""

    def __init__(self) -> None:
        super().__init__("the network answered with values that are no numbers; the bundle is at fault")


class InferenceRequestError(ServiceError):
    """A request of the Open Inference Protocol that is not as the protocol wants it."""


class InvalidTensorError(ServiceError):
    """A tensor that the model does not take, or an output that it does not have."""


class TensorSizeError(InvalidTensorError):
    """More or fewer values than the shape of a tensor says."""


class UnsupportedError(ServiceError):
    """A part of the Open Inference Protocol that is not done here."""


class NotEnoughMemoryError(ServiceError):
    """A version would not fit into the memory that is left."""


class ProviderError(ServiceError):
    """The execution provider asked for does not work on this machine."""
