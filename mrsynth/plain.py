"""What everything else is written with: plain data, arrays, and the callback that tells how far something is."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, model_validator

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Doubles = NDArray[np.float64]
    Mask = NDArray[np.bool_]

Progress = Callable[[str, int, int], None]  # what is being done, how much is done, how much there is


class Plain(BaseModel):
    """Frozen data that rejects keys it does not know.

    YAML reads the words on and off as true and false; where a field takes the word, the word is what is meant.

    FORMER   keys that files of format 1 (mrsynth 0.1.0) lack, and what was done then
    """

    FORMER: ClassVar[Mapping[str, Any]] = {}

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_format_1(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """What a file of format 1 holds, with the keys it lacks as they were meant then, at every depth.

        Whoever renames a key, or gives one another meaning, maps it here. Raises ValueError for what cannot be done any
        more as it was done then.
        """
        inner = {name: field.annotation for name, field in cls.model_fields.items()}
        whole = {**cls.FORMER, **data}
        for name, kind in inner.items():
            if isinstance(kind, type) and issubclass(kind, Plain) and isinstance(whole.get(name), Mapping):
                whole[name] = kind.from_format_1(whole[name])
        return whole

    @model_validator(mode="before")
    @classmethod
    def _words(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        words = {name: "on" if value else "off" for name, value in data.items() if isinstance(value, bool)}
        fields = cls.model_fields
        meant = {n: w for n, w in words.items() if n in fields and w in get_args(fields[n].annotation)}
        return {**data, **meant}


def __getattr__(name: str) -> Any:
    """Make a type of arrays when it is first asked for, so that whoever reads plain data loads no numpy."""
    if name not in ("Array", "Doubles", "Mask"):  # every import asks for __path__, too
        raise AttributeError(f"module 'mrsynth.plain' has no attribute '{name}'")
    import numpy as np
    from numpy.typing import NDArray

    return {"Array": NDArray[np.float32], "Doubles": NDArray[np.float64], "Mask": NDArray[np.bool_]}[name]


class WithParts(Plain):
    """Plain data with parts that are plain data of their own.

    A part that is given some options keeps the defaults that it has here of the others, not those of its own class.
    """

    @model_validator(mode="before")
    @classmethod
    def _parts_keep_what_is_not_said(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        parts = {n: f.default for n, f in cls.model_fields.items() if isinstance(f.default, Plain)}
        given = {n: part for n, part in parts.items() if isinstance(data.get(n), Mapping)}
        return {**data, **{n: {**part.model_dump(exclude_unset=True), **data[n]} for n, part in given.items()}}
