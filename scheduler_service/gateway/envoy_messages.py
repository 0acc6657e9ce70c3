"""Envoy's messages, from the descriptor set beside this file (``python -m tools.envoy_messages`` makes it).

They live in a descriptor pool of their own, so that they meet no other copy of the same files in this process.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, duration_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_POOL = DescriptorPool()
for _module in (any_pb2, descriptor_pb2, duration_pb2, struct_pb2, timestamp_pb2, wrappers_pb2):
    _POOL.AddSerializedFile(_module.DESCRIPTOR.serialized_pb)
for _file in FileDescriptorSet.FromString(files(__package__).joinpath("envoy.binpb").read_bytes()).file:
    _POOL.AddSerializedFile(_file.SerializeToString())


def _message(name: str) -> Any:
    return GetMessageClass(_POOL.FindMessageTypeByName(name))


PROCESSOR = "envoy.service.ext_proc.v3.ExternalProcessor"
ProcessingRequest = _message("envoy.service.ext_proc.v3.ProcessingRequest")
ProcessingResponse = _message("envoy.service.ext_proc.v3.ProcessingResponse")
ProcessingMode = _message("envoy.extensions.filters.http.ext_proc.v3.ProcessingMode")

ACCESS_LOGS = "envoy.service.accesslog.v3.AccessLogService"
StreamAccessLogsMessage = _message("envoy.service.accesslog.v3.StreamAccessLogsMessage")
StreamAccessLogsResponse = _message("envoy.service.accesslog.v3.StreamAccessLogsResponse")
