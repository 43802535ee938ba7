"""Who may look, and what a browser may do with what it gets.

The page shows prompts, responses and logs of a run, some written by a model that is being trained: all of it is hostile
text in a browser. So nothing but the page's own files may run or be loaded (Content-Security-Policy), and the page is
not for every web site that a browser visits: on loopback the Host header must name this machine (against DNS
rebinding), elsewhere a token is needed. A browser brings it once, in the URL that is printed, and gets a cookie.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rgopd.common.errors import Unauthorized
from rgopd.common.http import OPEN_PATHS, problem, problem_from
from rgopd.common.root import LOOPBACK

COOKIE = "rgopd_watch"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class Guard:
    """Pure ASGI, since a middleware that wraps responses would hold back server-sent events."""

    def __init__(self, app: ASGIApp, token: str, hosts: Iterable[str] = ()) -> None:
        """`hosts`: names by which a request without a token may call this machine, besides loopback's."""
        self.app = app
        self.token = token.encode()
        self.hosts = LOOPBACK | {"[::1]"} | set(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on; either with the headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self.app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if scope["path"] in OPEN_PATHS:
            return None
        if not self.token:
            host = headers.get("host", "")
            name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
            if name in self.hosts:
                return None
            return problem(
                403, f"this page is not served as {name!r}: name the host in watch.allowed_hosts, or set a token"
            )
        if self._same(headers.get("authorization", "").removeprefix("Bearer ")) or self._same(_cookie(headers)):
            return None
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and self._same(given):
            # The URL with the token goes out of the address bar, the history and what people copy from there.
            answer = Response(status_code=303, headers={"Location": "./"})
            answer.set_cookie(COOKIE, given, httponly=True, samesite="strict", secure=scope.get("scheme") == "https")
            return answer
        return problem_from(
            Unauthorized(
                "open the whole URL that was printed, with ?token=..., or send the token as 'Authorization: Bearer ...'"
            )
        )

    def _same(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token)


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""
