"""What servers send, as typed values: parsed once, strictly, with what is not known left aside."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

# What TGI's OpenAI routes say in an event; all of them with 422.
_TGI_FAILURES = {
    "Model is overloaded": 429,
    "Request failed during generation": 424,
    "Incomplete generation": 500,
    "Stream event serialization error": 500,
}


class Wire(BaseModel):
    """A JSON object of a server. Types are exact, so that what is not what we expect is a ``ValidationError``."""

    model_config = ConfigDict(strict=True, frozen=True)


class ErrorObject(Wire):
    """An error as the OpenAI-compatible servers tell it; TGI has a ``http_status_code``, which is always 422."""

    message: str | None = None
    code: int | str | None = None
    http_status_code: int | None = None

    @property
    def status(self) -> int:
        """The HTTP status that it stands for."""
        if self.code is None and self.http_status_code is not None:
            for failure, status in _TGI_FAILURES.items():
                if (self.message or "").startswith(failure):
                    return status
        said = str(self.code or self.http_status_code)[:4]
        code = int(said) if said.isascii() and said.isdecimal() else 500
        return code if 300 <= code <= 599 else 500


class _Detail(Wire):
    msg: str = ""


class ErrorBody(Wire):
    """The body of a refusal; ``detail`` is FastAPI's, and where it is a list, of what is wrong with which field."""

    error: str | ErrorObject | None = None
    message: str | None = None
    detail: str | tuple[_Detail, ...] | None = None


def message_of(body: bytes) -> str:
    """Dig the message out of a refusal's body; what is no such JSON is returned as the text that it is."""
    try:
        known = ErrorBody.model_validate_json(body)
    except ValidationError:
        return body.decode(errors="replace").strip()
    said = known.error.message if isinstance(known.error, ErrorObject) else known.error
    detail = known.detail if isinstance(known.detail, str) else "; ".join(one.msg for one in known.detail or ())
    return said or known.message or detail


def described(error: ValidationError) -> str:
    """Say where a value is not what it should be, without the value: it may be what a model wrote."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier())
    return f"{place or 'JSON'}: {first['type']}"


def count(said: int | None, most: int) -> int:
    """A number of tokens that a server told besides its text; 0, which is "not known", where it cannot be true."""
    return said if said is not None and 0 < said <= most else 0
