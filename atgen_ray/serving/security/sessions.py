"""Sign-in of browsers: a cookie that holds the token, so that any replica can check it, and what
guards its writes.
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
    """Whether the browser speaks TLS, to us or to a proxy before us."""
    return "https" in (connection.url.scheme, connection.headers.get("x-forwarded-proto"))


def read_cookie(scope: Scope) -> str | None:
    """The token in the request's cookie."""
    connection = HTTPConnection(scope)
    return connection.cookies.get(_cookie_name(connection))


def set_cookie(connection: HTTPConnection, response: Response, token: str) -> None:
    """Signs the browser in; an empty token signs it out."""
    response.set_cookie(
        _cookie_name(connection),
        token,
        max_age=LIFETIME if token else 0,
        path="/",
        secure=is_secure(connection),
        httponly=True,
        samesite="strict",
    )


def csrf_token(token: str) -> str:
    """What a page of ours sends in CSRF_HEADER with every write; other sites cannot know it."""
    return hmac.new(token.encode("utf-8", "surrogatepass"), b"atgen-ray csrf", sha256).hexdigest()


def is_own_write(scope: Scope, token: str) -> bool:
    """Whether a request with a cookie reads only, or was sent by a page of ours."""
    if scope["method"] in SAFE_METHODS:
        return True
    sent = Headers(scope=scope).get(CSRF_HEADER, "")
    return is_same_origin(scope) and hmac.compare_digest(
        sent.encode("latin-1"), csrf_token(token).encode()
    )


def is_same_origin(scope: Scope) -> bool:
    """Whether the browser says that a page of ours sent this; every browser says something with a
    write.
    """
    headers = Headers(scope=scope)
    if (site := headers.get("sec-fetch-site")) is not None:
        return site == "same-origin"
    return urlsplit(headers.get("origin", "")).netloc == headers.get("host")


def is_own_path(path: str) -> bool:
    """Whether a redirect to `path` stays here."""
    return path.startswith("/") and path.isprintable() and not path.startswith(("//", "/\\"))


def _cookie_name(connection: HTTPConnection) -> str:
    # The prefix keeps other hosts of the domain, and pages without TLS, from setting it.
    return "__Host-atgen" if is_secure(connection) else "atgen"
