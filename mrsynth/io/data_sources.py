"""What is known of the data sets behind weights: mrsynth/weights/data_sources.yaml."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import yaml
from pydantic import ValidationError

from mrsynth.card import Card
from mrsynth.contrasts import Contrast
from mrsynth.errors import WeightsError
from mrsynth.io.yaml_files import read_own_yaml
from mrsynth.plain import Plain

FILE = Path(__file__).resolve().parents[1] / "weights" / "data_sources.yaml"


class DataFacts(Plain):
    """Of one data set: who was examined, on what, which contrasts, and how the images were prepared before they came.

    begins   how its name begins in the cards of checkpoints
    """

    begins: str
    population: str
    scanners: str
    contrasts: tuple[Contrast, ...]
    preparation: str


@cache
def data_facts(file: Path = FILE) -> Sequence[DataFacts]:
    """All data sets that are known. Raises WeightsError when the file is missing or malformed."""
    try:
        content = read_own_yaml(file)
        return tuple(DataFacts.model_validate(fields) for fields in content["sources"])
    except (OSError, yaml.YAMLError, ValidationError, KeyError, TypeError) as error:
        raise WeightsError(f"Cannot use {file}: {error}. Correct it, or install mrsynth again.") from error


def known_data(card: Card) -> dict[str, DataFacts]:
    """What is known of the data sets of a card, by the names it gives them; those that are not known are left out."""
    names = [source.name for source in card.training_data]
    return {name: facts for name in names for facts in data_facts() if name.startswith(facts.begins)}
