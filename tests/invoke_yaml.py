"""invoke.yaml is made of the declared settings: `python -m tests.invoke_yaml` writes it, and a test compares."""

from __future__ import annotations

from pathlib import Path

import yaml

from hardway.config import SECTIONS, SETTINGS, Setting

FILE = Path(__file__).parents[1] / "invoke.yaml"
HEAD = """# Every setting of hardway with its default. A project of your own needs only the lines it changes.
# Each can also be set in the environment: INVOKE_EC2_TYPE=c7i.large inv ec2.new

tasks:
  executor_class: hardway.cli.executor.Executor  # a task that is another one's prerequisite prints no result
"""
_COMMENTS = 24
"""The column of the comments."""


def value(setting: Setting) -> str:
    """The default as YAML has it."""
    if setting.default == "":
        return '""'
    return str(yaml.safe_dump(setting.default)).removesuffix("\n").removesuffix("\n...")


def line(setting: Setting) -> str:
    """A setting's line of the file."""
    return f"  {setting.name}: {value(setting)}".ljust(_COMMENTS) + f"# {setting.described('empty:')}"


def content() -> str:
    """The whole file."""
    parts = [HEAD]
    for section in SECTIONS:
        lines = [line(setting) for setting in SETTINGS.values() if setting.section == section]
        parts.append("\n".join([f"{section}:", *lines, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    FILE.write_text(content())
