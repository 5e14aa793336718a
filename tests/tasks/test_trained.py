"""A committee from its entry in the manifest to the files it leaves."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

import mrsynth.io.store as store
from mrsynth.card import Committee, ErrorFile, ManifestEntry, Member
from mrsynth.contrasts import STANDARD
from mrsynth.errors import UsageError, WeightsError
from mrsynth.io.checkpoint import read_checkpoint, write_checkpoint
from mrsynth.io.folders import is_synthetic
from mrsynth.io.store import located, resolve
from mrsynth.io.subjects import load_subject
from mrsynth.methods.committee import average
from mrsynth.methods.error_map import MODEST, WILD, ErrorMap, ErrorNetwork
from mrsynth.reports.record import Report
from mrsynth.reports.trust import assess
from mrsynth.sampling import EACH_ONE_CALL, Sampling
from mrsynth.scans.preparation import PreparationConfig, prepare
from mrsynth.tasks.batch.attempt import Models
from mrsynth.tasks.batch.estimate import estimate, hidden_by, networks_of
from mrsynth.tasks.checkpoints.run import card_fields, fetch, listing, verify
from mrsynth.tasks.complete.run import CompleteOptions, complete, complete_subject, plan
from mrsynth.tasks.error_maps import read_error_map, write_error_map
from mrsynth.tasks.inspect import inspect
from mrsynth.tasks.models import load_method, load_network
from mrsynth.tasks.trained import same_planes
from tests.tasks.complete.test_volumes import write_cwdm

T1, T1CE, T2, FLAIR = STANDARD
MEAN = {"mode": "mean", "modes": ["mean", "sample"], "sampler": "ddpm", "steps": 2}
EXACT = Sampling(precision="fp32", device="cpu")

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def files(tmp_path_factory, write_tiny_checkpoint):
    """Two networks for any pattern, and one that makes T1ce from the three others on another grid."""
    folder = tmp_path_factory.mktemp("members")
    one = write_tiny_checkpoint(folder / "one.safetensors", "one", sampling=MEAN)
    made = read_checkpoint(one)
    generator = torch.Generator().manual_seed(1)
    changed = {k: t + 0.05 * torch.randn(t.shape, generator=generator) for k, t in made.tensors.items()}
    card = made.card.model_copy(update={"name": "two"})
    content = type(made)(card, made.config, made.preparation, changed)
    write_checkpoint(folder / "two.safetensors", content)
    write_cwdm(folder / "cwdm-tiny.safetensors", sampling={**MEAN, "sampler": "ddim"})
    return folder


@pytest.fixture
def entries(files, monkeypatch):
    """The three and their committee, as the only manifest."""
    known = []
    for name in ("one", "two", "cwdm-tiny"):
        path = files / f"{name}.safetensors"
        card = read_checkpoint(path).card
        fields = {key: getattr(card, key) for key in type(card).model_fields}
        known.append(ManifestEntry(**fields, file=str(path), sha256=store.sha256_of(path)))
    rule = Committee(
        members=[Member(name="one", weight=2), Member(name="two"), Member(name="cwdm-tiny")], brightness="two"
    )
    sampling = {"mode": "mean", "modes": ["mean"], "sampler": EACH_ONE_CALL}
    known.append(
        ManifestEntry(
            name="all", method="committee", contrasts=STANDARD, licence="CC0", sampling=sampling, committee=rule
        )
    )
    monkeypatch.setattr(store, "manifest", lambda: known)
    return known


def alone(subject, name, target):
    """What one member makes on the subject's own grid, in u."""
    return complete_subject(subject, load_method(name), [target], sampling=EXACT).volumes[target].voxels / 1000


