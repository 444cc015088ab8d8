"""What all tests share. Random ones draw the same examples every time, and few enough that all of them take seconds."""

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "same", derandomize=True, max_examples=60, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
settings.load_profile("same")


@pytest.fixture
def steps_made():
    """The iterations that training makes in this process, as it makes them: what is done twice is there twice."""
    from core.group import Group

    made, step = [], Group.step

    def noted(group, episodes):
        made.append(group.iteration)
        step(group, episodes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Group, "step", noted)
        yield made
