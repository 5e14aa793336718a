"""Folders that users of neighbouring tools have reported, made by `cases/make_cases.py` of the test data.

Each with what its README says is right, as far as files, names, masks and streams are concerned.
"""

import importlib.util
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mrsynth.contrasts import STANDARD
from mrsynth.errors import InputError
from mrsynth.io.locks import locked
from mrsynth.io.naming import ScanName, read_names
from mrsynth.io.subjects import find_subject, load_subject, settle_masks
from mrsynth.scans.preparation import Prepared
from mrsynth.scans.volume import Volume
from mrsynth.synthesis import Synthesis

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


@pytest.fixture
def no_networks(only_tiny: Path, no_pictures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the network a volume that is 1 where the foreground is; in place of deepbet the ellipsoid."""

    def ones(_method: Any, prepared: Prepared, *_: Any, **__: Any) -> Synthesis:
        return Synthesis(np.broadcast_to(prepared.mask.astype(np.float32), prepared.images.shape), None, None)

    def ellipsoid(volume: Volume) -> Any:
        i, j, k = np.indices(volume.shape)
        return ((i - 31.5) / 26) ** 2 + ((j - 39.5) / 34) ** 2 + ((k - 23.5) / 19) ** 2 < 1

    monkeypatch.setattr("mrsynth.tasks.trained.synthesise_volume", ones)
    monkeypatch.setattr("mrsynth.tasks.complete.run.brain_by_deepbet", ellipsoid)


BRAIN = 70408  # voxels
DONE = {  # case/variant -> what report.json or the screen says; the T1ce is there, on the grid of the T1
    "background/all": "T1 background is 12",
    "background/one_3mm": "FLAIR background is 12",
    "ringing/tiny": "",
    "same_twice/copy": "T1 and T1ce are the same image",
    "same_twice/copy_no_flair": "T1 and T1ce are the same image",
    "masks/none": "The brain was found in the T1",
    "masks/each": "",
    "masks/one": "",
    "rounding/worst": "",
    "rounding/tilted": "",
    "rounding/clinical": "",
    "no_codes/all": "the header does not say where left and right are",
    "flipped/ras": "FLAIR is stored in another order of axes \\(RAS\\)",
    "units/micron": "",
    "units/meter": "",
    "units/unknown": "",
    "units/mixed": "",
    "two_forms/all": "",
    "two_forms/one": "",
    "two_forms/dropped": "T1 has lost its sform .* fslcpgeom .*p1_t2.nii.gz .*p1_t1.nii.gz",
}
REFUSED = ("background/all", "background/one_3mm", "same_twice/copy", "same_twice/copy_no_flair", "two_forms/dropped")


@pytest.mark.parametrize("case", DONE)
def test_what_is_made_and_what_is_refused(
    make_case: Callable[[str], Path], case: str, no_networks: None, run_cli: RunCli, tmp_path: Path
) -> None:
    """On the grid, and with the header, of the T1; and nothing is registered on the way."""
    name, variant = case.split("/")
    folder = make_case(name) / variant
    status, _, err = run_cli("complete", folder, *QUICK, "--out", tmp_path / "out")
    if case in REFUSED:
        assert status == 4 and re.search(DONE[case], err, flags=re.DOTALL), err
        assert not (tmp_path / "out").exists()
        return
    assert status == 0, err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert re.search(DONE[case], "\n".join(report["warnings"])) and "was registered" not in str(report["warnings"])
    made, t1 = (nib.load(path) for path in (tmp_path / "out" / "p1_t1ce.nii.gz", folder / "p1_t1.nii.gz"))
    assert np.array_equal(made.affine, t1.affine)
    for field in ("sform_code", "qform_code", "xyzt_units", "pixdim"):
        assert np.array_equal(made.header[field], t1.header[field])
    painted = int(np.count_nonzero(made.get_fdata()))
    assert painted == pytest.approx(BRAIN, rel=0.02 if name == "ringing" else 1e-9)


def test_the_order_of_axes_moves_no_voxel(
    make_case: Callable[[str], Path], only_tiny: Path, no_pictures: None, run_cli: RunCli, tmp_path: Path
) -> None:
    """By the network, whose result depends on every voxel."""
    made = []
    for folder in (make_case("clean") / "three", make_case("flipped") / "ras"):
        status, _, err = run_cli("complete", folder, *QUICK, "--seed", 1, "--out", tmp_path / folder.name)
        assert status == 0, err
        made.append(nib.load(tmp_path / folder.name / "p1_t1ce.nii.gz").get_fdata())
    assert np.array_equal(*made)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("clean", "ct1_name", "other_formats", "pointer_files", "unneeded_link", "background", "ringing", "rounding"),
        *("phase", "units", "names", "byte_order_mark", "two_recons", "singleton", "sheared", "no_codes"),
        *("same_twice", "two_forms", "few_slices", "header_zoo", "flipped", "result_copied", "masks"),
    ],
)
def test_inspect_ends_as_complete_does(
    make_case: Callable[[str], Path], name: str, no_networks: None, run_cli: RunCli, tmp_path: Path
) -> None:
    home = make_case(name)
    for number, variant in enumerate(sorted(os.listdir(home))):
        inspected, *_ = run_cli("inspect", "--deep", home / variant)
        dry, *_ = run_cli("complete", home / variant, *QUICK, "--dry-run", "--out", tmp_path / f"dry{number}")
        done, _, err = run_cli("complete", home / variant, *QUICK, "--out", tmp_path / str(number))
        refused = name in ("pointer_files", "two_recons") or f"{name}/{variant}" in REFUSED
        assert (inspected, done) == (4 if refused else 0,) * 2, (variant, err)
        assert dry in (0, done), (variant, "a dry run reads headers only")


def test_of_two_runs_on_one_folder_the_later_ends_with_2(
    make_case: Callable[[str], Path], no_networks: None, run_cli: RunCli, tmp_path: Path
) -> None:
    folder, out = make_case("environment") / "twice", tmp_path / "out"
    out.mkdir()
    with locked(out):
        status, _, err = run_cli("complete", folder, *QUICK, "--out", out)
        assert status == 2 and str(out) in err
    assert run_cli("complete", folder, *QUICK, "--out", out)[0] == 0


def test_what_a_killed_run_left_is_swept_by_the_next(
    make_case: Callable[[str], Path], no_networks: None, run_cli: RunCli, tmp_path: Path
) -> None:
    left = tmp_path / "out" / ".partial-0123456789abcdef"
    left.mkdir(parents=True)
    (left / "p1_t1ce.nii.gz").write_bytes(b"half")
    assert run_cli("complete", make_case("environment") / "killed", *QUICK, "--out", tmp_path / "out")[0] == 0
    assert not left.exists() and (tmp_path / "out" / "p1_t1ce.nii.gz").is_file()


def test_without_a_user_and_a_home(
    make_case: Callable[[str], Path],
    no_networks: None,
    run_cli: RunCli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nobody(*_: Any) -> Any:
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "MRSYNTH_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    folder = make_case("environment") / "nobody"
    status, _, err = run_cli("complete", folder, *QUICK, "--out", tmp_path / "out")
    assert status == 0, err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(
    make_case: Callable[[str], Path], no_networks: None, run_cli: RunCli, tmp_path: Path
) -> None:
    folder = make_case("environment") / "readonly"
    folder.chmod(0o555)
    try:
        status, _, err = run_cli("complete", folder, *QUICK)
        assert status == 6 and "--out" in err
        assert run_cli("complete", folder, *QUICK, "--out", tmp_path / "out")[0] == 0
    finally:
        folder.chmod(0o755)


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
