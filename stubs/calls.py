"""The S3 stub's calls besides the verbs of `aws s3`: `aws s3api`, `aws sts get-caller-identity`, `aws configure`.

stubs/aws starts `main` in python3 -I -S, with CLI HERE SESSION OUTPUT QUERY NO-PAGINATE PROFILE SERVICE ARGUMENT..., in
the directory of the session. CLI is the version of the CLI that it follows, 1 or 2. HERE is the caller's directory. The
program needs Python 3.9 and its standard library; --query needs jmespath. stubs/aws describes the layout of a session.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import hashlib
import json
import os
import re
import signal
import stat
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, NoReturn, Union

WORK = b"^tmp"
ABOUT = b"^about"
PART = 8 << 20
MOST_PARTS = 10_000
DEFAULT_TYPE = "binary/octet-stream"
ACCOUNT = "123456789012"
OWNER = {"DisplayName": "stub", "ID": "stub"}
WAIT_SECONDS = 100.0
"""The seconds that the CLI waits: 20 looks, one each 5 seconds. The stub looks more often."""
HEADERS = (
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "ContentType",
    "Expires",
    "WebsiteRedirectLocation",
    "ServerSideEncryption",
    "SSEKMSKeyId",
    "StorageClass",
)
"""The named attributes that are kept of an object, in the order in which the CLI shows them."""
OF_A_COPY = ("StorageClass", "ServerSideEncryption", "SSEKMSKeyId", "OnePart")
"""The attributes that a copy doesn't take over."""
NAME_PATTERN = r"^[a-zA-Z0-9.\-_]{1,255}$"
ARN_PATTERN = (
    r"^arn:(aws).*:(s3|s3-object-lambda):[a-z\-0-9]*:[0-9]{12}:accesspoint[/:][a-zA-Z0-9\-.]{1,63}$"
    r"|^arn:(aws).*:s3-outposts:[a-z\-0-9]+:[0-9]{12}:outpost[/:][a-zA-Z0-9\-]{1,63}[/:]accesspoint[/:]"
    r"[a-zA-Z0-9\-]{1,63}$"
)
USAGE = "usage: aws [options] <command> <subcommand> [<subcommand> ...] [parameters]"

Answer = Union[dict[str, Any], "Pages", None]
scratch: list[bytes] = []
version_2 = False
"""The stub follows version 2 of the CLI."""


class Stop(Exception):
    """The end of the call: the exit code, and the text for stderr."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


MISUSED = ("Parameter validation failed:", "Error parsing parameter ", "Bad value for --query ", "usage: ")


def fail(text: str) -> Stop:
    """Return an error as the CLI reports it. Version 2 has a code for each kind of error."""
    code = 255
    if version_2 and text.startswith("An error occurred ("):
        code = 254
    elif version_2 and text.startswith(MISUSED):
        code = 252
    return Stop(code, f"\n{text}\n")


def refuse(text: str) -> Stop:
    """Return an error that only a stub has."""
    return Stop(255, f"aws (S3 stub): {text}\n")


def service_error(code: str, operation: str, text: str) -> Stop:
    return fail(f"An error occurred ({code}) when calling the {operation} operation: {text}")


def no_key(operation: str) -> Stop:
    return service_error("NoSuchKey", operation, "The specified key does not exist.")


def usage_error(text: str) -> Stop:
    lines = (USAGE, "To see help text, you can run:", "", "  aws help", "  aws <command> help")
    text = "\n".join((*lines, "  aws <command> <subcommand> help", "", f"aws: error: {text}", ""))
    return Stop(252 if version_2 else 2, text)


# ---------------------------------------------------------------- the session


class Caller(NamedTuple):
    """The caller: the current directory, the session's path, and the options before the service."""

    here: str
    session: str
    output: str
    query: str
    paginate: bool
    profile: str


def alive() -> bool:
    return os.path.exists("^started")


def removed(caller: Caller) -> Stop:
    return refuse(f"its session was removed while it ran, and what it did there is gone: {caller.session}")


def without_links(path: bytes) -> None:
    """Raise Stop if a directory in the path is a link: only somebody else can have made it."""
    while path:
        if os.path.islink(path):
            raise refuse(f"somebody has put a link into its session: {os.fsdecode(path)}")
        path = os.path.dirname(path)


def escaped(component: bytes, prefix: bytes) -> bytes:
    """Return the names on disk of a component of a key; the component may be empty after a prefix."""
    name = prefix + re.sub(rb"[%^\x00-\x1f\x7f]", lambda match: b"^%02X" % match[0][0], component)
    parts = []
    while len(name) > 240:
        parts.append(name[:240] + b"^-%/")
        name = name[240:]
    return b"".join(parts) + {b"": b"^_", b".": b"^2E", b"..": b"^2E^2E"}.get(name, name)


def bucket_path(bucket: str) -> bytes:
    return os.fsencode(bucket.replace(".", "^2E") if bucket in (".", "..") else bucket)


def path_of(bucket: str, key: bytes) -> bytes:
    """Return an object's path. A run of slashes belongs to the name after it: else each would be a directory."""
    path, left = bucket_path(bucket), key
    while True:
        rest = left.lstrip(b"/")
        slashes = b"^|" * (len(left) - len(rest))
        component, slash, left = rest.partition(b"/")
        path += b"/" + escaped(component, slashes)
        if not slash:
            without_links(os.path.dirname(path))
            return path
        path += b"%"


