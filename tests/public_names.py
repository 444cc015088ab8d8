"""The names that users may rely on: `python -m tests.public_names` prints the lines of `public_names.txt`.

They are those in `__all__` of the four packages, the public methods and fields of the classes among them, what the
README shows beside them, the options of the command lines, and the columns of tables. A line is a name and, after a
colon, what a caller gives: in brackets what may be left out, with an "=" what goes by its name alone. A name that is
not called has no colon.

`public_names.txt` is the list that is promised; `test_public_names.py` holds the code to it.
"""

import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from analysis.schemas import SCHEMAS

PACKAGES = ("core", "analysis", "figures", "chain")
# Shown in the README, though in no package's __all__.
SHOWN = (
    "analysis.layer_roles.layer_roles",
    "analysis.noise_grid.noise_grid",
    "core.tasks.download",
    "figures.layer_roles.draw",
    "figures.layer_roles.from_table",
)
PROMISED = Path(__file__).with_suffix(".txt")


def parameters(function: Any) -> list[str]:
    """What a caller gives, in order."""
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in ("self", "cls") or parameter.kind is parameter.VAR_KEYWORD:
            continue
        name += "=" if parameter.kind is parameter.KEYWORD_ONLY else ""
        optional = parameter.default is not parameter.empty or parameter.kind is parameter.VAR_POSITIONAL
        found.append(f"[{name}]" if optional else name)
    return found


def described(name: str) -> Iterator[tuple[str, list[str] | None]]:
    """A public name and those that hang on it, each with `parameters`; None for what is not called."""
    module, _, last = name.rpartition(".")
    value = getattr(import_module(module), last)
    if not callable(value) or (inspect.isclass(value) and issubclass(value, BaseException)):
        yield name, None
        return
    yield name, parameters(value)
    if inspect.isclass(value):
        parts = {
            part for base in value.__mro__ if base is not object for part in vars(base) if not part.startswith("_")
        }
        parts |= {field.name for field in fields(value)} if is_dataclass(value) else set()
        for part in sorted(parts):
            member = inspect.getattr_static(value, part, None)
            member = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            yield f"{name}.{part}", parameters(member) if inspect.isfunction(member) else None


def options(command: str) -> Iterator[tuple[str, None]]:
    """The options of a command line, and its subcommands with theirs."""
    waiting = [(f"python -m {command}", import_module(f"{command}.__main__")._parser())]
    for name, parser in waiting:
        for action in parser._actions:
            yield from ((f"{name} {option}", None) for option in action.option_strings if option.startswith("--"))
            if isinstance(action.choices, dict):
                waiting += [(f"{name} {word}", inner) for word, inner in action.choices.items()]


def public_names() -> dict[str, list[str] | None]:
    """Everything that there is, by name."""
    names = [f"{package}.{name}" for package in PACKAGES for name in import_module(package).__all__]
    found = {key: value for name in [*names, *SHOWN] for key, value in described(name)}
    found |= {key: value for package in PACKAGES for key, value in options(package)}
    columns = {f"table {study} {name} {c.dtype}" for study, schema in SCHEMAS.items() for name, c in schema.items()}
    return found | dict.fromkeys(columns)


def as_lines(names: dict[str, list[str] | None]) -> list[str]:
    """The lines of the list."""
    return sorted(name if given is None else f"{name}: {' '.join(given)}".rstrip() for name, given in names.items())


def promised() -> dict[str, list[str] | None]:
    """What `public_names.txt` says, as `public_names` does."""
    found: dict[str, list[str] | None] = {}
    for line in PROMISED.read_text(encoding="utf-8").splitlines():
        name, colon, given = line.partition(":")
        found[name] = given.split() if colon else None
    return found


def broken(promise: dict[str, list[str] | None], found: dict[str, list[str] | None]) -> list[str]:
    """In what ways `found` breaks the promise, in words; new names, and new parameters that may be left out, do not."""
    told = []
    for name, given in promise.items():
        if name not in found:
            told.append(f"{name} has vanished")
            continue
        now = found[name]
        if given is None or now is None:
            told += [] if given == now else [f"{name} is {'no longer' if now is None else 'now'} called"]
            continue
        known = {bare(one): one for one in given}
        there = {bare(one): one for one in now}
        told += [f"{name} no longer takes {one}" for one in known if one not in there]
        told += [
            f"{name} needs {one}, which could be left out or was not there"
            for one in there
            if not there[one].startswith("[") and known.get(one, "[").startswith("[")
        ]
        told += [
            f"{name} takes {one} by its name alone" for one in there if by_place(known.get(one)) > by_place(there[one])
        ]
        order = [bare(one) for one in given if by_place(one) and bare(one) in there]
        if order != [bare(one) for one in now if by_place(one)][: len(order)] and not told:
            told.append(f"{name} takes its arguments in another order")
    return told


def bare(parameter: str) -> str:
    """A parameter's name."""
    return parameter.strip("[]=")


def by_place(parameter: str | None) -> bool:
    """Whether a parameter can be given by its place."""
    return parameter is not None and "=" not in parameter


if __name__ == "__main__":
    print("\n".join(as_lines(public_names())))
