"""The methods, one paper each. METHODS is the only list of them."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mrsynth.errors import UsageError
from mrsynth.methods.base import Method, MethodConfig
from mrsynth.texts import meant

METHODS: dict[str, str] = {
    "fgc2f": "mrsynth.methods.fgc2f:FgC2F",
    "cwdm": "mrsynth.methods.cwdm.method:Cwdm",
    "msg-ldm": "mrsynth.methods.msg_ldm:MsgLdm",
    "dfbk": "mrsynth.methods.dfbk:Dfbk",
}

COMMITTEE = "committee"  # the mean of several (mrsynth/methods/committee.py): asked for as a method, trained never
KINDS = (*METHODS, COMMITTEE)  # of which there are checkpoints


def method_class(name: str) -> type[Method]:
    """The class of a method by its name."""
    if name not in METHODS:
        raise UsageError(f"Unknown method {name!r}; there are {', '.join(METHODS)}.{meant(name, METHODS.keys())}")
    module, attribute = METHODS[name].split(":")
    found: type[Method] = getattr(import_module(module), attribute)
    return found


def build_method(config: dict[str, Any]) -> Method:
    """A method with fresh weights, from its configuration as plain data; unknown keys are refused."""
    found = method_class(config.get("method", ""))
    return found(found.Config.model_validate(config))


def config_of_format_1(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration in a file of format 1, with what it lacks as it was meant then.

    Raises UsageError for an unknown method, ValueError for what cannot be done any more.
    """
    return method_class(str(config.get("method", ""))).Config.from_format_1(config)


def sampler_names() -> tuple[str, ...]:
    """Every sampler that some method knows."""
    return tuple(dict.fromkeys(name for method in METHODS for name in method_class(method).samplers))


def preset(method: str, name: str) -> dict[str, Any]:
    """The configuration of a named preset as plain data."""
    method_class(method)  # an unknown one is named as such
    presets = getattr(import_module(METHODS[method].split(":")[0]), "PRESETS", {})
    if name not in presets:
        raise UsageError(f"{method} has no preset {name!r}; there are {', '.join(presets) or 'none'}.")
    return {"method": method, **presets[name]}


__all__ = [
    "COMMITTEE",
    "KINDS",
    "METHODS",
    "Method",
    "MethodConfig",
    "build_method",
    "config_of_format_1",
    "method_class",
    "preset",
    "sampler_names",
]
