"""The connector: reads the states that vLLM keeps, and sends them as soon as they are there.

Theory of operation. vLLM makes two connectors. The one beside its scheduler sees every step before it runs: it reads
what new requests ask for (``kv_transfer_params``), follows their prompts (``tracking``), and tells the other one in
the step's metadata which prompts end in it. The one in the worker, after the pass, gathers these tokens' states from
the cache in which the method ``extract_hidden_states`` has put them, and hands them to the sender. When a request is
over, the first one sends how many tokens it generated.

On a GPU nothing waits for the device: one small gather is queued on the current stream, behind the pass that writes the
states and before any later pass could use the blocks again; its result is copied to pinned memory on a stream of its
own; the sender's thread waits for the copy.

No exception leaves this module once vLLM runs: a fault costs a state, is counted, and is logged once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.config import get_layers_from_vllm_config
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank

from predictive_scheduling_vllm import frames, no_drafts
from predictive_scheduling_vllm.destinations import Allowed, RefusedError, Wanted, wanted
from predictive_scheduling_vllm.sender import Sender
from predictive_scheduling_vllm.stats import StateMetrics, StateStats
from predictive_scheduling_vllm.tracking import Prompts, Ready

log = logging.getLogger("vllm.predictive_scheduling")

_METHOD = "extract_hidden_states"

# How long a frame may take, and how long a receiver that let one be late is left alone, in seconds. What was generated
# is worth knowing a while later, a state is not. One silent receiver may hold up the others' counts half of the time.
_STATE_PATIENCE, _COUNT_PATIENCE = (0.25, 1.0), (10.0, 10.0)


@dataclass
class StepStates(KVConnectorMetadata):
    """The prompts that a step computes to their end."""

    ready: list[Ready] = field(default_factory=list)


class PromptStateConnector(KVConnectorBase_V1, SupportsHMA):
    """Sends the hidden state of a prompt's last token to whom the request names, among those whom the operator allows.

    Needs ``--speculative-config`` with the method ``extract_hidden_states``. Options, in ``kv_connector_extra_config``:
    ``destinations``: patterns of allowed addresses (none are by default); ``queue``: frames that may wait to be sent.
    Raises ValueError at vLLM's start for options that are none.
    """

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        """Read the options."""
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        speculative = vllm_config.speculative_config
        if speculative is None or speculative.method != _METHOD:
            raise ValueError(f"PromptStateConnector needs --speculative-config with the method {_METHOD}")
        if no_drafts.none_wanted(speculative.num_speculative_tokens_per_batch_size):
            no_drafts.allow()
        options = self._kv_transfer_config.kv_connector_extra_config
        self._allowed = Allowed(options.get("destinations", ()))
        self._layers = tuple(speculative.draft_model_config.hf_config.eagle_aux_hidden_state_layer_ids)
        self._group, block_size = _states_cache(vllm_config, kv_cache_config)
        seconds, rest = _COUNT_PATIENCE if role == KVConnectorRole.SCHEDULER else _STATE_PATIENCE
        self._sender = Sender(most=int(options.get("queue", 1024)), seconds=seconds, rest=rest)
        self._counted: dict[str, int] = {}
        self._failed = False
        # Beside the scheduler.
        self._prompts = Prompts(block_size)
        self._asked: dict[str, Wanted] = {}
        # In the worker.
        self._block_size = block_size
        self._cache: torch.Tensor | None = None
        self._stream: Any = None
        if role == KVConnectorRole.SCHEDULER:
            log.info("states of layers %s may be sent to %s", self._layers, options.get("destinations", "nobody"))

    @property
    def requires_kv_delivery(self) -> bool:
        """No: a request that is preempted loses nothing by us."""
        return False

    # Beside the scheduler -------------------------------------------------------------------------------------------

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        """Nothing is ever loaded."""
        return 0, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Nothing is ever loaded."""

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        """Return which prompts the step that is about to run computes to their end."""
        step = StepStates()
        self._guarded(lambda: self._follow(scheduler_output, step))
        return step

    def _follow(self, output: Any, step: StepStates) -> None:
        scheduled = output.num_scheduled_tokens
        for new in output.scheduled_new_reqs:
            if new.req_id in self._asked:  # the newer model runner brings preempted ones back so
                self._prompts.went_on(new.req_id, new.block_ids[self._group], anew=True)
                self._note(step, new.req_id, new.num_computed_tokens, scheduled)
                continue
            if (asked := self._read(new)) is None:
                continue
            self._asked[new.req_id] = asked
            if asked.layers != ():
                self._prompts.began(new.req_id, asked, new.prompt_len, new.block_ids[self._group])
                self._note(step, new.req_id, new.num_computed_tokens, scheduled)
        if not len(self._prompts):
            return
        old = output.scheduled_cached_reqs
        for at, request in enumerate(old.req_ids):
            blocks = old.new_block_ids[at]
            added = None if blocks is None else blocks[self._group]
            self._prompts.went_on(request, added, anew=request in old.resumed_req_ids)
            self._note(step, request, old.num_computed_tokens[at], scheduled)

    def _note(self, step: StepStates, request: str, computed: int, scheduled: dict[str, int]) -> None:
        ready = self._prompts.ready(request, computed, scheduled.get(request, 0))
        if ready is not None:
            step.ready.append(ready)

    def _read(self, new: Any) -> Wanted | None:
        """What a new request asks of us. A request may not fail for what it asks."""
        extra = new.sampling_params.extra_args if new.sampling_params is not None else None
        try:
            asked = wanted((extra or {}).get("kv_transfer_params"), self._allowed)
        except RefusedError as error:
            self._sender.count("refused")
            log.warning("a request's prompt_state is not heeded: %s", error)
            return None
        if asked is not None and asked.layers and (unknown := sorted(set(asked.layers) - set(self._layers))):
            self._sender.count("refused")
            kept = ", ".join(map(str, self._layers))
            reason = f"layer {unknown[0]} is not kept; kept: {kept}"
            self._sender.send(asked.address, asked.name, frames.refusal(asked.name, reason))
            return Wanted(asked.name, asked.address, ())
        return asked

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """Say how many tokens were generated; the blocks may be used again at once."""
        self._guarded(lambda: self._end(request))
        return False, None

    def request_finished_all_groups(self, request: Any, block_ids: Any) -> tuple[bool, dict[str, Any] | None]:
        """As ``request_finished``."""
        return self.request_finished(request, [])

    def _end(self, request: Any) -> None:
        self._prompts.ended([request.request_id])
        if (asked := self._asked.pop(request.request_id, None)) is not None:
            generated = int(request.num_output_tokens)
            self._sender.send(asked.address, asked.name, frames.end(asked.name, generated))

    # In the worker --------------------------------------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Find the cache of the states. Only one worker has them to send: rank 0 of the last pipeline stage."""
        from vllm.model_executor.models.extract_hidden_states import CacheOnlyAttentionLayer

        names = list(get_layers_from_vllm_config(self._vllm_config, CacheOnlyAttentionLayer, list(kv_caches)))
        if not names or get_tensor_model_parallel_rank() != 0:
            return
        cache = kv_caches[names[0]]  # (blocks, layers, block size, hidden size)
        if cache.shape[1] != len(self._layers) or cache.shape[2] != self._block_size:
            raise ValueError(
                f"the cache of states has the shape {tuple(cache.shape)}, which is not {len(self._layers)} layers in "
                f"blocks of {self._block_size}: this vLLM lays it out in another way than the connector knows"
            )
        self._cache = cache
        if cache.is_cuda:
            self._stream = torch.cuda.Stream(cache.device)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Nothing is ever loaded."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing is ever loaded."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """The states are read after the whole pass."""

    def wait_for_save(self) -> None:
        """Send the states of prompts that the pass has computed; waits for nothing, whatever its name says."""
        if self._cache is None or not self.has_connector_metadata():
            return
        step = self._get_connector_metadata()
        if isinstance(step, StepStates) and step.ready:
            self._guarded(lambda: self._send(step.ready))

    def _send(self, ready: Sequence[Ready]) -> None:
        if (cache := self._cache) is None:
            return
        device = cache.device
        places = torch.tensor([[one.block, one.offset] for one in ready])
        if device.type == "cuda":
            places = places.pin_memory().to(device, non_blocking=True)
        states = cache[places[:, 0], :, places[:, 1]]  # (prompts, layers, hidden size)
        read = self._copied(states)
        for row, one in enumerate(ready):
            layers = self._layers if one.wanted.layers is None else one.wanted.layers
            rows = [self._layers.index(layer) for layer in layers]
            made = _frame(one, layers, states.dtype, states.shape[2], read, row, rows)
            frame = made() if device.type == "cpu" else made
            self._sender.send(one.wanted.address, one.wanted.name, frame)

    def _copied(self, states: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Return what gives the states in the host's memory; from a GPU it waits, and is called by the sender."""
        if not states.is_cuda:
            return lambda: states
        gathered = torch.cuda.Event()
        gathered.record()
        done = torch.cuda.Event()
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(gathered)
            host = torch.empty(states.shape, dtype=states.dtype, pin_memory=True)
            host.copy_(states, non_blocking=True)
            done.record()
        states.record_stream(self._stream)  # its memory is not given to another before the copy is done

        def wait() -> torch.Tensor:
            done.synchronize()
            return host

        return wait

    def get_kv_connector_stats(self) -> StateStats | None:
        """Return what was counted since the last call."""
        counts = dict(self._sender.counts)
        new = {result: count - self._counted.get(result, 0) for result, count in counts.items()}
        self._counted = counts
        new = {result: count for result, count in new.items() if count}
        return StateStats(data=new) if new else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> StateStats | None:
        """Return the counts as vLLM hands them on."""
        return StateStats(data=data or {})

    @classmethod
    def build_prom_metrics(
        cls, vllm_config: Any, metric_types: Any, labelnames: list[str], per_engine_labelvalues: dict[int, list[object]]
    ) -> StateMetrics:
        """Return what puts the counts into ``/metrics``."""
        return StateMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    def shutdown(self) -> None:
        """Send what waits, and end."""
        self._sender.close()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            self._sender.count("failed")
            if not self._failed:  # a fault in every step would fill the log
                self._failed = True
                log.exception("a state could not be sent; further faults are only counted")


def _frame(
    one: Ready,
    layers: Sequence[int],
    dtype: torch.dtype,
    size: int,
    read: Callable[[], torch.Tensor],
    row: int,
    rows: Sequence[int],
) -> Callable[[], bytes]:
    """Return what makes the frame of one prompt's state, once it can be read."""

    def make() -> bytes:
        values = read()[row][list(rows)].contiguous().view(torch.uint8).numpy().tobytes()
        name = str(dtype).removeprefix("torch.")
        return frames.state(one.wanted.name, layers, name, size, one.prompt_tokens, values)

    return make


def _states_cache(vllm_config: Any, kv_cache_config: Any) -> tuple[int, int]:
    """The cache group that holds the states, and how many tokens a block of it has."""
    from vllm.v1.kv_cache_interface import HiddenStateCacheSpec

    groups = kv_cache_config.kv_cache_groups if kv_cache_config is not None else []
    found = [at for at, group in enumerate(groups) if isinstance(group.kv_cache_spec, HiddenStateCacheSpec)]
    if len(found) == 1:
        return found[0], int(groups[found[0]].kv_cache_spec.block_size)
    if len(groups) <= 1:
        return 0, int(vllm_config.cache_config.block_size)
    raise ValueError("PromptStateConnector: the hidden states have no cache group of their own with this model")
