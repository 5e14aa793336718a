"""FgC2F-UDiff: frequency-guided and coarse-to-fine unified diffusion (arXiv 2501.03526). docs/methods/fgc2f.md."""

from mrsynth.methods.fgc2f.config import PRESETS, FgC2FConfig, FrequencyConfig
from mrsynth.methods.fgc2f.method import FgC2F, Guidance, gradient_error

__all__ = ["PRESETS", "FgC2F", "FgC2FConfig", "FrequencyConfig", "Guidance", "gradient_error"]
