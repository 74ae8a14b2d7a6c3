"""What every web page of Plumbline stands on, whatever it is about. No torch, no data model.

site.py        puts the parts below together: `create_site` gives a FastAPI application
auth.py        one-time links, sessions, roles; `needs` guards a route
csrf.py        a write must come from our own page
policy.py      the headers that tell a browser what our pages may do
limits.py      how large a request may be, how often one may fail or write
errors.py      a refusal as JSON for a script and as a page for a person, never a traceback
telemetry.py   how many requests, how long they took
assets.py      style sheets and scripts, served by us, kept by browsers until they change
pages.py       templates; `page.html` is the frame of every page
server.py      `serve`: the application in this process until Ctrl-C
"""
