"""Mixes and recipes, for the page: which files are there, what a file's content is, what a recipe holds.

``POST /qr_lora/mix`` with a mix tells of each row whether its file is there, or which are likely the one that is
missing; ``GET /qr_lora/hash?name=loras/cat.safetensors`` tells the bytes and the SHA-256 of a file; ``POST
/qr_lora/recipe`` with a recipe's JSON or a picture gives the recipe, checked. What cannot be had is ``{"error":
message, "key": "mixer.error_...", "values": {...}}``: with what the page needs to say it in its own language.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiohttp import web

from ....qrlora_core import AdapterFileError
from ..files.folders import SUFFIXES, adapter_path
from ..files.hashes import Hashes, Search
from ..mix.document import Row, parse_mix
from ..mix.errors import MixError
from ..mix.recipes import recipe_as_json, recipe_in
from .server import running_server

_LARGEST_MIX, _LARGEST_RECIPE = 4 * 2**20, 64 * 2**20  # bytes
_LONGEST_NAME = 300  # of what is not there

_NO_FILE = "mixer.error_no_file"

_Told = dict[str, Any]


def register_mixes() -> None:
    """Add the routes to the host's server; does nothing where none runs."""
    server = running_server()
    if server is None:
        return
    routes: web.RouteTableDef = server.routes
    hashes = Hashes()
    # One at a time: files are read whole, and the host's own threads are not to wait for that.
    reader = ThreadPoolExecutor(1, "qr_lora_hash")

    @routes.post("/qr_lora/mix")
    @_answering
    async def mix(request: web.Request) -> _Told:
        found = await asyncio.to_thread(_rows, await _body(request, _LARGEST_MIX))
        missing = [row for row, is_there in found if not is_there]
        likely = await _in(reader, likely_of, missing, hashes) if missing else {}
        return {"rows": [{"found": is_there, "likely": likely.get(row, [])} for row, is_there in found]}

    @routes.get("/qr_lora/hash")
    @_answering
    async def content(request: web.Request) -> _Told:
        told: _Told = await _in(reader, content_of, request.query.get("name", ""), hashes)
        return told

    @routes.post("/qr_lora/recipe")
    @_answering
    async def recipe(request: web.Request) -> _Told:
        body = await _body(request, _LARGEST_RECIPE)
        found = await asyncio.to_thread(recipe_in, body, request.query.get("name", ""))
        return {"recipe": recipe_as_json(found)}


async def _in(reader: Executor, work: Callable[..., Any], *given: object) -> Any:
    return await asyncio.get_running_loop().run_in_executor(reader, work, *given)


def _answering(answer: Callable[[web.Request], Awaitable[_Told]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answered(request: web.Request) -> web.Response:
        try:
            return web.json_response(await answer(request))
        except MixError as error:
            told = {"error": str(error), "key": error.key, "values": error.values}
            return web.json_response(told, status=404 if error.key == _NO_FILE else 400)

    return answered


async def _body(request: web.Request, most: int) -> bytes:
    body = bytearray()
    async for chunk in request.content.iter_chunked(2**16):
        body += chunk
        if len(body) > most:
            raise MixError("mixer.error_body", most=most)
    return bytes(body)


def _rows(body: bytes) -> list[tuple[Row, bool]]:
    """The rows of a mix, each with whether its file is there."""
    try:
        mix = parse_mix(body.decode())
    except UnicodeDecodeError as error:
        raise MixError("mixer.error_bytes", at=error.start) from error
    return [(row, _path(row.file) is not None) for row in mix.rows]


def likely_of(rows: Iterable[Row], hashes: Hashes) -> dict[Row, list[_Told]]:
    """Of each row whose file is missing, the files that it likely is."""
    search = Search(hashes)
    return {row: [asdict(likely) for likely in search.likely(row.file, row.size, row.sha256)] for row in rows}


def content_of(name: str, hashes: Hashes) -> _Told:
    """Bytes and SHA-256 of an adapter file.

    Raises:
        MixError: there is none of that name, or it cannot be read.
    """
    path = _path(name)
    found = hashes.of(path) if path is not None else None
    if found is None:
        raise MixError(_NO_FILE, file=name[:_LONGEST_NAME])
    return dict(zip(("size", "sha256"), found, strict=True))


def _path(name: str) -> Path | None:
    try:
        path = adapter_path(name)
    except AdapterFileError:
        return None
    return path if path.suffix.lower() in SUFFIXES else None
