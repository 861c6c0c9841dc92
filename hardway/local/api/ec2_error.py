"""Errors in the form in which EC2 answers them."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

from werkzeug.exceptions import HTTPException


class EC2Error(HTTPException):
    """An error as EC2 answers it. moto's own would all have status 400, and clients retry by the status."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.code = status
        self.error_code = code
        self.said = message
        self.description = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Response><Errors><Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error></Errors>"
            "<RequestID>00000000-0000-0000-0000-000000000000</RequestID></Response>"
        )

    def get_body(self, *args: Any, **kwargs: Any) -> str:
        return self.description or ""

    def get_headers(self, *args: Any, **kwargs: Any) -> list[tuple[str, str]]:
        return [("Content-Type", "text/xml;charset=UTF-8")]
