"""What README.md and results/README.md say of results is in the tables of record, to the digits shown.

A number in the text that is neither in a claim of `tests/claims.py` nor in `PLAIN` fails, and so does a claim whose
sentence is gone. Numbers are digits, and words before a unit of time ("thirteen minutes").
"""

import re
from functools import cache

import pytest

from tests.claims import BEYOND, CONVOLUTIONAL, INSIDE, LINEAR, MADE, README, RECORD, ROOT, SHALLOW, Claim
from tests.speed_claims import SPEED

CLAIMS = [*MADE, *LINEAR, *SHALLOW, *CONVOLUTIONAL, *BEYOND, *INSIDE, *SPEED]
NUMBER = r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?"
WORDS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fifteen twenty thirty half some an a few"
)
TIME = rf"\b(?:{'|'.join(WORDS.split())}) (?:seconds?|minutes?|hours?|days?|months?)\b"

# Numbers that are no results, by how they look, and why each needs no table.
PLAIN = {
    r"`[^`]*`": "code",
    r"\b(?:Figures?|Tables?|equations?)(?:(?:,| and| to)? A?\.?\d(?:\.\d)?)+": "a place in the paper",
    r"Python 3\.11, 3\.12 or 3\.13": "versions that pyproject.toml allows",
    r"## 0\.1\.0": "our own version",
    r"Raghu et al\. \(2020\)": "a paper",
    r"theirs are of tasks with 5 classes": "of that paper",
    r"\(95 % intervals over tasks|mean over tasks, 95 % intervals|\(intervals: 95 %": "the level of intervals here",
    r"242 characters in Omniglot's two small archives": "what the files hold, which are not here",
    r"179 training characters \(716 classes with": "what the files hold, which are not here",
    r"323: the 423 that the paper has": "A.1.1, and core.tasks.omniglot",
    r"\(A\.1\.1\)": "a place in the paper",
    r"Arnold, Iqbal and Sha, 2019": "the paper",
    r"seed 0": "a name",
    r"exit code 2": "a number that means a mistake",
    r"above 2\^24 nats": "core.evaluation.EXPLODED",
    r"input_scale\^2( / 4)?": "a formula",
    r"\bxi_1\b": "a symbol",
}


@cache
def prose(file: str) -> str:
    """The text of a file without programs, targets of links and the list of columns; white space is one space."""
    text = (ROOT / file).read_text(encoding="utf-8").split("<!-- columns: begin")[0]
    text = re.sub(r"```.*?```", " ", text, flags=re.DOTALL)
    return " ".join(re.sub(r"\]\([^)]*\)", "]", text).split())


def pattern(words: str) -> str:
    return re.escape(" ".join(words.split())).replace(r"\{\}", f"({NUMBER})")


def name(claim: Claim) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", claim.words)[:40]


def agrees(shown: str, number: float) -> bool:
    """Whether a number is what is shown, rounded to the digits shown."""
    digits, _, power = shown.replace(",", "").partition("e")
    unit = 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
    return abs(float(shown.replace(",", "")) - number) <= unit * 0.5000001


@pytest.mark.parametrize("claim", CLAIMS, ids=name)
def test_claim(claim):
    found = re.findall(pattern(claim.words), prose(claim.file))
    assert len(found) == 1, f"{claim.file} says this {len(found)} times, not once: {claim.words}"
    numbers = claim.numbers()
    if isinstance(numbers, bool):
        assert numbers, f"the tables do not bear out: {claim.words}"
        return
    shown = list(found[0]) if isinstance(found[0], tuple) else [found[0]]
    assert len(shown) == len(numbers), f"the tables do not bear out: {claim.words}"
    wrong = [(one, float(number)) for one, number in zip(shown, numbers, strict=True) if not agrees(one, number)]
    assert not wrong, f"shown, and in the tables: {wrong}"


def uncovered(file: str) -> list[str]:
    text, claimed = prose(file), [claim for claim in CLAIMS if claim.file == file]
    spans = [m.span() for claim in claimed for m in re.finditer(pattern(claim.words), text)]
    spans += [m.span() for plain in PLAIN for m in re.finditer(plain, text)]
    found = re.finditer(rf"{TIME}|(?<![A-Za-z\d.,]){NUMBER}", text)
    return [
        text[max(0, m.start() - 30) : m.end() + 30]
        for m in found
        if not any(start <= m.start() and m.end() <= end for start, end in spans)
    ]


@pytest.mark.parametrize("file", [README, RECORD, "CHANGELOG.md"])
def test_every_number_has_a_claim(file):
    assert not uncovered(file)


def test_a_number_is_compared_to_the_digits_shown():
    assert agrees("89.5", 89.46)
    assert agrees("30,000", 30_000)
    assert agrees("1e-6", 1e-6)
    assert not agrees("89.5", 89.44)
    assert not agrees("-1.1", 1.1)
    assert not agrees("0.40", 0.41)


def test_a_new_number_is_seen(monkeypatch):
    text = prose(README) + " It is right in 73.5 % of the tasks, after twenty minutes."
    monkeypatch.setattr("tests.test_readme_numbers.prose", lambda file: text)
    found = " ".join(uncovered(README))
    assert "73.5" in found
    assert "twenty minutes" in found
