"""The manager's pages: how it goes, whom and what to look at, the words people rank by, and the way out.

Each page is made whole on the server. Its script asks for `/manager/stamp` every few seconds and, when that is another
one, puts the parts that changed in place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any, TypeVar, cast
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Query, Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from plumbline.feedback.room.disputes import Difference, Flagged
from plumbline.feedback.room.downloads import WORDS, Choice, download, folder_of
from plumbline.feedback.room.figures import Reckoner, pace
from plumbline.feedback.room.people import evidence_about, show_people, show_person
from plumbline.feedback.room.shown import (
    a_page,
    listed,
    moment,
    number,
    show_agreement,
    show_difference,
    show_flag,
    show_progress,
    show_versions,
)
from plumbline.feedback.selection import SPLITS
from plumbline.feedback.sign_in import Role
from plumbline.feedback.store import Store
from plumbline.records import ComparisonSet, Split
from plumbline.web.auth import Visitor, needs
from plumbline.web.errors import Refusal

router = APIRouter(prefix="/manager")
Manager = Annotated[Visitor, Depends(needs("manager"))]
PageNumber = Annotated[int, Query(alias="page")]
Kept = TypeVar("Kept", Difference, Flagged)
Item = TypeVar("Item")

PLACES = (
    ("/manager", "Overview"),
    ("/manager/labelers", "Labelers"),
    ("/manager/differences", "Differences"),
    ("/manager/flags", "Flags"),
    ("/manager/instructions", "Instructions"),
    ("/manager/export", "Export"),
    ("/label", "Rank"),
)
LINK_DAYS = 7
LONGEST_NAME, LONGEST_NOTE, LONGEST_TEXT = 80, 500, 100_000


def page(request: Request, name: str, *, status: int = 200, said: str = "", **values: Any) -> Response:
    """A page in the manager's frame; `said` is a sentence about what was just done."""
    response: Response = request.app.state.pages.render(
        request,
        name,
        status=status,
        places=(*PLACES, *request.app.state.beside),
        stamp=stamp_of(request),
        said=said,
        number=number,
        **values,
    )
    return response