@pytest.mark.parametrize(("lacking", "members"), [([T1CE], ["one", "two", "cwdm-tiny"]), ([T1CE, T2], ["one", "two"])])
def test_it_is_the_mean_of_those_that_can_make_it(entries, write_subject_folder, tmp_path, lacking, members):
    subject = load_subject(write_subject_folder(tmp_path, "p1", without=lacking))
    made = complete_subject(subject, load_method("all"), sampling=EXACT)

    for target in lacking:
        who = {name: alone(subject, name, target) for name in members}
        expected, _ = average(who, [2, 1, 1][: len(who)], "two", made.prepared.restore(made.prepared.mask).voxels > 0)
        assert made.volumes[target].voxels == pytest.approx(1000 * expected, abs=0.02)
    assert list(made.volumes) == lacking


def test_a_member_is_made_from_slices_of_its_own_planes(entries, write_subject_folder, tmp_path):
    planes = ("axial", "coronal", "sagittal")
    entries[1] = entries[1].model_copy(update={"planes": planes})
    subject = load_subject(write_subject_folder(tmp_path, "p1", without=[T1CE, T2]))
    before = resolve("all").sha256
    rule = Committee(members=[Member(name="one"), Member(name="two", planes=planes)], brightness="one")
    entries[3] = entries[3].model_copy(update={"committee": rule})
    made, axial = (
        complete_subject(subject, load_method("all"), sampling=EXACT.model_copy(update={"planes": asked})).volumes
        for asked in (None, ("axial",))
    )
    learnt = load_network("two")
    learnt = replace(learnt, card=learnt.card.model_copy(update={"planes": planes}))
    for target in (T1CE, T2):
        every, brain = whole(subject, learnt, target, planes)
        who = {"one": alone(subject, "one", target), "two": every}
        assert made[target].voxels == pytest.approx(1000 * average(who, [1, 1], "one", brain)[0], abs=0.02)
        assert np.abs(made[target].voxels - axial[target].voxels).max() > 0.1, "--planes says otherwise"
    assert resolve("all").sha256 != before
    with pytest.raises(UsageError, match="the members of all have planes of their own"):
        load_method("all").estimator(Sampling(planes=("coronal",)))


def test_a_member_reads_nothing_that_it_never_learnt(entries, write_subject_folder, tmp_path):
    """Whatever another member, prepared alike, was shown before."""
    entries[3] = entries[3].model_copy(
        update={"committee": Committee(members=[Member(name="one"), Member(name="two")])}
    )
    subject = load_subject(write_subject_folder(tmp_path, "p1", without=[T1CE]))
    committee = load_method("all")

    def load(member):
        trained = committee.load(member)
        seen = dict.fromkeys((T1, T1CE, T2), 3) if member.card.name == "two" else None
        return replace(trained, card=trained.card.model_copy(update={"subjects": seen}))

    made = complete_subject(subject, replace(committee, load=load), sampling=EXACT)
    one, two = (complete_subject(subject, load(m), sampling=EXACT).volumes[T1CE].voxels for m in committee.members)
    brain = made.prepared.restore(made.prepared.mask).voxels > 0
    expected, _ = average({"one": one / 1000, "two": two / 1000}, [1, 1], "median", brain)

    assert np.abs(two - alone(subject, "two", T1CE) * 1000).max() > 0.1, "it matters"
    assert made.volumes[T1CE].voxels == pytest.approx(1000 * expected, abs=0.02)


@pytest.mark.parametrize(("axes", "spacing", "same"), [("LPS", 1.0, True), ("LPI", 1.0, False), ("LPS", 2.0, False)])
def test_a_plane_is_the_same_only_in_the_same_axes_and_spacing(make_subject, axes, spacing, same):
    subject = make_subject("c")
    one = prepare(subject, STANDARD, PreparationConfig(crop="full"))
    other = prepare(subject, STANDARD, PreparationConfig(crop="full", axes=axes, spacing=spacing))
    assert same_planes(one, other) is same


