"""The Python that the README and docs/python.md show runs as it stands there; what is asked wrongly is told."""

import copy
import inspect
import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import get_type_hints

import nibabel as nib
import numpy as np
import pytest
import torch

import mrsynth
from mrsynth import Sampling, Subject, Volume, complete_subject, load_method, load_subject
from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError, MrsynthError, UsageError, WeightsError

T1, T1CE, T2, FLAIR = STANDARD
CHECKOUT = Path(__file__).resolve().parents[1]


def shown(page: str = "README.md") -> str:
    (block,) = re.findall(r"```python\n(.*?)```", (CHECKOUT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    return block


def checkpoint_shown() -> str:
    return re.search(r'load_method\("([^"]+)"\)', shown()).group(1)


def test_the_readme_runs(write_subject_folder, write_tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """In a folder with a subject, and with a small checkpoint of the name it uses."""
    write_subject_folder(tmp_path, "subject_dir", without=[Contrast.T1CE, Contrast.FLAIR])
    (tmp_path / "weights").mkdir()
    write_tiny_checkpoint(tmp_path / "weights" / "x.safetensors", checkpoint_shown())
    monkeypatch.setattr("mrsynth.io.store.manifest", list)
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)

    names = {}
    exec(compile(shown(), "README.md", "exec"), names)

    completion, subject = names["completion"], names["subject"]
    assert set(completion.volumes) == {Contrast.T1CE, Contrast.FLAIR}
    assert set(completion.prepared.scales) == {Contrast.T1, Contrast.T2}
    for volume in completion.volumes.values():
        assert volume.shape == subject.reference.shape and np.array_equal(volume.affine, subject.reference.affine)
        assert volume.voxels.min() >= 0 and 0 < volume.voxels.max() <= 1000
    assert "t1ce" in capsys.readouterr().out
    assert not (tmp_path / "subject_dir" / "mrsynth").exists()  # in memory only


def test_the_page_on_python_runs(images, trained, tmp_path, monkeypatch, no_pictures):
    """In a folder with the scans it names; its lines of a notebook are expressions."""
    for name, image in images.items():
        nib.save(image, tmp_path / f"{name}.nii.gz")
    monkeypatch.setattr(mrsynth, "load_method", lambda name: trained, raising=False)
    monkeypatch.chdir(tmp_path)

    names = {}
    exec(compile(shown("docs/python.md"), "python.md", "exec"), names)

    assert set(names["completion"].volumes) == {T1CE}
    assert (tmp_path / "results" / "subject_t1ce.nii.gz").exists() and (tmp_path / "results" / "report.html").exists()


def test_the_page_on_python_names_what_there_is():
    """Everything in its table of a completion, and the signature with its defaults."""
    page = (CHECKOUT / "docs" / "python.md").read_text(encoding="utf-8")
    table = page.split("## What comes out")[1].split("\n\n")[1]
    named = re.findall(r"`(\w+)(?:\([^`]*\))?`", "\n".join(row.split("|")[1] for row in table.splitlines()[2:]))
    there = {f.name for f in fields(mrsynth.Completion)} | set(dir(mrsynth.Completion))

    assert len(named) >= 9 and set(named) <= there
    (written,) = re.findall(r"`complete_subject\((.*?)\)`\n", page)
    asked = [part.partition("=") for part in written.split(", ") if part != "*"]
    signature = inspect.signature(complete_subject).parameters
    assert [name for name, _, _ in asked] == list(signature)
    for name, _, default in asked:
        known = signature[name].default
        assert (known == eval(default)) if default else known is inspect.Parameter.empty


def test_the_checkpoint_it_names_ships():
    from mrsynth.io.store import manifest

    embedded = {entry.name: entry for entry in manifest() if entry.file is not None}
    if not embedded:
        pytest.skip("no checkpoint is in the package yet")
    assert embedded[checkpoint_shown()].contrasts == STANDARD


def test_public_names():
    assert sorted(mrsynth.__all__) == [
        *("Completion", "Sampling", "Subject", "Volume"),
        *("complete_subject", "load_method", "load_subject"),
    ]
    for name in mrsynth.__all__:
        assert getattr(mrsynth, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'synthesize'"):
        _ = mrsynth.synthesize


def test_type_checkers_are_told_of_every_public_name():
    assert (Path(mrsynth.__file__).parent / "py.typed").exists()
    for name in ("complete_subject", "load_method", "load_subject"):
        hints = get_type_hints(getattr(mrsynth, name), localns={"Subject": Subject})
        assert set(hints) >= {"return", *getattr(mrsynth, name).__annotations__}


# What is asked wrongly -----------------------------------------------------------------------------------------------


def same(one, other):
    return np.array_equal(one.volumes[T1CE].voxels, other.volumes[T1CE].voxels)


def told(kind, words, call, *given, **more):
    with pytest.raises(kind, match=words) as found:
        call(*given, **more)
    assert len(str(found.value)) < 1000, "no arrays in it"


def test_contrasts_are_named_in_any_letter_case_and_one_need_be_no_list(images, subject, trained, completion):
    upper = {name.upper(): image for name, image in images.items()}
    for targets in (None, "T1ce", T1CE, ["T1CE"], ("t1ce", T1CE), {"t1ce"}, np.array(["t1ce"]), iter(["T1ce"])):
        assert same(complete_subject(upper, trained, targets, name="p1"), completion)
    by_name = Subject("p1", {c.label: volume for c, volume in subject.volumes.items()})
    assert by_name.available == (T1, T2, FLAIR) and same(complete_subject(by_name, trained), completion)
    assert np.array_equal(completion.in_u("T1CE"), completion.in_u(T1CE))
    assert np.array_equal(completion.to_nibabel("T1ce").dataobj, completion.volumes[T1CE].voxels)


@pytest.mark.parametrize(
    "targets", ["t1cee", "t1ce,t2", ["T1gd"], [None], 3, True, b"t1ce", [["t1ce"]], [], ()], ids=repr
)
def test_targets_that_name_no_contrast_are_told(targets, subject, trained):
    told(
        UsageError,
        "No contrast is named .*known are t1|expected contrasts, as in|names no contrast",
        complete_subject,
        subject,
        trained,
        targets,
    )


def test_what_is_no_subject_no_method_and_no_request_is_told(images, subject, trained, tmp_path):
    for what in (
        str(tmp_path),
        tmp_path,
        None,
        list(images.values()),
        images["t1"],
        images["t1"].get_fdata(),
        trained,
        3,
    ):
        told(UsageError, "expected images by contrast.*load_subject", complete_subject, what, trained)
    for what in ("fgc2f-ship", None, images, mrsynth):
        told(UsageError, "expected what load_method", complete_subject, images, what)
    for what in (None, {"seed": 1}, "mean", Sampling):
        told(UsageError, "expected options in a Sampling", complete_subject, images, trained, sampling=what)
    told(UsageError, "expected a function", complete_subject, images, trained, progress=True)


def test_what_is_no_image_or_affine_is_told(images, subject, trained):
    t1, affine = images["t1"].get_fdata(), images["t1"].affine
    masked = np.ma.masked_array(t1, t1 < t1.max() / 2)
    turned = nib.affines.from_matvec(np.eye(3), [5, 6, 7]).T
    wrong = [
        ({"t1": "t1.nii.gz"}, {}, UsageError, "T1 given is of type str; .*nibabel.load"),
        ({"t1": Path("t1.nii.gz")}, {"affine": affine}, UsageError, "load_subject"),
        ({"t1": None}, {"affine": affine}, UsageError, "NoneType"),
        ({"t1": [[[1, 2], [3]]]}, {"affine": affine}, UsageError, "cannot be read as an array"),
        (
            {"t1": torch.tensor(t1, requires_grad=True)},
            {"affine": affine},
            UsageError,
            "cannot be read as an array.*detach",
        ),
        ({"t1": masked}, {"affine": affine}, UsageError, r"masked array.*filled\(0\)"),
        ({"t1": t1.astype(object)}, {"affine": affine}, InputError, "holds object voxels"),
        ({"t1": t1}, {"affine": "eye"}, UsageError, "affine= cannot be used"),
        ({"t1": t1}, {"affine": [[1, 2], [3]]}, UsageError, "affine= cannot be used"),
        ({"t1": t1}, {"affine": affine * 1j}, UsageError, "complex"),
        ({"t1": t1}, {"affine": 3}, UsageError, "4 x 4"),
        ({"t1": t1}, {"affine": turned}, UsageError, "last row.*transposed"),
        (images, {"affine": 2 * affine - np.diag([0, 0, 0, 1.0])}, UsageError, "affine= is for arrays"),
        (subject, {"affine": affine}, UsageError, "a Subject has its own"),
        ({"t1": images["t1"], "T1": images["t2"]}, {}, UsageError, "T1 is given twice"),
        ({1: images["t1"]}, {}, UsageError, "No contrast is named an object of type int"),
    ]
    for given, more, kind, words in wrong:
        told(kind, words, complete_subject, given, trained, **more)


def test_a_subject_knows_contrasts_by_name_and_keeps_what_it_was_given(subject):
    volumes = dict(subject.volumes)
    mine = Subject("p", volumes)
    volumes.clear()

    assert mine.available == (T1, T2, FLAIR)
    assert mine.without("t2", "T1").available == (FLAIR,) and mine.missing(["T1CE", "t2"]) == (T1CE,)
    told(UsageError, "No contrast is named 't22'", mine.without, "t22")
    told(UsageError, "No contrast is named 't22'", mine.missing, ["t22"])
    told(InputError, "no contrast at all", mine.without, *mine.available)


def test_a_subject_put_together_by_hand_is_held_to_what_is_asked_of_images(subject, images, trained):
    t1, volumes = subject.volumes[T1], subject.volumes
    spoiled = t1.voxels.copy()
    spoiled[12, 14, 3] = np.inf
    infinite, flat = Volume(spoiled, t1.affine), Volume((t1.voxels > 0).astype(np.float32), t1.affine)
    nowhere = Volume(t1.voxels, np.diag([0.0, 1, 1, 1]))
    wrong = [
        (lambda: Subject("p", {T1: images["t1"]}), UsageError, "t1 is a Nifti1Image; expected a Volume"),
        (lambda: Subject("p", {"t1": t1.voxels}), UsageError, "t1 is a ndarray; expected a Volume"),
        (lambda: Subject("p", {T1: None}), UsageError, "t1 is a NoneType"),
        (lambda: Subject("p", {"t3": t1}), UsageError, "No contrast is named 't3'"),
        (lambda: Subject("p", {"t1": t1, T1: t1, "T1": t1}), UsageError, "given twice"),
        (lambda: Subject("p", [t1]), UsageError, "dict of Volume"),
        (lambda: Subject(None, volumes), UsageError, "expected str"),
        (lambda: Subject("p", volumes, mask=t1.voxels > 0), UsageError, "mask is a ndarray; expected a Volume"),
        (
            lambda: complete_subject(Subject("p", {T1: infinite}), trained),
            InputError,
            "T1 of p: 0 voxels are NaN and 1 inf",
        ),
        (
            lambda: complete_subject(Subject("p", volumes, mask=infinite), trained),
            InputError,
            "brain mask of p: .*1 inf",
        ),
        (lambda: complete_subject(Subject("p", {T1: flat}), trained), InputError, "only the values 0, 1"),
        (lambda: complete_subject(Subject("p", {T1: nowhere}), trained), InputError, "zero along"),
    ]
    for call, kind, words in wrong:
        told(kind, words, call)


@pytest.mark.parametrize("name", ["", " ", "..", "a/b", "../t1", "a\0b", "a\ud800", 3, Path("p")], ids=repr)
def test_a_name_that_no_file_can_have_is_told(name, images, completion, trained, tmp_path):
    """Neither asked for, nor of a subject that was put together: it would lead out of the folder."""
    told(UsageError, "The name of a subject is", complete_subject, images, trained, name=name)
    if isinstance(name, str):
        moved = replace(completion, subject=replace(completion.subject, name=name))
        told(UsageError, "The name of a subject is", moved.save, tmp_path / "out" / "in")
        assert list(tmp_path.iterdir()) == []


def test_a_name_is_that_of_the_subject_and_of_its_files(subject, images, trained):
    assert complete_subject(subject, trained).subject.name == "p1"
    assert complete_subject(subject, trained, name="q").subject.name == "q"
    assert complete_subject(images, trained).subject.name == "subject"


def test_what_is_no_path_is_told(completion, write_subject_folder, tmp_path, monkeypatch):
    folder = write_subject_folder(tmp_path, "p1", without=[T1CE])
    monkeypatch.setattr(Path, "expanduser", lambda self: self if "~" not in str(self) else nobody())
    for what in (None, 3, b"x", ["x"], "", "a\0b", "~nobody/x", completion):
        told(UsageError, "expected a path|no such user", load_subject, what)
        told(UsageError, "expected a path|no such user", load_subject, folder, t1=what)
        told(UsageError, "expected a path|no such user", load_subject, folder, mask=what)
        told(UsageError, "expected a path|no such user", completion.save, what)
        told(UsageError, "expected a path|no such user", load_method, what)
    told(UsageError, "segmentation='seg.nii'", load_subject, folder, segmentation="seg.nii")
    told(UsageError, "No contrast is named 't1gd'", load_subject, folder, t1gd="x.nii")
    assert load_subject(str(folder), T1=str(next(folder.glob("*t1.nii*")))).available == (T1, T2, FLAIR)


def test_a_path_of_a_checkpoint_is_no_name(tiny_checkpoint, monkeypatch):
    """Also where only the dot says so."""
    monkeypatch.chdir(tiny_checkpoint.parent)
    told(WeightsError, "No checkpoint at fgc2f-ship", load_method, "./fgc2f-ship")
    assert load_method(Path("tiny.safetensors")).card.name == load_method("./tiny.safetensors").card.name == "tiny"


def nobody():
    raise RuntimeError("Could not determine home directory.")


def test_a_working_directory_that_is_gone_is_told(
    completion, trained, tiny_checkpoint, write_subject_folder, tmp_path, monkeypatch, no_pictures
):
    folder = write_subject_folder(tmp_path, "p1", without=[T1CE])
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    if os.name == "nt" or not gone():
        pytest.skip("this system keeps a folder that is worked in")

    for name in (".", "p1"):
        told(InputError, "working directory was deleted", load_subject, name)
    told(WeightsError, "No checkpoint at", load_method, "x.safetensors")
    told(MrsynthError, "Cannot write out", completion.save, "out")
    subject = load_subject(folder)
    assert same(complete_subject(subject, load_method(tiny_checkpoint)), complete_subject(subject, trained))
    assert completion.save(tmp_path / "out").html.exists()


def gone():
    try:
        return not os.getcwd()
    except FileNotFoundError:
        return True


# What is given back --------------------------------------------------------------------------------------------------


def test_what_was_not_made_is_told(completion):
    for contrast in ("t2", T1, "ct"):
        told(UsageError, f"No image of {contrast} was made; there is t1ce", completion.to_nibabel, contrast)
        told(UsageError, f"No image of {contrast} was made; there is t1ce", completion.in_u, contrast)
    for contrast in ("t1cee", None, 3, ["t1ce"]):
        told(UsageError, "No contrast is named", completion.to_nibabel, contrast)
        told(UsageError, "No contrast is named", completion.in_u, contrast)
    for content in ("images", "Mean", None, ["mean"]):
        told(UsageError, "no content .*there are image, mean, spread, error", completion.to_nibabel, "t1ce", content)


def test_objects_show_what_they_are_in_a_line(completion, subject, trained):
    assert repr(completion) == f"<Completion of p1 by tiny: t1ce; {subject.reference!r}>"
    assert repr(subject) == f"<Subject p1: t1, t2, flair; {subject.reference!r}>"
    assert repr(trained).startswith("<TrainedMethod tiny, fgc2f: any of t1, t1ce, t2, flair from one or more")
    for thing in (completion, subject, trained, completion.volumes, Sampling()):
        assert "\n" not in repr(thing) and len(repr(thing)) < 300


def test_they_are_pickled_and_copied_and_kept_in_sets(completion, trained, subject):
    for again in (pickle.loads(pickle.dumps(completion)), copy.deepcopy(completion)):
        assert same(again, completion) and np.array_equal(again.in_u(T1CE), completion.in_u(T1CE))
    assert same(complete_subject(subject, pickle.loads(pickle.dumps(trained))), completion)
    assert len({completion, trained, subject, completion.volumes[T1CE], Sampling(planes=["axial"])}) == 5
    assert (completion == completion, completion == replace(completion)) == (True, False)


def test_arrays_of_the_user_and_of_a_completion_are_not_one(subject, trained, completion):
    """Who goes on working with his arrays, or with an image that was given out, changes no result."""
    mine = {c.value: v.voxels.copy() for c, v in subject.volumes.items()}
    affine = subject.reference.affine.copy()
    made = complete_subject(mine, trained, affine=affine, name="p1")
    image = made.to_nibabel("t1ce")
    for array in (*mine.values(), affine, image.dataobj, image.affine, made.in_u("t1ce")):
        array[:] = 7

    assert same(made, completion) and np.array_equal(made.volumes[T1CE].affine, subject.reference.affine)
    assert all(np.array_equal(made.subject.volumes[c].voxels, v.voxels) for c, v in subject.volumes.items())
    assert same(complete_subject(subject, trained), completion)


def test_threads_share_a_method(subject, trained, completion):
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: complete_subject(subject, trained), range(6)))

    assert all(same(one, completion) for one in made)


def test_threads_that_save_into_one_folder_do_not_mix(completion, tmp_path, no_pictures):
    """One is told that another is at it, or that its results are there."""

    def save(_):
        try:
            return completion.save(tmp_path / "out").folder
        except UsageError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        said = [str(one) for one in pool.map(save, range(3))]
    assert said.count(str(tmp_path / "out")) == 1
    assert sum("Another run of mrsynth is writing" in s or "already holds" in s for s in said) == 2
