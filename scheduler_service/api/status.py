"""The status of a running scheduler as messages: what ``GetStatus`` and ``GetRequest`` answer, and the page shows."""

from __future__ import annotations

from dataclasses import dataclass

from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling.version import VERSION
from scheduler_service.api.messages import allocation_message, usage_message
from scheduler_service.pipeline import Pipeline
from scheduler_service.telemetry.journal import Entry, Journal


@dataclass
class StatusBoard:
    """Reads a pipeline and its journal. ``model``, ``policy``, ``backend``: what the scheduler says of itself."""

    pipeline: Pipeline
    journal: Journal
    model: str
    policy: str
    backend: str

    def budget(self) -> pb.GetBudgetResponse:
        """Return the ledger."""
        ledger = self.pipeline.ledger
        state = ledger.state()
        return pb.GetBudgetResponse(
            tokens_per_query=ledger.tokens_per_query,
            granted_tokens=state.granted,
            reserved_tokens=state.reserved,
            used_tokens=state.used,
            returned_tokens=state.returned,
            bank_tokens=state.bank,
            bank_limit_tokens=ledger.bank_limit,
            requests=state.requests,
            covered_requests=state.covered,
            prediction_outcomes={outcome.value: count for outcome, count in self.pipeline.allocator.outcomes.items()},
        )

    def status(self, recent: int, tenant: str | None = None) -> pb.GetStatusResponse:
        """Return the status with the last ``recent`` requests, those of one tenant only where one is given."""
        journal, pipeline, summary = self.journal, self.pipeline, self.journal.summary()
        return pb.GetStatusResponse(
            version=VERSION,
            model=self.model,
            policy=self.policy,
            backend=self.backend,
            uptime_seconds=journal.clock() - journal.started,
            pending_requests=len(pipeline.admission),
            max_pending_requests=pipeline.admission.max_in_flight,
            budget=self.budget(),
            price=pipeline.allocator.quoted_price,
            seconds_per_token=pipeline.pace.seconds_per_token,
            period_seconds=summary.period,
            requests_per_second=summary.requests_per_second,
            tokens_per_second=summary.tokens_per_second,
            coverage=summary.coverage,
            mean_budget_tokens=summary.budget,
            mean_baseline_tokens=summary.baseline,
            mean_used_tokens=summary.used,
            mean_expected_accuracy=summary.expected_accuracy,
            mean_baseline_expected_accuracy=summary.baseline_expected_accuracy,
            tokens_saved_vs_cap=summary.saved_vs_cap,
            tokens_saved_at_equal_accuracy=summary.saved_at_equal_accuracy,
            net_benefit_seconds=summary.net_benefit,
            net_benefit_at_equal_accuracy_seconds=summary.net_benefit_at_equal_accuracy,
            negative_net_benefit=summary.negative_net_benefit,
            stages=[
                pb.StageTime(stage=stage.name, p50_seconds=stage.p50, p99_seconds=stage.p99) for stage in summary.stages
            ],
            rejected_requests=journal.rejections,
            failed_requests=journal.failures,
            predictors=[
                pb.PredictorRecord(
                    predictor=name,
                    outcomes=known.outcomes,
                    mean_expected_accuracy=known.mean_expected,
                    mean_score=known.mean_score,
                    reliability=known.slope,
                )
                for name, known in sorted(pipeline.outcomes.known.items())
            ],
            recent=[self._record(entry) for entry in journal.recent(recent, tenant)],
        )

    def find(self, request_id: str, tenant: str | None = None) -> pb.RequestRecord | None:
        """Return a request, where it is remembered and, where a tenant is given, is that tenant's."""
        entry = self.journal.find(request_id, tenant)
        return None if entry is None else self._record(entry)

    def _record(self, entry: Entry) -> pb.RequestRecord:
        record = pb.RequestRecord(
            state=pb.REQUEST_STATE_RUNNING,
            allocation=allocation_message(entry.allocation),
            error=entry.error,
            age_seconds=self.journal.clock() - entry.at,
            tenant=entry.tenant,
            prompt=entry.prompt,
        )
        if entry.wasted_tokens is not None:
            record.wasted_tokens = entry.wasted_tokens
        if entry.usage is not None:
            record.usage.CopyFrom(usage_message(entry.usage))
            record.state = pb.REQUEST_STATE_FINISHED
        elif entry.error:
            record.state = pb.REQUEST_STATE_FAILED
        return record
