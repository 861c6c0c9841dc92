"""The one tree of errors that a person may meet: a sentence and an exit code.

Each is an `invoke.Exit`, so that Invoke prints the sentence on stderr and exits with the code; Python callers
catch `HardwayError`. Any other exception is a bug. The translation of botocore's errors is in `aws`.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from typing import Any

from invoke.exceptions import Exit

from hardway.terminal import printable

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""The numbers of OSErrors for a file that can't be written: a person's disk is to blame, and no bug of ours."""


class HardwayError(Exit):
    """A problem and its remedy, in one line; below it, `lines` that show the problem, such as the end of a log.

    A person is shown `message`, in which control characters of names and answers are written out. `code` becomes the
    exit code of the process. `result` is the part of the task's result that was reached: the command line prints it.
    """

    result: Any = None

    def __init__(self, message: str, code: int = 2, lines: Iterable[str] = ()) -> None:
        super().__init__("\n".join(map(printable, (message, *lines))), code)

    def __str__(self) -> str:
        return self.message

    @property
    def message(self) -> str:
        """The text for a person."""
        return self._message

    @message.setter
    def message(self, text: str) -> None:
        self._message = printable(text, keep="\n")


class UsageError(HardwayError):
    """Bad input or configuration; nothing was started. Exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 2)


class NothingMatched(HardwayError):
    """A selector or filter that is well formed but matches no instance. Exit code 1."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 1)


class Failed(HardwayError):
    """The work itself failed, on an instance or in a task of a job. Exit code 1."""

    def __init__(self, message: str, lines: Iterable[str] = ()) -> None:
        super().__init__(message, 1, lines)


class PartlyFailed(Failed):
    """Some of the work failed, or was bad input. The rest is done, and is the `result`."""

    def __init__(self, message: str, result: Any, code: int = 1) -> None:
        HardwayError.__init__(self, message, code)
        self.result = result


class Interrupted(HardwayError):
    """A person pressed Ctrl-C. Exit code 130."""

    def __init__(self, message: str = "interrupted") -> None:
        super().__init__(message, 130)


def reason_of(error: Exception) -> str:
    """Return the reason in an OSError's words, without the file's name; for another error, its text."""
    return (getattr(error, "strerror", None) or str(error)).lower()


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `"; did you mean X?"` with the nearest of `known`; empty if none is near, or the word is known."""
    words = list(known)
    if word in words:
        return ""
    near = difflib.get_close_matches(word, words, n=3, cutoff=0.6)
    # Two letters the wrong way round: us-esat-1 is no nearer to us-east-1 than to us-west-1.
    near.sort(key=lambda each: sorted(each) != sorted(word))
    return f"; did you mean {near[0]}?" if near else ""
