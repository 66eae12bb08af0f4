"""ONNX Runtime sessions, opened so that nothing falls back or reads other files in silence."""

from collections.abc import Mapping
from typing import Any

import onnxruntime as ort

from service.errors import ProviderError

NOWHERE = "/dev/null/none"
"""Where graphs may keep weights outside of their own file: a folder that cannot be."""


def open_session(model: bytes, provider: str, provider_options: Mapping[str, str], *, threads: int = 1) -> Any:
    """A session on one provider, and on no other.

    Args:
        model: ONNX file.
        provider: as ONNX Runtime calls it.
        provider_options: of it.
        threads: that work on one call.

    Raises:
        ProviderError: the provider does not work here.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads spin between the layers of a run: one that has to be woken may wake beside its waker, on the same core.
    # When the run has ended they stop: they would take the core from a thread that decodes.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # A graph that was read from bytes would look for them where the server was started.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NOWHERE)
    if provider == "CUDAExecutionProvider":
        ort.preload_dlls()  # from the packages of the gpu extra, where the system has no CUDA of its own
    session = ort.InferenceSession(
        model, options, providers=[provider], provider_options=[dict(provider_options)], enable_fallback=0
    )
    if session.get_providers()[0] != provider:  # a missing library is only a warning to ONNX Runtime
        raise ProviderError(f"{provider} was asked for, {session.get_providers()[0]} came")
    session._model_bytes = None  # noqa: SLF001 it would hold the file for good, to open it again with other providers
    return session
