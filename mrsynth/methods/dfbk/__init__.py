"""DFBK: dynamic frequency balance and knowledge guidance (arXiv 2504.09441). docs/methods/dfbk.md."""

from mrsynth.methods.dfbk.config import PRESETS, DfbkConfig, GuidanceConfig
from mrsynth.methods.dfbk.method import Dfbk
from mrsynth.text_tokens import TokenTable, prompt_key

__all__ = ["PRESETS", "Dfbk", "DfbkConfig", "GuidanceConfig", "TokenTable", "prompt_key"]
