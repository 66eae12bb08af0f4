"""Which devices run a version: int8 is for the CPU, fp16 for GPUs, fp32 for both.

Nobody would want either elsewhere: of int8 convolutions the CUDA provider has no kernels, and the CPU provider computes
fp16 in float32, between conversions.
"""

from dataclasses import replace

from bundle.manifest import Precision
from bundle.store import Bundle
from service.engine.backend import Engine, Provider
from service.engine.driver import count_gpus
from service.errors import ProviderError

ONLY: dict[Precision, Provider] = {"int8": "cpu", "fp16": "cuda"}


def fit(wanted: Engine, bundle: Bundle) -> Engine:
    """The engine with the devices that the bundle's precision runs on, where nobody named others.

    Raises:
        ProviderError: somebody did, or there is no such device.
    """
    only = ONLY.get(bundle.manifest.precision)
    if only is None:
        return wanted
    named = {device.partition(":")[0] for device in wanted.devices} or {wanted.provider}
    if named - {only, "auto"}:
        raise ProviderError(f"{_told(bundle, only)}; {_way_out(only)}, or ask for its fp32 version")
    if only == "cuda" and not count_gpus():
        raise ProviderError(f"{_told(bundle, only)}, and this machine has none; its fp32 version serves here")
    return wanted if wanted.devices else replace(wanted, provider=only)


def _told(bundle: Bundle, only: Provider) -> str:
    where = "the CPU alone" if only == "cpu" else "GPUs alone"
    return f"{bundle.name} version {bundle.version} is {bundle.manifest.precision}, which runs on {where}"


def _way_out(only: Provider) -> str:
    devices = '["cpu"]' if only == "cpu" else '["cuda:0"]'
    return f"set devices = {devices} in serving.toml"
