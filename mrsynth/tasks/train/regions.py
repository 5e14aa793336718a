"""What the values of the training subjects' segmentations mean: the run file says it, or the catalogue of data sets."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mrsynth.errors import UsageError
from mrsynth.io.catalogue import DATASETS
from mrsynth.io.folders import few
from mrsynth.io.layouts import looks_like
from mrsynth.io.subjects import SubjectFiles, find_subjects
from mrsynth.tasks.train.config import RunConfig

Regions = Mapping[str, Iterable[int]]


def with_regions(config: RunConfig, roots: Sequence[Path]) -> RunConfig:
    """The same run with `method.regions` filled in, where its method has that option and segmentations are to be found.

    Raises UsageError when it is nowhere said what the values of a segmentation mean, when training subjects are of data
    sets that use them otherwise, and when the run file says other than the catalogue.
    """
    if "regions" not in config.method or config.method.get("seg", "off") == "off":
        return config
    found: dict[str, list[str]] = {}  # data set, or "" for an unknown one -> its subjects with a segmentation
    for subject in (s for root in roots for s in find_subjects(root)[0]):
        if subject.segmentation is not None and subject.name not in config.data.exclude:
            found.setdefault(dataset_of(subject), []).append(subject.name)
    stated, rules = config.method["regions"], {name: rules_of(name) for name in found}
    if stated is None and found:
        stated = agreed(found, rules)
    for name, meant in rules.items():
        if meant and stated is not None and alike(meant) != alike(stated):
            raise UsageError(
                f"method.regions is {in_words(stated)}, but the segmentations of {few(found[name], 3)} are of {name}, "
                f"where {in_words(meant)} holds. Say that, leave them out (data.exclude), or set method.seg to off."
            )
    return config.model_copy(update={"method": {**config.method, "regions": stated}})


def agreed(found: Mapping[str, Sequence[str]], rules: Mapping[str, Regions]) -> dict[str, list[int]]:
    """The one rule that holds for all data sets found. Raises UsageError when there is none, or not only one."""
    if unknown := [name for name in found if not rules[name]]:
        raise UsageError(
            f"It is not known what the values of the segmentations of {few(found[unknown[0]], 3)} mean: their names "
            "are of no data set in the catalogue (`mrsynth benchmark --list`) that says so. Say it with "
            "method.regions, such as {lesion: [1]}, or {WT: [1, 2, 3, 4], TC: [1, 3, 4], ET: [3, 4]} for BraTS up to "
            "2023; or set method.seg to off."
        )
    first, *others = found
    for other in others:
        if alike(rules[other]) != alike(rules[first]):
            raise UsageError(
                f"Segmentations mean different things: {in_words(rules[first])} in {first} ({few(found[first], 3)}), "
                f"{in_words(rules[other])} in {other} ({few(found[other], 3)}). Leave one of them out (data.exclude, "
                "or fewer --data), or set method.seg to off."
            )
    return {region: sorted(values) for region, values in rules[first].items()}


def dataset_of(subject: SubjectFiles) -> str:
    """The data set a subject is named as in; "" for one that is not known."""
    paths = [path for path in (subject.segmentation, *subject.files.values()) if path is not None]
    return next((look for path in paths if (look := looks_like(path))), "")


def rules_of(dataset: str) -> Regions:
    """What the catalogue says of a data set; nothing of one that it does not know."""
    return DATASETS[dataset].regions if dataset in DATASETS else {}


def alike(regions: Regions) -> dict[str, set[int]]:
    """To be compared."""
    return {name: set(values) for name, values in regions.items()}


def in_words(regions: Regions) -> str:
    """`WT 1 2 3 4, ET 3 4`."""
    return ", ".join(f"{name} {' '.join(map(str, sorted(values)))}" for name, values in regions.items())
