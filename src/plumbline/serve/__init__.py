"""At work: a server that speaks OpenAI's API, a playground, and feedback that is never lost. No torch.

app.py          puts the parts below together: `create_app`, and `serve` until a signal ends it
settings.py     what `plumb serve` can be told
api.py          the routes of the API
requests.py     what may be asked, in OpenAI's shapes
replies.py      what is answered, in OpenAI's shapes
shapes.py       what is answered, as the document states it
openapi.py      that document: what may be asked, and what comes back
tools.py        calls of tools by a model that only writes text
service.py      the way of a request: key, rails, place, engine, row
draft.py        a request while it is answered, and the row that it becomes
traces.py       requests as spans of OpenTelemetry
shared_cache.py  answers that several servers share in Redis
alike.py        questions that get the answer of an earlier one
keys.py         who asks, what they may, how much
line.py         who is next
versions.py     which version answers; promotion while requests run
engine.py       a model in a process of its own, watched and started anew
worker.py       that process
route.py        which requests are hard enough for a larger model, and what each exchange costs
routing.py      the way of a request that is routed
journal.py      the one thread that writes
feedback.py     what people say of an answer
label.py        ranking over the API
metrics.py      what Prometheus reads
playground.py   people who try the model
traffic.py      the page that shows what it does
"""
