"""Questions whose reasoning takes 100 to 1,000 tokens, for the embedded demo model with its second adapter.

Nine families again, built as chains whose every step needs only what was written just before and a look into the
question. In some the length of the chain shows in the question (``walk``, ``digits``, ``above``, ``parity``,
``largest``), in some it does not (``take_away``, ``collatz``), in one a long question needs almost no reasoning
(``after``), and one is beyond the model (``product``), so that hundreds of tokens spent there are wasted.
"""

from __future__ import annotations

import math
import random

from exporters.demo.tasks import WORDS, Family, Splits, Task, split, split_tasks

_HIGHEST_COLLATZ, _LONGEST_COLLATZ = 9999, 120


def _length(rng: random.Random, shortest: int, longest: int) -> int:
    """A chain's length, short ones as often as long ones by their ratio (log-uniform)."""
    return round(math.exp(rng.uniform(math.log(shortest), math.log(longest))))


def _numbers(rng: random.Random, shortest: int, longest: int) -> list[int]:
    """Distinct numbers of three digits: where one was read last, the next is found by it."""
    return rng.sample(range(100, 1000), _length(rng, shortest, longest))


def _listed(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))


def _walk(rng: random.Random) -> Task:
    rooms = rng.sample(WORDS, rng.randint(4, 9))
    moves = _length(rng, 20, 200)
    doors = [f"{room} to {rooms[(at + 1) % len(rooms)]}" for at, room in enumerate(rooms)]
    rng.shuffle(doors)
    marks = [f"{moves - at} {rooms[at % len(rooms)]}" for at in range(moves + 1)]
    question = f"Doors lead from {', '.join(doors)}. Start in {rooms[0]} and go through {moves} doors. Where are you?"
    return Task("walk", question, "\n".join(marks), rooms[moves % len(rooms)])


def _digits(rng: random.Random) -> Task:
    first, second = rng.randint(1, 9), rng.randint(1, 9)
    place = _length(rng, 20, 190)
    row = [first, second]
    while len(row) < place:
        row.append((row[-2] + row[-1]) % 10)
    marks = [f"{at + 1}:{digit}" for at, digit in enumerate(row)]
    question = (
        f"A row of digits starts with {first} {second}; each next one is the last digit of the sum of the two before. "
        f"Which digit is number {place}?"
    )
    return Task("digits", question, " ".join(marks), str(row[-1]))


def _take_away(rng: random.Random) -> Task:
    step = rng.randint(3, 19)
    start = min(1999, step * _length(rng, 25, 240) + rng.randrange(step))
    values = list(range(start, -1, -step))
    question = f"Start at {start} and keep taking away {step} for as long as you can. What is left?"
    return Task("take_away", question, " ".join(map(str, values)), str(values[-1]))


def _above(rng: random.Random) -> Task:
    numbers, limit = _numbers(rng, 13, 115), rng.randrange(150, 950, 50)
    seen, marks = 0, []
    for number in numbers:
        seen += number > limit
        marks.append(f"{number}:{seen}")
    question = f"How many of {_listed(numbers)} are above {limit}?"
    return Task("above", question, " ".join(marks), str(seen))


def _parity(rng: random.Random) -> Task:
    numbers = _numbers(rng, 15, 140)
    total, marks = 0, []
    for number in numbers:
        total += number
        marks.append(f"{number}:{_name(total)}")
    return Task("parity", f"Is the sum of {_listed(numbers)} even or odd?", " ".join(marks), _name(total))


def _name(total: int) -> str:
    return "odd" if total % 2 else "even"


def _largest(rng: random.Random) -> Task:
    numbers = _numbers(rng, 12, 110)
    best, marks = 0, []
    for number in numbers:
        best = max(best, number)
        marks.append(f"{number}:{best}")
    return Task("largest", f"Which is the largest of {_listed(numbers)}?", " ".join(marks), str(best))


def _collatz(rng: random.Random) -> Task:
    while True:
        start = value = rng.randint(7, 2999)
        values: list[int] = []
        while value > 1:
            value = 3 * value + 1 if value % 2 else value // 2
            values.append(value)
        if max(values) <= _HIGHEST_COLLATZ and 10 <= len(values) <= _LONGEST_COLLATZ:
            break
    marks = [f"{value} ({at + 1})" for at, value in enumerate(values)]
    question = f"Take {start}: halve it if it is even, else triple it and add 1, until it is 1. How many steps is that?"
    return Task("collatz", question, "\n".join(marks), str(len(marks)))


def _after(rng: random.Random) -> Task:
    numbers = _numbers(rng, 20, 120)
    at = rng.randrange(len(numbers) - 1)
    question = f"In the row {_listed(numbers)}, which number comes right after {numbers[at]}?"
    return Task("after", question, f"{numbers[at]}, {numbers[at + 1]}", str(numbers[at + 1]))


def _product(rng: random.Random) -> Task:
    digits = rng.randint(4, 9)
    a, b = (rng.randint(10 ** (digits - 1), 10**digits - 1) for _ in range(2))
    total, steps = 0, []
    for place, digit in enumerate(reversed(str(b))):
        part = a * int(digit) * 10**place
        steps += [f"{a}*{int(digit) * 10**place}={part}", f"{total}+{part}={total + part}"]
        total += part
    return Task("product", f"What is {a} times {b}?", "\n".join(steps), str(a * b))


LONG_FAMILIES: dict[str, Family] = {
    "walk": _walk,
    "digits": _digits,
    "take_away": _take_away,
    "above": _above,
    "parity": _parity,
    "largest": _largest,
    "collatz": _collatz,
    "after": _after,
    "product": _product,
}


def split_long_tasks() -> Splits:
    """The splits of the long questions."""
    return split(90, 270, 1800, 20261, LONG_FAMILIES)


def splits(*, long: bool) -> Splits:
    """The splits of the long questions, or of the short ones."""
    return split_long_tasks() if long else split_tasks()
