"""Folders that users of neighbouring tools have reported, made by `cases/make_cases.py` of the test data.

Each with what its README says is right, as far as files, names, masks and streams are concerned.
"""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrsynth.contrasts import STANDARD
from mrsynth.errors import InputError
from mrsynth.io.naming import ScanName, read_names
from mrsynth.io.subjects import find_subject, load_subject, settle_masks

pytestmark = pytest.mark.real_data
T1, T1CE, T2, FLAIR = STANDARD
QUICK = ("--fast", "--no-self-check", "--no-progress")
RunCli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def make_case(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """make_case(name) -> the folder of a case."""
    script = shared_data / "cases" / "make_cases.py"
    if not script.is_file():
        pytest.skip("no cases among the test data")
    spec = importlib.util.spec_from_file_location("make_cases", script)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root, made = tmp_path_factory.mktemp("cases"), dict[str, Path]()

    def make(name: str) -> Path:
        if name not in made:
            made[name] = root / name
            made[name].mkdir()
            module.CASES[name](made[name])
        return made[name]

    return make


FOUND = {  # case/variant -> the contrasts there, and what is told of the files that are not used
    "clean/three": (T1, T2, FLAIR),
    "clean/whole": STANDARD,
    "ct1_name/ct1": STANDARD,
    "other_formats/mgz": STANDARD,
    "other_formats/nrrd": STANDARD,
    "other_formats/all_mgz": (T1, FLAIR),
    "phase/sub-01": (T1, T2, FLAIR),
    "phase/sub-02": (T1, FLAIR),
    "result_copied/brats": (T1, T2),
    "unneeded_link/sub-01": (T1, T2, FLAIR),
    "byte_order_mark/bom": (T1, T2, FLAIR),
    "byte_order_mark/crlf": (T1, T2, FLAIR),
    "singleton/nt1": (T1, T2, FLAIR),
    "singleton/vector": (T1, T2, FLAIR),
    "header_zoo/zoo": (T1, T2, FLAIR),
    "header_zoo/offset": (T1, T2, FLAIR),
    "header_zoo/upper": (T1, T2, FLAIR),
    "sheared/shear": (T1, T2, FLAIR),
    "sheared/almost": (T1, T2, FLAIR),
    "sheared/reflected": (T1, T2, FLAIR),
    "masks/one": (T1, T2, FLAIR),
}
TOLD = {
    "phase/sub-01": "a phase image",
    "phase/sub-02": "a phase image",
    "result_copied/brats": "synthetic",
    "unneeded_link/sub-01": "datalad get",
}


@pytest.mark.parametrize("case", FOUND)
def test_what_is_found_and_what_is_told(make_case: Callable[[str], Path], case: str, run_cli: RunCli) -> None:
    """By the API and by `inspect`; the volumes can be read, and every other image is named."""
    name, variant = case.split("/")
    folder = make_case(name) / variant

    subject = find_subject(folder)
    assert subject.available == FOUND[case]
    assert load_subject(folder).available == FOUND[case]
    assert all(TOLD.get(case, "nothing") in why for why in subject.left_out.values())
    assert (case in TOLD) == bool(subject.left_out)
    status, said, _ = run_cli("inspect", folder)
    assert status == 0 and all(f"{c.label:6} missing" in said for c in STANDARD if c not in FOUND[case])
    assert TOLD.get(case, "") in said


@pytest.mark.parametrize("variant", ["annex", "annex_nii"])
def test_pointer_files(make_case: Callable[[str], Path], variant: str, run_cli: RunCli) -> None:
    status, _, err = run_cli("complete", make_case("pointer_files") / variant)
    assert status == 4 and "datalad get" in err


@pytest.mark.parametrize("variant", ["sub-01", "sub-02"])
def test_two_reconstructions_are_named(make_case: Callable[[str], Path], variant: str) -> None:
    with pytest.raises(InputError, match="2 files could be the T1"):
        find_subject(make_case("two_recons") / variant)


def test_one_mask_per_contrast_counts_once(make_case: Callable[[str], Path]) -> None:
    settled = settle_masks(find_subject(make_case("masks") / "each"))
    mask = load_subject(make_case("masks") / "each").mask
    assert settled.mask is not None and mask is not None and int((mask.voxels != 0).sum()) == 70408
    assert load_subject(make_case("masks") / "none").mask is None


@pytest.mark.slow
def test_folders_of_any_name(
    make_case: Callable[[str], Path], only_tiny: Path, no_pictures: None, run_cli: RunCli
) -> None:
    home = make_case("names")
    folders = [home / name for name in sorted(os.listdir(home))]
    assert len(folders) == 4
    for folder in folders:
        status, _, err = run_cli("complete", folder, *QUICK)
        assert status == 0, err
        for path in (folder / "mrsynth").glob("*.json"):
            json.loads(path.read_bytes().decode())


def test_every_row_of_the_archives(make_case: Callable[[str], Path], shared_data: Path) -> None:
    """Which name is which contrast; where two names say one contrast, the derived one is left out by the folder."""
    rows = (shared_data / "cases" / "archives.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(rows) == 21
    for row in rows:
        archive, _, files, which = row.split("\t")
        if which.startswith("!"):
            continue
        read = read_names(files.split(), {})
        scans = {name: scan.contrast for name, scan in read.items() if isinstance(scan, ScanName)}
        expected = {pair.split("=")[1]: pair.split("=")[0] for pair in which.split()}
        assert {n: c.value for n, c in scans.items() if c in STANDARD and "_bias" not in n} == expected, archive
