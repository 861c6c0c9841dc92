"""The launch, from settings to ready instances or to nothing left running; and the end of instances."""
