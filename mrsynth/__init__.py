"""mrsynth: synthesise the missing contrasts of a brain MRI study with diffusion models."""

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = ["Completion", "Sampling", "Subject", "Volume", "complete_subject", "load_method", "load_subject"]

if TYPE_CHECKING:
    from mrsynth.io.subjects import load_subject
    from mrsynth.sampling import Sampling
    from mrsynth.scans.subject import Subject
    from mrsynth.scans.volume import Volume
    from mrsynth.tasks.complete.notebook import Completion
    from mrsynth.tasks.complete.run import complete_subject, load_method

_HOMES = {
    "Completion": "mrsynth.tasks.complete.notebook",
    "Sampling": "mrsynth.sampling",
    "Subject": "mrsynth.scans.subject",
    "Volume": "mrsynth.scans.volume",
    "load_subject": "mrsynth.io.subjects",
    "load_method": "mrsynth.tasks.complete.run",
    "complete_subject": "mrsynth.tasks.complete.run",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that importing mrsynth loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mrsynth' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
