"""Builders of subjects, the door to real data, and a closed door to the network."""

import json
import locale
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from mrsynth import Completion, complete_subject, load_method
from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume
from mrsynth.tasks.trained import Trained

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("MRSYNTH_TEST_DATA") or CHECKOUT.parent / "shared")
NO_REAL_DATA = f"no real data at {SHARED_DATA} (MRSYNTH_TEST_DATA)"


NO_VALIDATOR = "no BIDS validator: bids-validator-deno is not installed"


# Real data -----------------------------------------------------------------------------------------------------------


def pytest_configure() -> None:
    """Hear signals that nohup, or a shell for what it starts in the background, has ignored: processes inherit that."""
    for number, usual in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if SHARED_DATA.is_dir():
        return
    for item in items:
        if item.get_closest_marker("real_data") or "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=NO_REAL_DATA))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how much of the suite ran: a run without real data must not look like a whole one."""
    counts = {outcome: terminalreporter.stats.get(outcome, []) for outcome in ("passed", "failed", "error", "skipped")}
    for_data = sum(NO_REAL_DATA in str(report.longrepr) for report in counts["skipped"])
    terminalreporter.section("what ran")
    terminalreporter.write_line(", ".join(f"{len(reports)} {outcome}" for outcome, reports in counts.items()))
    if without := sum(NO_VALIDATOR in str(report.longrepr) for report in counts["skipped"]):
        terminalreporter.write_line(f"{without} skipped for lack of the BIDS validator")
    where = f"real data: {SHARED_DATA}" if SHARED_DATA.is_dir() else NO_REAL_DATA
    terminalreporter.write_line(f"{for_data} skipped for lack of real data; {where}")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scans and golden tensors, `data/` and `upstream/` inside it; skips when it is absent."""
    return SHARED_DATA


# Network -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def only_loopback() -> Iterator[None]:
    """Fail any test that reaches for the network. Loopback and Unix sockets stay open, for servers made by tests."""
    guarded = {"connect": 0, "connect_ex": 0, "sendto": -1}  # which argument is the address
    with pytest.MonkeyPatch.context() as patch:
        for name, position in guarded.items():
            patch.setattr(socket.socket, name, _refusing_strangers(getattr(socket.socket, name), position))
        patch.setattr(socket, "getaddrinfo", _resolving_only_loopback(socket.getaddrinfo))
        yield


def _refusing_strangers(method: Callable[..., Any], position: int) -> Callable[..., Any]:
    def guarded(self: socket.socket, *arguments: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _require_loopback(arguments[position][0])
        return method(self, *arguments)

    return guarded


def _resolving_only_loopback(resolve: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(host: Any, *arguments: Any, **options: Any) -> Any:
        _require_loopback(host)
        return resolve(host, *arguments, **options)

    return guarded


def _require_loopback(host: Any) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    if name not in (None, "", "localhost", "::1", "0.0.0.0") and not str(name).startswith("127."):
        pytest.fail(f"a test tried to reach {name}; tests use loopback only")  # no OSError: nobody may swallow it


# Disk ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Tests write many small files, and none of them pulls the plug: `tests/io/test_files.py` sees that it is asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


# Locale --------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def one_locale() -> Iterator[None]:
    """No test leaves another locale to those after it, by which Python would read and write texts."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    assert locale.setlocale(locale.LC_ALL) == before


# Subjects ------------------------------------------------------------------------------------------------------------

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # voxel axes run to the left, to the back, upwards; 1 mm

# Of tissue t in [0, 1]: the image in [0, 1], and the white-matter-like intensity it is scaled to. Scales of one
# examination differ by a factor of ten and more, as those of scanners do.
APPEARANCE: dict[Contrast, tuple[Callable[[NDArray[Any]], NDArray[Any]], float]] = {
    Contrast.T1: (lambda t: 0.2 + 0.7 * t, 600),
    Contrast.T1CE: (lambda t: 0.2 + 0.5 * t + 0.3 * t**4, 2000),
    Contrast.T2: (lambda t: 0.95 - 0.75 * t, 450),
    Contrast.FLAIR: (lambda t: 0.2 + 2.4 * t * (1 - t), 1100),
    Contrast.PD: (lambda t: 0.9 - 0.3 * t**2, 800),
    Contrast.DWI: (lambda t: 0.3 + 0.4 * t, 150),
    Contrast.CT: (lambda t: 0.5 + 0.1 * t, 80),
    Contrast.MR: (lambda t: 0.3 + 0.6 * t**2, 500),
}