def test_the_sidecar_says_from_which_slices_a_member_was_made(entries, folder, tmp_path):
    entries[1] = entries[1].model_copy(update={"planes": ("axial", "coronal")})
    rule = Committee(members=[Member(name="one"), Member(name="two", planes=("axial", "coronal"))], brightness="one")
    entries[3] = entries[3].model_copy(update={"committee": rule})
    _, saved = complete(CompleteOptions(folder=folder, out=tmp_path / "out"))
    said = json.loads((tmp_path / "out" / "p1_t1ce.json").read_text())

    assert [member.get("planes") for member in said["Members"]] == [None, ["axial", "coronal"]]
    assert "axial and coronal slices" in saved.html.read_text() and "planes" not in said["Sampler"]
    complete(CompleteOptions(folder=folder, out=tmp_path / "two", weights="two", planes=("coronal",)))
    alone = json.loads((tmp_path / "two" / "p1_t1ce.json").read_text())
    assert alone["Sampler"]["planes"] == ["coronal"] and "for coronal slices:" in alone["Estimator"]


def whole(subject, trained, target, planes):
    """What a network makes from slices of planes, on the subject's own grid, in u; and where it is not 0."""
    sampling = EXACT.model_copy(update={"planes": planes})
    made = complete_subject(subject, trained, [target], sampling=sampling)
    return made.volumes[target].voxels / 1000, made.prepared.restore(made.prepared.mask).voxels > 0


def test_the_sidecar_names_every_member_with_its_hash_and_licence(entries, folder, tmp_path):
    _, saved = complete(CompleteOptions(folder=folder, out=tmp_path / "out"))
    said = json.loads((tmp_path / "out" / "p1_t1ce.json").read_text())

    assert said["Weights"] == {"name": "all", "sha256": resolve("all").sha256, "licence": "CC0"}
    assert said["Members"] == [
        {"name": e.name, "sha256": e.sha256, "licence": "CC0", "method": e.method} for e in entries[:3]
    ]
    assert said["Method"] == "committee" and said["Sampler"]["name"] == EACH_ONE_CALL and "several" in said["Estimator"]
    assert "the mean of several" in said["SelectionReason"]
    report = Report.model_validate_json((tmp_path / "out" / "report.json").read_text())
    assert [m.name for m in report.weights.members] == ["one", "two", "cwdm-tiny"]
    assert entries[1].sha256 in saved.html.read_text()
    checked = {s.made for s in report.scores if s.kind == "self-check"}
    assert checked == {T1, T2, FLAIR}  # by those that can do with one contrast fewer
    assert {s.weights for s in report.scores if s.kind == "self-check"} == {"one, two"}  # not cwdm-tiny
    words = "The self-check is by one, two: of the networks those that can do without T1 or T2 or FLAIR."
    assert words in saved.html.read_text() and words in assess(report, T1CE).text


def test_the_self_check_scores_what_a_synthesis_from_as_little_would_be(entries, write_subject_folder, tmp_path):
    """The same two members on the same slices; the statistics of brightness are of those slices only."""
    subject = load_subject(write_subject_folder(tmp_path, "p1", without=[T1CE]))
    trained, hidden = load_method("all"), subject.without(T2)
    prepared = trained.prepare(hidden)
    slices = [3, 5]
    made = trained.synthesise(hidden, prepared, trained.estimator(EXACT), targets=[T2], slices=slices).image[2]
    each = {}
    for name in ("one", "two"):
        member = load_method(name)
        each[name] = member.synthesise(hidden, prepared, member.estimator(EXACT), slices=slices).image[2]
    brain = prepared.mask & np.isin(np.arange(prepared.mask.shape[2]), slices)

    assert np.array_equal(made, average(each, [2, 1], "two", brain)[0]) and not made[..., 4].any()


def test_fast_and_samples_are_for_one_network(entries, folder):
    def chosen(**asked):
        plan, _ = complete(CompleteOptions(folder=folder, dry_run=True, **asked))
        return plan.selection

    assert chosen().entry.name == "all"
    fast = chosen(fast=True)
    assert fast.entry.name != "all" and "all was passed over, since --fast asks for a small one" in fast.reason
    assert chosen(mode="sample").entry.name != "all"
    assert chosen(method="committee").entry.name == "all"
    with pytest.raises(UsageError, match=r"all has no mode sample.*draw is no sample"):
        chosen(method="committee", mode="sample")
    with pytest.raises(UsageError, match="--steps with mode mean of all"):
        chosen(weights="all", steps=3)


