"""Style sheets, scripts and images: served by us, and kept by browsers until they change.

The address of a file holds the hash of all of them, so a browser never asks twice for the same and never keeps an old
one. Since they share that folder, one script imports another by its plain name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from starlette.responses import Response

from plumbline.web.errors import Refusal

TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
PREFIX = "/assets"


class Assets:
    """The files of some folders, read once. Two files of one name are our mistake."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._files: dict[str, bytes] = {}
        for path in (path for folder in folders for path in sorted(folder.iterdir()) if path.suffix in TYPES):
            assert path.name not in self._files, f"{path} is the second asset of its name"
            self._files[path.name] = path.read_bytes()
        digest = hashlib.sha256()
        for name, content in sorted(self._files.items()):
            digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
        self.version = digest.hexdigest()[:12]

    def address(self, name: str) -> str:
        assert name in self._files, f"there is no asset {name!r}"
        return f"{PREFIX}/{self.version}/{name}"

    def get(self, version: str, name: str) -> Response:
        """The file; the newest one under an old address too, and then a browser keeps nothing."""
        if name not in self._files:
            raise Refusal(404, f"There is no file {name!r} here.")
        keep = "public, max-age=31536000, immutable" if version == self.version else "no-store"
        kind = TYPES[Path(name).suffix]
        return Response(self._files[name], media_type=kind, headers={"Cache-Control": keep})
