"""Procedural questions whose need for reasoning differs, for the embedded demo model.

Nine families. In some the length of the question tells how much work it takes (``sum``, ``count``, ``largest``), in
some it does not (``countdown``, ``halve``, ``until``), in one a long question needs almost no reasoning (``lookup``),
one can be guessed half the time (``parity``), and one is beyond the model (``product``), so that tokens spent there are
wasted. A question comes with worked steps, which only the training of the adapter sees.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, islice

WORDS = [
    "apple",
    "bridge",
    "candle",
    "desert",
    "engine",
    "forest",
    "garden",
    "hammer",
    "island",
    "jacket",
    "kitten",
    "ladder",
    "magnet",
    "napkin",
    "orange",
    "pencil",
    "quartz",
    "rabbit",
    "saddle",
    "table",
    "umbrella",
    "violin",
    "window",
    "yellow",
    "zipper",
    "anchor",
    "button",
    "carpet",
    "dragon",
    "eagle",
    "feather",
    "glove",
    "helmet",
    "iron",
    "jungle",
    "kettle",
    "lemon",
    "mirror",
    "needle",
    "ocean",
    "paper",
    "queen",
    "river",
    "silver",
    "tunnel",
    "valley",
    "wagon",
    "yarn",
]


@dataclass(frozen=True)
class Task:
    """One question with its worked steps and its answer (both plain text)."""

    family: str
    question: str
    steps: str
    answer: str


def _sum(rng: random.Random) -> Task:
    total = rng.randint(1, 20)
    text, lines = [str(total)], []
    for _ in range(rng.randint(1, 10)):
        sign = rng.choice("+-") if total > 9 else "+"
        term = rng.randint(1, 9)
        after = total + term if sign == "+" else total - term
        text.append(f"{sign} {term}")
        lines.append(f"{total}{sign}{term}={after}")
        total = after
    return Task("sum", f"What is {' '.join(text)}?", "\n".join(lines), str(total))


def _count(rng: random.Random) -> Task:
    bits = [rng.choice("01") for _ in range(rng.randint(3, 20))]
    seen, marks = 0, []
    for bit in bits:
        seen += bit == "1"
        marks.append(f"{bit}:{seen}")
    return Task("count", f"How many ones are in {' '.join(bits)}?", " ".join(marks), str(seen))


def _halve(rng: random.Random) -> Task:
    start = value = rng.randint(4, 999)
    marks: list[str] = []
    while value > 1:
        value //= 2
        marks.append(f"{value} ({len(marks) + 1})")
    question = f"Halve {start} again and again, dropping remainders, until it is 1. How many halvings is that?"
    return Task("halve", question, "\n".join(marks), str(len(marks)))


def _countdown(rng: random.Random) -> Task:
    start, step = rng.randint(10, 99), rng.randint(3, 9)
    values = list(range(start, -1, -step))
    question = f"Start at {start} and keep taking away {step} for as long as you can. What is left?"
    return Task("countdown", question, " ".join(map(str, values)), str(values[-1]))


def _lookup(rng: random.Random) -> Task:
    words = rng.sample(WORDS, rng.randint(4, 14))
    at = rng.randrange(len(words) - 1)
    question = f"In the list {', '.join(words)}, which word comes right after {words[at]}?"
    return Task("lookup", question, f"{words[at]}, {words[at + 1]}", words[at + 1])


def _until(rng: random.Random) -> Task:
    numbers = [rng.randint(1, 9) for _ in range(rng.randint(6, 14))]
    limit = rng.randint(6, sum(numbers) - 1)
    total = 0
    marks: list[str] = []
    for number in numbers:
        total += number
        marks.append(f"{total} ({len(marks) + 1})")
        if total > limit:
            break
    listed = " ".join(map(str, numbers))
    question = f"Add up {listed} from the left and stop once the total is above {limit}. How many numbers were added?"
    return Task("until", question, "\n".join(marks), str(len(marks)))


def _product(rng: random.Random) -> Task:
    a, b = rng.randint(112, 989), rng.randint(112, 989)
    parts = [a * (b // 100) * 100, a * (b // 10 % 10) * 10, a * (b % 10)]
    steps = [f"{a}*{b // 100 * 100}={parts[0]}", f"{a}*{b // 10 % 10 * 10}={parts[1]}", f"{a}*{b % 10}={parts[2]}"]
    steps += [f"{parts[0]}+{parts[1]}={parts[0] + parts[1]}", f"{parts[0] + parts[1]}+{parts[2]}={a * b}"]
    return Task("product", f"What is {a} times {b}?", "\n".join(steps), str(a * b))


def _parity(rng: random.Random) -> Task:
    terms = [rng.randint(1, 9) for _ in range(rng.randint(2, 9))]
    total, lines = terms[0], []
    for term in terms[1:]:
        lines.append(f"{total}+{term}={total + term}")
        total += term
    answer = "even" if total % 2 == 0 else "odd"
    return Task("parity", f"Is {' + '.join(map(str, terms))} even or odd?", "\n".join(lines), answer)


def _largest(rng: random.Random) -> Task:
    numbers = [rng.randint(10, 99) for _ in range(rng.randint(3, 16))]
    best, marks = 0, []
    for number in numbers:
        best = max(best, number)
        marks.append(f"{number}:{best}")
    return Task("largest", f"Which is the largest of {' '.join(map(str, numbers))}?", " ".join(marks), str(best))


Family = Callable[[random.Random], Task]

FAMILIES: dict[str, Family] = {
    "sum": _sum,
    "count": _count,
    "halve": _halve,
    "countdown": _countdown,
    "lookup": _lookup,
    "until": _until,
    "product": _product,
    "parity": _parity,
    "largest": _largest,
}


def unique_tasks(seed: int, families: Mapping[str, Family] = FAMILIES) -> Iterator[Task]:
    """Yield tasks for ever, the families in turn, no question twice; the same seed gives the same tasks."""
    rng = random.Random(seed)  # noqa: S311  (reproducible questions, not secrets)
    seen: set[str] = set()
    for family in cycle(families.values()):
        task = family(rng)
        while task.question in seen:
            task = family(rng)
        seen.add(task.question)
        yield task


@dataclass(frozen=True)
class Splits:
    """Three disjoint lists of tasks: the demo's questions, those that measure curves, those that tune the adapter."""

    test: list[Task]
    curves: list[Task]
    adapter: list[Task]


def split(test: int, curves: int, adapter: int, seed: int, families: Mapping[str, Family] = FAMILIES) -> Splits:
    """Draw the three splits from one stream without repeats, so that no question can be in two of them."""
    stream = unique_tasks(seed, families)
    taken = [list(islice(stream, count)) for count in (test, curves, adapter)]
    return Splits(*taken)


_SHORT_SEED, _SHORT_SIZES = 20260, (108, 720, 2700)


def split_tasks() -> Splits:
    """The splits of the short questions."""
    return split(*_SHORT_SIZES, _SHORT_SEED)


def fresh_tasks(count: int) -> list[Task]:
    """Short questions that are in none of the splits: neither adapter nor predictor has seen them.

    Raises ValueError for more than 2,000; some families have few more.
    """
    if count > 2000:
        raise ValueError("count: there are 2,000 fresh questions")
    used = sum(_SHORT_SIZES)
    return list(islice(unique_tasks(_SHORT_SEED), used, used + count))