def test_a_committee_is_no_network_to_begin_a_training_with(entries):
    with pytest.raises(UsageError, match="all is a committee of several networks; give one of them: one, two"):
        load_network("all")


def test_the_weights_commands_know_it(entries, files):
    shown = card_fields("all")

    assert [m["name"] for m in shown["members"]] == ["one", "two", "cwdm-tiny"] and "file" not in shown
    assert listing()[listing().index("Made of 3 others:") + 1].startswith("all ")
    assert "Not on this machine" not in listing()[-1]
    assert len(verify()) == 3
    assert fetch("all") == files / "two.safetensors"  # its leader; nothing is downloaded


def test_inspect_names_it(entries, folder):
    found = inspect(folder, deep=True)

    assert found.choice.startswith("all: makes t1ce from t1+t2+flair") and found.status == 0


def test_its_sum_changes_with_a_member_and_with_a_weight(entries):
    whole = entries[3]
    other = whole.model_copy(
        update={"committee": whole.committee.model_copy(update={"members": whole.committee.members[:2]})}
    )

    assert located(whole, entries).sha256 != located(other, entries).sha256 == located(other, entries).sha256


def test_a_damaged_member_is_found(entries, tmp_path):
    spoiled = entries[1].model_copy(update={"sha256": "0" * 64})
    with pytest.raises(WeightsError, match=r"two: .* is not the file it should be"):
        located(entries[3], [entries[0], spoiled, *entries[2:]])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"members": [{"name": "a"}]}, "at least 2"),
        ({"members": [{"name": "a"}, {"name": "a"}]}, "named once"),
        ({"members": [{"name": "a"}, {"name": "x"}]}, "committee of x, which no entry"),
        ({"brightness": "x"}, "expected median, or one of a, b"),
        ({"members": [{"name": "a"}, {"name": "far"}]}, "far cannot be of the committee c: expected a file"),
        ({"members": [{"name": "a"}, {"name": "b", "planes": ["coronal"]}]}, "b cannot be .* planes that it learnt"),
        ({"members": [{"name": "a"}, {"name": "b", "weight": 0}]}, "greater than 0"),
    ],
)
def test_a_committee_that_cannot_be_is_refused(tmp_path, monkeypatch, change, match):
    fields = {"method": "fgc2f", "contrasts": ["t1", "t2"], "licence": "x", "sampling": {"modes": ["mean"]}}
    rule = {"members": [{"name": "a"}, {"name": "b"}], "brightness": "a"} | change
    own = [fields | {"name": name, "file": name, "sha256": "0", "size": 1} for name in "ab"]
    far = fields | {"name": "far", "repository": "x/y", "pattern": "t1"}
    content = {"weights": [*own, far, fields | {"name": "c", "method": "committee", "committee": rule}]}
    (tmp_path / "weights_manifest.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(store, "PACKAGE", tmp_path)

    with pytest.raises(WeightsError, match=match):
        store.manifest()


def test_the_committee_that_ships_has_members_for_every_pattern():
    """And a specialist takes part exactly where it can."""
    entry = next(e for e in store.manifest() if e.committee is not None)
    members = store.members_of(entry)

    for target in STANDARD:
        others = set(STANDARD) - {target}
        whole = [m.name for m in members if m.supports(others, target)]
        assert whole == [f"cwdm-ship-{target}", "fgc2f-ship"]
        assert [m.name for m in members if m.supports({next(iter(others))}, target)] == ["fgc2f-ship"]
    assert sum(s.subjects for s in entry.training_data) > 0


def test_the_committee_that_ships_counts_a_subject_once():
    """Members share their data sets; of each as many count as the member that saw most of it saw."""
    listed = {entry.name: entry for entry in store.manifest()}
    committee = listed["committee-ship"]
    members = [listed[member.name] for member in committee.committee.members]
    most = {}
    for source in (s for member in members for s in member.training_data):
        most[source.name] = max(source.subjects, most.get(source.name, 0))

    assert {s.name: s.subjects for s in committee.training_data} == most
    assert committee.learnt_from < sum(member.learnt_from for member in members)


def test_a_batch_reckons_with_every_member(entries, folder):
    """The time of a committee is that of the networks that take part, one after the other."""
    todo = plan(CompleteOptions(folder=folder))
    reckoned = [one.card.name for one in networks_of(load_method("all"), load_subject(folder), todo.targets, Models())]

    assert reckoned == ["one", "two", "cwdm-tiny"]
    assert estimate(CompleteOptions(folder=folder, device="cpu"), todo, Models()).network > 0
    assert hidden_by(load_network("one"), load_subject(folder)) == 3
    assert hidden_by(load_network("cwdm-tiny"), load_subject(folder)) == 0


# Where it is likely to be wrong ---------------------------------------------------------------------------------------


@pytest.fixture
def with_map(entries, files):
    """The committee with an untrained error map of its own, as the manifest has it."""
    path = files / "all.errors"
    network = ErrorNetwork(len(STANDARD)).eval().requires_grad_(False)
    write_error_map(path, ErrorMap(network, STANDARD, {T1CE: 0.03}), resolve("all").sha256)
    told = ErrorFile(file=str(path), sha256=store.sha256_of(path), size=path.stat().st_size)
    entries[-1] = entries[-1].model_copy(update={"error_map": told})
    return path


def test_a_committee_that_carries_an_error_map_writes_one(with_map, folder, tmp_path):
    _, saved = complete(CompleteOptions(folder=folder, out=tmp_path / "out"))
    image, errors = (nib.load(tmp_path / "out" / f"p1_t1ce{tag}.nii.gz") for tag in ("", "_error"))
    said = json.loads((tmp_path / "out" / "p1_t1ce_error.json").read_text())
    values = errors.get_fdata()

    assert errors.shape == image.shape and np.array_equal(errors.affine, image.affine)
    assert values.max() <= 1000 * WILD and values[image.get_fdata() > 0].min() >= 1000 * MODEST - 1e-3
    assert said["Content"] == "error" and said["synthetic"] and "other kinds" in said["IntensityMapping"]
    assert said["OverallBrightnessError"] == 30.0
    (output,) = saved.report.outputs
    assert (output.error_file, output.brightness) == ("p1_t1ce_error.nii.gz", pytest.approx(30))
    page = saved.html.read_text()
    assert "T1ce by about 30" in page and "p1_t1ce_error.nii.gz" in page
    (tmp_path / "out" / "p1_t1ce.json").unlink()
    assert is_synthetic(tmp_path / "out" / "p1_t1ce_error.nii.gz")


def test_one_that_was_taught_on_another_committee_is_left_out(with_map, entries, folder, tmp_path):
    rule = entries[-1].committee.model_copy(update={"brightness": "one"})
    entries[-1] = entries[-1].model_copy(update={"committee": rule})
    _, saved = complete(CompleteOptions(folder=folder, out=tmp_path / "out"))

    assert saved.report.outputs[0].error_file is None and not list((tmp_path / "out").glob("*error*"))


def test_a_damaged_one_is_named(with_map, folder):
    assert any(str(with_map) in line for line in verify())
    with_map.write_bytes(with_map.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match=r"all: .*all\.errors is not the file it should be"):
        load_method("all")
    with pytest.raises(WeightsError, match=r"all\.errors"):
        verify()
    with pytest.raises(WeightsError, match="is not an error map"):
        read_error_map(with_map.with_name("one.safetensors"))


def test_no_error_is_told_where_one_network_made_it_alone(with_map, entries, write_subject_folder, tmp_path):
    """One image disagrees with none, and of such the map was taught nothing."""
    subject = load_subject(write_subject_folder(tmp_path, "p1", without=[T1CE]))
    trained = load_method("all")
    alone = replace(trained, members=trained.members[:1])

    assert not complete_subject(subject, alone, sampling=EXACT).errors
    assert list(complete_subject(subject, trained, sampling=EXACT).errors) == [T1CE]
