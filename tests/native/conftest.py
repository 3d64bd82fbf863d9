from __future__ import annotations

from hypothesis import settings

# How long one example takes says something of the machine, not of the code.
if settings().deadline is not None:
    settings.register_profile("any-machine", deadline=None)
    settings.load_profile("any-machine")
