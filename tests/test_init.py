"""How user data ended, from what cloud-init leaves: its result.json, the output, its own log."""

from __future__ import annotations

import json

import pytest

from hardway.launch import init


def result(*errors: str) -> bytes:
    return json.dumps({"v1": {"datasource": "DataSourceEc2Local", "errors": list(errors)}}, indent=1).encode()


FAILED = "('scripts_user', RuntimeError('Runparts: 1 failures (part-002) in 1 attempted commands'))"
OLDER = """Cloud-init v. 22.4.2 running 'modules:final' at Mon, 30 Nov 2026 08:00:00 +0000. Up 12.00 seconds.
E: Unable to locate package no-such
2026-11-30 08:00:05,123 - util.py[WARNING]: Failed running /var/lib/cloud/instance/scripts/part-002 [100]
2026-11-30 08:00:05,124 - cc_scripts_user.py[WARNING]: Failed to run module scripts-user
ci-info: no authorized SSH keys fingerprints found for user ubuntu.
<14>Nov 30 08:00:05 cloud-init: -----BEGIN SSH HOST KEY FINGERPRINTS-----
Cloud-init v. 22.4.2 finished at Mon, 30 Nov 2026 08:00:05 +0000. Datasource DataSourceEc2Local. Up 17.00 seconds
"""


def test_what_has_ended_well_is_no_failure() -> None:
    assert init.failure(result(), "anything") == ""


def test_exit_code_and_last_lines_are_told_without_cloud_inits_own() -> None:
    expected = "its user data failed: exit code 100; its last lines: E: Unable to locate package no-such"
    assert init.failure(result(FAILED), OLDER) == expected
    newer = "".join(line for line in OLDER.splitlines(keepends=True) if "Failed running" not in line)
    assert init.failure(result(FAILED), newer, "Exit code: 100\n") == expected


def test_lines_behind_cloud_inits_last_one_are_none_of_user_data() -> None:
    keys = (
        "Generating public/private ed25519 key pair.\n+--[ED25519 256]--+\n|*. .. .. o .     |\n+----[SHA256]-----+\n"
    )
    assert init.failure(result(FAILED), OLDER + keys) == init.failure(result(FAILED), OLDER)
    next_boot = (
        "Cloud-init v. 25.1.4 running 'init-local' at Mon, 30 Nov 2026 09:00:00 +0000. Up 9.00 seconds.\nnot now\n"
    )
    assert init.failure(result(FAILED), OLDER + next_boot).endswith("| not now")


def test_without_an_exit_code_it_is_what_cloud_init_says() -> None:
    assert init.failure(result("('package_update', ProcessExecutionError())"), "") == (
        "its user data failed: ('package_update', ProcessExecutionError())"
    )


def test_lines_are_safe_to_show_and_short() -> None:
    said = init.failure(result(FAILED), "\x1b[2J" + "x" * 10_000)
    assert "\x1b" not in said
    assert len(said) < 1000


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"v1": 3}', b"\xff", b'{"v1": {}}'])
def test_a_result_that_is_none_is_a_failure(text: bytes) -> None:
    assert init.failure(text, "") == "cloud-init's result.json can't be read"
