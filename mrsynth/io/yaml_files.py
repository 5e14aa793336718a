"""YAML. That of others can be written so that few bytes stand for more than any memory: it is measured before use."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from mrsynth.io.reading import DEEPEST, decoded, read_bounded

LONGEST_YAML = 2**20  # bytes; the longest that mrsynth writes, the list of a cohort, has a tenth
MOST_NODES = 200_000  # each alias counted with all that it stands for
LONGEST_NUMBER = 100  # characters: a longer one takes time that grows with its square
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_own_yaml(path: Path) -> Any:
    """What a YAML file that comes with the package holds. Raises OSError and yaml.YAMLError.

    By the loader written in C where PyYAML has it: of the published figures, 3,900 scalars, in 30 ms instead of 260.
    """
    return yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_yaml(path: Path) -> Any:
    """What a YAML file holds. Raises OSError, and ValueError as `parse_yaml` does."""
    return parse_yaml(read_bounded(path, LONGEST_YAML))


def parse_yaml(text: bytes | str) -> Any:
    """What YAML says, by plain types only. Raises ValueError for what is no YAML, too long, too deep or too wide."""
    if len(text) > LONGEST_YAML:
        raise ValueError(f"it has more than {LONGEST_YAML / 2**20:.3g} MiB")
    loader: Any = None
    try:
        loader = _Loader(text if isinstance(text, str) else decoded(text))
        node = loader.get_single_node()
        if node is None:
            return None
        _weight(node, {}, 0)
        return loader.construct_document(node)
    except RecursionError as error:
        raise ValueError(f"it is more than {DEEPEST} levels deep") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except (TypeError, AttributeError, LookupError, OverflowError) as error:  # of strange keys and dates
        raise ValueError(f"it cannot be understood ({error})") from error
    finally:
        if loader is not None:
            loader.dispose()


class _Loader(yaml.SafeLoader):
    """Plain types only, and no deeper than needed: the package's own is slow at some hundred levels."""

    depth = 0

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping. No key may stand twice: the package's own keeps the last, and what the first said is lost."""
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            name, line = key.value, key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and name != "<<" and lines.setdefault(name, line) != line:
                raise ValueError(f"the key {name!r} of line {lines[name]} is there again in line {line}")
        return super().construct_mapping(node, deep=deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError(f"it is more than {DEEPEST} levels deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _weight(node: Any, known: dict[int, int], depth: int) -> int:
    """How many nodes a YAML node stands for, aliases written out. Raises ValueError when these are too many."""
    if depth > 2 * DEEPEST:  # of aliases in aliases
        raise ValueError(f"it is more than {DEEPEST} levels deep")
    if id(node) in known:
        if (weight := known[id(node)]) == 0:
            raise ValueError("a part of it contains itself")
        return weight
    known[id(node)] = 0
    weight = 1
    if isinstance(node, yaml.ScalarNode):
        if node.tag in NUMBERS and len(node.value) > LONGEST_NUMBER:
            raise ValueError(f"it holds a number of {len(node.value)} characters")
    else:
        for child in node.value:
            weight += sum(_weight(c, known, depth + 1) for c in (child if isinstance(child, tuple) else (child,)))
            if weight > MOST_NODES:
                raise ValueError(f"with its aliases written out it has more than {MOST_NODES} entries")
    known[id(node)] = weight
    return weight
