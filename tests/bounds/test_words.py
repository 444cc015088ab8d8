"""What files hold stands in a sentence in one line, and short."""

from bounds.words import listed, one_line, shown, told


def test_a_value_is_short():
    assert shown("a\nb") == "'a\\nb'"
    assert shown("a" * 100) == "'" + "a" * 79 + "..."


def test_names_are_as_they_are_and_the_first_ten_of_many():
    assert listed(["a", "b\x00", "c" * 81]) == "a, 'b\\x00', " + shown("c" * 81)
    assert listed([str(i) for i in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert listed([str(i) for i in range(12)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"


def test_what_another_library_says_is_told_in_a_line():
    assert one_line(ValueError("a\n b\x00\u00e9")) == "a b\\x00\u00e9"
    assert one_line(KeyError()) == "KeyError"
    assert one_line(ValueError("a" * 1000)) == "a" * 200 + "..."


def test_a_sentence_that_names_the_file_is_not_put_into_another():
    assert told("a/b", "is damaged", ValueError("a/b has 3 parts")) == "a/b has 3 parts"
    assert told("a/b", "is damaged", ValueError("a/bc has\n3 parts")) == "a/b is damaged: a/bc has 3 parts"
