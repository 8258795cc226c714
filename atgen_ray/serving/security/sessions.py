"""Cookies of browsers, which hold the secret of a session (see `login`) that any replica can check,
and protection against cross-site writes.
"""

import hmac
from hashlib import sha256
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Scope

SIGN_IN = "/sign-in"
CSRF_HEADER = "X-CSRF-Token"
LIFETIME = 7 * 86_400  # seconds
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def is_secure(connection: HTTPConnection) -> bool:
    """Return whether the browser uses TLS, to the service or to a proxy in front of it."""
    return "https" in (connection.url.scheme, connection.headers.get("x-forwarded-proto"))


def read_cookie(scope: Scope) -> str | None:
    """Return the secret of the session in the request's cookie, or None."""
    connection = HTTPConnection(scope)
    return connection.cookies.get(_cookie_name(connection))


def set_cookie(connection: HTTPConnection, response: Response, secret: str) -> None:
    """Sign the browser in with the secret of a session; an empty one signs it out."""
    response.set_cookie(
        _cookie_name(connection),
        secret,
        max_age=LIFETIME if secret else 0,
        path="/",
        secure=is_secure(connection),
        httponly=True,
        samesite="strict",
    )


def csrf_token(secret: str) -> str:
    """Return the value that a page sends in CSRF_HEADER with every write; other sites cannot know
    it.
    """
    return hmac.new(secret.encode("utf-8", "surrogatepass"), b"atgen-ray csrf", sha256).hexdigest()


def is_own_write(scope: Scope, secret: str) -> bool:
    """Return whether a request with a cookie is no write, or comes from a page of this service."""
    if scope["method"] in SAFE_METHODS:
        return True
    sent = Headers(scope=scope).get(CSRF_HEADER, "")
    return is_same_origin(scope) and hmac.compare_digest(
        sent.encode("latin-1"), csrf_token(secret).encode()
    )


def is_same_origin(scope: Scope) -> bool:
    """Return whether the browser says that a page of this service sent the request; every browser
    names the origin of a write.
    """
    headers = Headers(scope=scope)
    if (site := headers.get("sec-fetch-site")) is not None:
        return site == "same-origin"
    return urlsplit(headers.get("origin", "")).netloc == headers.get("host")


def is_own_path(path: str) -> bool:
    """Return whether a redirect to `path` stays on this service."""
    return path.startswith("/") and path.isprintable() and not path.startswith(("//", "/\\"))


def _cookie_name(connection: HTTPConnection) -> str:
    # The prefix keeps other hosts of the domain, and pages without TLS, from setting the cookie.
    return "__Host-atgen" if is_secure(connection) else "atgen"
