"""The published figures that come with the package."""

from pathlib import Path

import yaml
from pydantic import ValidationError

from mrsynth.errors import InputError
from mrsynth.io.yaml_files import read_own_yaml
from mrsynth.scores.published_figures import PublishedFigures

FILE = Path(__file__).resolve().parents[1] / "scores" / "published_results.yaml"


def read_published(file: Path = FILE) -> PublishedFigures:
    """Read the collection, by default the one in the package.

    Raises InputError when it is missing, is no YAML, or holds a row that does not follow `PublishedRow`.
    """
    try:
        content = read_own_yaml(file)
        return PublishedFigures.model_validate(content)
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(map(str, wrong["loc"])) or "the file"
        why = f"{place}: {wrong['msg']}"
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = str(error)
    raise InputError(f"Cannot use the published figures in {file}: {why}. Correct the file, or install mrsynth again.")
