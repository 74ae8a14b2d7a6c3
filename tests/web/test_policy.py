"""The headers of every answer, and that our pages keep to them."""

from __future__ import annotations

import re

import pytest
from starlette.testclient import TestClient

PAGE = {"Accept": "text/html"}


@pytest.mark.parametrize("path", ["/", "/health", "/sign-in/x", "/nothing", "/bug"])
def test_every_answer_carries_the_policy(client: TestClient, path: str) -> None:
    headers = client.get(path, headers=PAGE).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/sign-in/x", "/nothing", "/bug"])
def test_no_page_holds_script_or_style_or_an_address_elsewhere(client: TestClient, path: str) -> None:
    page = client.get(path, headers=PAGE).text
    assert re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|javascript:", page) is None
    addresses = re.findall(r'(?:src|href|action)="([^"]*)"', page)
    assert addresses and all(address.startswith(("/", "#")) and not address.startswith("//") for address in addresses)
