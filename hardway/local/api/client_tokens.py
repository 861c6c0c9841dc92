"""Client tokens: a call that is repeated with the token of an earlier one does nothing, and is answered as before."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

from hardway.local.api.ec2_error import EC2Error

_answers: dict[Any, tuple[Any, Any]] = {}
_lock = threading.RLock()


def once(answer: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make the answer to a call heed client tokens. It then raises EC2Error for a token of another request."""

    def answered(response: Any) -> Any:
        token = response._get_param("ClientToken")
        if not token:
            return answer(response)
        key = response.current_account, response.region, answer.__name__, token
        asked = copy.deepcopy(dict(response.params))  # moto writes into it
        with _lock:
            if key not in _answers:
                _answers[key] = asked, answer(response)
            before, given = _answers[key]
        if before != asked:
            raise EC2Error(400, "IdempotentParameterMismatch", "The client token was used for another request.")
        return given

    return answered
