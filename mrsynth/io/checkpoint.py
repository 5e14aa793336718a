"""A checkpoint file: tensors in safetensors, and beside them, in the header, all one must know to use them.

    8 bytes, little-endian           length of the header
    header, JSON                     tensor name -> dtype, shape, data_offsets; "__metadata__" -> {"mrsynth": TEXT}
    data                             the tensors, without gaps

TEXT is JSON again: {"format": 2, "card": ..., "config": ..., "preparation": ...}. The header is read here without torch
and without the safetensors package, so that listing checkpoints is quick and damage is named exactly.

Format 1 is that of mrsynth 0.1.0. It looks alike, but a key it lacks means what was done then: `Plain.from_format_1`.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mrsynth.card import Card
from mrsynth.errors import WeightsError
from mrsynth.io.files import write_bytes
from mrsynth.io.reading import open_regular, parse_json

if TYPE_CHECKING:
    import torch

KEY = "mrsynth"
FORMAT = 2
WRITTEN_BY = {1: "mrsynth 0.1.0", 2: "mrsynth 0.2.0 or later"}  # by format: those that are read
SAFETENSORS_HEADER = 100_000_000  # bytes; what its package reads, and takes a gigabyte for
LONGEST_HEADER = 8 * 2**20  # bytes; one of ours with all its histograms has a hundredth
PICKLE_SUFFIXES = {".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin"}


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself.

    card         name, method, contrasts, provenance, scores
    config       the method's configuration as plain JSON data; its method validates it
    preparation  the PreparationConfig of the training data as plain JSON data
    format       of the file it was read from; config and preparation are as they stand there
    """

    card: Card
    config: dict[str, Any]
    preparation: dict[str, Any]
    format: int = field(default=FORMAT, kw_only=True)

    @property
    def written_by(self) -> str:
        """The version of mrsynth that wrote it, in words."""
        return f"{WRITTEN_BY[self.format]} (format {self.format})"


@dataclass(frozen=True, eq=False)
class Checkpoint(Header):
    """A header and the tensors of the method's state, by name."""

    tensors: "dict[str, torch.Tensor]"


def write_checkpoint(path: Path, checkpoint: Checkpoint, dtype: "torch.dtype | None" = None) -> None:
    """Write a checkpoint in the present format, whole or not at all; equal content gives equal bytes.

    dtype  of the floating-point tensors in the file, for example torch.float16; None keeps each as it is.
           Other tensors (integers, bools) are never cast.
    Raises OutputError when the file cannot be written, WeightsError when `dtype` cannot hold a value.
    """
    from safetensors.torch import save

    tensors = {name: _stored(name, tensor, dtype) for name, tensor in checkpoint.tensors.items()}
    card = checkpoint.card.model_dump(mode="json", include=set(Card.model_fields))  # also of an entry
    content = {"format": FORMAT, "card": card, "config": checkpoint.config, "preparation": checkpoint.preparation}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    write_bytes(path, save(tensors, metadata={KEY: text}))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; half-precision tensors become float32, all lie on the CPU. Raises WeightsError."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header = read_header(path)
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error
    half = (torch.float16, torch.bfloat16)
    tensors = {name: tensor.float() if tensor.dtype in half else tensor for name, tensor in stored.items()}
    return Checkpoint(header.card, header.config, header.preparation, tensors, format=header.format)


