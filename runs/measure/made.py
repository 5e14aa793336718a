"""The volumes that runs/measure/validate.sh made, beside their truth. Does nothing by itself."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mrsynth.contrasts import Contrast
from mrsynth.io.nifti import read_volume
from mrsynth.io.subjects import find_subjects, load_subject
from mrsynth.scores.protocols import Case, scored_case
from mrsynth.tasks.complete.completion import in_u


def made_cases(
    data: Path, made: Path, target: Contrast, regions: dict[str, frozenset[int]] | None = None
) -> Iterator[tuple[str, Case]]:
    """Subject and case of every volume of one contrast in made/SUBJECT_TARGET/.

    data     holds folders of subjects, one for each archive
    regions  of segmentations, by label values
    Raises SystemExit where there is none.
    """
    archives = [folder for folder in sorted(data.iterdir()) if folder.is_dir()]
    subjects = {s.name: s for archive in archives for s in find_subjects(archive)[0]}
    files = sorted(made.glob(f"*_{target}/*_{target}.nii.gz"))
    if not files:
        raise SystemExit(f"{made}: no volumes such as CASE_{target}/CASE_{target}.nii.gz")
    for file in files:
        name = file.parent.name.removesuffix(f"_{target}")
        subject = load_subject(subjects[name], segmentation=bool(regions))
        made_u = in_u(target, read_volume(file).voxels).astype(np.float32)
        yield name, scored_case(subject, target, made_u, regions)
