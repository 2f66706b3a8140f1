"""The application: its routers, what stands in front of them, and how many threads they have."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

import anyio.to_thread
from fastapi import APIRouter, FastAPI

from reelwatch.config.settings import Settings
from reelwatch.web import metrics, probes, problems, sign_in
from reelwatch.web.api import actions, deliveries, document, events, jobs, standing
from reelwatch.web.gate import Gate
from reelwatch.web.pages import assets, forms, problem, routes

THREADS = 8  # routes that are plain functions run in so many threads, and wait for one otherwise

# Whoever adds a part of the web adds its router here.
ROUTERS: Sequence[APIRouter] = (
    jobs.router,
    deliveries.router,
    standing.router,
    events.router,
    actions.router,
    document.router,
    metrics.router,
    probes.router,
    sign_in.router,
    assets.router,
    routes.router,
    forms.router,
)


def create_app(settings: Settings) -> FastAPI:
    """The application with these settings. It does nothing before it is served.

    `app.state` has the `settings`, and while it is served `ending`, an `asyncio.Event` that is set
    when the server ends: whatever waits for long or streams has to end then as well.
    """
    app = FastAPI(
        title="Reelwatch",
        version=version("reelwatch"),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_serving,
        generate_unique_id_function=lambda route: "_".join(map(str, [*route.tags, route.name])),
    )
    app.state.settings = settings
    for router in ROUTERS:
        app.include_router(router)
    problems.install(app, problem.show)
    sign_in.install(app)
    app.add_middleware(Gate, local=not settings.api_tokens)
    return app


@asynccontextmanager
async def _serving(app: FastAPI) -> AsyncIterator[None]:
    app.state.ending = asyncio.Event()
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield
    app.state.ending.set()
