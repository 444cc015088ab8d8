"""The published numbers hang together."""

import pytest

from figures.paper import LENGTHS, PUBLISHED, linear_accuracy


@pytest.mark.parametrize(
    ("dataset", "model", "method", "accuracy"),
    [
        ("synthetic", "lr", "maml", 50),
        ("synthetic", "linnet", "maml", 92),
        ("omniglot", "lr", "maml", 45),
        ("omniglot", "linnet", "maml", 70),
        ("omniglot", "lr", "kfc", None),
        ("synthetic", "lr", "klin", None),
        ("omniglot", "cnn", "maml", None),  # not linear
    ],
)
def test_what_the_prose_says_of_linear_models(dataset, model, method, accuracy):
    assert linear_accuracy(dataset, model, method) == accuracy


def test_the_two_layer_rows_of_table_a1_are_those_of_table_2():
    def of(source):
        return {(p.dataset, p.method): (p.accuracy, p.std) for p in PUBLISHED if p.source == source and p.layers == 2}

    table_2, table_a1 = of("Table 2"), of("Table A1")
    assert len(table_a1) == 4
    assert all(table_2[key] == value for key, value in table_a1.items())


def test_every_number_is_there_once_and_is_a_percentage():
    assert len(PUBLISHED) == 35
    assert len({(p.source, p.dataset, p.layers, p.model, p.method) for p in PUBLISHED}) == 35
    assert all(1 < p.accuracy <= 100 for p in PUBLISHED)
    assert LENGTHS["synthetic"].iterations == 30_000
    assert LENGTHS["omniglot"].iterations == 60_000
