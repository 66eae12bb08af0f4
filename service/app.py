"""The application: settings in, routes out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from service.api import admin, classify, errors, health, models, v2, v2_repository, views
from service.api.context import RequestContext
from service.api.gate import Gate, declare
from service.api.hot import ShortCut
from service.api.inflight import BytesInFlight
from service.auth import KeyFile
from service.metrics import Metrics
from service.registry import ModelRegistry
from service.settings import Settings
from service.statistics import Statistics
from service.watcher import Watcher


def create_app(settings: Settings) -> FastAPI:
    """A new application; models load in the background once it starts (`/readyz` says when).

    Raises:
        KeyFileError: the file of API keys cannot be used.
    """
    keys = KeyFile(settings.keys) if settings.keys is not None else None
    metrics = Metrics()
    registry = ModelRegistry(settings, metrics)
    watcher = Watcher(registry, settings.watch)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        registry.start()
        watcher.start()
        yield
        watcher.close()
        await asyncio.to_thread(registry.close)

    app = FastAPI(
        title="Multicrop",
        version=version("multicrop"),
        summary="Image classification with multi-crop test-time augmentation",
        lifespan=lifespan,
        redirect_slashes=False,  # to the client's own Host, and to http behind a proxy that speaks https
    )
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.registry = registry
    app.state.statistics = Statistics()
    app.state.draining = False
    errors.install(app)
    for module in (classify, models, views, health, v2_repository, v2):
        app.include_router(module.router)
    if settings.admin:
        app.include_router(admin.router)
    app.add_middleware(ShortCut, routes=classify.router.routes)
    app.add_middleware(BytesInFlight, most=settings.max_bytes_in_flight, gauge=metrics.bytes_in_flight)
    if keys is not None:
        app.add_middleware(Gate, keys=keys)
        declare(app)
    app.add_middleware(RequestContext, metrics=metrics)
    return app
