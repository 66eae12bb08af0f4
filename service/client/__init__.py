"""A typed client of this server's HTTP API: `Client`, and `AsyncClient` for asyncio."""

from service.client.clients import AsyncClient, Client
from service.client.exchange import ClientError, Options
from service.client.received import (
    Geometry,
    Looks,
    Member,
    ModelInfo,
    ModelSummary,
    Prediction,
    Score,
    VersionInfo,
    View,
)

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Geometry",
    "Looks",
    "Member",
    "ModelInfo",
    "ModelSummary",
    "Options",
    "Prediction",
    "Score",
    "VersionInfo",
    "View",
]
