"""The ranking room, a web application: the labeler's page and the manager's.

    app.py        puts it together: `create_app(store, queue)`; each page's routes are one `APIRouter`
    labeler.py    `router` under /label: the page, and what its script asks for
    desk.py       `router` under /manager: what the manager sees and decides
    *.html        templates, all in the frame of `web/templates/page.html`
    *.css *.js    each page's own look and script, beside `web/static/`; one imports another by its plain name

A route guards itself by `Depends(needs("manager"))` from `plumbline.web.auth`. It finds the store at
`request.app.state.store`, the queue at `.queue`, and gives a page by `request.app.state.pages.render(request, NAME,
...)`. A script writes with `ask("POST", address, body)` from `plumbline.js`, a form with the hidden field `csrf`.
"""
