"""The labeler's page: the next set, the ranking, and the last ten answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from plumbline.web.auth import Visitor, needs

router = APIRouter(prefix="/label")
Ranker = Annotated[Visitor, Depends(needs("labeler", "manager"))]


@router.get("")
def room(request: Request, visitor: Ranker) -> Response:
    page: Response = request.app.state.pages.render(request, "label.html")
    return page
