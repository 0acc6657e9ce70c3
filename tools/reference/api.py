"""docs/api.md: a head written by hand and, from the protos, every service, message and enum with its comments."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

ROOT = Path(__file__).resolve().parents[2]
_HEAD = Path(__file__).with_name("api_head.md")  # what is written by hand
# Places of children in a descriptor's path, as descriptor.proto numbers them.
_MESSAGES, _ENUMS, _SERVICES, _FIELDS, _NESTED, _METHODS, _VALUES = 4, 5, 6, 2, 3, 2, 2
_REPEATED = FieldDescriptorProto.LABEL_REPEATED


def page() -> str:
    """Return the whole page."""
    files = [file for file in _described().file if file.name.startswith("predictive_scheduling/")]
    ours = [file for file in files if "open_inference" not in file.name]
    return "\n".join([_HEAD.read_text(), *(line for file in sorted(ours, key=_order) for line in _file(file))]) + "\n"


def _order(file: FileDescriptorProto) -> tuple[bool, str]:
    return "scheduler" not in file.name, file.name


def _described() -> FileDescriptorSet:
    protos = sorted(str(path) for path in (ROOT / "protos").rglob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "set.binpb"
        includes = [f"-I{ROOT / 'protos'}", f"-I{ROOT / 'third_party/protos'}"]
        wanted = ["--include_source_info", f"--descriptor_set_out={out}"]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *includes, *wanted, *protos], check=True)
        return FileDescriptorSet.FromString(out.read_bytes())


class _Comments:
    """The comments of a file, by the place of what they stand before."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._known = {tuple(one.path): one.leading_comments.strip() for one in file.source_code_info.location}

    def of(self, *path: int) -> str:
        """The comment as one paragraph, or several where it has empty lines."""
        text = self._known.get(path, "")
        return (
            re.sub(r"[ \t]*\n[ \t]*(?!\n)", " ", re.sub(r"\n\s*\n", "\0", text))
            .replace("\0", "\n\n")
            .replace("\n ", "\n")
            .strip()
        )


def _file(file: FileDescriptorProto) -> list[str]:
    comments, lines = _Comments(file), [f"## {file.package}\n"]
    for at, service in enumerate(file.service):
        lines += _service(service, comments, (_SERVICES, at), file.package)
    for at, message in enumerate(file.message_type):
        lines += _message(message, comments, (_MESSAGES, at), file.package)
    for at, enum in enumerate(file.enum_type):
        lines += _enum(enum, comments, (_ENUMS, at), file.package)
    return lines


def _title(package: str, name: str) -> str:
    return f"### {name} {{ #{_anchor(package, name)} }}\n"


def _anchor(package: str, name: str) -> str:
    return f"{package}.{name}".replace(".", "").lower()


def _service(service: ServiceDescriptorProto, comments: _Comments, path: tuple[int, ...], package: str) -> list[str]:
    lines = [
        _title(package, service.name),
        comments.of(*path) + "\n",
        "| method | takes | returns | |",
        "|---|---|---|---|",
    ]
    for at, method in enumerate(service.method):
        stream = "stream of " if method.server_streaming else ""
        told = comments.of(*path, _METHODS, at)
        lines.append(f"| `{method.name}` | {_link(method.input_type)} | {stream}{_link(method.output_type)} | {told} |")
    return [*lines, ""]


def _message(message: DescriptorProto, comments: _Comments, path: tuple[int, ...], package: str) -> list[str]:
    lines = [_title(package, message.name), comments.of(*path) + "\n"]
    if message.field:
        lines += ["| field | type | number | |", "|---|---|---|---|"]
    for at, field in enumerate(message.field):
        told = _cell(comments.of(*path, _FIELDS, at))
        lines.append(f"| `{field.name}` | {_map(message, field) or _type(field)} | {field.number} | {told} |")
    return [*lines, ""]


def _enum(enum: EnumDescriptorProto, comments: _Comments, path: tuple[int, ...], package: str) -> list[str]:
    lines = [_title(package, enum.name), comments.of(*path) + "\n", "| value | number | |", "|---|---|---|"]
    for at, value in enumerate(enum.value):
        lines.append(f"| `{value.name}` | {value.number} | {_cell(comments.of(*path, _VALUES, at))} |")
    return [*lines, ""]


def _map(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    """What a map field maps, empty for any other field."""
    entry = next((one for one in message.nested_type if field.type_name.endswith(f".{message.name}.{one.name}")), None)
    if entry is None or not entry.options.map_entry:
        return ""
    key, value = entry.field
    return f"map of {_type(key)} to {_type(value)}"


def _type(field: FieldDescriptorProto) -> str:
    named = _link(field.type_name) if field.type_name else FieldDescriptorProto.Type.Name(field.type)[5:].lower()
    if field.label == _REPEATED:
        return f"list of {named}"
    return f"{named}, optional" if field.proto3_optional else named


def _link(name: str) -> str:
    package, _, short = name.lstrip(".").rpartition(".")
    return f"[{short}](#{_anchor(package, short)})" if package.startswith("predictive_scheduling.") else f"`{short}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
