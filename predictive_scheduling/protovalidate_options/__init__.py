"""The descriptor that our protos' constraints refer to, so that a client needs no validation library.

An installed ``buf.validate`` is preferred: a descriptor pool refuses two versions of one file.
"""

try:
    from buf.validate import validate_pb2
except ImportError:
    from predictive_scheduling.protovalidate_options import vendored_validate_pb2 as validate_pb2

__all__ = ["validate_pb2"]
