"""Random tests draw the same examples every time, and few enough that all of them take seconds."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "same", derandomize=True, max_examples=60, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
settings.load_profile("same")
