"""The OpenAPI document, and a page of it that needs neither scripts nor another server."""

from html import escape

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from closeloop.api.authentication import token_of
from closeloop.api.problems import documented
from closeloop.api.reads import plain

router = APIRouter(tags=["documentation"])

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code{background:#eee;padding:.1em .3em}table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:.2rem .5rem;text-align:left;vertical-align:top}"
)


@router.get("/openapi.json", response_model=None, responses=documented(401, 414))
async def document(request: Request) -> Response:
    """The OpenAPI document."""
    token_of(request)
    return plain(request.app.openapi())


@router.get("/docs", response_model=None, responses=documented(401, 414))
async def page(request: Request) -> Response:
    """The OpenAPI document, to be read."""
    token_of(request)
    made = request.app.openapi()
    about = made["info"]
    parts = [f"<h1>{escape(about['title'])} {escape(about['version'])}</h1><p>{escape(about['description'])}</p>"]
    for path, methods in made["paths"].items():
        for method, told in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(_said(told))}</p>")
            parts.append(_table(told.get("parameters", [])))
            parts.append(f"<p>Answers: {escape(', '.join(sorted(told['responses'])))}</p>")
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>closeloop</title><style>{_STYLE}</style>"
    body = f"{head}{''.join(parts)}</html>"
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return HTMLResponse(body, headers={"Content-Security-Policy": policy})


def _said(told: dict[str, object]) -> str:
    return str(told.get("description") or told.get("summary") or "")


def _table(parameters: list[dict[str, object]]) -> str:
    if not parameters:
        return ""
    rows = "".join(
        f"<tr><td><code>{escape(str(one['name']))}</code></td><td>{escape(str(one['in']))}</td>"
        f"<td>{'required' if one.get('required') else 'optional'}</td>"
        f"<td>{escape(str(one.get('description', '')))}</td></tr>"
        for one in parameters
    )
    return f"<table>{rows}</table>"