FILE_NAMES: dict[str, dict[Contrast, str]] = {
    "brats21": dict(zip(STANDARD, ("{0}_t1", "{0}_t1ce", "{0}_t2", "{0}_flair"), strict=True)),
    "brats23": dict(zip(STANDARD, ("{0}-t1n", "{0}-t1c", "{0}-t2w", "{0}-t2f"), strict=True)),
    "bids": dict(
        zip(
            STANDARD,
            ("anat/{0}_T1w", "anat/{0}_ce-gadolinium_T1w", "anat/{0}_T2w", "anat/{0}_FLAIR"),
            strict=True,
        )
    ),
    "nnunet": dict(zip(STANDARD, ("{0}_0000", "{0}_0001", "{0}_0002", "{0}_0003"), strict=True)),
    "free": dict(zip(STANDARD, ("mprage", "t1_gd", "T2", "T2-FLAIR"), strict=True)),
}
SEGMENTATION_NAMES = {"brats21": "{0}_seg", "brats23": "{0}-seg", "bids": "anat/{0}_dseg", "free": "seg"}


def _brain_volumes(
    shape: tuple[int, int, int] = (24, 28, 20),
    seed: int = 0,
    contrasts: Sequence[Contrast] = STANDARD,
    affine: NDArray[np.float64] = LPS,
) -> dict[Contrast, Volume]:
    """A smooth ellipsoid brain: contrasts that are functions of one tissue field, whole numbers, background exactly 0.

    The brain fills 0.85 of each axis, so that there is background on every side of it.
    """
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum(x**2 for x in axes) < 0.85**2
    waves = [
        np.cos(sum(k * x for k, x in zip(rng.uniform(-5, 5, 3), axes, strict=True)) + rng.uniform(0, 2 * np.pi))
        for _ in range(6)
    ]
    field = np.sum(waves, axis=0)
    tissue = (field - field.min()) / (field.max() - field.min())
    return {
        contrast: Volume(np.where(inside, np.rint(scale * image(tissue)), 0).astype(np.float32), affine.copy())
        for contrast, (image, scale) in APPEARANCE.items()
        if contrast in contrasts
    }


def _make_subject(
    name: str = "subject",
    *,
    without: Sequence[Contrast] = (),
    segmentation: bool = False,
    mask: bool = False,
    shape: tuple[int, int, int] = (24, 28, 20),
    seed: int = 0,
    contrasts: Sequence[Contrast] = STANDARD,
    affine: NDArray[np.float64] = LPS,
) -> Subject:
    """A subject of `_brain_volumes`; the segmentation is a ball with the labels 1, 2, 4 from the centre outwards."""
    volumes = _brain_volumes(shape, seed, contrasts, affine)
    brain = next(iter(volumes.values())).voxels != 0
    centred = np.meshgrid(*(np.linspace(-1, 1, n) - 0.2 for n in shape), indexing="ij")
    radius = np.sqrt(sum(x**2 for x in centred))
    labels = np.select([radius < 0.15, radius < 0.25, radius < 0.4], [1, 4, 2], 0).astype(np.float32)
    return Subject(
        name,
        {c: v for c, v in volumes.items() if c not in without},
        Volume(labels, affine.copy()) if segmentation else None,
        Volume(brain.astype(np.float32), affine.copy()) if mask else None,
    )


