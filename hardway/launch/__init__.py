"""From what to launch to running, ready instances, or nothing left running; and how instances end."""
