"""The ranking room lies in the served site: one address, one sign-in, each place a link away from the others."""

from __future__ import annotations

from contextlib import closing

import httpx

from plumbline.records import Answer, ComparisonSet
from serving import Running, sign_in


def test_people_rank_where_they_talk_with_the_model(server: Running) -> None:
    answers = tuple(Answer(text=text, model="m") for text in ("Shade.", "Open the windows at night."))
    asked = ComparisonSet(set_id="s", prompt_id="p", prompt="My house is too hot.", completions=answers)
    server.store.add_criterion("helpful", "What helps most.")
    server.store.add_sets([asked])
    with closing(sign_in(server, "ann")) as ann, closing(sign_in(server, "mia", "manager")) as mia:
        assert 'href="/label"' in ann.get("/playground").text
        assert 'href="/playground"' in ann.get("/label").text
        assert ann.get("/manager").status_code == 403
        for place in ("/playground", "/traffic", "/label", "/manager"):
            page = mia.get(place)
            assert page.status_code == 200
            assert all(f'href="{other}"' in page.text for other in ("/playground", "/label", "/manager"))
        assert "My house is too hot." in ann.post("/label/api/claim", json={}).text


def test_nobody_ranks_there_without_a_sign_in(server: Running) -> None:
    assert httpx.get(f"{server.address}/label").status_code == 401
    assert httpx.post(f"{server.address}/label/api/claim", json={}).status_code == 401
