"""The rows of three validation subjects, kept from a release: a metric moves only where a change means to move it.

tests/golden/score_rows.csv: the middle 32 slices, each contrast replaced by the one after it in their order.
"""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.io.subjects import find_subject, load_subject
from mrsynth.scores.baselines import as_input, placed
from mrsynth.scores.protocols import measure, scored_case

KEPT = Path(__file__).resolve().parents[1] / "golden" / "score_rows.csv"
PLACES = {"ms19": "ms_mni", "BraTS-GLI-00027-000": "glioma_brats", "BraTS2021_01478": "glioma_brats"}
REGIONS = {"WT": frozenset({1, 2, 4}), "TC": frozenset({1, 4}), "ET": frozenset({4})}
PROTOCOLS = ("full3d", "brain3d", "slice2d", "cwdm", "full2d", "brain2d")
QUICK = [(subject, Contrast.T1) for subject in PLACES]
CASES = [
    pytest.param(subject, target, marks=[] if (subject, target) in QUICK else [pytest.mark.slow])
    for subject in PLACES
    for target in STANDARD
]


@pytest.mark.real_data
@pytest.mark.parametrize(("subject", "target"), CASES)
def test_rows_are_those_of_the_release(shared_data: Path, subject: str, target: Contrast) -> None:
    whole = load_subject(find_subject(shared_data / "data" / PLACES[subject] / subject), segmentation=True)
    source = STANDARD[(STANDARD.index(target) + 1) % 4]
    case = scored_case(whole, target, placed(whole, as_input(whole, source)).voxels, REGIONS)
    middle = case.mask.shape[2] // 2
    part = np.s_[:, :, middle - 16 : middle + 16]
    volumes = {name: getattr(case, name)[part] for name in ("prediction", "truth", "mask")}
    labels = None if case.labels is None else case.labels[part]
    case = replace(case, labels=labels, **volumes)
    rows = measure(case, PROTOCOLS, pattern=source, target=target)
    found = {(r.protocol, r.region, r.metric): r.value for r in rows}
    with KEPT.open() as file:
        kept = {
            (row["protocol"], row["region"], row["metric"]): float(row["value"])
            for row in csv.DictReader(file)
            if (row["subject"], row["target"]) == (subject, target)
        }
    slope = np.polyfit(case.p[case.mask].astype(float), case.y[case.mask].astype(float), 1)[0]

    assert kept and kept.keys() <= found.keys()
    for key, value in kept.items():
        if key[2] != "PSNR_FIT" or slope > 0:
            assert found[key] == pytest.approx(value, rel=1e-6), key  # seen to move by 2e-8
