"""The application: settings in, routes out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from service.api import classify, errors, health, models, views
from service.api.context import RequestContext
from service.metrics import Metrics
from service.registry import ModelRegistry
from service.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """A new application; models load in the background once it starts (`/readyz` says when)."""
    metrics = Metrics()
    registry = ModelRegistry(settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        registry.start()
        yield
        await asyncio.to_thread(registry.close)

    app = FastAPI(
        title="Multicrop",
        version=version("multicrop"),
        summary="Image classification with multi-crop test-time augmentation",
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.registry = registry
    app.state.draining = False
    errors.install(app)
    app.add_middleware(RequestContext, metrics=metrics)
    for module in (classify, models, views, health):
        app.include_router(module.router)
    return app
