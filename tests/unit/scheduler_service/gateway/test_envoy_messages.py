"""The descriptor set of Envoy's messages."""

from scheduler_service.gateway import envoy_messages as messages


def test_messages_are_envoys_own_and_survive_the_wire():
    asked = messages.ProcessingRequest(
        request_body={"body": b"x", "end_of_stream": True},
        protocol_config={"request_body_mode": "BUFFERED_PARTIAL", "response_body_mode": "NONE"},
    )
    found = messages.ProcessingRequest.FromString(asked.SerializeToString())
    assert found.WhichOneof("request") == "request_body"
    assert found.DESCRIPTOR.full_name == "envoy.service.ext_proc.v3.ProcessingRequest"


def test_services_are_in_the_set_under_their_names():
    pool = messages.ProcessingRequest.DESCRIPTOR.file.pool
    assert [method.name for method in pool.FindServiceByName(messages.PROCESSOR).methods] == ["Process"]
    assert [method.name for method in pool.FindServiceByName(messages.ACCESS_LOGS).methods] == ["StreamAccessLogs"]


def test_they_live_in_a_pool_of_their_own():
    from google.protobuf import descriptor_pool

    try:
        descriptor_pool.Default().FindMessageTypeByName("envoy.service.ext_proc.v3.ProcessingRequest")
    except KeyError:
        return
    raise AssertionError("the default pool knows Envoy's messages")
