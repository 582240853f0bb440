"""Nested state as JSON plus one safetensors file, written and hashed in one pass. Never pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_CHUNK = 16 * 2**20


def write(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors in the safetensors format, fsync, and return the sha256 of the bytes.

    The library's own writer first copies everything into one byte string; here the host needs one tensor at a time,
    and the digest costs no second reading. Raises OSError.
    """
    header: dict[str, Any] = {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return write_chunks(path, _chunks(len(text).to_bytes(8, "little") + text, tensors))


def _chunks(head: bytes, tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    yield head
    for tensor in tensors.values():
        if tensor.numel():
            host = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
            yield host.numpy().data


def write_chunks(path: Path, chunks: Iterator[bytes | memoryview]) -> str:
    """Write and fsync a file; return its sha256. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """The sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file into host memory."""
    return load_file(path, device="cpu")


def split(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Part nested dicts, lists and tuples into JSON without tensors and tensors by a path such as `state/0/exp_avg`.

    Tensors that share their memory (tied weights, the quantisation maps of 8-bit optimizers) are kept once.
    """
    tensors: dict[str, Tensor] = {}
    seen: dict[tuple[Any, ...], str] = {}
    return _split(tree, "", tensors, seen), tensors


def _split(node: Any, path: str, tensors: dict[str, Tensor], seen: dict[tuple[Any, ...], str]) -> Any:
    if isinstance(node, Tensor):
        place = (node.data_ptr(), node.dtype, node.shape, node.stride(), node.device)
        name = seen.setdefault(place, path) if node.numel() else path
        tensors.setdefault(name, node)
        return {"$tensor": name}
    if isinstance(node, Mapping):
        return {
            "$dict": [[key, _split(value, f"{path}/{key}".lstrip("/"), tensors, seen)] for key, value in node.items()]
        }
    if isinstance(node, list | tuple):
        kind = "$tuple" if isinstance(node, tuple) else "$list"
        return {kind: [_split(value, f"{path}/{i}".lstrip("/"), tensors, seen) for i, value in enumerate(node)]}
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(f"{path} holds a {type(node).__name__}, which a checkpoint cannot keep")


def join(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `split`."""
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "$tensor":
        return tensors[value]
    if kind == "$dict":
        return {key: join(item, tensors) for key, item in value}
    items = [join(item, tensors) for item in value]
    return tuple(items) if kind == "$tuple" else items