def key_of(path: bytes) -> bytes:
    """Return the key of a path below its bucket."""
    left = path.replace(b"%", b"")
    if b"^" not in left:
        return left
    left = left.replace(b"^-/", b"").replace(b"^_", b"").replace(b"^|", b"/")
    return re.sub(rb"\^([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), left)


def checked_bucket(bucket: str) -> None:
    if not re.fullmatch(r"[a-zA-Z0-9._-]{1,255}", bucket):
        text = f'Invalid bucket name "{bucket}": Bucket name must match the regex "{NAME_PATTERN}" or be an ARN'
        raise fail(f'Parameter validation failed:\n{text} matching the regex "{ARN_PATTERN}"')


def need_bucket(bucket: str, operation: str) -> bytes:
    """Return the directory of an existing bucket. Raises Stop if there is none."""
    checked_bucket(bucket)
    if not os.path.isdir(bucket_path(bucket)):
        if operation == "HeadBucket":
            raise service_error("404", operation, "Not Found")
        raise service_error("NoSuchBucket", operation, "The specified bucket does not exist")
    without_links(bucket_path(bucket))
    return bucket_path(bucket)


def checked_key(key: str, operation: str) -> bytes:
    """Return a key as bytes. Raises Stop for a key that S3 doesn't take."""
    try:
        raw = key.encode()
    except UnicodeEncodeError as error:
        raise fail(str(error)) from None
    if not raw:
        raise fail("Parameter validation failed:\nInvalid length for parameter Key, value: 0, valid min length: 1")
    if len(raw) > 1024:
        raise service_error("KeyTooLongError", operation, "Your key is too long")
    return raw


def checked(bucket: str, key: str, operation: str) -> bytes:
    """Return the path of the object that the options name."""
    checked_bucket(bucket)
    return path_of(bucket, checked_key(key, operation))


def may_be_made(bucket: str, operation: str) -> None:
    """Raise Stop for a bucket that a put may not make, as S3 takes no such name."""
    checked_bucket(bucket)
    if not re.fullmatch(r"(?!\.)(?!.*\.\.)[a-z0-9._-]{1,63}(?<!\.)", bucket):
        need_bucket(bucket, operation)


class Found(NamedTuple):
    """An object of a listing."""

    key: bytes
    path: bytes
    status: os.stat_result


def walk(top: bytes, below: bytes) -> Iterator[Found]:
    """Yield the objects in a directory; `below` is the part of their keys' paths before it."""
    left = [(top, below)]
    while left:
        directory, lead = left.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        left.append((entry.path, lead + entry.name + b"/"))
                    elif entry.is_file(follow_symlinks=False):
                        yield Found(key_of(lead + entry.name), entry.path, entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            continue  # removed meanwhile


def objects_of(bucket: str, prefix: bytes, operation: str) -> list[Found]:
    """Return the objects of a bucket whose keys begin with a prefix, in the order of their keys."""
    top = need_bucket(bucket, operation)
    lead = prefix[: prefix.rfind(b"/") + 1]
    while lead == b"/" or lead.endswith(b"//"):  # only the first of a run of slashes ends a directory
        lead = lead[:-1]
    if lead:
        top = os.path.dirname(path_of(bucket, lead + b"x"))
    below = os.path.relpath(top, bucket_path(bucket)) + b"/" if lead else b""
    return sorted(found for found in walk(top, below) if found.key.startswith(prefix))


# ---------------------------------------------------------------- the attributes of an object

About = dict[str, str]


def parse_about(text: str) -> About:
    """Parse a record: a name, a tab and a value on each line."""
    return {name: value for name, _, value in (line.partition("\t") for line in text.split("\n")) if name}


def sets() -> list[bytes]:
    """Return the directories of records; each has links to the objects that it describes."""
    try:
        return sorted(name for name in os.listdir(ABOUT) if not os.path.islink(ABOUT + b"/" + name))
    except FileNotFoundError:
        return []


def kept_of(path: bytes, status: os.stat_result) -> About:
    """Return the record of the object that is, or was, at this path."""
    for name in sets():
        directory = ABOUT + b"/" + name
        try:
            link = os.lstat(directory + b"/" + path)
            if (link.st_ino, link.st_dev) == (status.st_ino, status.st_dev):
                with open(directory + b"/^what", encoding="utf-8", errors="surrogateescape", newline="") as file:
                    return parse_about(file.read())
        except OSError:
            continue
    return {}


class Kept:
    """The records of a listing's objects, read all at once, not one by one."""

    def __init__(self) -> None:
        self._sets: dict[bytes, list[bytes]] = {}
        for name in sets():
            top = ABOUT + b"/" + name
            for directory, _, names in os.walk(top):
                for file in names:
                    path = os.path.join(directory, file)
                    self._sets.setdefault(path[len(top) + 1 :], []).append(name)

    def of(self, found: Found) -> About:
        return kept_of(found.path, found.status) if found.path in self._sets else {}


def guessed(name: str) -> str | None:
    """Return the content type that the CLI guesses from a file's name."""
    if "." not in os.path.basename(name):
        return None
    import mimetypes

    return mimetypes.guess_type(name)[0]


def content_type(key: bytes, about: About, status: os.stat_result) -> str:
    if "ContentType" in about:
        return about["ContentType"]
    if not status.st_mode & stat.S_IWUSR:
        return DEFAULT_TYPE
    return guessed(about.get("Name", os.fsdecode(key))) or DEFAULT_TYPE


def metadata(about: About) -> dict[str, str]:
    """Return the metadata of a record, as given to `aws s3` or name by name."""
    given = parse_argument("--metadata", about["Metadata"]) if "Metadata" in about else {}
    return {str(name).lower(): str(value) for name, value in given.items()}


def tags(about: About) -> list[dict[str, str]]:
    return json.loads(about.get("Tags", "[]"))


def etag_of(file: IO[bytes], size: int, about: About) -> str:
    """Return the ETag of an object: of the parts in which `aws s3` sends a large one, or of the whole."""
    file.seek(0)
    if size < PART or "OnePart" in about:
        whole = hashlib.md5()
        for block in iter(lambda: file.read(1 << 20), b""):
            whole.update(block)
        return f'"{whole.hexdigest()}"'
    length = PART
    while size > length * MOST_PARTS:
        length *= 2
    digests: list[bytes] = []
    for _ in range(-(-size // length)):
        part, left = hashlib.md5(), length
        while block := file.read(min(left, 1 << 20)):
            part.update(block)
            left -= len(block)
        digests.append(part.digest())
    return f'"{hashlib.md5(b"".join(digests)).hexdigest()}-{len(digests)}"'


def crc_of(file: IO[bytes]) -> str:
    file.seek(0)
    crc = 0
    for block in iter(lambda: file.read(1 << 20), b""):
        crc = zlib.crc32(block, crc)
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


class Object(NamedTuple):
    """An open object, so that all its facts are of the same bytes."""

    key: bytes
    file: IO[bytes]
    status: os.stat_result
    about: About

    @property
    def etag(self) -> str:
        return etag_of(self.file, self.status.st_size, self.about)

    def described(self, length: int, content_range: str = "") -> dict[str, Any]:
        """Return the members of the answer to head-object and get-object."""
        members: dict[str, Any] = {
            "AcceptRanges": "bytes",
            "LastModified": header_date(self.status.st_mtime),
            "ContentLength": length,
            "ETag": self.etag,
        }
        shown = {**self.about, "ContentType": content_type(self.key, self.about, self.status)}
        if content_range:
            members["ContentRange"] = content_range
        for name in HEADERS[:-3]:
            if name in shown:
                members[name] = shown[name]
        for name in HEADERS[-3:-1]:
            if name in shown:
                members[name] = shown[name]
        members["Metadata"] = metadata(shown)
        if shown.get("StorageClass", "STANDARD") != "STANDARD":
            members["StorageClass"] = shown["StorageClass"]
        if tags(shown):
            members["TagCount"] = len(tags(shown))
        if "Expires" in members:
            members["ExpiresString"] = members["Expires"]
            when = expires(members["Expires"])
            if when is not None:
                members.update(Expires=header_date(when), ExpiresString=http_date(when))
        return members


def open_object(bucket: str, key: str, operation: str, path: bytes | None = None) -> Object | None:
    """Open an object; return None if there is none."""
    raw = os.fsencode(key)
    path = checked(bucket, key, operation) if path is None else path
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            if os.path.islink(path):
                return None
            raise
        file = os.fdopen(descriptor, "rb")
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        about = kept_of(path, status)
        try:
            if about or os.lstat(path).st_ino == status.st_ino:
                return Object(raw, file, status, about)
        except FileNotFoundError:
            return Object(raw, file, status, about)
        file.close()  # the object was replaced meanwhile, and its record may be gone


def claim() -> tuple[bytes, int]:
    """Make a file in the session's work directory; return its path and descriptor."""
    try:
        os.mkdir(WORK, 0o700)
    except FileExistsError:
        without_links(WORK)
    number = int.from_bytes(os.urandom(4), "big")
    path = b"%s/%d.%d" % (WORK, os.getpid(), number)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    scratch.append(path)
    return path, descriptor


def record(temporary: bytes, path: bytes, about: About) -> None:
    """Write the record of the object that is about to be at this path."""
    without_links(ABOUT)
    name = b"%s/%d.%d" % (ABOUT, os.getpid(), int.from_bytes(os.urandom(4), "big"))
    os.makedirs(os.path.dirname(name + b"/" + path), 0o700)
    with open(name + b"/^what", "x", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write("".join(f"{key}\t{' '.join(value.splitlines())}\n" for key, value in about.items()))
    os.link(temporary, name + b"/" + path)


def forget_replaced() -> None:
    """Remove the records of objects that are gone: nothing but the record itself links to them."""
    for name in sets():
        top = ABOUT + b"/" + name
        empty = True
        for directory, _, names in os.walk(top, topdown=False):
            for file in names:
                path = os.path.join(directory, file)
                try:
                    if path == top + b"/^what":
                        continue
                    if os.lstat(path).st_nlink == 1:
                        os.unlink(path)
                    else:
                        empty = False
                except FileNotFoundError:
                    continue
            try:
                # a record that is being made has its directories, its text, and then its link
                if time.time() - os.lstat(directory).st_mtime < 60:
                    empty = False
                elif directory != top:
                    os.rmdir(directory)
                elif empty:
                    os.unlink(top + b"/^what")
                    os.rmdir(top)
            except OSError:
                empty = False


def publish(temporary: bytes, path: bytes, *, new: bool = False) -> None:
    """Rename a file to an object, whose bucket may be removed meanwhile. Raises FileExistsError if it must be new."""
    for attempt in range(5):
        try:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            if new:
                os.link(temporary, path)
                os.unlink(temporary)
            else:
                os.rename(temporary, path)
            break
        except FileNotFoundError:
            if attempt == 4 or not alive():
                raise
    scratch.remove(temporary)


# ---------------------------------------------------------------- times


def header_date(seconds: float) -> str:
    """Return the time in a header of an object, as the CLI shows it."""
    return iso_date(seconds) if version_2 else http_date(seconds)


def http_date(seconds: float) -> str:
    return format_date("%s, %%d %s %%Y %%H:%%M:%%S GMT", seconds)


def iso_date(seconds: float) -> str:
    zone = "+00:00" if version_2 else ".000Z"
    return time.strftime(f"%Y-%m-%dT%H:%M:%S{zone}", time.gmtime(seconds))


def format_date(shape: str, seconds: float) -> str:
    moment = time.gmtime(seconds)
    day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[moment.tm_wday]
    at = 3 * (moment.tm_mon - 1)
    month = "JanFebMarAprMayJunJulAugSepOctNovDec"[at : at + 3]
    return time.strftime(shape % (day, month), moment)


def expires(text: str) -> float | None:
    """Return the time of --expires; None if S3 would only keep the text."""
    import datetime

    try:
        moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return moment.timestamp()


# ---------------------------------------------------------------- the values of options


class Shorthand:
    """The CLI's short form of a structure: KEY=VALUE,KEY=VALUE, lists in [ ], structures in { }."""

    def __init__(self, option: str, text: str) -> None:
        self._option, self._text, self._at = option, text, 0

    def parse(self) -> dict[str, Any]:
        found = self._members("")
        if self._at < len(self._text):
            raise self._unexpected("=")
        return found

    def _members(self, end: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while True:
            name = self._plain("=,}]")
            self._expect("=")
            found[name] = self._value(end)
            if self._peek() != ",":
                return found
            self._at += 1
            # values without a key make a list
            while self._peek() and "=" not in re.split(r"[,}\]]", self._text[self._at :], maxsplit=1)[0]:
                more = self._value(end)
                found[name] = [*(found[name] if isinstance(found[name], list) else [found[name]]), more]
                if self._peek() != ",":
                    return found
                self._at += 1

    def _value(self, end: str) -> Any:
        start = self._peek()
        if start == "{":
            self._at += 1
            found: Any = self._members("}") if self._peek() != "}" else {}
            self._expect("}")
            return found
        if start == "[":
            self._at += 1
            found = []
            while self._peek() != "]":
                found.append(self._value("]"))
                if self._peek() != "]":
                    self._expect(",")
            self._at += 1
            return found
        if start and start in "\"'":
            closing = self._text.find(start, self._at + 1)
            if closing < 0:
                raise self._unexpected(start)
            found = self._text[self._at + 1 : closing]
            self._at = closing + 1
            return found
        return self._plain("," + end)

    def _plain(self, stops: str) -> str:
        start = self._at
        while self._at < len(self._text) and self._text[self._at] not in stops:
            self._at += 1
        return self._text[start : self._at]

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _expect(self, character: str) -> None:
        if self._peek() != character:
            raise self._unexpected(character)
        self._at += 1

    def _unexpected(self, expected: str) -> Stop:
        text = f"Expected: '{expected}', received: '{self._peek() or 'EOF'}' for input:\n{self._text}\n"
        return fail(f"Error parsing parameter '{self._option}': {text}{' ' * self._at}^")


def parse_argument(option: str, text: str) -> dict[str, Any]:
    """Parse a structure, in JSON or in the short form."""
    if text.lstrip().startswith(("{", "[")):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise fail(f"Error parsing parameter '{option}': Invalid JSON: {error}\nJSON received: {text}") from None
        if isinstance(found, dict):
            return found
        raise fail(f"Error parsing parameter '{option}': Expected a JSON object: {text}")
    return Shorthand(option, text).parse()


def from_file(caller: Caller, option: str, text: str) -> str:
    """Return the value of an option; for file://PATH, the file's content."""
    if not text.startswith("file://"):
        return text
    path = os.path.expandvars(os.path.expanduser(text[len("file://") :]))
    try:
        with open(os.path.join(caller.here, path), encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        said = f"[Errno {error.errno}] {error.strerror}: '{path}'"
        raise fail(f"Error parsing parameter '{option}': Unable to load paramfile {text}: {said}") from None


Options = dict[str, Any]


def number(options: Options, name: str) -> int | None:
    """Return an option's integer; None if it is not given. Raises Stop for any other value."""
    text = options.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise fail(f"invalid literal for int() with base 10: {text!r}") from None


# ---------------------------------------------------------------- buckets


def head_bucket(caller: Caller, options: Options) -> Answer:
    need_bucket(options["bucket"], "HeadBucket")
    return {"BucketRegion": "us-east-1"}


def get_bucket_location(caller: Caller, options: Options) -> Answer:
    need_bucket(options["bucket"], "GetBucketLocation")
    return {"LocationConstraint": None}


def get_bucket_acl(caller: Caller, options: Options) -> Answer:
    need_bucket(options["bucket"], "GetBucketAcl")
    grantee = {"ID": OWNER["ID"], "Type": "CanonicalUser"}
    return {"Owner": OWNER, "Grants": [{"Grantee": grantee, "Permission": "FULL_CONTROL"}]}


def get_bucket_versioning(caller: Caller, options: Options) -> Answer:
    need_bucket(options["bucket"], "GetBucketVersioning")
    return None


def create_bucket(caller: Caller, options: Options) -> Answer:
    bucket = options["bucket"]
    checked_bucket(bucket)
    if not re.fullmatch(r"[a-zA-Z0-9].{1,61}[^-]", bucket):
        raise service_error("InvalidBucketName", "CreateBucket", "The specified bucket is not valid.")
    if options.get("create-bucket-configuration") is not None:
        parse_argument("--create-bucket-configuration", options["create-bucket-configuration"])
    without_links(bucket_path(bucket))
    os.makedirs(bucket_path(bucket), 0o700, exist_ok=True)
    return {"Location": f"/{bucket}"}


def delete_bucket(caller: Caller, options: Options) -> Answer:
    top = need_bucket(options["bucket"], "DeleteBucket")
    for directory, _, _ in os.walk(top, topdown=False):
        try:
            os.rmdir(directory)
        except OSError:
            continue
    if os.path.isdir(top):
        text = "The bucket you tried to delete is not empty"
        raise service_error("BucketNotEmpty", "DeleteBucket", text)
    return None


def list_buckets(caller: Caller, options: Options) -> Answer:
    prefix = options.get("prefix") or ""
    buckets = []
    with os.scandir(b".") as entries:
        for entry in entries:
            if entry.name.startswith(b"^") or not entry.is_dir(follow_symlinks=False):
                continue
            name = os.fsdecode(entry.name)
            if name.startswith(prefix):
                created = entry.stat(follow_symlinks=False).st_mtime
                buckets.append({"Name": name, "CreationDate": iso_date(created)})
    buckets.sort(key=lambda bucket: bucket["Name"])
    items = [("Buckets", bucket) for bucket in buckets]
    return Pages(items, ("Buckets",), {"Owner": OWNER, "Prefix": options.get("prefix")}, "ContinuationToken")


def accepted(caller: Caller, options: Options) -> Answer:
    """Answer a call whose effect no script could see here. Its bucket, or object, must exist nevertheless."""
    operation = "".join(word.capitalize() for word in options["call"].split("-"))
    need_bucket(options["bucket"], operation)
    if "key" in options and not open_object(options["bucket"], options["key"], operation):
        raise no_key(operation)
    return None


# ---------------------------------------------------------------- objects


def conditions(options: Options, found: Object, operation: str) -> None:
    """Raise Stop if the object doesn't meet --if-match or --if-none-match."""
    if options.get("if-match") is not None and options["if-match"].strip('"') not in ("*", found.etag.strip('"')):
        code, text = ("412", "Precondition Failed") if operation == "HeadObject" else ("PreconditionFailed", FAILED)
        raise service_error(code, operation, text)
    none = options.get("if-none-match")
    if none is not None and none.strip('"') in ("*", found.etag.strip('"')):
        raise service_error("304", operation, "Not Modified")


FAILED = "At least one of the pre-conditions you specified did not hold"


def head_object(caller: Caller, options: Options) -> Answer:
    found = open_object(options["bucket"], options["key"], "HeadObject")
    if not found:
        raise service_error("404", "HeadObject", "Not Found")
    conditions(options, found, "HeadObject")
    return found.described(found.status.st_size)


def span(text: str, size: int) -> tuple[int, int]:
    """Return the first and the last byte of a --range."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text)
    if not match or not any(match.groups()):
        raise refuse(f"it has no --range {text}")
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last), size - 1) if first and last else size - 1
    if start >= size or end < start:
        raise service_error("InvalidRange", "GetObject", "The requested range is not satisfiable")
    return start, end


def get_object(caller: Caller, options: Options) -> Answer:
    checked(options["bucket"], options["key"], "GetObject")
    need_bucket(options["bucket"], "GetObject")
    found = open_object(options["bucket"], options["key"], "GetObject")
    if not found:
        raise no_key("GetObject")
    conditions(options, found, "GetObject")
    size = found.status.st_size
    start, length, text = 0, size, ""
    if options.get("range") is not None:
        start, end = span(options["range"], size)
        length, text = end - start + 1, f"bytes {start}-{end}/{size}"
    answer = found.described(length, text)
    if length == size:
        answer = {}
        for name, value in found.described(length, text).items():
            answer[name] = value
            if name == "ETag" and size < PART:
                answer["ChecksumCRC32"] = crc_of(found.file)
    target = options["outfile"]
    try:
        descriptor = open_target(os.path.join(caller.here, target))
        try:
            found.file.seek(start)
            while length:
                block = found.file.read(min(length, 1 << 20))
                if not block:
                    raise OSError(5, "Input/output error")
                write_all(descriptor, block)
                length -= len(block)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise fail(said_of(error, target)) from None
    return answer


def said_of(error: OSError, path: str = "") -> str:
    """Return a system error in the CLI's words. A full disk is not the fault of a file."""
    text = f"[Errno {error.errno}] {error.strerror}"
    return f"{text}: '{path}'" if path and error.errno not in (27, 28, 122) else text


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def open_target(path: str) -> int:
    """Open the file to write to. A name of an open descriptor, such as /dev/stdout, is that file at its position."""
    for _ in range(40):
        parent, name = os.path.split(path)
        if name.isdigit() and same(parent, "/proc/self/fd"):
            return os.dup(int(name))
        if same(parent, "/dev") and name in ("stdin", "stdout", "stderr"):
            return os.dup(("stdin", "stdout", "stderr").index(name))
        if not os.path.islink(path):
            break
        path = os.path.join(parent, os.readlink(path))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)


GIVEN = {
    "cache-control": "CacheControl",
    "content-disposition": "ContentDisposition",
    "content-encoding": "ContentEncoding",
    "content-language": "ContentLanguage",
    "content-type": "ContentType",
    "expires": "Expires",
    "website-redirect-location": "WebsiteRedirectLocation",
    "server-side-encryption": "ServerSideEncryption",
    "ssekms-key-id": "SSEKMSKeyId",
    "storage-class": "StorageClass",
}
"""The names in a record of the options of put-object and copy-object that are kept."""
CLASSES = (
    *("STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER"),
    *("DEEP_ARCHIVE", "OUTPOSTS", "GLACIER_IR", "SNOW", "EXPRESS_ONEZONE"),
)


def given(options: Options, operation: str) -> About:
    """Return a record of the options' values."""
    about = {name: options[option] for option, name in GIVEN.items() if options.get(option) is not None}
    if about.get("StorageClass", "STANDARD") not in CLASSES:
        raise service_error("InvalidStorageClass", operation, "The storage class you specified is not valid")
    if options.get("metadata") is not None:
        about["Metadata"] = json.dumps(parse_argument("--metadata", options["metadata"]))
    if options.get("tagging") is not None:
        from urllib.parse import parse_qsl

        pairs = parse_qsl(options["tagging"], keep_blank_values=True)
        about["Tags"] = json.dumps([{"Key": key, "Value": value} for key, value in pairs])
    return about


def store(
    options: Options, source: IO[bytes], about: About, operation: str, when: float | None = None
) -> tuple[str, str, float]:
    """Write an object with its record; return its ETag, its checksum and its time."""
    key = checked_key(options["key"], operation)
    may_be_made(options["bucket"], operation)
    path = path_of(options["bucket"], key)
    temporary, descriptor = claim()
    crc, digest, size = 0, hashlib.md5(), 0
    try:
        for block in iter(lambda: source.read(1 << 20), b""):
            write_all(descriptor, block)
            digest.update(block)
            crc, size = zlib.crc32(block, crc), size + len(block)
        now = int(time.time() if when is None else when)
        if "ContentType" not in about and b"." in key.rpartition(b"/")[2]:
            os.fchmod(descriptor, 0o400)  # no type was given, and none is guessed
        os.utime(descriptor, (now, now))
    finally:
        os.close(descriptor)
    if operation == "PutObject" and options.get("content-md5") is not None:
        check_md5(options["content-md5"], digest.digest(), operation)
    if size >= PART:
        about = {**about, "OnePart": ""}
    if about:
        record(temporary, path, about)
    put_in_place(options, temporary, path, operation)
    forget_replaced()
    return f'"{digest.hexdigest()}"', base64.b64encode(crc.to_bytes(4, "big")).decode(), now


def check_md5(text: str, digest: bytes, operation: str) -> None:
    """Raise Stop if the text is not the digest in base64."""
    try:
        asked = base64.b64decode(text, validate=True)
    except ValueError:
        asked = b""
    if len(asked) != len(digest):
        raise service_error("InvalidDigest", operation, "The Content-MD5 you specified was invalid.")
    if asked != digest:
        text = "The Content-MD5 you specified did not match what we received."
        raise service_error("BadDigest", operation, text)


def put_in_place(options: Options, temporary: bytes, path: bytes, operation: str) -> None:
    """Publish an object under the conditions of --if-match and --if-none-match."""
    if options.get("if-none-match") is not None:
        if options["if-none-match"] != "*":
            text = "A header you provided implies functionality that is not implemented"
            raise service_error("NotImplemented", operation, text)
        try:
            publish(temporary, path, new=True)
        except FileExistsError:
            raise service_error("PreconditionFailed", operation, FAILED) from None
    elif options.get("if-match") is not None:
        # one conditional write at a time
        lock = os.open(WORK, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = open_object(options["bucket"], options["key"], operation)
            if not found:
                raise no_key(operation)
            conditions({"if-match": options["if-match"]}, found, operation)
            publish(temporary, path)
        finally:
            os.close(lock)
    else:
        publish(temporary, path)


def put_object(caller: Caller, options: Options) -> Answer:
    body, about = options.get("body"), given(options, "PutObject")
    checked_bucket(options["bucket"])
    path = os.path.join(caller.here, body) if body else os.devnull
    if not os.path.exists(path) or os.path.isdir(path):
        raise fail("Error parsing parameter '--body': Blob values must be a path to a file.")
    try:
        source = os.fdopen(os.dup(0) if path == "/dev/stdin" else os.open(path, os.O_RDONLY | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise fail(said_of(error, body or "")) from None
    with source:
        etag, crc, _ = store(options, source, about, "PutObject")
    encryption = {"ServerSideEncryption": about["ServerSideEncryption"]} if "ServerSideEncryption" in about else {}
    return {"ETag": etag, "ChecksumCRC32": crc, **encryption}


def copy_object(caller: Caller, options: Options) -> Answer:
    from urllib.parse import unquote

    text, about = options["copy-source"], given(options, "CopyObject")
    if text.startswith("arn:"):
        raise refuse(f"it has no access points, only buckets: {text}")
    # version ids are refused: a session keeps no versions
    text, _, version = text.partition("?versionId=")
    if version not in ("", "null"):
        raise refuse(f"it keeps no versions: {options['copy-source']}")
    bucket, _, key = unquote(text[1:] if text.startswith("/") else text).partition("/")
    may_be_made(options["bucket"], "CopyObject")
    need_bucket(bucket, "CopyObject")
    source = open_object(bucket, key, "CopyObject")
    if not source:
        raise no_key("CopyObject")
    replace = options.get("metadata-directive") == "REPLACE"
    changed = replace or {*about} & {*OF_A_COPY, "WebsiteRedirectLocation"}
    if (bucket, key) == (options["bucket"], options["key"]) and not changed:
        text = "This copy request is illegal because it is trying to copy an object to itself without changing the "
        text += "object's metadata, storage class, website redirect location or encryption attributes."
        raise service_error("InvalidRequest", "CopyObject", text)
    taken = {name: value for name, value in source.about.items() if name not in OF_A_COPY}
    of_copy = {name: value for name, value in about.items() if name in OF_A_COPY}
    if options.get("tagging-directive") == "REPLACE":
        taken.pop("Tags", None)
        of_copy.update({name: about[name] for name in about if name == "Tags"})
    if replace:
        kept = {**{name: value for name, value in taken.items() if name == "Tags"}, **about}
    else:
        guess = content_type(source.key, source.about, source.status)
        kept = {**taken, "ContentType": guess, **of_copy}
        kept.pop("Name", None)
        if guess == DEFAULT_TYPE and "ContentType" not in taken:
            del kept["ContentType"]
    source.file.seek(0)
    etag, crc, now = store(options, source.file, kept, "CopyObject")
    result = {"ETag": etag, "LastModified": iso_date(now), "ChecksumCRC32": crc}
    return {"CopyObjectResult": result}


def remove(bucket: str, key: str, operation: str) -> None:
    path = checked(bucket, key, operation)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)


def delete_object(caller: Caller, options: Options) -> Answer:
    checked(options["bucket"], options["key"], "DeleteObject")
    need_bucket(options["bucket"], "DeleteObject")
    try:
        remove(options["bucket"], options["key"], "DeleteObject")
    except OSError as error:
        raise fail(said_of(error)) from None
    forget_replaced()
    return None


def delete_objects(caller: Caller, options: Options) -> Answer:
    asked = parse_argument("--delete", options["delete"])
    listed = asked.get("Objects")
    listed = [listed] if isinstance(listed, dict) else listed
    if not (
        isinstance(listed, list) and all(isinstance(one, dict) and isinstance(one.get("Key"), str) for one in listed)
    ):
        raise fail('Parameter validation failed:\nMissing required parameter in Delete: "Objects"')
    need_bucket(options["bucket"], "DeleteObjects")
    if not 0 < len(listed) <= 1000:
        text = "The XML you provided was not well-formed or did not validate against our published schema"
        raise service_error("MalformedXML", "DeleteObjects", text)
    versions = [one["VersionId"] for one in listed if one.get("VersionId") not in (None, "null")]
    if versions:
        raise refuse(f"it keeps no versions: VersionId {versions[0]}")
    deleted, errors = [], []
    for one in listed:
        try:
            remove(options["bucket"], one["Key"], "DeleteObjects")
            deleted.append({"Key": one["Key"]})
        except OSError as error:
            errors.append({"Key": one["Key"], "Code": "InternalError", "Message": error.strerror})
    forget_replaced()
    quiet = str(asked.get("Quiet", "")).lower() == "true"
    answer = {"Deleted": [] if quiet else deleted, "Errors": errors}
    return {name: members for name, members in answer.items() if members} or None


def get_object_tagging(caller: Caller, options: Options) -> Answer:
    found = open_object(options["bucket"], options["key"], "GetObjectTagging")
    need_bucket(options["bucket"], "GetObjectTagging")
    if not found:
        raise no_key("GetObjectTagging")
    return {"TagSet": tags(found.about)}


def retag(options: Options, operation: str, tagged: list[dict[str, str]]) -> None:
    """Write an object again, with its time and other tags."""
    need_bucket(options["bucket"], operation)
    found = open_object(options["bucket"], options["key"], operation)
    if not found:
        raise no_key(operation)
    kind = content_type(found.key, found.about, found.status)
    about = {name: value for name, value in found.about.items() if name not in ("Tags", "OnePart")}
    about["ContentType"] = kind
    if tagged:
        about["Tags"] = json.dumps(tagged)
    found.file.seek(0)
    store(options, found.file, about, operation, found.status.st_mtime)


def put_object_tagging(caller: Caller, options: Options) -> Answer:
    asked = parse_argument("--tagging", options["tagging"]).get("TagSet")
    asked = [asked] if isinstance(asked, dict) else asked
    if not isinstance(asked, list) or not all(isinstance(tag, dict) and {*tag} == {"Key", "Value"} for tag in asked):
        raise fail('Parameter validation failed:\nMissing required parameter in Tagging: "TagSet"')
    retag(options, "PutObjectTagging", [{"Key": str(tag["Key"]), "Value": str(tag["Value"])} for tag in asked])
    return None


def delete_object_tagging(caller: Caller, options: Options) -> Answer:
    retag(options, "DeleteObjectTagging", [])
    return None


# ---------------------------------------------------------------- listings


class Pages(NamedTuple):
    """An answer in pages: its items with their lists' names, its other members, the name of its token."""

    items: list[tuple[str, Any]]
    lists: tuple[str, ...]
    rest: dict[str, Any]
    token: str


def grouped(found: list[Found], prefix: bytes, delimiter: bytes, after: bytes) -> list[tuple[bytes, Found | None]]:
    """Return the keys and the common prefixes after a key."""
    listed: list[tuple[bytes, Found | None]] = []
    for one in found:
        if after and one.key <= after:
            continue
        at = one.key.find(delimiter, len(prefix)) if delimiter else -1
        if at < 0:
            listed.append((one.key, one))
            continue
        common = one.key[: at + len(delimiter)]
        if not (listed and listed[-1] == (common, None)) and not (after and after.startswith(common)):
            listed.append((common, None))
    return listed


def entry(found: Found, kept: Kept, version: int) -> dict[str, Any] | None:
    """Return an object's entry in a listing; None if the object is gone."""
    about = kept.of(found)
    try:
        with open(found.path, "rb") as file:
            etag = etag_of(file, found.status.st_size, about)
    except FileNotFoundError:
        return None
    return {
        "Key": os.fsdecode(found.key),
        "LastModified": iso_date(found.status.st_mtime),
        "ETag": etag,
        **({"ChecksumAlgorithm": ["CRC32"]} if version == 2 else {}),
        "Size": found.status.st_size,
        "StorageClass": about.get("StorageClass", "STANDARD"),
        **({"Owner": OWNER} if version == 1 else {}),
    }


def list_objects(caller: Caller, options: Options, version: int = 1) -> Answer:
    operation = "ListObjects" if version == 1 else "ListObjectsV2"
    prefix, delimiter = (os.fsencode(options.get(name) or "") for name in ("prefix", "delimiter"))
    limit, asked = number(options, "max-keys"), options.get("continuation-token")
    after = os.fsencode(options.get("marker" if version == 1 else "start-after") or "")
    if asked is not None:
        try:
            after = base64.b64decode(asked, validate=True)
        except ValueError:
            text = "The continuation token provided is incorrect"
            raise service_error("InvalidArgument", operation, text) from None
    by_hand = limit is not None or asked is not None or (version == 1 and options.get("marker") is not None)
    found = objects_of(options["bucket"], prefix, operation)
    listed = grouped(found, prefix, delimiter, after)
    size = min(1000, 1000 if limit is None else limit)
    one_page = by_hand or not caller.paginate
    most = number(options, "max-items")
    if one_page:
        chosen = listed[:size]
    elif most is not None:
        chosen = listed[: most + skipped(options, "ContinuationToken" if version == 2 else "Marker") + 1]
    else:
        chosen = listed
    kept = Kept()
    items: list[tuple[str, Any]] = []
    for name, one in chosen:
        if one is None:
            items.append(("CommonPrefixes", {"Prefix": os.fsdecode(name)}))
            continue
        shown = entry(one, kept, version)
        if shown:
            items.append(("Contents", shown))
    given_prefix = options.get("prefix")
    if not one_page:
        rest = {"RequestCharged": None, "Prefix": (given_prefix or "") if version == 2 else given_prefix}
        return Pages(items, ("Contents", "CommonPrefixes"), rest, "ContinuationToken" if version == 2 else "Marker")
    more = len(listed) > size > 0
    last = chosen[-1][0] if chosen else b""
    contents, prefixes = ([item for kind, item in items if kind == name] for name in ("Contents", "CommonPrefixes"))
    answer: dict[str, Any] = {
        "IsTruncated": more,
        "NextMarker": os.fsdecode(last) if more and version == 1 else None,
        "Contents": contents,
        "Name": options["bucket"],
        "Prefix": (given_prefix or "") if version == 2 else given_prefix,
        "Delimiter": options.get("delimiter"),
        "MaxKeys": 1000 if limit is None else size,
        "CommonPrefixes": prefixes,
        "EncodingType": "url",
        "KeyCount": len(chosen) if version == 2 else None,
        "NextContinuationToken": base64.b64encode(last).decode() if more and version == 2 else None,
    }
    return {name: value for name, value in answer.items() if value is not None and value != []}


def list_objects_v2(caller: Caller, options: Options) -> Answer:
    return list_objects(caller, options, 2)


def skipped(options: Options, name: str) -> int:
    """Return the number of items that a --starting-token leaves out."""
    text = options.get("starting-token")
    if text is None:
        return 0
    try:
        token = json.loads(base64.b64decode(text, validate=True))
        return int(token["boto_truncate_amount"]) if name in token else int("")
    except (ValueError, KeyError, TypeError):
        raise fail(f"Bad starting token: {text}") from None


# ---------------------------------------------------------------- waiting


def wait(caller: Caller, options: Options) -> Answer:
    checked_bucket(options["bucket"])
    path = bucket_path(options["bucket"])
    if "key" in options:
        path = checked(options["bucket"], options["key"], "HeadObject")
    wanted = "-not-" not in options["call"]
    deadline = time.monotonic() + WAIT_SECONDS
    while (os.path.isfile(path) if "key" in options else os.path.isdir(path)) != wanted:
        if not alive():
            raise removed(caller)
        if time.monotonic() >= deadline:
            name = "".join(word.capitalize() for word in options["call"].split("-"))
            raise fail(f"Waiter {name} failed: Max attempts exceeded")
        time.sleep(0.05)
    return None


# ---------------------------------------------------------------- beside S3


def get_caller_identity(caller: Caller, options: Options) -> Answer:
    return {"UserId": "AIDASTUBOFS3", "Account": ACCOUNT, "Arn": f"arn:aws:iam::{ACCOUNT}:user/s3-stub"}


SETTINGS = "^configure"


def settings() -> dict[str, dict[str, str]]:
    """Return the settings that `aws configure set` has kept in the session, by profile."""
    try:
        with open(SETTINGS, encoding="utf-8") as file:
            found: dict[str, dict[str, str]] = json.load(file)
            return found
    except FileNotFoundError:
        return {}


def setting(caller: Caller, name: str, kept: dict[str, dict[str, str]]) -> tuple[str, str]:
    """Return the profile and the key that a dotted name means."""
    first, *others = name.split(".")
    if first == "profile" and len(others) > 1:
        return others[0], ".".join(others[1:])
    if others and (first == "default" or first in kept):
        return first, ".".join(others)
    return caller.profile or "default", name


def configure_get(caller: Caller, options: Options) -> Answer:
    kept = settings()
    profile, name = setting(caller, options["varname"], kept)
    if name not in kept.get(profile, {}):
        raise Stop(1, "")
    printed(f"{kept[profile][name]}\n")
    return None


def configure_set(caller: Caller, options: Options) -> Answer:
    temporary, descriptor = claim()
    lock = os.open(WORK, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = settings()
        profile, name = setting(caller, options["varname"], kept)
        kept.setdefault(profile, {})[name] = options["value"]
        write_all(descriptor, json.dumps(kept).encode())
        os.rename(temporary, SETTINGS)
    finally:
        os.close(lock)
        os.close(descriptor)
    scratch.remove(temporary)
    return None


def configure_list(caller: Caller, options: Options) -> Answer:
    kept = settings().get(caller.profile or "default", {})
    lines = [("Name", "Value", "Type", "Location"), ("----", "-----", "----", "--------")]
    lines.append(
        (
            "profile",
            caller.profile or "<not set>",
            "manual" if caller.profile else "None",
            "--profile" if caller.profile else "None",
        )
    )
    variables = {
        "access_key": ("aws_access_key_id", "AWS_ACCESS_KEY_ID"),
        "secret_key": ("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
        "region": ("region", "AWS_DEFAULT_REGION"),
    }
    for shown, (name, variable) in variables.items():
        value, kind, where = os.environ.get(variable), "env", variable
        if value is None:
            value, kind, where = kept.get(name), "config-file", "the session of the S3 stub"
        if value is None:
            value, kind, where = "<not set>", "None", "None"
        elif shown != "region":
            value = value[-4:].rjust(20, "*")
            where = "" if kind == "env" else where
        lines.append((shown, value, kind, where))
    printed("".join(f"{a:>10} {b:>24} {c:>16}    {d}\n" for a, b, c, d in lines))
    return None


# ---------------------------------------------------------------- answers


def printed(text: str) -> None:
    """Print on stdout, or raise Stop."""
    try:
        write_all(1, text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise fail(said_of(error)) from None


def in_text(item: Any, identifier: str | None, keys: list[str] | None, lines: list[str]) -> None:
    """Add the lines of --output text: a line for a structure's scalars, sorted by name, then its nested items."""
    if isinstance(item, dict):
        names = sorted(name for name in item if not isinstance(item[name], (dict, list))) if keys is None else keys
        columns = [str(item.get(name, "")) for name in names]
        if columns:
            lines.append("\t".join([*([identifier.upper()] if identifier else []), *columns]))
        for name in sorted({*item} - {*names}):
            in_text(item[name], name, None, lines)
    elif not isinstance(item, list):
        lines.append(str(item))
    elif any(isinstance(one, dict) for one in item):
        names = sorted({
            name for one in item if isinstance(one, dict) for name in one if not isinstance(one[name], (dict, list))
        })  # fmt: skip
        for one in item:
            in_text(one, identifier, names, lines)
    else:
        scalars = [str(one) for one in item if not isinstance(one, list)]
        if scalars and identifier:
            lines.extend(f"{identifier.upper()}\t{scalar}" for scalar in scalars)
        elif scalars:
            lines.append("\t".join(scalars))
        for one in item:
            if isinstance(one, list):
                in_text(one, identifier, None, lines)


HANDED = "s3_stubbed_jmespath"


def find_jmespath() -> str | None:
    """Return the directory with jmespath: the one given to the session, or the one installed next to the stub."""
    stubs = os.path.dirname(os.path.abspath(__file__))
    environment = os.path.join(os.path.dirname(stubs), ".venv", "lib")
    candidates = [os.environ.get(HANDED, ""), os.path.dirname(os.path.dirname(stubs))]
    if os.path.isdir(environment):
        candidates += [os.path.join(environment, name, "site-packages") for name in sorted(os.listdir(environment))]
    found = (path for path in candidates if path and os.path.isfile(os.path.join(path, "jmespath", "parser.py")))
    return next(found, None)


def compiled(query: str) -> Callable[[Any], Any]:
    """Return the function that applies --query to an answer."""
    where = find_jmespath()
    if where is None:
        raise refuse("--query needs jmespath (pip install jmespath), and there is none next to the stub")
    sys.path.append(where)
    try:
        import jmespath
        import jmespath.exceptions
    except ImportError as error:
        raise refuse(f"--query needs jmespath, and it can't be imported: {error}") from None
    try:
        expression = jmespath.compile(query)
    except (ValueError, jmespath.exceptions.JMESPathError) as error:
        raise fail(f"Bad value for --query {query}: {error}") from None

    def search(answer: Any) -> Any:
        try:
            return expression.search(answer)
        except (ValueError, jmespath.exceptions.JMESPathError) as error:
            raise fail(str(error)) from None

    return search


def show(caller: Caller, options: Options, answer: Answer, search: Callable[[Any], Any] | None) -> None:
    """Print an answer as --output and --query ask."""
    texts: list[Any] = [{} if answer is None else answer]
    if isinstance(answer, Pages):
        texts = list(paged(answer, options) if caller.output == "text" else [joined(answer, options)])
    if search:
        texts = [search(text) for text in texts]
    if caller.output == "text":
        lines: list[str] = []
        for text in texts:
            in_text(text, None, None, lines)
        printed("".join(f"{line}\n" for line in lines))
    elif texts[0] != {}:
        printed(json.dumps(texts[0], indent=4, ensure_ascii=False) + "\n")


def cut(answer: Pages, options: Options) -> tuple[list[tuple[str, Any]], str | None]:
    """Return the items that --starting-token and --max-items leave, and the token for the rest."""
    skip, most = skipped(options, answer.token), number(options, "max-items")
    items = answer.items[skip:]
    if most is None or len(items) <= most:
        return items, None
    token = json.dumps({answer.token: None, "boto_truncate_amount": skip + most})
    return items[:most], base64.b64encode(token.encode()).decode()


def joined(answer: Pages, options: Options) -> dict[str, Any]:
    """Return all pages as one."""
    items, token = cut(answer, options)
    found: dict[str, Any] = {}
    for name in answer.lists:
        members = [item for kind, item in items if kind == name]
        if members or name == "Buckets":
            found[name] = members
    return {**found, **answer.rest, **({"NextToken": token} if token else {})}


def paged(answer: Pages, options: Options) -> Iterator[dict[str, Any]]:
    """Yield the pages, one by one; the first page has the members that appear once."""
    items, token = cut(answer, options)
    size = max(1, min(number(options, "page-size") or 1000, 1000))
    rest = answer.rest
    for start in range(0, max(1, len(items)), size):
        lists: dict[str, Any] = {}
        for name in answer.lists:
            members = [item for kind, item in items[start : start + size] if kind == name]
            lists[name] = members or ([] if name == "Buckets" else None)
        yield {**rest, **lists}
        rest = {}
    if token:
        yield {"NextToken": {"NextToken": token}}


# ---------------------------------------------------------------- the command line


class Call(NamedTuple):
    """A call: its function, and the options that it reads or ignores. A ! is required, a + has no value."""

    answer: Callable[[Caller, Options], Answer]
    options: str
    ignored: str = ""


READ = "request-payer expected-bucket-owner checksum-mode sse-customer-algorithm sse-customer-key"
READ += " sse-customer-key-md5"
KEPT = " ".join(GIVEN) + " metadata"
WRITTEN = """acl checksum-algorithm
bucket-key-enabled+ no-bucket-key-enabled+ grant-full-control grant-read grant-read-acp grant-write-acp
ssekms-encryption-context object-lock-mode object-lock-retain-until-date object-lock-legal-hold-status"""
GRANTS = "grant-full-control grant-read grant-read-acp grant-write grant-write-acp"
BUCKET_OWNER = "expected-bucket-owner"
SENT = f"{BUCKET_OWNER} content-md5 checksum-algorithm"
LISTED = "bucket! delimiter max-keys prefix starting-token max-items page-size"
S3API = {
    "head-bucket": Call(head_bucket, "bucket!", BUCKET_OWNER),
    "head-object": Call(head_object, "bucket! key! if-match if-none-match version-id", READ),
    "get-object": Call(get_object, "bucket! key! range if-match if-none-match version-id outfile!", READ),
    "put-object": Call(
        put_object,
        f"bucket! key! body if-match if-none-match content-md5 tagging {KEPT}",
        f"{READ} {WRITTEN} content-length".replace("checksum-mode ", ""),
    ),
    "copy-object": Call(
        copy_object,
        f"bucket! key! copy-source! metadata-directive tagging tagging-directive {KEPT}",
        f"{WRITTEN} request-payer expected-bucket-owner expected-source-bucket-owner",
    ),
    "delete-object": Call(
        delete_object,
        "bucket! key! version-id",
        "request-payer expected-bucket-owner mfa bypass-governance-retention+ no-bypass-governance-retention+",
    ),
    "delete-objects": Call(
        delete_objects,
        "bucket! delete!",
        f"{SENT} request-payer mfa bypass-governance-retention+ no-bypass-governance-retention+",
    ),
    "list-objects": Call(list_objects, f"{LISTED} marker", f"encoding-type request-payer {BUCKET_OWNER}"),
    "list-objects-v2": Call(
        list_objects_v2,
        f"{LISTED} continuation-token start-after",
        f"encoding-type fetch-owner+ no-fetch-owner+ request-payer {BUCKET_OWNER}",
    ),
    "list-buckets": Call(
        list_buckets, "prefix starting-token max-items page-size", "max-buckets continuation-token bucket-region"
    ),
    "create-bucket": Call(
        create_bucket,
        "bucket! create-bucket-configuration",
        f"""acl object-ownership object-lock-enabled-for-bucket+ no-object-lock-enabled-for-bucket+ {GRANTS}""",
    ),
    "delete-bucket": Call(delete_bucket, "bucket!", BUCKET_OWNER),
    "get-bucket-location": Call(get_bucket_location, "bucket!", BUCKET_OWNER),
    "get-bucket-acl": Call(get_bucket_acl, "bucket!", BUCKET_OWNER),
    "get-bucket-versioning": Call(get_bucket_versioning, "bucket!", BUCKET_OWNER),
    "get-object-tagging": Call(get_object_tagging, "bucket! key! version-id", f"{BUCKET_OWNER} request-payer"),
    "put-object-tagging": Call(put_object_tagging, "bucket! key! tagging! version-id", f"{SENT} request-payer"),
    "delete-object-tagging": Call(delete_object_tagging, "bucket! key! version-id", BUCKET_OWNER),
    "put-bucket-acl": Call(accepted, "bucket!", f"acl access-control-policy {GRANTS} {SENT}"),
    "put-bucket-encryption": Call(accepted, "bucket! server-side-encryption-configuration!", SENT),
    "put-bucket-ownership-controls": Call(accepted, "bucket! ownership-controls!", SENT),
    "put-bucket-policy": Call(
        accepted,
        "bucket! policy!",
        f"{SENT} confirm-remove-self-bucket-access+ no-confirm-remove-self-bucket-access+",
    ),
    "put-public-access-block": Call(accepted, "bucket! public-access-block-configuration!", SENT),
    "put-object-acl": Call(
        accepted, "bucket! key! version-id", f"acl access-control-policy {GRANTS} {SENT} request-payer"
    ),
    "delete-bucket-encryption": Call(accepted, "bucket!", BUCKET_OWNER),
    "delete-bucket-ownership-controls": Call(accepted, "bucket!", BUCKET_OWNER),
    "delete-bucket-policy": Call(accepted, "bucket!", BUCKET_OWNER),
    "delete-public-access-block": Call(accepted, "bucket!", BUCKET_OWNER),
}
ON_A_BUCKET, ON_AN_OBJECT = Call(wait, "bucket!", BUCKET_OWNER), Call(wait, "bucket! key!", READ)
WAIT = {
    "bucket-exists": ON_A_BUCKET,
    "bucket-not-exists": ON_A_BUCKET,
    "object-exists": ON_AN_OBJECT,
    "object-not-exists": ON_AN_OBJECT,
}
STS = {"get-caller-identity": Call(get_caller_identity, "")}
CONFIGURE = {
    "get": Call(configure_get, "varname!"),
    "list": Call(configure_list, ""),
    "set": Call(configure_set, "varname! value!"),
}
SERVICES = {"s3api": S3API, "sts": STS, "configure": CONFIGURE}
POSITIONAL = ("outfile", "varname", "value")


class Parser(argparse.ArgumentParser):
    """The CLI's parser."""

    def error(self, message: str) -> NoReturn:
        raise usage_error(message)


def parse(caller: Caller, name: str, call: Call, arguments: list[str]) -> Options:
    """Return the options of a call. Raises Stop for the CLI's own errors."""
    parser = Parser(add_help=False)
    for word in f"{call.options} {call.ignored}".split():
        option = word.rstrip("!+")
        if option in POSITIONAL:
            parser.add_argument(option)
        elif word.endswith("+"):
            parser.add_argument(f"--{option}", dest=option, action="store_true")
        else:
            parser.add_argument(f"--{option}", dest=option, required=word.endswith("!"))
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise Stop(252 if version_2 else 255, f"{USAGE}\nUnknown options: {', '.join(unknown)}\n")
    options = vars(known)
    for option, value in options.items():
        if isinstance(value, str) and option not in (*POSITIONAL, "body"):
            options[option] = from_file(caller, f"--{option}", value)
    for option in ("max-keys", "max-items", "page-size"):
        number(options, option)
    return {"call": name, **options}


def chosen(service: str, arguments: list[str]) -> tuple[str, Call, list[str]]:
    """Return the call with its name and its arguments."""
    if not arguments:
        text = "usage: aws [options] <command> <subcommand> [parameters]\naws: error: too few arguments"
        raise usage_error("the following arguments are required: operation") if service == "s3api" else fail(text)
    name, *rest = arguments
    calls = SERVICES[service]
    if service == "s3api" and name == "wait":
        if not rest:
            text = "usage: aws [options] <command> <subcommand> [parameters]\naws: error: too few arguments"
            raise fail(text)
        calls, (name, *rest) = WAIT, rest
        if name not in calls:
            raise usage_error(f"argument subcommand: Invalid choice, valid choices are:\n\n{' | '.join(calls)}")
    if name not in calls:
        known = "aws help lists them" if service == "s3api" else ", ".join(calls)
        raise refuse(f"only a few calls of {service} are stubbed ({known}), not {name}")
    return name, calls[name], rest


def help_text() -> str:
    """Return text on the calls, and the options that they read and ignore."""
    lines = []
    for name, call in S3API.items():
        if call.ignored:
            lines.append(f"  {name}: {' '.join('--' + word.rstrip('!+') for word in call.ignored.split())}\n")
    return "".join(lines)


def answer(caller: Caller, service: str, arguments: list[str]) -> None:
    """Carry out a call and print its answer."""
    name, call, rest = chosen(service, arguments)
    if caller.output not in ("json", "text"):
        raise refuse(f"it has no --output {caller.output} of {service}: json and text")
    search = compiled(caller.query) if caller.query and service != "configure" else None
    options = parse(caller, name, call, rest)
    if options.get("version-id") not in (None, "null"):
        raise refuse(f"it keeps no versions: --version-id {options['version-id']}")
    try:
        if name != "get-object":
            os.umask(0o077)
        found = call.answer(caller, options)
        if not alive():
            raise removed(caller)
        if service != "configure":
            show(caller, options, found, search)
    except OSError as error:
        if not alive():
            raise removed(caller) from None
        raise fail(said_of(error, os.fsdecode(error.filename) if error.filename else "")) from None


def clean_up() -> None:
    for path in scratch:
        with contextlib.suppress(OSError):
            os.unlink(path)


def ended(number: int, frame: object) -> None:
    if number == signal.SIGINT:
        raise Stop(1, "cancelled: ctrl-c received\n")
    raise Stop(128 + number, "")


def main(arguments: list[str]) -> int:
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # no file opened later may become stdout: writing is an error
    if arguments == ["help"]:
        printed(help_text())
        return 0
    global version_2
    cli, here, session, output, query, no_paginate, profile, service, *rest = arguments
    version_2 = cli == "2"
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, ended)
        answer(Caller(here, session, output, query, not no_paginate, profile), service, rest)
    except Stop as stop:
        clean_up()
        try:
            sys.stderr.write(stop.text)
            sys.stderr.flush()
        except (OSError, AttributeError):
            pass
        return stop.code
    return 0
