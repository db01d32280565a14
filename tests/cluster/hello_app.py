"""Serve applications for the Ray tests, imported by replicas: one that answers, one that fails to start."""

from ray import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def answer(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


@serve.deployment
@serve.ingress(Starlette(routes=[Route("/", answer)]))
class Hello:
    pass


@serve.deployment
class Broken:
    def __init__(self) -> None:
        raise RuntimeError("no such model folder")


hello = Hello.bind()
broken = Broken.bind()
