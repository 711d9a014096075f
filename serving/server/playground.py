"""The page at `/`: the models of the server, a form for each version, and what they predict.

The page itself is three files that tell nothing of the models. What it shows it gets as JSON from
here, and predictions from `/v1`, with the token that its user types in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tensorflow_serving.apis import get_model_status_pb2

from serving.server.authentication import Grant
from serving.server.browsers import BrowserRules
from serving.server.calls import Call
from serving.server.errors import ServingError
from serving.server.service import Service
from serving.server.watched_model import WatchedModel

Endpoint = Callable[[Request], Awaitable[Response]]
GrantedEndpoint = Callable[[Request, Grant], Awaitable[Response]]

_FILES = {
    "/": ("index.html", "text/html"),
    "/ui/playground.css": ("playground.css", "text/css"),
    "/ui/playground.js": ("playground.js", "text/javascript"),
}
_FORM = re.compile(r"/ui/models/(?P<name>[^/:]+)/versions/(?P<version>\d{1,19})", re.ASCII)

# Nothing but the page's own files, no markup made by a script, and no other page around it.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Playground:
    """Serves the page and what it asks for.

    Args:
      service: Has the models.
      rules: Which requests of browsers are refused.
      peer: The address of a client, for the log.
    """

    def __init__(self, service: Service, rules: BrowserRules, peer: Callable[[Request], str]):
        self._service = service
        self._rules = rules
        self._peer = peer
        folder = Path(__file__).parent / "page"
        self._files = {
            path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()
        }

    def routes(
        self,
        guarded: Callable[[GrantedEndpoint], Endpoint],
        explained: Callable[[Endpoint], Endpoint],
    ) -> list[Route]:
        """The routes of the page.

        Args:
          guarded: Makes an endpoint of one that takes authenticated requests alone.
          explained: Makes one of which every error becomes a response.
        """
        return [
            *(Route(path, explained(self._file), methods=["GET"]) for path in _FILES),
            Route("/ui/{path:path}", guarded(self._data), methods=["GET"]),
        ]

    async def _file(self, request: Request) -> Response:
        self._rules.check_host(request)
        content, kind = self._files[request.scope["path"]]
        return Response(content, media_type=kind, headers=_HEADERS | {"Cache-Control": "no-cache"})

    async def _data(self, request: Request, grant: Grant) -> Response:
        self._rules.check_page(request)
        path = request.scope["path"]
        call = Call("rest", "status", self._peer(request), grant=grant)
        if match := _FORM.fullmatch(path):
            call.method, call.name, call.version = "metadata", match["name"], int(match["version"])
            content = self._service.look_up(call, lambda: self._form(call))
        elif path == "/ui/models":
            content = self._service.look_up(call, lambda: self._models(call))
        else:
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"there is nothing at {path}")
        return Response(
            json.dumps(content),
            media_type="application/json",
            headers=_HEADERS | {"Cache-Control": "no-store"},
        )

    def _models(self, call: Call) -> dict[str, Any]:
        """The models that the client may know of, and the states of their versions."""
        call.grant.check("status")
        return {
            "models": [
                {"name": model.name, "versions": _versions(model)}
                for model in self._service.manager.watched()
                if call.grant.models is None or model.name in call.grant.models
            ]
        }

    def _form(self, call: Call) -> dict[str, Any]:
        """The form of a version, with a row of the data if the client may predict."""
        form = self._service.find(call).model.form
        return form.to_json(with_example="predict" in call.grant.methods)


def _versions(model: WatchedModel) -> list[dict[str, Any]]:
    """The states of a model's versions, newest first; numbers as text, as JavaScript rounds."""
    states, labels, newest = dict(model.states), model.labels, model.newest
    return [
        {
            "version": str(number),
            "state": get_model_status_pb2.ModelVersionStatus.State.Name(state),
            "reason": reason,
            "live": newest is not None and newest.version == number,
            "labels": sorted(label for label, version in labels.items() if version == number),
        }
        for number, (state, reason) in sorted(states.items(), reverse=True)
    ]
