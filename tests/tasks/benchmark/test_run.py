"""`mrsynth benchmark` end to end: every row once, the same whatever interrupted it, and nothing left out in silence."""

import gzip
import json
import shutil
from collections import Counter
from dataclasses import replace
from datetime import UTC

import nibabel as nib
import numpy as np
import pytest
import yaml

from mrsynth.contrasts import STANDARD, pattern_name, patterns
from mrsynth.errors import InputError, UsageError, WeightsError
from mrsynth.io.locks import locked
from mrsynth.io.own_scores import own_benchmarks
from mrsynth.io.splits import write_split
from mrsynth.io.subjects import load_subject
from mrsynth.sampling import Sampling
from mrsynth.scores.metrics import mae, psnr, ssim_map, to_unit
from mrsynth.scores.protocols import PROTOCOLS, brasyn_dropped, measures
from mrsynth.scores.rows import Score, read_results
from mrsynth.scores.statistics import question_among
from mrsynth.tasks.benchmark import run as task
from mrsynth.tasks.benchmark.measuring import loaded
from mrsynth.tasks.benchmark.pieces import Piece, PieceStore
from mrsynth.tasks.benchmark.run import BenchmarkOptions, benchmark
from mrsynth.tasks.complete.run import complete_subject, load_method

T1, T1CE, T2, FLAIR = STANDARD
SPLIT = {"train": ["a", "b"], "test": ["c", "d"]}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, write_subject_folder):
    """Four subjects, c and d to be scored; c has labels."""
    root = tmp_path_factory.mktemp("cohort with spaces")
    for seed, name in enumerate("abcd"):
        write_subject_folder(root, name, seed=seed, segmentation=name != "d")
    write_split(root / "split.yaml", SPLIT)
    return root


