"""The tensors of a foreign file of weights: what torch.save wrote, or a safetensors file that is not mrsynth's.

A pickle is a program. Here it is only read by torch's own reader of weights, which knows tensors and plain containers
and refuses all else before it runs: no code in a file is ever executed.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from mrsynth.errors import WeightsError
from mrsynth.io.checkpoint import KEY, LONGEST_HEADER
from mrsynth.io.reading import open_regular

WRAPPERS = ("state_dict", "model_state_dict", "model")  # what training scripts call the network's part
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
MOST_AXES = 16  # of a tensor; torch itself works with 64
LONGEST_PROGRAM = 2**25  # bytes of data.pkl: a hundred thousand tensors have a third
EXPECTED = "Expected a dictionary of tensors by name, as torch.save(model.state_dict(), FILE) writes it"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pt, .pth or foreign .safetensors file by name, as they are, on the CPU.

    A .pt may also hold safetensors. Tensors lie in the file until they are used, where the format
    allows it, so the file must stay. One known wrapper ({"state_dict": ...}) and a `module.` before all names are
    taken off.
    Raises WeightsError for anything else: no file, an empty or damaged one, a pickle that asks for more than tensors, a
    checkpoint of mrsynth, a dictionary of other things.
    """
    start = _start(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") > LONGEST_HEADER:
        raise WeightsError(f"{path}: its header claims more than {LONGEST_HEADER} bytes. {EXPECTED}; get it again.")
    if start[:4] == b"PK\x03\x04":
        _refuse_bombs(path)
    content = _from_safetensors(path) if start[8:9] == b"{" else _from_torch(path, zipped=start[:4] == b"PK\x03\x04")
    state = _unprefixed(_unwrapped(path, content))
    for name, tensor in state.items():
        if why := _strange(tensor):
            raise WeightsError(f"{path}: the tensor '{name}' {why}. {EXPECTED}; get the file again.")
    return {name: tensor.detach() for name, tensor in state.items()}


def _start(path: Path) -> bytes:
    """The first bytes of a file that may hold tensors; files that cannot are refused."""
    try:
        with open_regular(path) as file:
            start = file.read(16)
    except FileNotFoundError as error:
        raise WeightsError(f"No file at {path}. Expected a .pt or .safetensors file; check the path.") from error
    except IsADirectoryError as error:
        raise WeightsError(f"{path} is a folder, expected a .pt or .safetensors file. Give the file itself.") from error
    except OSError as error:
        raise WeightsError(f"Cannot read {path}: {error.strerror}. Check its permissions.") from error
    if not start:
        raise WeightsError(f"{path} is an empty file, expected weights. Copy or download it again.")
    if start.startswith(b"version https:"):
        raise WeightsError(f"{path} is a pointer of Git LFS, not the weights themselves. Run `git lfs pull`.")
    if start.lstrip()[:1] == b"<":
        raise WeightsError(
            f"{path} is a web page, expected weights. Download it again: a browser may have saved a login page."
        )
    return start


def _refuse_bombs(path: Path) -> None:
    """Raise WeightsError for an archive that unpacks into more than it is; torch.save compresses nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except MemoryError:
        raise
    except Exception as error:  # whatever a strange directory makes its reader stumble over
        raise _damaged(path, error) from error
    program = sum(part.file_size for part in parts if part.filename.endswith(".pkl"))
    if sum(part.file_size for part in parts) > path.stat().st_size or program > LONGEST_PROGRAM:
        raise WeightsError(
            f"{path} would unpack into more than {path.stat().st_size} bytes, which it has, or its list of tensors is "
            f"longer than {LONGEST_PROGRAM} bytes; torch.save writes neither, so it was not opened. {EXPECTED}; get it "
            "again."
        )


def _from_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            content = {} if KEY in metadata else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error
    if KEY in metadata:
        raise WeightsError(
            f"{path} is a checkpoint of mrsynth already, expected weights from elsewhere. "
            f"It needs no import: use it with --weights {path}."
        )
    return content


def _from_torch(path: Path, zipped: bool) -> Any:
    """What torch.save wrote, without running anything in it; tensors of its zip format stay in the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript, and of storage types of old files
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except MemoryError:
        raise
    except Exception as error:  # whatever a strange program makes its reader stumble over
        if zipped and "mmap" in str(error):  # some network drives have none
            return _from_torch(path, zipped=False)
        asked = re.search(r"(?:GLOBAL|class) (\w[\w.]*\w) (?:was not|whose module)", str(error))
        if asked is None:
            raise _damaged(path, error) from error
        raise WeightsError(
            f"{path} holds more than tensors: opening it would call {asked[1]}, which may run code, so it "
            f"was not opened. {EXPECTED}. Ask whoever made it for such a file, or for safetensors."
        ) from error


def _damaged(path: Path, error: Exception) -> WeightsError:
    told = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    reason = (
        "" if isinstance(error, pickle.UnpicklingError) or not told else f": {told[0][:200]}"
    )  # that has bad advice
    return WeightsError(
        f"{path} ({path.stat().st_size} bytes) cannot be read as weights ({type(error).__name__}{reason}). It is "
        f"truncated, damaged or something else. {EXPECTED}; copy or download it again."
    )


def _unwrapped(path: Path, content: Any) -> dict[str, Tensor]:
    """The dictionary of tensors itself, or the only one in a wrapper of a known name. Raises WeightsError."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}. {EXPECTED}; choose another file.")
    if not content:
        raise WeightsError(f"{path} holds no tensor. {EXPECTED}; choose another file.")
    if {"state", "param_groups"} <= set(content):
        raise WeightsError(
            f"{path} holds the state of an optimizer, not of a network. {EXPECTED}; choose the file of the network, "
            "whose name does not begin with opt."
        )
    inside = [key for key, value in content.items() if _is_state(value)]
    if len(inside) == 1 and inside[0] in WRAPPERS and not any(isinstance(v, Tensor) for v in content.values()):
        return dict(content[inside[0]])
    if inside:
        raise WeightsError(
            f"{path} holds tensors under {', '.join(repr(key) for key in inside)}, and it cannot be known which are "
            f"the network's. {EXPECTED}; save only that part of it."
        )
    if not _is_state(content):
        key, value = next((k, v) for k, v in content.items() if not (isinstance(k, str) and isinstance(v, Tensor)))
        raise WeightsError(f"{path} holds a {type(value).__name__} under {key!r}. {EXPECTED}; choose another file.")
    return dict(content)


def _is_state(value: Any) -> bool:
    """Whether this is a dictionary of tensors by name, and not empty."""
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _unprefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _strange(tensor: Tensor) -> str:
    """What keeps a tensor from being an ordinary block of numbers; empty when nothing does."""
    if tensor.is_nested or tensor.layout is not torch.strided or tensor.is_quantized:
        return "is sparse, nested or quantized"
    if tensor.device.type != "cpu":
        return "has no data"
    if tensor.dim() > MOST_AXES:
        return f"has {tensor.dim()} axes"
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        return f"claims {tensor.numel()} numbers, more than are there"  # a few bytes could fill the memory
    return ""
