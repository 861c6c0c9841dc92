"""From the settings of a launch to ready instances, or nothing left running; and the end of instances."""