@pytest.fixture
def options(cohort, tmp_path, only_tiny, no_plots):
    def made(out="run", **changes):
        given = {"dataset": "folder", "data": cohort, "split": cohort / "split.yaml", "out": tmp_path / out,
                 "pictures": False, "baselines": False, "protocols": ("brain3d",), "precision": "fp32"}  # fmt: skip
        return BenchmarkOptions(**{**given, **changes})

    return made


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Where the run of `finished` lies, and what it gave."""
    return {"folder": tmp_path_factory.mktemp("shelf") / "run"}


@pytest.fixture
def finished(options, shelf, tmp_path):
    """finished(name="run"): what a run with the defaults gave, its folder copied to `name`; made once for all tests."""
    if "given" not in shelf:
        shelf["given"] = benchmark(options(shelf["folder"]))

    def copied(name="run"):
        shutil.copytree(shelf["folder"], tmp_path / name)
        return shelf["given"]

    return copied


def timeless(rows):
    return [row.model_copy(update={"seconds": None, "peak_memory_mb": None}) for row in rows]


def read(out):
    return read_results((out / "results.csv").read_text(), "results.csv")


# Rows ----------------------------------------------------------------------------------------------------------------


def test_the_mode_is_an_option_and_is_recorded(options):
    done = benchmark(options(mode="mean", patterns="t1+t2:flair", pictures=False))
    assert {(r.mode, r.steps, r.samples) for r in done.rows} == {("mean", 1, 1)}
    with pytest.raises(UsageError, match="--steps with mode mean of tiny"):
        benchmark(options(mode="mean", steps=3))


def test_every_pattern_and_target_of_every_subject_is_scored_once(options):
    done = benchmark(options(patterns="all"))
    seen = Counter((r.subject, r.pattern, r.target, r.region, r.metric) for r in done.rows)
    assert set(seen.values()) == {1}
    wanted = {(s, pattern_name(p), t.value) for s in "cd" for p in patterns() for t in STANDARD if t not in p}
    assert {key[:3] for key in seen if key[3:] == ("brain", "PSNR")} == wanted
    assert {(r.method, r.weights, r.dataset, r.mode, r.steps, r.samples) for r in done.rows} == {
        ("fgc2f", "tiny", "folder", "draws", 2, 1)
    }
    assert timeless(read(done.out)) == timeless(done.rows)
    assert not done.unfinished
    assert not done.record.failures


def test_scores_are_those_of_the_default_output_of_complete(options, cohort, only_tiny):
    """Against `complete_subject` and the formulas, which go another way."""
    done = benchmark(options(patterns="t1+flair:t2", protocols=("full3d", "brain3d"), seed=3))
    whole = load_subject(cohort / "c")
    asked = Sampling(seed=3, precision="fp32")
    made = complete_subject(whole.without(T1CE, T2), load_method(only_tiny), [T2], sampling=asked)
    inside = whole.foreground()
    p, y = np.clip(made.volumes[T2].voxels / 1000, 0, 1), np.where(inside, to_unit(whole.volumes[T2].voxels), 0)
    ours = {(r.region, r.metric): r.value for r in done.rows if r.subject == "c"}
    assert ours["volume", "PSNR"] == pytest.approx(psnr(p, y), abs=2e-5)
    assert ours["brain", "PSNR"] == pytest.approx(psnr(p[inside], y[inside]), abs=2e-5)
    assert ours["brain", "MAE"] == pytest.approx(mae(p[inside], y[inside]), abs=2e-5)
    assert ours["brain", "SSIM"] == pytest.approx(ssim_map(p, y)[inside].mean(), abs=2e-5)
    assert {r.target for r in done.rows} == {"t2"}


def test_the_truth_of_what_is_hidden_never_reaches_a_method(
    options, cohort, tmp_path, write_subject_folder, monkeypatch
):
    """The subject handed to the method has only what the pattern allows."""
    seen = []

    def watched(subject, *args, **named):
        seen.append(pattern_name(subject.available))
        return complete_subject(subject, *args, **named)

    monkeypatch.setattr("mrsynth.tasks.benchmark.measuring.complete_subject", watched)
    done = benchmark(options(patterns="t1+t2,flair", limit=1))
    assert seen == ["t1+t2", "flair"]
    assert {r.pattern for r in done.rows} == {"t1+t2", "flair"}


def test_regions_need_labels_and_the_report_says_so(options, cohort, tmp_path, write_subject_folder):
    root = tmp_path / "brats"
    for seed, name in enumerate(["BraTS2021_00001", "BraTS2021_00002"]):
        write_subject_folder(root, name, seed=seed, segmentation=seed == 0)
    done = benchmark(options(dataset="brats21", data=root, split=None, part="all", patterns="t1+t1ce+t2"))
    regions = {s: {r.region for r in done.rows if r.subject == s} for s in ("BraTS2021_00001", "BraTS2021_00002")}
    assert regions["BraTS2021_00001"] == {"brain", "WT", "TC", "ET"}
    assert regions["BraTS2021_00002"] == {"brain"}
    assert any("1 of 2 subjects have no segmentation" in note for note in done.record.notes)


def test_baselines_run_beside_the_methods_and_learn_from_the_training_part_alone(options, monkeypatch):
    sampled = []
    real = task.sample_voxels

    def watched(subjects, contrasts):
        kept = list(subjects)
        sampled.extend(s.name for s in kept)
        return real(kept, contrasts)

    monkeypatch.setattr(task, "sample_voxels", watched)
    done = benchmark(options(baselines=True, patterns="t1+t1ce+t2,t1"))
    assert sampled == ["a", "b"]
    assert {r.method for r in done.rows} == {"fgc2f", "copy", "regression"}
    per_method = Counter(r.method for r in done.rows)
    assert len(set(per_method.values())) == 1
    psnr = {(r.method, r.pattern, r.target): r.value for r in done.rows if r.metric == "PSNR" and r.subject == "c"}
    assert psnr["regression", "t1+t1ce+t2", "flair"] > 25, "FLAIR is a function of T1 in these brains"
    assert psnr["regression", "t1", "flair"] > psnr["copy", "t1", "flair"]


def test_no_baseline_without_training_subjects(options, cohort, tmp_path):
    write_split(tmp_path / "no training.yaml", {"test": ["c"]})
    done = benchmark(options(baselines=True, split=tmp_path / "no training.yaml", patterns="t1"))
    assert {r.method for r in done.rows} == {"fgc2f"}
    assert any("No baselines" in note for note in done.record.notes)


def test_brasyn_drops_what_the_organisers_drop(options):
    done = benchmark(options(patterns="brasyn"))
    expected = brasyn_dropped("abcd")
    assert {(r.subject, r.target) for r in done.rows} == {(s, expected[s].value) for s in "cd"}


# Stopping and going on -----------------------------------------------------------------------------------------------


def test_a_run_that_was_killed_half_way_goes_on_to_the_same_table(options, monkeypatch):
    whole = benchmark(options("whole", patterns="t2", baselines=True))
    finish, count = PieceStore.finish, iter(range(1000))

    def dies(self, piece, rows):
        if next(count) == 4:
            raise KeyboardInterrupt
        finish(self, piece, rows)

    with monkeypatch.context() as patch:
        patch.setattr(PieceStore, "finish", dies)
        with pytest.raises(KeyboardInterrupt):
            benchmark(options("stopped", patterns="t2", baselines=True))
    with pytest.raises(UsageError, match="already holds a benchmark"):
        benchmark(options("stopped", patterns="t2", baselines=True))
    resumed = benchmark(options("stopped", patterns="t2", baselines=True, resume=True))
    assert timeless(resumed.rows) == timeless(whole.rows)
    assert timeless(read(resumed.out)) == timeless(read(whole.out))


def test_a_resumed_run_does_nothing_twice(options, finished, monkeypatch):
    first = finished()
    monkeypatch.setattr(task.Measurer, "rows", lambda *_: pytest.fail("done again"))
    assert benchmark(options(resume=True)).rows == first.rows, "times included"


def test_parts_together_are_the_whole(options, finished):
    whole = finished("whole")
    first = benchmark(options("shared", num_parts=2, part_id=0))
    assert {r.subject for r in first.rows} == {"c"}
    assert any("not finished" in note for note in first.record.notes)
    second = benchmark(options("shared", num_parts=2, part_id=1))
    assert timeless(second.rows) == timeless(whole.rows)
    assert not any("not finished" in note for note in second.record.notes)


def test_results_of_an_older_version_are_counted_and_made_again(options, finished, tmp_path):
    finished()
    out = tmp_path / "run"
    for file in (out / "pieces").iterdir():
        file.write_text(json.dumps({"schema": 0, "rows": []}))
    settings = yaml.safe_load((out / "benchmark.yaml").read_text())
    (out / "benchmark.yaml").write_text(yaml.safe_dump({**settings, "schema": 0}))
    done = benchmark(options(resume=True))
    assert any(note.startswith("8 results of an older version") for note in done.record.notes)
    assert {r.subject for r in done.rows} == {"c", "d"}


def test_another_checkpoint_of_the_same_name_is_measured_anew(options, tmp_path, write_tiny_checkpoint, monkeypatch):
    home = tmp_path / "w"
    home.mkdir()
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", str(home))
    write_tiny_checkpoint(home / "tiny.safetensors")
    before = benchmark(options())
    write_tiny_checkpoint(home / "tiny.safetensors", sampling={"sampler": "ddim", "steps": 1})
    task.checksum.cache_clear()
    loaded.cache_clear()
    after = benchmark(options(resume=True))
    assert {r.steps for r in before.rows} == {2}
    assert {r.steps for r in after.rows} == {1}


# What cannot be done -------------------------------------------------------------------------------------------------


def test_one_bad_subject_is_named_and_the_rest_goes_on(options, tmp_path, write_subject_folder, run_cli):
    root = tmp_path / "cohort"
    for seed, name in enumerate(["good", "torn"]):
        write_subject_folder(root, name, seed=seed)
    torn = root / "torn" / "torn_t2.nii.gz"
    torn.write_bytes(torn.read_bytes()[:-200])
    done = benchmark(options(data=root, split=None, part="all"))
    assert {r.subject for r in done.rows} == {"good"}
    (failure,) = done.record.failures
    assert "torn" in failure and "t2" in failure
    assert not done.unfinished, "failed, not left to another part"
    assert failure.split(":")[0] in (done.out / "report.md").read_text()
    arguments = ["--dataset", "folder", "--data", root, "--part", "all", "--protocol", "brain3d", "--no-pictures"]
    code, out, _ = run_cli("benchmark", *arguments, "-o", tmp_path / "again", "--no-baselines")
    assert code == 3
    assert str(tmp_path / "again" / "report.html") in out


def test_a_failure_of_one_piece_is_tried_again_on_resume(options, monkeypatch):
    real = task.Measurer.rows

    def fails(self, subject, job):
        if job.piece.subject == "c" and job.gap.targets == (T2,):
            raise RuntimeError("no luck")
        return real(self, subject, job)

    with monkeypatch.context() as patch:
        patch.setattr(task.Measurer, "rows", fails)
        done = benchmark(options())
    assert len(done.record.failures) == 1
    assert "c, fgc2f" in done.record.failures[0] and "no luck" in done.record.failures[0]
    again = benchmark(options(resume=True))
    assert not again.record.failures
    assert len({(r.subject, r.target) for r in again.rows}) == 8


def test_what_a_method_cannot_do_is_listed(options, tmp_path, write_tiny_checkpoint, monkeypatch):
    home = tmp_path / "w"
    home.mkdir()
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", str(home))
    write_tiny_checkpoint(home / "one.safetensors", "one", requires={T1CE: (T1, T2, FLAIR)})
    done = benchmark(options(patterns="all", limit=1))
    assert {(r.pattern, r.target) for r in done.rows} == {("t1+t2+flair", "t1ce")}
    assert len(done.record.unsupported) == 27
    assert any("fgc2f from t1 to t2" in line for line in done.record.unsupported)


def test_incomplete_subjects_are_tried_where_the_truth_is_there(options, tmp_path, write_subject_folder):
    root = tmp_path / "cohort"
    write_subject_folder(root, "three", seed=1, without=(T1CE,))
    done = benchmark(options(data=root, split=None, part="all", patterns="t1+t2,t1+t2:flair,t1ce"))
    assert {(r.pattern, r.target) for r in done.rows} == {("t1+t2", "flair")}
    assert any("three lacks T1ce: 2 of 3 patterns left out" in note for note in done.record.notes)


@pytest.mark.parametrize(
    ("changes", "error", "part"),
    [
        ({"protocols": ("mine",)}, UsageError, "no protocol 'mine'"),
        ({"protocols": ()}, UsageError, "--protocol is empty"),
        ({"sampler": "magic"}, UsageError, "no sampler 'magic'"),
        ({"methods": ("gan",)}, UsageError, "no method 'gan'"),
        ({"dataset": "imagenet"}, UsageError, "no data set"),
        ({"dataset": "imagenet", "data": None}, UsageError, "no data set"),
        ({"patterns": "t1+t2:t1"}, UsageError, "T1 is both given and to be made"),
        ({"patterns": "one-mising"}, UsageError, "one-mising"),
        ({"question": "brain3d:brain:PSNRFIT"}, UsageError, "does not measure brain:PSNRFIT"),
        ({"question": "brain3d:volume:PSNR"}, UsageError, "brain:PSNR, "),
        ({"question": "brain3d:WT:PSNR"}, UsageError, "on folder"),
        ({"question": "full3d:volume:PSNR"}, UsageError, "one of the protocols of the run"),
        ({"part": "final"}, UsageError, "no part 'final'. It has train, test, all"),
        ({"data": None}, UsageError, "needs --data"),
        ({"dataset": "phantom"}, UsageError, "made on the spot"),
        ({"num_parts": 2, "part_id": 2}, UsageError, "expected 0 to 1"),
        ({"device": "abacus"}, UsageError, "abacus"),
        ({"segmenter": "nowhere"}, WeightsError, "nowhere"),
        ({"dataset": "wmh"}, InputError, "0 of 19 NIfTI files are named as in WMH"),
    ],
)
def test_requests_that_make_no_sense(options, tmp_path, changes, error, part):
    """Put right, they go into the same folder without --resume: a mistake leaves no run behind."""
    with pytest.raises(error) as raised:
        benchmark(options(**changes))
    assert part in str(raised.value)
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()]


def test_what_protocols_measure_is_what_a_question_may_be_of():
    """The table of docs/protocols.md, whatever the labels of a data set are."""
    regions = {"WT": frozenset({1, 2, 4}), "ET": frozenset({4})}
    brain, tumour = {("brain", "PSNR_FIT"), ("brain", "CONSISTENCY"), ("brain", "EDGE_R")}, ("ET", "MAE")
    assert {*brain, tumour} <= set(measures("brain3d", regions)) and tumour not in measures("brain3d", {})
    assert measures("brasyn", regions) == [("tumour", "SSIM"), ("healthy", "SSIM")] and not measures("brasyn", {})
    for name in PROTOCOLS:
        question = question_among([name])
        assert question[1:] in measures(name, regions)


# The report and the command ------------------------------------------------------------------------------------------


def test_the_record_says_what_was_run(options, cohort):
    done = benchmark(options(command="mrsynth benchmark ..."))
    record = json.loads((done.out / "summary.json").read_text())["record"]
    assert record["subjects"] == ["c", "d"]
    assert record["split"].startswith("test@")
    assert record["command"] == "mrsynth benchmark ..."
    assert done.record.created.tzinfo == UTC
    again = yaml.safe_load((done.out / "split.yaml").read_text())
    assert again == SPLIT
    assert "n = 2" in (done.out / "report.md").read_text()


def test_pictures_of_the_worst_the_median_and_the_best(options, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "mrsynth.tasks.benchmark.measuring.montage", lambda panels, *_, **__: drawn.append(panels) or b"PNG"
    )
    done = benchmark(options(pictures=True))
    assert len(drawn) == 3
    assert [p.kind for p in drawn[0]] == ["input"] * 3 + ["synthetic", "reference", "difference"]
    psnr = sorted(r.value for r in done.rows if (r.region, r.metric) == ("brain", "PSNR"))
    html = (done.out / "report.html").read_text()
    for word, value in (("worst", psnr[0]), ("best", psnr[-1])):
        assert f"{word}" in html and f"{value:.2f} dB" in html
    assert html.count('class="viewer"') == 3 and html.count("window.mrsynthViewers =") == 1


def test_viewers_of_a_benchmark_are_left_out_where_nobody_wants_them_or_the_page_would_be_too_large(
    options, monkeypatch
):
    monkeypatch.setattr("mrsynth.tasks.benchmark.measuring.montage", lambda *_, **__: b"PNG")
    done = benchmark(options(pictures=True, viewer=False))
    assert 'class="viewer"' not in (done.out / "report.html").read_text()

    monkeypatch.setattr("mrsynth.tasks.benchmark.pictures.LARGEST", 30_000)
    html = (benchmark(options(pictures=True, resume=True)).out / "report.html").read_text()
    assert 0 < html.count('class="viewer"') < 3 and "of 3 can be scrolled through" in html
    assert html.index("worst") < html.index('class="viewer"')


def test_pictures_where_one_pattern_is_asked_for_twice(options, monkeypatch):
    monkeypatch.setattr("mrsynth.tasks.benchmark.measuring.montage", lambda *_, **__: b"PNG")
    done = benchmark(options(pictures=True, patterns="t1+t2:t1ce,t1+t2:flair"))
    assert {(r.pattern, r.target) for r in done.rows} == {("t1+t2", "t1ce"), ("t1+t2", "flair")}
    assert not done.unfinished


def test_the_command_prints_the_report_and_where_it_is(options, cohort, tmp_path, run_cli):
    split = ["--split", cohort / "split.yaml", "--limit", 1, "--no-pictures", "--patterns", "t1+t2:flair"]
    code, out, err = run_cli("benchmark", "--dataset", "folder", "--data", cohort, *split, "-o", tmp_path / "run")
    assert (code, err) == (0, "")
    assert "PSNR" in out and str(tmp_path / "run" / "results.csv") in out
    code, out, _ = run_cli("compare", tmp_path / "run", tmp_path / "run" / "results.csv")
    assert code == 0 and "fgc2f" in out


def test_the_data_sets_are_listed_and_described(run_cli):
    code, out, _ = run_cli("benchmark", "--list")
    assert code == 0 and "brats21" in out and "phantom" in out
    code, out, _ = run_cli("benchmark", "--describe", "synthrad23")
    assert code == 0 and "CT" in out
    code, _, err = run_cli("benchmark")
    assert code == 2 and "--dataset NAME" in err


def test_the_phantom_is_made_on_the_spot_once(options, tmp_path, monkeypatch, coarse_head):
    monkeypatch.setattr(task, "PHANTOMS", 1)
    monkeypatch.setattr(task, "PHANTOM_TRAINING", 1)
    monkeypatch.setattr(task, "PHANTOM_SHAPE", (24, 28, 4))
    monkeypatch.setattr(task, "PHANTOM_SPACING", (6.0, 6.0, 6.0))
    given = {"dataset": "phantom", "data": None, "split": None, "patterns": "t1", "baselines": True}
    done = benchmark(options(**given))
    assert not done.record.failures
    assert {r.subject for r in done.rows} == {"phantom-000"}
    assert {r.method for r in done.rows} == {"fgc2f", "copy", "regression"}
    monkeypatch.setattr(task, "make_phantoms", lambda *_: pytest.fail("made again"))
    assert benchmark(options(**given, resume=True)).rows == done.rows


def test_all_protocols_give_rows(options):
    done = benchmark(options(protocols=tuple(PROTOCOLS), patterns="t1+t2+flair", limit=1))
    assert {r.protocol for r in done.rows} >= {"full3d", "brain3d", "slice2d", "cwdm"}
    assert all(isinstance(r, Score) for r in done.rows)


def test_a_piece_of_another_subject_is_never_taken(tmp_path):
    store = PieceStore(tmp_path, {}, resume=False)
    store.finish(Piece("a", "m", "c"), [])
    assert store.rows(Piece("a", "m", "c")) == []
    assert store.rows(replace(Piece("a", "m", "c"), subject="b")) is None


# Hostile files, and others in the folder -----------------------------------------------------------------------------


def claiming(path, **fields):
    header = nib.Nifti2Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((5, 6, 7))
    header.set_sform(np.eye(4), 1)
    for field, value in fields.items():
        header[field] = value
    path.write_bytes(gzip.compress(header.binaryblock + bytes(1000)))


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: claiming(path, dim=[3, 2**40, 1, 1, 1, 1, 1, 1], vox_offset=544),
        lambda path: claiming(path, dim=[3, 1200, 1200, 1200, 1, 1, 1, 1], vox_offset=544),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
    ],
)
@pytest.mark.parametrize("part", ["test", "train"])
def test_a_subject_that_cannot_be_read_is_one_failure_or_a_note_and_the_rest_goes_on(
    options, cohort, tmp_path, harm, part
):
    root = tmp_path / "cohort"
    shutil.copytree(cohort, root)
    bad = {"test": "c", "train": "a"}[part]
    harm(next(root.rglob(f"{bad}_t1.nii.gz")))
    done = benchmark(options(data=root, baselines=part == "train", patterns="t1+t2:flair"))
    if part == "test":
        assert {r.subject for r in done.rows} == {"d"} and len(done.record.failures) == 1
        assert done.record.failures[0].startswith("c: ") and not done.unfinished
    else:
        assert {r.subject for r in done.rows} == {"c", "d"}
        told = ("a: ", "The baselines were fitted without a: ")  # what its header shows; what its voxels show
        assert any(text.startswith(told) for text in (*done.record.failures, *done.record.notes))


def test_one_benchmark_at_a_time_is_at_work_in_a_folder(options):
    given = options(patterns="t1+t2:flair", limit=1)
    given.out.mkdir()
    with locked(given.out), pytest.raises(UsageError, match="Another benchmark is at work in"):
        benchmark(given)
    benchmark(given)
    halves = [options("parts", patterns="t1+t2:flair", num_parts=2, part_id=part) for part in (0, 1)]
    halves[0].out.mkdir()
    with locked(halves[0].out, name=".part-1-of-2.lock"):
        with pytest.raises(UsageError, match="Another benchmark is at work in"):
            benchmark(halves[0])
        assert benchmark(halves[1]).unfinished == 1
    assert not benchmark(halves[0]).unfinished
    assert {r.subject for r in read(halves[0].out)} == {"c", "d"}
    assert not [p.name for p in halves[0].out.iterdir() if p.name.startswith(".")]


def test_what_is_recorded_is_the_mean_of_the_rows(options, tmp_path, monkeypatch):
    monkeypatch.setenv("MRSYNTH_HOME", str(tmp_path / "home"))
    done = benchmark(options(protocols=("brain3d",), patterns="t1+flair:t2", pictures=False, record=True))
    rows = [r.value for r in done.rows if (r.weights, r.region, r.metric) == ("tiny", "brain", "PSNR")]
    (kept,) = own_benchmarks()[0].checkpoints["tiny"].scores

    assert "Recorded 1 means" in done.recorded
    assert (kept.pattern, kept.target, kept.subjects) == ("t1+flair", "t2", len(rows))
    assert kept.value == pytest.approx(np.mean(rows), abs=1e-3)
    with pytest.raises(UsageError, match="--record needs the protocol brain3d"):
        benchmark(options(protocols=("full3d",), record=True))
