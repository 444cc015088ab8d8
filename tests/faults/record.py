"""How many faults were injected, and what was lost."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Record:
    """Injections and losses by kind; a loss is a sentence."""

    injections: Counter[str] = field(default_factory=Counter)
    losses: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, losses: list[str]) -> None:
        """One injection, and what was lost by it."""
        self.injections[kind] += 1
        self.losses.setdefault(kind, []).extend(losses)

    @property
    def num_losses(self) -> int:
        return sum(len(losses) for losses in self.losses.values())

    def __str__(self) -> str:
        rows = [
            (kind, f"{number:,}", f"{len(self.losses.get(kind, [])):,}", f"{self.seconds.get(kind, 0):.0f}")
            for kind, number in self.injections.items()
        ]
        total = ("total", f"{self.injections.total():,}", f"{self.num_losses:,}", f"{sum(self.seconds.values()):.0f}")
        table = [("kind", "injections", "losses", "seconds"), *rows, total]
        lines = [f"{kind:<16}{injections:>12}{losses:>8}{seconds:>9}" for kind, injections, losses, seconds in table]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])