def store_of(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def reckoner_of(request: Request) -> Reckoner:
    """The application's one, made at its first use."""
    state = request.app.state
    if not hasattr(state, "reckoner"):
        state.reckoner = Reckoner(state.store)
    reckoner: Reckoner = state.reckoner
    return reckoner


def stamp_of(request: Request) -> str:
    """Another one whenever a page of ours would look different."""
    progress = store_of(request).progress()
    return f"{reckoner_of(request).figures().stamp}.{hash(progress) & 0xFFFFFFFF:x}"


@router.get("/stamp")
def stamp(request: Request, visitor: Manager) -> dict[str, str]:
    return {"stamp": stamp_of(request)}


# ---- how it goes


@router.get("")
def overview(request: Request, visitor: Manager) -> Response:
    store, figures = store_of(request), reckoner_of(request).figures()
    going = pace(store)
    people = show_people(store.labelers(), store.excluded(), figures)
    to_look_at = sum(1 for each in people if each.reasons)
    disputes = figures.disputes
    looks = [
        ("/manager/labelers", to_look_at, "labeler", "labelers", "whose rankings may not help"),
        ("/manager/differences", disputes.n_differences, "set", "sets", "in which people contradict one another"),
        ("/manager/flags", disputes.n_flagged, "answer", "answers", "flagged as making no sense"),
    ]
    facts = [
        ("Rankings in the last day", number(going.last_day)),
        ("by people", number(going.people)),
        ("Rankings in the last hour", number(going.last_hour)),
        *((f"Skipped: {reason}", number(count)) for reason, count in going.skipped),
    ]
    return page(
        request,
        "desk-overview.html",
        progress=show_progress(store.progress(), going),
        looks=looks,
        facts=facts,
        agreement=show_agreement(figures.agreement),
        as_of=moment(figures.at),
    )


# ---- what people differ on


@router.get("/differences")
def differences(request: Request, visitor: Manager, page_number: PageNumber = 1) -> Response:
    figures = reckoner_of(request).figures()
    found, total = figures.disputes.differences, figures.disputes.n_differences
    shown = a_page(found, total, page_number, shown_by(show_difference, store_of(request)))
    return page(request, "desk-differences.html", shown=shown, as_of=moment(figures.at))


@router.get("/flags")
def flags(request: Request, visitor: Manager, page_number: PageNumber = 1) -> Response:
    figures = reckoner_of(request).figures()
    found, total = figures.disputes.flagged, figures.disputes.n_flagged
    shown = a_page(found, total, page_number, shown_by(show_flag, store_of(request)))
    return page(request, "desk-flags.html", shown=shown, as_of=moment(figures.at))


def shown_by(show: Callable[[Kept, ComparisonSet, Mapping[str, str]], Item], store: Store) -> Callable[[Kept], Item]:
    """What shows a dispute, with its set and everybody's names."""
    names = defaultdict(lambda: "somebody", {each.labeler_id: each.name for each in store.labelers()})
    return lambda each: show(each, store.comparison_set(each.set_id), names)


# ---- the words people rank by


@router.get("/instructions")
def instructions(request: Request, visitor: Manager, criterion: str = "", saved: bool = False) -> Response:
    return editor(request, criterion, said="Saved. Labelers see it with their next set." if saved else "")


def editor(
    request: Request, criterion: str, *, text: str | None = None, conflict: str = "", said: str = ""
) -> Response:
    """The editor of a criterion's instructions, the first one's when none is named; `text` is one not yet saved."""
    store = store_of(request)
    criteria = store.criteria()
    if criterion and criterion not in criteria:
        raise Refusal(404, f"There is no criterion {criterion!r}: take one of {', '.join(criteria)}.")
    criterion = criterion or next(iter(criteria), "")
    versions = store.instructions(criterion) if criterion else []
    return page(
        request,
        "desk-instructions.html",
        status=409 if conflict else 200,
        said=said,
        criteria=criteria,
        criterion=criterion,
        text=text if text is not None else (versions[-1].text if versions else ""),
        newest=versions[-1].version if versions else 0,
        versions=show_versions(versions),
        conflict=conflict,
    )


@router.post("/instructions")
def revise(
    request: Request,
    visitor: Manager,
    criterion: Annotated[str, Form()],
    text: Annotated[str, Form(max_length=LONGEST_TEXT)],
    former: Annotated[int, Form()],
) -> Response:
    store = store_of(request)
    text = text.replace("\r\n", "\n").strip()  # forms send lines the way of typewriters
    newest = store.instruction(criterion)
    if newest.text.strip() != text and newest.version != former:
        conflict = (
            f"{newest.by or 'Somebody'} saved version {newest.version} while you wrote. Your text is below and not "
            f"saved: compare it with version {newest.version}, then save it as the next one."
        )
        return editor(request, criterion, text=text, conflict=conflict)
    if newest.text.strip() != text:
        store.revise(criterion, text, visitor.name)
    return RedirectResponse(f"/manager/instructions?criterion={quote(criterion, safe='')}&saved=1", status_code=303)


# ---- who ranks


@router.get("/labelers")
def labelers(request: Request, visitor: Manager) -> Response:
    store, figures = store_of(request), reckoner_of(request).figures()
    people = show_people(store.labelers(), store.excluded(), figures)
    return page(request, "desk-labelers.html", people=people, link_days=LINK_DAYS, as_of=moment(figures.at))


@router.get("/labelers/{labeler_id}")
def labeler(request: Request, visitor: Manager, labeler_id: str, done: str = "") -> Response:
    store, figures = store_of(request), reckoner_of(request).figures()
    person = show_person(store.labeler(labeler_id), store.excluded().get(labeler_id), figures)
    said = {
        "excluded": f"{person.name} is left out. Exports and agreement go without this person's rankings.",
        "included": f"{person.name} counts again.",
    }
    return page(request, "desk-labeler.html", person=person, as_of=moment(figures.at), said=said.get(done, ""))


@router.post("/labelers/{labeler_id}/exclude")
def exclude(
    request: Request, visitor: Manager, labeler_id: str, note: Annotated[str, Form(max_length=LONGEST_NOTE)] = ""
) -> Response:
    store = store_of(request)
    evidence = evidence_about(labeler_id, reckoner_of(request).figures(), note.strip())
    store.exclude(labeler_id, evidence, visitor.name)
    return RedirectResponse(f"/manager/labelers/{quote(labeler_id, safe='')}?done=excluded", status_code=303)


@router.post("/labelers/{labeler_id}/include")
def include(request: Request, visitor: Manager, labeler_id: str) -> Response:
    store_of(request).include(labeler_id, visitor.name)
    return RedirectResponse(f"/manager/labelers/{quote(labeler_id, safe='')}?done=included", status_code=303)


@router.post("/invitations")
def invite(
    request: Request,
    visitor: Manager,
    name: Annotated[str, Form(max_length=LONGEST_NAME)],
    role: Annotated[Role, Form()],
) -> Response:
    if not name.strip():
        raise Refusal(422, "The name is empty: write how the person is called.")
    person = store_of(request).add_labeler(name.strip(), role)
    return link_page(request, person.labeler_id)


@router.post("/labelers/{labeler_id}/link")
def new_link(request: Request, visitor: Manager, labeler_id: str) -> Response:
    return link_page(request, labeler_id)


def link_page(request: Request, labeler_id: str) -> Response:
    """Shows a new link, the only time that anybody sees it."""
    store = store_of(request)
    person = store.labeler(labeler_id)
    token = store.new_link(labeler_id, timedelta(days=LINK_DAYS))
    link = str(request.base_url) + f"sign-in/{token}"
    return page(request, "desk-link.html", person=person, link=link, link_days=LINK_DAYS)


# ---- the way out


@router.get("/export")
def export(request: Request, visitor: Manager) -> Response:
    store = store_of(request)
    names = {each.labeler_id: each.name for each in store.labelers()}
    folder = folder_of(store)
    return page(
        request,
        "desk-export.html",
        formats=[(name, title, meaning) for name, (title, meaning) in WORDS.items()],
        criteria=store.criteria(),
        split=folder is not None and (folder / SPLITS).exists(),
        without=listed([names[each] for each in store.excluded()]),
    )


@router.get("/export/file")
def export_file(
    request: Request,
    visitor: Manager,
    format: str,
    criterion: str = "",
    part: str = "",
    merged: bool = False,
    clean: bool = False,
) -> Response:
    if part not in ("", "train", "validation", "test"):
        raise Refusal(422, f"There is no split {part!r}: take train, validation or test.")
    chosen = Choice(format, criterion or None, merged, cast("Split", part) if part else None, clean)
    name = "-".join(filter(None, ("plumbline", format, part))) + ".jsonl"
    return StreamingResponse(
        download(store_of(request), chosen),
        media_type="application/jsonl",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
