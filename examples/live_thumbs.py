"""A chat in a terminal whose thumbs teach the next model. An application of yours would send the same two requests.

plumb serve                                              in the project's folder
python live_thumbs.py http://127.0.0.1:7590
plumb feedback export --format kto --out thumbs.jsonl
plumb train kto --data thumbs.jsonl --out runs/next
"""

from __future__ import annotations

import sys

import httpx

THUMBS = {"+": "up", "-": "down"}


def talk(server: httpx.Client, user: str) -> None:
    """Until the end of the input; after each answer, + or - is a thumb and anything else is none."""
    turns = []
    while line := sys.stdin.readline().strip():
        turns.append({"role": "user", "content": line})
        asked = {"model": "plumbline", "messages": turns, "user": user}
        reply = server.post("/v1/chat/completions", json=asked).raise_for_status().json()
        turns.append(reply["choices"][0]["message"])
        print(turns[-1]["content"], "(+ or -?)", flush=True)
        thumb = THUMBS.get(sys.stdin.readline().strip())
        if thumb:
            said = {"id": reply["id"], "thumb": thumb, "user": user}
            server.post("/v1/feedback", json=said).raise_for_status()


if __name__ == "__main__":
    with httpx.Client(base_url=sys.argv[1], timeout=120) as server:
        talk(server, user="ann")
