"""A tiny HTTP service over one bundle.

    pip install starlette uvicorn
    BUNDLE=mini uvicorn --app-dir examples --factory service:create_app

    curl --data-binary @docs/images/toy.png http://127.0.0.1:8000/subjects
    curl "http://127.0.0.1:8000/pictures?subject=1&prompt=a+toy+duck+on+the+beach&seed=7" --output duck.png

Pictures are drawn one after the other. Subjects live in memory, the latest hundred. It is an example: it asks nobody
who they are, so it belongs on this machine or behind a server that does.
"""

from __future__ import annotations

import io
import os
from threading import Lock

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from dreamcache.runtime import DreamCacheError, Pipeline, Subject

MOST_BYTES, MOST_SUBJECTS, MOST_STEPS = 20_000_000, 100, 100


def create_app(bundle: str | None = None) -> Starlette:
    """The service of a bundle; the environment's BUNDLE by default, else mini."""
    pipe = Pipeline.load(bundle or os.environ.get("BUNDLE", "mini"), keep_sessions=True)
    subjects: dict[int, Subject] = {}
    drawing = Lock()

    def read(picture: bytes) -> int:
        with drawing:
            subject = pipe.cache(picture)
            number = max(subjects, default=0) + 1
            subjects[number] = subject
            if len(subjects) > MOST_SUBJECTS:
                del subjects[min(subjects)]
        return number

    def draw(subject: Subject, prompt: str, steps: int, seed: int) -> bytes:
        with drawing:
            image = pipe.generate(prompt, subject, steps=steps, seed=seed)
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    async def add_subject(request: Request) -> Response:
        picture = bytearray()
        async for chunk in request.stream():
            picture += chunk
            if len(picture) > MOST_BYTES:
                return PlainTextResponse(f"a picture of at most {MOST_BYTES} bytes is expected", 413)
        return JSONResponse({"subject": await run_in_threadpool(read, bytes(picture))}, 201)

    async def picture(request: Request) -> Response:
        asked = request.query_params
        try:
            number, steps, seed = (int(asked.get(name, "0")) for name in ("subject", "steps", "seed"))
        except ValueError:
            return PlainTextResponse("whole numbers are expected as subject, steps and seed", 400)
        if number not in subjects:
            return PlainTextResponse(f"no subject {number}; send its picture to /subjects first", 404)
        steps = min(steps or 20, MOST_STEPS)
        drawn = await run_in_threadpool(draw, subjects[number], asked.get("prompt", ""), steps, seed)
        return Response(drawn, media_type="image/png")

    async def refuse(_request: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error), 400)

    routes = [
        Route("/subjects", add_subject, methods=["POST"]),
        Route("/pictures", picture, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={DreamCacheError: refuse})
