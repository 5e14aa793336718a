"""What the reader of a benchmark must know beside its figures."""

from collections.abc import Iterator, Sequence

from mrsynth.io.datasets import Dataset
from mrsynth.io.folders import few
from mrsynth.io.splits import Split
from mrsynth.io.subjects import SubjectFiles
from mrsynth.tasks.benchmark.pieces import PieceStore


def shortfalls(store: PieceStore, unfinished: int, part: int, parts: int) -> list[str]:
    """What the reader must know about completeness."""
    notes = []
    if store.outdated:
        notes.append(f"{store.outdated} results of an older version of mrsynth were not used; they were made again.")
    if unfinished:
        notes.append(
            f"{unfinished} pieces of work are not finished: this is the report of what was there "
            f"(part {part + 1} of {parts}). The part that ends last reports all."
        )
    return notes


def about(dataset: Dataset, split: Split, chosen: Sequence[SubjectFiles]) -> Iterator[str]:
    """What the reader must know of the subjects."""
    yield from dataset.notes
    if split.absent:
        yield f"{len(split.absent)} subjects that the split names are not at hand: {few(split.absent)}."
    if without := [files.name for files in chosen if files.name in set(dataset.unlabelled)]:
        yield f"{len(without)} of {len(chosen)} subjects have no segmentation, so no scores by region: {few(without)}."


def label_of(split: Split, part: str) -> str:
    """`test@1f3a90c2`: the part and the hash of the split."""
    return f"{part}@{split.hash}"