def _write_subject_folder(
    folder: Path,
    name: str = "subject",
    layout: str = "brats21",
    *,
    suffix: str = ".nii.gz",
    dtype: type[np.generic] = np.int16,
    **subject: Any,
) -> Path:
    """Write `_make_subject(name, **subject)` to `folder/name` and return that path.

    layout  a key of FILE_NAMES; "nnunet" writes the dataset.json that names its channels beside the subject's folder
    """
    made = _make_subject(name, **subject)
    home = folder / name
    files = {FILE_NAMES[layout][c]: v for c, v in made.volumes.items()}
    if made.segmentation is not None:
        files[SEGMENTATION_NAMES[layout]] = made.segmentation
    for pattern, volume in files.items():
        path = home / (pattern.format(name) + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(volume.voxels.astype(dtype), volume.affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, path)
    if layout == "nnunet":
        channels = {str(i): c.label for i, c in enumerate(STANDARD)}
        (folder / "dataset.json").write_text(json.dumps({"channel_names": channels, "file_ending": suffix}))
    return home


@pytest.fixture(scope="session")
def brain_volumes() -> Callable[..., dict[Contrast, Volume]]:
    """The builder `_brain_volumes`."""
    return _brain_volumes


@pytest.fixture(scope="session")
def make_subject() -> Callable[..., Subject]:
    """The builder `_make_subject`."""
    return _make_subject


@pytest.fixture(scope="session")
def write_subject_folder() -> Callable[..., Path]:
    """The builder `_write_subject_folder`."""
    return _write_subject_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A subject p1 without T1ce."""
    return _write_subject_folder(tmp_path, "p1", without=[Contrast.T1CE])


# Seeds ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def seeded() -> Iterator[None]:
    """torch's random numbers begin at seed 0, and go on afterwards as if none had been drawn."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


# Threads -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny networks are quicker on one thread, and bitwise the same from run to run."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# A trained method, and the command line ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def write_tiny_checkpoint() -> Callable[..., Path]:
    """write_tiny_checkpoint(path, name="tiny", **card) -> path: FgC2F, preset tiny, seeded weights, two DDIM steps.

    It makes a nonsense that depends on everything it reads: no layer is left at zero, as some begin.
    """
    import torch

    from mrsynth.card import Card
    from mrsynth.io.checkpoint import Checkpoint, write_checkpoint
    from mrsynth.methods import build_method, method_class, preset
    from mrsynth.scans.preparation import PreparationConfig

    torch.set_num_threads(1)  # slices this small only wait for each other

    def write(path: Path, name: str = "tiny", **card: Any) -> Path:
        config = preset("fgc2f", "tiny") | {"param": "x0", "T": 8, "neighbours": 1, "sampler": "ddpm", "steps": 3}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            method = build_method(config)
            with torch.no_grad():
                for parameter in method.parameters():
                    if not parameter.any():
                        parameter.normal_(std=0.1)
        said = {"licence": "CC0", "contrasts": STANDARD, "sampling": {"sampler": "ddim", "steps": 2}} | card
        content = (
            method_class("fgc2f").Config.model_validate(config).model_dump(mode="json"),
            PreparationConfig().model_dump(mode="json"),
            method.state_dict(),
        )
        write_checkpoint(path, Checkpoint(Card(name=name, method="fgc2f", **said), *content))
        return path

    return write


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, write_tiny_checkpoint: Callable[..., Path]) -> Path:
    """The checkpoint `tiny`, alone in its folder."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="session")
def write_bert() -> Callable[..., Path]:
    """write_bert(folder, style="plain", change=None, **config) -> folder: a BERT of two layers, and its vocabulary.

    style   plain: as transformers writes it; open_clip: as the text tower of a model of images and texts
    change  is given the tensors by name, to do them harm before they are written
    The weights are the same each time, the style does not matter to them.
    """

    def write(folder: Path, style: str = "plain", change: Callable[[Any], Any] | None = None, **config: Any) -> Path:
        import torch
        from safetensors.torch import save_file
        from transformers import BertConfig, BertModel

        text = (
            "axial brain mri input output t1 t2 weighted white grey matter bright fluid dark flair . : , ; - ##er ##ed"
        )
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *text.split(" ")]
        sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 32}
        options = {"vocab_size": len(vocabulary), "max_position_embeddings": 128, **sizes, **config}
        made = BertConfig(**options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            state = {name: tensor * 5 for name, tensor in BertModel(made).state_dict().items()}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
        if style == "open_clip":
            state = {f"text.transformer.{name}": tensor for name, tensor in state.items()}
            state |= {"text.transformer.embeddings.position_ids": torch.arange(128)[None]}
            state |= {"text.proj.0.weight": torch.ones(4, 64), "visual.trunk.cls_token": torch.ones(1, 1, 8)}
            state |= {"logit_scale": torch.tensor(4.6)}
        if change is not None:
            change(state)
        if style == "open_clip":
            clip = {"model_cfg": {"embed_dim": 4, "text_cfg": {"hf_model_name": "tiny", "context_length": 100}}}
            (folder / "open_clip_config.json").write_text(json.dumps(clip))
            torch.save(state, folder / "open_clip_pytorch_model.bin")
        else:
            (folder / "config.json").write_text(json.dumps({"model_type": "bert", **options}))
            save_file(state, folder / "model.safetensors")
        return folder

    return write


@pytest.fixture(autouse=True)
def a_home_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the store of whoever runs it."""
    monkeypatch.setenv("MRSYNTH_HOME", str(tmp_path_factory.getbasetemp() / "no home"))


