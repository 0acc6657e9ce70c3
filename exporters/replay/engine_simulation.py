"""A discrete-event model of engines with continuous batching: slots, KV memory, prefill, decode; several replicas.

Theory of operation. With n requests in a batch a step takes ``alone + each · n`` seconds and gives each of them a
token, so between two events (a request comes in, one ends, a speed changes) all requests of a replica advance alike.
A replica keeps one number, the tokens that a request which had always run would have by now; a request ends when that
number has grown by its tokens. So an event costs a heap operation, however many run. A prompt is computed when its
request gets a slot, and no token is generated meanwhile, as in engines that do prefill first. A request is taken into
the batch where its whole length fits the memory; those beyond wait in order. Requests of a replica that is lost go on
elsewhere from what they have written, which is then computed again with their prompts.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil, inf

_ROUNDING = 1e-9


@dataclass(frozen=True)
class EngineKind:
    """An engine. Seconds a token of a stream: ``alone + each · running``. ``prefill``: prompt tokens a second.

    ``slots``: requests at once. ``memory``: tokens that the KV cache holds.
    """

    name: str
    alone: float
    each: float
    prefill: float
    slots: int
    memory: float = inf

    def capacity(self, replicas: int, prompt: float, tokens: float) -> float:
        """Requests a second at which all slots are taken by requests of so many tokens on average, prompts included."""
        slots, step = self.slots * replicas, tokens * (self.alone + self.each * self.slots)
        low, high = 0.0, slots / step
        for _ in range(60):
            rate = (low + high) / 2
            busy = rate * prompt / self.prefill / replicas
            low, high = (rate, high) if busy < 1 and rate * step / (1 - busy) < slots else (low, rate)
        return low


# Llama 3.1 8B on an H100: time between tokens at 1, 5, 25, 50, 100 and 150 requests at once (4.6, 4.6, 5.2, 5.9, 7.6,
# 9.8 ms) of NVIDIA NIM 1.8.0, https://docs.nvidia.com/nim/benchmarking/llm/1.0.0/performance, by least squares, within
# 8 %. Prompts: by the same page Llama 3.3 70B on two H100s computes 5,000 tokens in 407 ms; 8B has 1/9 of the work.
H100 = EngineKind("h100", alone=0.0043, each=0.000035, prefill=50_000.0, slots=128, memory=400_000.0)
# vLLM 0.32 with a model of 135M parameters on one thread: 7.2 ms of CPU a token with 16 at once (docs/vllm.md). How
# that divides is assumed: reading 270 MB of weights a step at 10 GB/s, and the rest for each request.
VLLM_CPU = EngineKind("vllm-cpu", alone=0.027, each=0.0055, prefill=400.0, slots=16, memory=32_768.0)


@dataclass(eq=False)
class Running:
    """A request in the simulation. ``size``: tokens that it generates, ``expected``: tokens that it was expected to.

    ``answer``: those of ``size`` that are the answer. ``left``: still to generate when it gets its place. ``came``,
    ``slot``, ``first``, ``ended``: seconds at which it came, got a place, wrote its first token, and ended.
    """

    prompt: int
    size: int
    came: float
    expected: float
    answer: int = 0
    slot: float = inf
    first: float = inf
    ended: float = inf
    left: int = field(init=False)
    end_mark: float = 0.0  # the replica's count at which it ends

    def __post_init__(self) -> None:
        """Start with nothing written."""
        self.left = self.size

    @property
    def total(self) -> float:
        """Seconds from coming to ending."""
        return self.ended - self.came


@dataclass(eq=False)
class Replica:
    """One engine. ``speed``: 1 as its kind says, 0.5 half as fast. ``generated``: tokens since the start."""

    kind: EngineKind
    speed: float = 1.0
    alive: bool = True
    generated: float = 0.0
    _at: float = 0.0
    _count: float = 0.0
    _prefill: float = 0.0  # seconds of prompts still to compute
    _held: float = 0.0
    _order: int = 0
    _ends: list[tuple[float, int, Running]] = field(default_factory=list)
    _fresh: deque[tuple[float, Running]] = field(default_factory=deque)  # by the prefill that comes before them
    _waiting: deque[Running] = field(default_factory=deque)
    _computed: float = 0.0  # seconds of prompts since the start

    @property
    def running(self) -> list[Running]:
        """Requests in the batch, those whose prompt is being computed included."""
        return [entry[2] for entry in self._ends]

    @property
    def batch(self) -> int:
        """Requests in the batch."""
        return len(self._ends)

    @property
    def present(self) -> int:
        """Requests that run or wait."""
        return len(self._ends) + len(self._waiting)

    @property
    def waiting(self) -> list[Running]:
        """Requests without a place in the batch, in order."""
        return list(self._waiting)

    @property
    def outstanding(self) -> float:
        """Tokens that are expected of the requests here and not yet generated."""
        running = sum(max(0.0, request.expected - request.size + self.left_of(request)) for *_, request in self._ends)
        return running + sum(request.expected - request.size + request.left for request in self._waiting)

    def left_of(self, request: Running) -> float:
        """Tokens that a running request still has to generate."""
        return max(0.0, request.end_mark - self._count)

    def _pace(self) -> float:
        return (self.kind.alone + self.kind.each * len(self._ends)) / self.speed

    def next_end(self) -> float:
        """When the next request ends if nothing else happens."""
        if not self._ends:
            return inf
        return self._at + self._prefill + max(0.0, self._ends[0][0] - self._count) * self._pace()

    def advance(self, now: float) -> Iterator[Running]:
        """Run until ``now``; yields the requests that end, in order."""
        while self._ends and (end := self.next_end()) <= now:
            self._run(end)
            _, _, request = heapq.heappop(self._ends)
            request.ended = end
            self._held -= request.prompt + request.size
            yield request
            self._take()
        self._run(now)

    def put(self, request: Running, now: float) -> None:
        """Give it a request; ``advance`` to ``now`` first."""
        self._waiting.append(request)
        self._take()

    def lose(self) -> list[Running]:
        """Stop for good; returns the requests that were here."""
        for request in self.running:
            request.left = max(1, ceil(self.left_of(request)))
        left = [*self.running, *self._waiting]
        self.alive = False
        self._ends, self._waiting, self._fresh, self._prefill, self._held = [], deque(), deque(), 0.0, 0.0
        return left

    def _run(self, until: float) -> None:
        passed = until - self._at
        computing = min(passed, self._prefill)
        before = self._computed
        self._prefill -= computing
        self._computed += computing
        while self._fresh and self._fresh[0][0] <= self._computed + _ROUNDING:
            due, request = self._fresh.popleft()
            request.first = min(request.first, self._at + due - before + self._pace())
        if self._ends:
            steps = (passed - computing) / self._pace()
            self._count += steps
            self.generated += steps * len(self._ends)
        self._at = until

    def _take(self) -> None:
        while self._waiting and len(self._ends) < self.kind.slots:
            request = self._waiting[0]
            need = request.prompt + request.size
            if self._held + need > self.kind.memory and self._ends:
                return
            self._waiting.popleft()
            self._held += need
            self._prefill += (need - request.left) / self.kind.prefill / self.speed
            request.slot = min(request.slot, self._at)
            request.end_mark = self._count + request.left
            self._order += 1
            heapq.heappush(self._ends, (request.end_mark, self._order, request))
            self._fresh.append((self._computed + self._prefill, request))


class Fleet:
    """Replicas behind one door: a request goes where the fewest are."""

    def __init__(self, kind: EngineKind, replicas: int) -> None:
        """Start idle."""
        self.replicas = [Replica(kind) for _ in range(replicas)]

    @property
    def alive(self) -> list[Replica]:
        """Replicas that are there."""
        return [replica for replica in self.replicas if replica.alive]

    @property
    def slots(self) -> int:
        """Requests that the living replicas run at once."""
        return sum(replica.kind.slots for replica in self.alive)

    @property
    def running(self) -> int:
        """Requests in the batches."""
        return sum(replica.batch for replica in self.alive)

    @property
    def waiting(self) -> int:
        """Requests without a place in a batch."""
        return sum(len(replica.waiting) for replica in self.alive)

    @property
    def generated(self) -> float:
        """Tokens since the start, of lost replicas too."""
        return sum(replica.generated for replica in self.replicas)

    @property
    def outstanding(self) -> float:
        """Tokens that are expected of all requests here and not yet generated."""
        return sum(replica.outstanding for replica in self.alive)

    def advance(self, now: float) -> list[Running]:
        """Run all until ``now``; returns the requests that ended."""
        return [request for replica in self.alive for request in replica.advance(now)]

    def put(self, request: Running, now: float) -> None:
        """Send a request where the fewest are; ``advance`` to ``now`` first."""
        min(self.alive, key=lambda replica: replica.present / replica.kind.slots).put(request, now)

    def lose(self, which: int, now: float) -> None:
        """Lose a replica; its requests go on elsewhere. ``advance`` to ``now`` first."""
        for request in self.replicas[which].lose():
            self.put(request, now)
