"""Errors as clients see them: OpenAI's error object, with the status that fits.

Clients of OpenAI's interface retry after 408, 409, 429 and 5xx. So a request that can never succeed gets another 4xx;
429 and 503 say in Retry-After when to retry.
"""

import json
import math
from typing import Any

from starlette.responses import Response

from gpt2.errors import ContextError, DeadlineError, GenerationError, TokenizerError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: HTTP's.
        message: what was asked cannot be done: what was seen. What to do.
        param: the field at fault.
        code: for programs: "context_length_exceeded", "model_not_found", …
        retry_after: seconds after which another try may succeed.
        headers: to send with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, math.ceil(retry_after)))

    @property
    def kind(self) -> str:
        """OpenAI's type of error."""
        return _TYPES.get(self.status, "invalid_request_error")

    @property
    def name(self) -> str:
        """What the log calls it."""
        return self.code or self.kind

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The whole answer."""
        return json_response(self.body(), status=self.status, headers=self.headers)


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400 about one field."""
    return ApiError(400, message, param=param, code=code)


def limit_exceeded(
    what: str, given: object, limit: str, most: object, *, param: str | None = None, status: int = 400
) -> ApiError:
    """An error that names the limit, its value, and what was given."""
    return ApiError(
        status, f"{what}: the limit {limit} is {most}, and the request has {given}.", param=param, code=limit
    )


def to_api_error(error: Exception) -> ApiError:
    """Any exception as a client sees it: 4xx for its own fault, 429 or 503 for lack of room, else 500."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextError):
        return ApiError(400, str(error), param="prompt", code="context_length_exceeded")
    if isinstance(error, DeadlineError):
        return ApiError(
            429,
            "The request waited for a place longer than the limit queue_seconds allows. Send it again later.",
            code="queue_seconds",
            retry_after=2,
        )
    if isinstance(error, GenerationError | TokenizerError):
        return ApiError(400, str(error))
    if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
        return ApiError(503, "There is not enough memory for this request now. Send it again later.", retry_after=5)
    return ApiError(500, "The request failed through a fault of the server. Its log has the details by request id.")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def finite(value: float) -> float | None:
    """The value; None if it is infinite or NaN, which JSON does not have."""
    return value if math.isfinite(value) else None


def json_bytes(value: object) -> bytes:
    """Compact JSON in UTF-8."""
    return _ENCODER.encode(value).encode("utf-8", "replace")


def json_response(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return Response(json_bytes(value), status_code=status, headers=headers, media_type="application/json")