@pytest.fixture
def only_tiny(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`tiny` is the only checkpoint known, whatever the package holds."""
    monkeypatch.setattr("mrsynth.io.store.manifest", list)
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", str(tiny_checkpoint.parent))
    return tiny_checkpoint


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Any]]:
    """run_cli(*arguments) -> (exit status, stdout, stderr) of `mrsynth` run in this process."""
    from mrsynth.cli.app import main

    def run(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["mrsynth", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def coarse_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phantoms are made from every third voxel of the template: of their 2 seconds at 1 mm little is left."""
    from mrsynth.phantom.brain import Tissues
    from mrsynth.tasks.phantom_subjects import mni152

    pytest.importorskip("nilearn")
    fine = mni152()
    thin = (slice(None, None, 3),) * 3
    coarse = Tissues(fine.gm[thin], fine.wm[thin], fine.csf[thin], fine.affine @ np.diag([3, 3, 3, 1]))
    monkeypatch.setattr("mrsynth.tasks.phantom_subjects.mni152", lambda: coarse)


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of a benchmark without box plots, which take as long as all the rest of a small one."""
    from mrsynth.scans.views import png

    black = png(np.zeros((1, 1), np.uint8))
    monkeypatch.setattr("mrsynth.reports.benchmark_page.box_plot", lambda *_, **__: black)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without montages, which take longer than all the rest of a small subject."""
    from mrsynth.scans.views import png

    black = png(np.zeros((1, 1), np.uint8))
    monkeypatch.setattr("mrsynth.tasks.complete.pictures.montage", lambda *_, **__: black)


# DICOM ---------------------------------------------------------------------------------------------------------------

DICOM_SHAPE = (12, 10, 8)  # K, J, I
DICOM_SPACING = (1.1, 0.9, 2.5)
DICOM_AXES = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, 1.0)  # direction by rows: oblique in the plane


def dicom_series(
    folder: Path,
    number: int,
    description: str,
    tr: float = 500,
    te: float = 10,
    ti: float | None = None,
    agent: str = "",
    *,
    voxels: Any = None,
    skip: Any = (),
    twice: Any = (),
    **more: Any,
) -> None:
    """One series of axial slices; the patient module holds what must never come out."""
    folder.mkdir(parents=True, exist_ok=True)
    voxels = np.arange(np.prod(DICOM_SHAPE), dtype=np.int16).reshape(DICOM_SHAPE) if voxels is None else voxels
    import SimpleITK

    sitk: Any = SimpleITK
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(DICOM_SPACING)
    image.SetDirection(DICOM_AXES)
    image.SetOrigin((-20.0, 30.0, -5.0))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    before = locale.setlocale(locale.LC_ALL)  # of the whole process; writing sets it to C
    for k in [*range(voxels.shape[0]), *twice]:
        if k in skip:
            continue
        part = image[:, :, k]
        position = image.TransformIndexToPhysicalPoint((0, 0, k))
        fields = {
            "0008|0060": "MR",
            "0008|0008": more.get("image_type", "ORIGINAL\\PRIMARY\\M"),
            "0008|103e": description,
            "0010|0010": "SECRET^NAME",
            "0010|0020": "SECRET-ID",
            "0018|0080": str(tr),
            "0018|0081": str(te),
            "0020|000e": f"1.2.826.0.1.3680043.2.1125.{number}",
            "0020|0011": str(number),
            "0020|0013": str(k),
            "0020|0032": "\\".join(f"{x:.6f}" for x in position),
            "0020|0037": "\\".join(str(x) for x in more.get("axes", np.array(DICOM_AXES).reshape(3, 3).T[:2].ravel())),
            **more.get("each", lambda _: {})(k),
            **({"0018|0082": str(ti)} if ti else {}),
            **({"0018|0010": agent} if agent else {}),
        }
        for tag, value in fields.items():
            part.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{number}_{99 - k}_{len(list(folder.iterdir()))}.dcm"))
        writer.Execute(part)
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(scope="session")
def write_series() -> Callable[..., None]:
    """write_series(folder, number, description, tr, te, ti, agent, *, voxels, skip, twice, image_type, axes)."""
    return dicom_series


# A completion in memory ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tiny_checkpoint: Path) -> Trained:
    return load_method(tiny_checkpoint)


@pytest.fixture(scope="module")
def subject(make_subject: Callable[..., Subject]) -> Subject:
    return make_subject("p1", without=[Contrast.T1CE], shape=(24, 28, 6))


@pytest.fixture(scope="module")
def images(subject: Subject) -> dict[str, Any]:
    return {c.value: nib.Nifti1Image(v.voxels, v.affine) for c, v in subject.volumes.items()}


@pytest.fixture(scope="module")
def completion(subject: Subject, trained: Trained) -> Completion:
    return complete_subject(subject, trained)
