"""What a request is refused with: a status of gRPC, and its counterpart in HTTP."""

from __future__ import annotations

import grpc

# As TensorFlow Serving's `ToHTTPStatusCode` maps them; all others are 500.
_HTTP_STATUS = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}

# In bytes. gRPC sends a message as a header, of which a client takes 8 KB, and with three bytes for
# each that is not ASCII.
_LONGEST_MESSAGE = 2000


class ServingError(Exception):
    """A request that is refused, or fails.

    Args:
      code: Status of gRPC.
      message: What is wrong, where, and what is allowed.
      quotes: Whether the message may quote the request. Then the client gets it, but no
        log does.
      http_status: Status of HTTP, if it is not the counterpart of `code`.

    Attributes:
      code: Status of gRPC.
      message: The message, as much of it as gRPC can send.
      quotes: Whether it may quote the request.
      http_status: Status of HTTP.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        quotes: bool = False,
        http_status: int | None = None,
    ):
        encoded = message[:_LONGEST_MESSAGE].encode(errors="backslashreplace")
        message = encoded[:_LONGEST_MESSAGE].decode(errors="ignore")
        super().__init__(message)
        self.code = code
        self.message = message
        self.quotes = quotes
        self.http_status = http_status or _HTTP_STATUS.get(code, 500)


def invalid(message: str, *, quotes: bool = True) -> ServingError:
    """The error of a request that could not be right whatever the server's state."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message, quotes=quotes)


def exhausted(message: str, *, http_status: int = 503) -> ServingError:
    """The error of a request for which the server has no room, now or ever."""
    return ServingError(grpc.StatusCode.RESOURCE_EXHAUSTED, message, http_status=http_status)
