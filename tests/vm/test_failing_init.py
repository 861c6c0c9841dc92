"""A launch that fails in the guest."""

from __future__ import annotations

from tests.vm.conftest import BOOT_SECONDS, Shell


def test_an_init_that_fails_is_told(shell: Shell) -> None:
    init = "#!/bin/bash\necho the reason >&2\nexit 3\n"
    seconds = str(BOOT_SECONDS)
    done = shell("ec2.new", "--ami", "bookworm", "--name", "failing", "--seconds-timeout", seconds, "--init", init)
    assert done.code == 1
    assert "exit code 3" in done.stderr and "the reason" in done.stderr