def read_header(path: Path) -> Header:
    """Read and check everything but the tensors, without torch.

    Raises WeightsError for a missing or unreadable file, a pickle, any other format, a truncated or padded file,
    a safetensors file that is not mrsynth's, another format version and unknown keys.
    """
    header = _safetensors_header(path)
    metadata = header.get("__metadata__")
    text = metadata.get(KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise WeightsError(
            f"{path} is a safetensors file, but not a checkpoint of mrsynth: its header lacks the key '{KEY}'. "
            "Expected a file that mrsynth wrote. `mrsynth weights list` shows those at hand."
        )
    if len(header) == 1:
        raise _damaged(path, "it holds no tensor")
    try:
        content = parse_json(text, finite=True)
    except ValueError as error:
        raise _damaged(path, f"what mrsynth wrote into its header is no JSON that it could use ({error})") from error
    found = content.get("format") if isinstance(content, dict) else None
    formats = ", ".join(map(str, WRITTEN_BY))
    if not isinstance(content, dict) or type(found) is not int or found not in WRITTEN_BY:
        raise WeightsError(
            f"{path} has checkpoint format {found!r}; this mrsynth reads the formats {formats}. "
            "Update mrsynth, or use a checkpoint made with this version."
        )
    return _header(path, content)


def problems(error: ValidationError) -> str:
    """What pydantic did not accept, on one line: `key 'licence': field required; key 'scores.0.value': ...`."""
    found = [(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors(include_url=False)]
    return "; ".join(f"key '{key}': {message[:1].lower()}{message[1:]}" for key, message in found)


def _header(path: Path, content: dict[str, Any]) -> Header:
    expected = {"format", "card", "config", "preparation"}
    if unknown := sorted(set(content) ^ expected):
        raise WeightsError(
            f"{path}: the header should have exactly the keys {', '.join(sorted(expected))}; "
            f"missing or unknown: {', '.join(unknown)}. Use a checkpoint made with this version of mrsynth."
        )
    for key in ("config", "preparation"):
        if not isinstance(content[key], dict):
            raise _damaged(path, f"'{key}' in its header is a {type(content[key]).__name__}, expected a mapping")
    try:
        said = content["card"]
        old = content["format"] == 1 and isinstance(said, dict)
        card = Card.model_validate(Card.from_format_1(said) if old else said)
    except ValidationError as error:
        raise WeightsError(
            f"{path}: the card in its header is not one this mrsynth understands: {problems(error)}. "
            "Update mrsynth, or use a checkpoint made with this version."
        ) from error
    return Header(card, content["config"], content["preparation"], format=content["format"])


def _safetensors_header(path: Path) -> dict[str, Any]:
    """The outer header, once the file's length has been found to agree with it."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(9)
            length = int.from_bytes(start[:8], "little")
            # The bytes 0x80 0x02 begin a pickle, but also a header of 640 bytes: look for the brace first.
            if len(start) < 9 or start[8:] != b"{" or length > SAFETENSORS_HEADER:
                raise _not_safetensors(path, start, size)
            if length > LONGEST_HEADER:
                raise _damaged(path, f"its header has {length} bytes, expected at most {LONGEST_HEADER}")
            text = b"{" + file.read(length - 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(text) < length:
        raise _truncated(path, size, 8 + length)
    try:
        header = parse_json(text)
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise _not_safetensors(path, start, size) from error
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        raise _truncated(path, size, expected)
    if size > expected:
        raise _damaged(path, f"it has {size} bytes, expected {expected}")
    return dict(header)


def _stored(name: str, tensor: "torch.Tensor", dtype: "torch.dtype | None") -> "torch.Tensor":
    """A contiguous copy on the CPU; copies because safetensors refuses tensors that share memory."""
    cast = tensor.detach().to(dtype=dtype if tensor.is_floating_point() else None, device="cpu", copy=True).contiguous()
    if cast.dtype != tensor.dtype and not bool(cast.isfinite().all()):
        raise WeightsError(
            f"Tensor '{name}' has values that are not finite in {str(dtype).removeprefix('torch.')} "
            f"(largest: {float(tensor.detach().abs().max()):.4g}). Write this checkpoint as float32."
        )
    return cast


def _unreadable(path: Path, error: OSError) -> WeightsError:
    if isinstance(error, FileNotFoundError):
        return WeightsError(f"No checkpoint at {path}. Expected a .safetensors file; check the path.")
    if isinstance(error, IsADirectoryError):
        inside = sorted(p.name for p in path.glob("*.safetensors"))
        return WeightsError(f"{path} is a folder, expected a .safetensors file. In it: {', '.join(inside) or 'none'}.")
    return WeightsError(f"Cannot read the checkpoint {path}: {error.strerror}. Check its permissions.")


def _not_safetensors(path: Path, start: bytes, size: int) -> WeightsError:
    if not size:
        return WeightsError(f"{path} is an empty file, expected a checkpoint. Copy or download it again.")
    if size < 9:
        return _truncated(path, size, 9)
    pickled = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if pickled or start[:4] == b"PK\x03\x04" or path.suffix.lower() in PICKLE_SUFFIXES:
        return WeightsError(
            f"{path} is a pickle (a .pt or .pth file of PyTorch) or an archive of one. A pickle can run code when "
            "opened; only safetensors is read. Use a .safetensors checkpoint that mrsynth wrote."
        )
    if start == b"version h":  # "version https://git-lfs.github.com/spec/v1"
        return WeightsError(f"{path} is a pointer of Git LFS, not the checkpoint itself. Run `git lfs pull`.")
    return WeightsError(
        f"{path} is not a safetensors file (it begins with {start!r}). "
        "Expected a checkpoint that mrsynth wrote; copy or download it again if it should be one."
    )


def _truncated(path: Path, size: int, expected: int) -> WeightsError:
    return WeightsError(
        f"{path} is truncated: {size} bytes found, at least {expected} expected. Copy or download it again."
    )


def _damaged(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} is damaged: {why}. Copy or download it again.")
