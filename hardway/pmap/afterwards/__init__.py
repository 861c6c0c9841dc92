"""A job looked at afterwards, from its directory alone: history, explanation, report."""
