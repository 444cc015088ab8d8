"""Seeds that are cut, changed, repeated and joined at random, and bytes that are none of a seed's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import SEEDS, TARGETS


@st.composite
def mutated(draw, seeds):
    """A seed after a few changes, each at a place of its own."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["cut", "flip", "insert", "number", "repeat"])):
            case "cut":
                del data[place : place + draw(st.integers(1, 50))]
            case "flip" if place < len(data):
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "insert":
                data[place:place] = draw(st.binary(max_size=8))
            case "number":
                width = draw(st.sampled_from([1, 2, 4, 8]))
                data[place : place + width] = draw(st.integers(0, 256**width - 1)).to_bytes(width, "little")
            case "repeat":
                data[place:place] = data[place : place + draw(st.integers(1, 100))]
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_a_changed_file_is_read_or_refused(name, tmp_path_factory):
    seeds = [path.read_bytes() for path in sorted((SEEDS / name).iterdir())]

    @settings(max_examples=30)
    @given(mutated(seeds) | st.binary(max_size=200))
    def run(data):
        TARGETS[name](data, tmp_path_factory.mktemp(name))

    run()
