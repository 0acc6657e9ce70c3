"""Telemetry names in one place: OpenTelemetry's (some still unstable, so never written elsewhere) and our own."""

RPC_SYSTEM = "rpc.system.name"
RPC_METHOD = "rpc.method"
RPC_STATUS = "rpc.response.status_code"
ERROR_TYPE = "error.type"
LINKED_REQUEST = "predictive_scheduling.request_id"

RPC_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

GEN_AI_DURATION_BUCKETS = tuple(0.01 * 2**k for k in range(14))
GEN_AI_FIRST_TOKEN_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
GEN_AI_TOKEN_BUCKETS = tuple(4**k for k in range(14))
GEN_AI_TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105  # no password
GEN_AI_OPERATION = "gen_ai.operation.name"
GEN_AI_PROVIDER = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL = "gen_ai.request.model"
GEN_AI_MAX_TOKENS = "gen_ai.request.max_tokens"
GEN_AI_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
GEN_AI_REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
GEN_AI_FINISH_REASONS = "gen_ai.response.finish_reasons"

OWN = "predictive_scheduling."
REQUEST_ID = OWN + "request_id"
POLICY = OWN + "policy"
BUDGET = OWN + "budget_tokens"
BASELINE = OWN + "baseline_tokens"
FLOOR = OWN + "floor_tokens"
CAP = OWN + "cap_tokens"
USED = OWN + "used_tokens"
SAVED_VS_CAP = OWN + "saved_vs_cap_tokens"
SAVED_AT_EQUAL_ACCURACY = OWN + "saved_at_equal_accuracy_tokens"
NET_BENEFIT = OWN + "net_benefit_seconds"
NET_BENEFIT_AT_EQUAL_ACCURACY = OWN + "net_benefit_at_equal_accuracy_seconds"
TENANT = OWN + "tenant"
LIMITED_BY = OWN + "limited_by"
EXPLANATION = OWN + "explanation"
CURVE = OWN + "curve"
PREDICTION_OUTCOME = OWN + "prediction_outcome"
PREDICTION_DURATION = OWN + "prediction_seconds"
ALLOCATION_DURATION = OWN + "allocation_seconds"
WINDOW_WAIT = OWN + "window_wait_seconds"
WINDOW_SIZE = OWN + "window_size"
WINDOW_TOTAL = OWN + "window_total_tokens"
WINDOW_PLANNED = OWN + "window_planned_tokens"
PRICE = OWN + "price"
EXPECTED_ACCURACY = OWN + "expected_accuracy"
BASELINE_EXPECTED_ACCURACY = OWN + "baseline_expected_accuracy"
RECLAIMED = OWN + "reclaimed_tokens"
QUEUE_DURATION = OWN + "queue_seconds"
TOKENIZE_DURATION = OWN + "tokenize_seconds"
INFERENCE_DURATION = OWN + "inference_seconds"
CANARY = OWN + "canary"
BATCH_SIZE = OWN + "batch_size"
PREDICTOR = OWN + "predictor"
