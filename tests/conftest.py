"""Settings of all tests."""

from hypothesis import settings

# The same examples every time, and no deadline: a busy machine is not a bug.
settings.register_profile("here", deadline=None, derandomize=True)
settings.load_profile("here")
