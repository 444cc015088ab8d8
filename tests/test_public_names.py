"""No public name vanishes or asks for more by the way."""

import pytest

from tests.public_names import as_lines, broken, promised, public_names

PROMISE = {"f": ["a", "b", "[c]", "d=", "[e=]"], "g": [], "value": None, "python -m core list --results": None}


def test_what_is_promised_is_there():
    assert not broken(promised(), public_names())


def test_what_is_there_is_promised():
    # New names are no breach, but somebody has to say that they are meant: write the lines into public_names.txt.
    assert sorted(set(as_lines(public_names())) - set(as_lines(promised()))) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"value": "gone"}, "value has vanished"),
        ({"f": ["a", "b", "d=", "[e=]"]}, "f no longer takes c"),
        ({"f": ["a", "b", "c", "d=", "[e=]"]}, "f needs c, which could be left out"),
        ({"f": ["a", "b", "[c]", "d=", "e="]}, "f needs e, which could be left out"),
        ({"f": ["a", "b", "[c]", "d=", "[e=]", "new="]}, "f needs new, which could be left out or was not there"),
        ({"f": ["b", "a", "[c]", "d=", "[e=]"]}, "f takes its arguments in another order"),
        ({"f": ["a", "b", "[c=]", "d=", "[e=]"]}, "f takes c by its name alone"),
        ({"g": None}, "g is no longer called"),
        ({"value": []}, "value is now called"),
        ({"python -m core list --results": "gone"}, "python -m core list --results has vanished"),
    ],
)
def test_a_breach_is_told(changes, told):
    found = {name: given for name, given in {**PROMISE, **changes}.items() if given != "gone"}
    (sentence,) = broken(PROMISE, found)
    assert sentence.startswith(told)


def test_more_is_no_breach():
    more = {**PROMISE, "f": ["a", "[b]", "[c]", "[z]", "[d=]", "[e=]", "[new=]"], "another": []}
    assert broken(PROMISE, more) == []
    assert broken(PROMISE, PROMISE) == []
