"""Guard of Ray Serve's own paths, `/-/routes` and `/-/healthz`, which its proxy answers before any
request reaches the application and its tokens: only this machine may ask for them.

Serve's proxies import `middlewares` by the variable CALLBACK. `atgen-ray serve` sets it for a
private Ray; on a cluster it belongs into the environment of every node.
"""

from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from atgen_ray.serving.errors import error_response

CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
IMPORT_PATH = f"{__name__}:middlewares"
OWN = "/-/"
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


class ProxyGuard:
    """Middleware of the proxy: strangers get 404 for Serve's own paths."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = scope["type"] == "http" and scope["path"].startswith(OWN)
        if own and not is_local(scope):
            await error_response(404, "Not Found")(scope, receive, send)
            return
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Return the middleware for Serve's proxy."""
    return [Middleware(ProxyGuard)]


def is_local(scope: Scope) -> bool:
    """Return whether a process of this machine asks for itself, rather than a reverse proxy for
    somebody else.
    """
    client = scope.get("client")
    if client is None or any(name in Headers(scope=scope) for name in FORWARDED):
        return False
    try:
        address = ip_address(client[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
