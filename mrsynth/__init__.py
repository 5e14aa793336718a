"""mrsynth: synthesise the missing contrasts of a brain MRI study with diffusion models."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Subject", "complete_subject", "load_method", "load_subject"]

if TYPE_CHECKING:
    from mrsynth.io.dataset import load_subject
    from mrsynth.subject import Subject
    from mrsynth.tasks.complete import complete_subject, load_method

_HOMES = {
    "Subject": "mrsynth.subject",
    "load_subject": "mrsynth.io.dataset",
    "load_method": "mrsynth.tasks.complete",
    "complete_subject": "mrsynth.tasks.complete",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that importing mrsynth loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mrsynth' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
