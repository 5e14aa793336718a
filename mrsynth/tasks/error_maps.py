"""The error map of a committee, from its file and into it: a few thousand numbers, and what they were made for.

The file is one of safetensors whose metadata hold JSON under the key `mrsynth-error-map`:

    committee    SHA-256 of the committee it was taught on, as `io.store.located` has it
    contrasts    in the order of the channels
    brightness   contrast -> root mean square error of the brain mean, in u

Whoever changes a member, a weight or the rule has another committee, whose errors are other errors: the map of the
former one is then left out.
"""

import json
import logging
from pathlib import Path

from mrsynth.contrasts import Contrast
from mrsynth.errors import WeightsError
from mrsynth.io.files import write_bytes
from mrsynth.io.store import Resolved, error_map_file
from mrsynth.methods.error_map import ErrorMap, ErrorNetwork

log = logging.getLogger(__name__)

KEY = "mrsynth-error-map"


def write_error_map(path: Path, errors: ErrorMap, committee: str) -> None:
    """Write it; `committee` is the SHA-256 of that which made the mistakes. Raises OutputError."""
    from safetensors.torch import save

    said = {
        "committee": committee,
        "contrasts": [c.value for c in errors.contrasts],
        "brightness": {c.value: round(u, 4) for c, u in errors.brightness.items()},
    }
    tensors = {name: tensor.contiguous() for name, tensor in errors.network.state_dict().items()}
    write_bytes(path, save(tensors, metadata={KEY: json.dumps(said, sort_keys=True)}))


def error_map_of(found: Resolved) -> ErrorMap | None:
    """That of a located committee; None where it has none, or one that was taught on another committee.

    Raises WeightsError when the file is not an error map.
    """
    path = error_map_file(found.card)
    if path is None:
        return None
    errors, committee = read_error_map(path)
    if committee != found.sha256 or errors.contrasts != found.card.contrasts:
        log.info("%s is not the committee that its error map was taught on, so none is written.", found.card.name)
        return None
    return errors


def read_error_map(path: Path) -> tuple[ErrorMap, str]:
    """The map, and the SHA-256 of its committee. Raises WeightsError when the file is not one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        contrasts = tuple(Contrast(c) for c in said["contrasts"])
        brightness = {Contrast(c): float(u) for c, u in said["brightness"].items()}
        network = ErrorNetwork(len(contrasts))
        network.load_state_dict(tensors)
        committee = str(said["committee"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise WeightsError(f"{path} is not an error map: {error}. Install mrsynth again.") from error
    return ErrorMap(network.eval().requires_grad_(False), contrasts, brightness), committee
