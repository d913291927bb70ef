"""What lies in the folders of adapters, for the page: names, facts about one file, the pictures beside it.

``GET /qr_lora/adapters`` lists all, and with ``?cards=1`` also what each file says of itself, in short; ``GET
/qr_lora/adapter?name=loras/cat.safetensors`` tells all that this file says and what lies beside it, and ``GET
/qr_lora/picture?name=...&index=0`` is the first picture beside it. What cannot be had is ``{"error": message}``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from aiohttp import web

from ....qrlora_core import AdapterFileError
from ..advice import advised
from ..files.cards import Cards, remembered_file
from ..files.folders import adapter_files, adapter_path
from ..files.header import facts_of
from ..files.previews import TYPES, pictures_beside, with_preview
from ..files.sidecars import with_sidecars
from .server import running_server

_NAME_LENGTH = 300  # of what a picture is called
# A picture is never anything else, whatever its bytes say, and never older than the file.
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}


class _Refused(Exception):  # noqa: N818 (an answer)
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def register_library() -> None:
    """Add the routes to the host's server; does nothing where none runs."""
    server = running_server()
    if server is None:
        return
    routes: web.RouteTableDef = server.routes
    cards = Cards(remembered_file())

    @routes.get("/qr_lora/adapters")
    async def adapters(request: web.Request) -> web.Response:
        wanted = cards if request.query.get("cards") == "1" else None
        return web.json_response({"adapters": await asyncio.to_thread(listed, wanted)})

    @routes.get("/qr_lora/adapter")
    async def adapter(request: web.Request) -> web.Response:
        try:
            return web.json_response(await asyncio.to_thread(_facts, _asked(request)))
        except _Refused as refused:
            return _as_answer(refused)

    @routes.get("/qr_lora/picture")
    async def picture(request: web.Request) -> web.StreamResponse:
        try:
            path = await asyncio.to_thread(_picture, _asked(request), request.query.get("index", "0"))
        except _Refused as refused:
            return _as_answer(refused)
        return web.FileResponse(path, headers={**_HEADERS, "Content-Type": TYPES[path.suffix.lower()]})


def _asked(request: web.Request) -> str:
    name = request.query.get("name", "")
    if not name:
        raise _Refused(400, "name: expected the name of an adapter file, found nothing.")
    return name


def _as_answer(refused: _Refused) -> web.Response:
    return web.json_response({"error": str(refused)}, status=refused.status)


def listed(cards: Cards | None = None) -> list[dict[str, Any]]:
    """All adapter files by name, each with whether it has a preview; with ``cards`` also what it says, in short."""
    files = adapter_files()
    names = sorted(files)
    seen, told = with_preview(names), cards.of(files) if cards is not None else {}
    return [{"name": name, "picture": name in seen, **(told.get(name) or {})} for name in names]


def _path(name: str) -> Path:
    try:
        return adapter_path(name)
    except AdapterFileError as error:
        raise _Refused(404, str(error)) from error


def _facts(name: str) -> dict[str, Any]:
    path = _path(name)
    try:
        with advised():
            facts = with_sidecars(path, facts_of(path))
    except AdapterFileError as error:
        raise _Refused(400, str(error)) from error
    pictures = pictures_beside(path)
    told = [{"name": file.name[:_NAME_LENGTH], "version": file.stat().st_mtime_ns} for file in pictures]
    return {"name": name, **facts, "pictures": told}


def _picture(name: str, index: str) -> Path:
    if not (index.isascii() and index.isdigit()):
        raise _Refused(400, f"index: expected a number from 0 on, found {index[:_NAME_LENGTH]!r}.")
    path = _path(name)
    pictures = dict(enumerate(pictures_beside(path)))
    # Never a long number: Python refuses to read one of more than 4300 digits.
    found = pictures.get(int(index)) if len(index) < 10 else None
    if found is None:
        raise _Refused(404, f"{path.name}: {len(pictures)} pictures lie beside it, and none has the index {index}.")
    return found
