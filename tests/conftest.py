"""Settings that all tests share."""

from hypothesis import settings

# A first call loads libraries; how long an example takes says nothing about what it checks.
settings.register_profile("project", deadline=None)
settings.load_profile("project")
