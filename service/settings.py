"""What the operator sets: options of `multicrop-service run`, or MULTICROP_… in the environment."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from bundle.preprocess import ImageLimits


class Settings(BaseSettings):
    """Serve the bundles of a repository over HTTP."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="MULTICROP_",
        use_attribute_docstrings=True,
        validate_default=True,
    )

    repository: Path = Path("models")
    """Folder of the bundles: NAME/VERSION/manifest.json."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""

    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 lets the system choose."""

    keys: Path | None = None
    """TOML file of the API keys, as sha256, with what each is for; when left out, everything is open to everybody."""

    log_format: Literal["text", "json"] = "text"
    """Of what is logged on stderr; json: one object a line."""

    provider: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks run; auto is CUDA when a GPU really works, else the CPU. One that is named never falls back."""

    max_image_bytes: int = Field(16 << 20, ge=1)
    """Largest image accepted, in bytes."""

    max_images: int = Field(64, ge=1)
    """Most images in one multipart request."""

    max_body_bytes: int = Field(64 << 20, ge=1)
    """Largest multipart body, or body of tensors, accepted, in bytes."""

    max_pixels: int = Field(25_000_000, ge=1, le=178_956_970)  # Pillow itself refuses more
    """Largest image accepted, in pixels."""

    max_aspect_ratio: float = Field(20.0, ge=1)
    """Most elongated image accepted: longer by shorter side."""

    max_gmacs: float = Field(4000.0, gt=0)
    """Most work on one image, in 10^9 multiply-adds over its views; 150 views of VGG-16 are 2,321."""

    max_queue_size: int = Field(4096, ge=1)
    """Most views that wait for one version of a model, larger ones counted as several; more are refused with 503."""

    max_bytes_in_flight: int = Field(1 << 30, ge=1)
    """Most bytes of request bodies held at once, announced or received; more are refused with 503."""

    header_timeout: float = Field(10.0, gt=0)
    """Seconds within which the whole header of a request has to arrive; a connection that is slower is closed."""

    body_timeout: float = Field(30.0, gt=0)
    """Seconds within which the whole body has to arrive, from the end of the header on; else 408."""

    timeout: float = Field(30.0, gt=0)
    """Seconds until an unanswered request is given up with 504."""

    drain_delay: float = Field(5.0, ge=0)
    """Seconds between SIGTERM (not ready any more) and the end of listening, so that load balancers can notice."""

    drain_timeout: float = Field(30.0, gt=0)
    """Most seconds given to requests in flight once listening has ended."""

    admin: bool = False
    """Whether the admin API is served: /v1/repository, and loading and unloading under /v2."""

    watch: float = Field(0.0, ge=0)
    """Seconds between looks at the repository for what is new, changed or gone; 0 looks at SIGHUP alone."""

    @property
    def image_limits(self) -> ImageLimits:
        return ImageLimits(self.max_pixels, self.max_aspect_ratio)
