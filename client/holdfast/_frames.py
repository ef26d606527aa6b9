"""The bytes of messages with many operations, written and read without their inner messages.

On the wire an inner message is bytes behind their length. Read as just that, each operation is
written when it is asked for, and messages are put together of them; each answer is read by itself,
so that whoever keeps one keeps no others in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from holdfast.v1 import balance_service_pb2 as pb


def _outer(message: type[Message]) -> Any:
    """The same message on the wire, with bytes in the place of inner messages."""
    described = descriptor_pb2.DescriptorProto()
    message.DESCRIPTOR.CopyToProto(described)
    for field in described.field:
        if field.type == descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE:
            field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
            field.ClearField("type_name")
    name = f"{described.name}.proto"
    file = descriptor_pb2.FileDescriptorProto(name=name, syntax="proto3", message_type=[described])
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(described.name))


_Request, _Response, _Batch = map(_outer, (pb.SessionRequest, pb.SessionResponse, pb.BatchResponse))


def write_message(items: Sequence[bytes]) -> bytes:
    """A `SessionRequest` of operations."""
    written: bytes = _Request(items=items).SerializeToString()
    return written


def read_message(data: bytes) -> tuple[list[pb.BatchResult], bool]:
    """The answers in a `SessionResponse`, and whether it says `closing`. Raises DecodeError."""
    response = _Response.FromString(data)
    return list(map(pb.BatchResult.FromString, response.results)), response.closing


def read_batch(data: bytes) -> list[pb.BatchResult]:
    """The answers in a `BatchResponse`. Raises DecodeError."""
    return list(map(pb.BatchResult.FromString, _Batch.FromString(data).results))
