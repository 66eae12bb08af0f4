"""Probes and metrics."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from service.api.context import RegistryDep

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: str = Field(examples=["ready"])


@router.get("/livez")
async def live() -> Health:
    """The process answers; nothing else is asked."""
    return Health(status="live")


@router.get("/readyz", responses={503: {"model": Health, "description": "loading, no model, or draining"}})
async def ready(request: Request, registry: RegistryDep) -> Response:
    """Whether requests should be sent here: the models are loaded and warm, and the server is not shutting down."""
    status = "draining" if request.app.state.draining else registry.state
    return JSONResponse({"status": status}, 200 if status == "ready" else 503)


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Prometheus text: our own names, then Triton's."""
    found = request.app.state.metrics
    text = generate_latest(found.registry) + found.triton.text().encode()
    return Response(text, media_type=CONTENT_TYPE_LATEST)
