"""The parts of requests and answers, named as the Open Inference Protocol v2 names them.

Requests are read strictly (a shape of true or "3" is none); what the protocol lets clients add is passed over.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_TENSORS = 64
"""Inputs or outputs named in one request."""

Name = Annotated[str, Field(min_length=1, max_length=256)]


class Request(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class InputParameters(Request):
    binary_data_size: int | None = Field(None, ge=0)
    """In bytes, behind the JSON; there is no `data` then."""
    shared_memory_region: Any = None
    """Refused."""


class OutputParameters(Request):
    binary_data: bool | None = None
    """Behind the JSON, or in it; the request's `binary_data_output` decides when left out."""
    classification: int | None = Field(None, ge=0)
    """So many of the largest values as "value:index:label", instead of all of them; 0 is all."""
    shared_memory_region: Any = None
    """Refused."""


class InferParameters(Request):
    binary_data_output: bool = False
    priority: int = Field(0, ge=0)
    """1 is the highest; 0 is the default."""
    timeout: int = Field(0, ge=0)
    """In microseconds; 0 is the server's own."""


class RequestInput(Request):
    name: Name
    shape: list[int] = Field(max_length=16)
    datatype: str
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None
    """Flat or nested, row-major."""


class RequestOutput(Request):
    name: Name
    parameters: OutputParameters = OutputParameters()


class InferenceRequest(Request):
    id: Annotated[str, Field(max_length=1024)] | None = None
    parameters: InferParameters = InferParameters()
    inputs: list[RequestInput] = Field(min_length=1, max_length=MAX_TENSORS)
    outputs: list[RequestOutput] | None = Field(None, max_length=MAX_TENSORS)


class IndexRequest(Request):
    ready: bool = False
    """Only what is ready."""


class ControlRequest(Request):
    """Of load and unload."""

    parameters: dict[str, Any] = {}


class MetadataTensor(BaseModel):
    name: str = Field(examples=["images"])
    datatype: Literal["UINT8", "FP32", "BYTES"]
    shape: list[int] = Field(examples=[[-1, 224, 224, 3]])
    """-1: any."""


class ModelMetadata(BaseModel):
    name: str = Field(examples=["resnet50"])
    versions: list[str] = Field(examples=[["1"]])
    platform: str = "onnx_onnxv1"
    inputs: list[MetadataTensor]
    outputs: list[MetadataTensor]


class ServerMetadata(BaseModel):
    name: str = "multicrop"
    version: str
    extensions: list[str]


class ModelReady(BaseModel):
    name: str
    ready: bool


class RepositoryModel(BaseModel):
    name: str
    version: str = Field(examples=["1"])
    state: str = Field(examples=["READY"])
    reason: str = ""


class ConfigTensor(BaseModel):
    name: str
    data_type: Literal["TYPE_UINT8", "TYPE_FP32", "TYPE_STRING"]
    dims: list[int]


class DynamicBatching(BaseModel):
    priority_levels: int
    default_priority_level: int


class ModelConfig(BaseModel):
    """What of Triton's ModelConfig says anything here."""

    name: str
    platform: str = "onnxruntime_onnx"
    backend: str = "onnxruntime"
    max_batch_size: int
    input: list[ConfigTensor]
    output: list[ConfigTensor]
    dynamic_batching: DynamicBatching
