"""Tags: read a person's, put them on instances, and tag the things that hardway makes in an account."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hardway import aws
from hardway.config import Settings
from hardway.ec2.instances import Done, Instance, check_name, each
from hardway.errors import UsageError
from hardway.terminal import printable

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateTags.html
_RESOURCES = 1000
# The most characters, and the most tags of one resource:
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html
_MOST_KEY, _MOST_VALUE = 128, 256
_MOST_TAGS = 50
# The prefix of AWS's own tags, in any case.
_RESERVED = "aws:"


def read(texts: Iterable[str]) -> dict[str, str]:
    """Return tags from `key=value` texts. Raises UsageError for another text, or a key that only AWS may set."""
    result: dict[str, str] = {}
    for text in [texts] if isinstance(texts, str) else texts:
        key, equals, value = text.partition("=")
        if not (key and equals) or key.lower().startswith(_RESERVED):
            raise UsageError(f"--tag {text!r}: write key=value, with a key that does not start with 'aws:'")
        if len(key) > _MOST_KEY or len(value) > _MOST_VALUE or printable(text) != text:
            raise UsageError(
                f"--tag {text[:80]!r}: a key has at most {_MOST_KEY} characters, a value {_MOST_VALUE}, none of "
                "them invisible"
            )
        if key == "Name":
            check_name(value, "--tag Name=")
        if result.get(key, value) != value:
            raise UsageError(f"--tag {key} is given twice, as {result[key]!r} and as {value!r}")
        result[key] = value
    if len(result) > _MOST_TAGS:
        raise UsageError(f"--tag names {len(result)} tags, but EC2 takes {_MOST_TAGS}: name fewer")
    return result


def check(tags: Mapping[str, str], own: Iterable[str]) -> None:
    """Raise UsageError for tags of one instance that EC2 refuses; `own` are the keys that a person has set."""
    if len(tags) > _MOST_TAGS:
        ours = len(tags.keys() - {*own})
        raise UsageError(
            f"an instance would have {len(tags)} tags, {ours} of them hardway's, but EC2 takes {_MOST_TAGS}: name fewer"
        )
    for key, value in tags.items():
        if len(value) > _MOST_VALUE:
            raise UsageError(f"the value of the tag {key} has {len(value)} characters, but EC2 takes {_MOST_VALUE}")


def read_keys(texts: Iterable[str]) -> list[str]:
    """Return keys of tags from texts. Raises UsageError for a bad key, or one that only AWS may set."""
    keys = [texts] if isinstance(texts, str) else list(texts)
    for key in keys:
        if not key or "=" in key or key.lower().startswith(_RESERVED) or len(key) > _MOST_KEY or printable(key) != key:
            raise UsageError(f"--tag {key!r}: write a key alone, which must not begin with 'aws:'")
    return keys


def refuse_foreign(what: str, tags: Mapping[str, str], any_owner: bool) -> None:
    """Raise UsageError if the tag `owner` names another user, unless `any_owner`."""
    if (other := aws.other_owner(tags)) and not any_owner:
        raise UsageError(
            f"nothing was done, since {what} is {other}'s, not {aws.user()}'s; add --any-owner to act on it"
        )


def add(settings: Settings, instances: Iterable[Instance], tags: Mapping[str, str]) -> Done:
    """Set tags on instances; a tag that is there already gets the new value."""
    call = aws.ec2_once(settings).create_tags
    return each(instances, lambda ids: call(Resources=ids, Tags=listed(tags)), size=_RESOURCES)


def remove(settings: Settings, instances: Iterable[Instance], keys: Sequence[str]) -> Done:
    """Take tags off instances, whatever their value; a missing tag is no error."""
    call = aws.ec2_once(settings).delete_tags
    return each(instances, lambda ids: call(Resources=ids, Tags=[{"Key": key} for key in keys]), size=_RESOURCES)


def listed(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags in the form that EC2 takes."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def of(description: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags in EC2's description of anything."""
    return {tag["Key"]: tag["Value"] for tag in description.get("Tags", [])}


def specifications(tags: Mapping[str, str], *kinds: str) -> list[dict[str, Any]]:
    """Return TagSpecifications of `tags` and this owner, for things of these kinds (`vpc`, `snapshot`) in one call."""
    own = {"owner": aws.user(), **tags}
    return [{"ResourceType": kind, "Tags": listed(own)} for kind in kinds]
