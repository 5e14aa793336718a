"""Requests to synthesise: which modes and options a checkpoint takes, and what is said of what comes out."""

import pytest
from pydantic import ValidationError

from mrsynth.errors import UsageError
from mrsynth.methods.base import modes_of
from mrsynth.sampling import Estimator, Sampling, check_chain, default_in_words, in_words, mode_of
from mrsynth.tasks.complete.plan import CompleteOptions

BOTH = {"mode": "mean", "modes": ["mean", "sample"], "sampler": "ddpm", "steps": 50}
CHAIN = {"mode": "sample", "modes": ["sample"], "sampler": "ddpm", "steps": 10}
OLD = {"sampler": "ddim", "steps": 1, "samples": 4}  # as 0.1.0 wrote it


@pytest.mark.parametrize(
    ("said", "asked", "mode"),
    [
        (BOTH, {}, "mean"),
        (BOTH, {"mode": "sample", "steps": 7, "sampler": "ddim", "samples": 3}, "sample"),
        (CHAIN, {"steps": 3}, "sample"),
        (OLD, {"steps": 3, "samples": 2}, None),
        (OLD, {"mode": "mean"}, "mean"),
        ({}, {}, None),
    ],
)
def test_the_mode_is_the_asked_one_else_the_checkpoints(said, asked, mode):
    assert mode_of(said, Sampling(**asked), "x", "fgc2f") == mode


@pytest.mark.parametrize(
    "option",
    [{"steps": 1}, {"sampler": "ddim"}, {"samples": 1}, {"eta": 0.0}, {"variance": "beta"}, {"noise": "v1"}],
    ids=str,
)
@pytest.mark.parametrize(("said", "mode"), [(BOTH, None), (BOTH, "mean"), (OLD, "mean")])
def test_the_mean_takes_no_option_of_a_chain(said, mode, option):
    with pytest.raises(UsageError, match=f"--{next(iter(option))} with mode mean.*--mode sample"):
        mode_of(said, Sampling(mode=mode, **option), "x", "fgc2f")


@pytest.mark.parametrize(
    ("sampler", "option", "fits"),
    [
        ("ddim", {"eta": 0.5}, True),
        ("ddpm", {"eta": 0.5}, False),
        ("residual_shift", {"eta": 0.0}, False),
        ("ddpm", {"variance": "beta"}, True),
        ("ddim", {"variance": "posterior"}, False),
        ("direct", {"variance": "beta"}, False),
    ],
)
def test_eta_belongs_to_ddim_and_the_variance_to_ddpm(sampler, option, fits):
    if fits:
        check_chain(sampler, Sampling(**option))
    else:
        with pytest.raises(UsageError, match=f"--{next(iter(option))} is an option of the sampler dd.m.* {sampler}"):
            check_chain(sampler, Sampling(**option))
    check_chain(sampler, Sampling())


def test_that_is_known_before_a_checkpoint_is_read():
    with pytest.raises(UsageError, match="--eta is an option of the sampler ddim"):
        mode_of(BOTH, Sampling(mode="sample", eta=0.5), "x", "fgc2f")
    with pytest.raises(UsageError, match="--variance is an option of the sampler ddpm"):
        mode_of(OLD, Sampling(variance="beta"), "x", "fgc2f")
    assert mode_of(BOTH, Sampling(mode="sample", sampler="ddim", eta=0.5), "x", "fgc2f") == "sample"


@pytest.mark.parametrize("wrong", [{"eta": -0.1}, {"eta": 1.1}, {"eta": float("nan")}, {"variance": "auto"}], ids=str)
def test_what_no_chain_can_take_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(UsageError, match=rf"Sampling: {name}="):
        Sampling(**wrong)


def test_what_is_no_option_or_value_is_told_with_those_that_are():
    wrong = [
        ({"sede": 3}, "no option 'sede'; there are mode, sampler"),
        ({"mode": "Mean"}, "mode='Mean': input should be 'mean' or 'sample'"),
        ({"steps": 0}, "steps=0: input should be greater than 0"),
        ({"seed": 1.5}, "seed=1.5: .*integer"),
        ({"planes": "axial"}, "planes='axial': .*tuple"),
        ({"planes": ["axial", "axial"]}, "planes=.*each once"),
        ({"planes": ["Axial"]}, "planes='Axial': .*'axial'"),
        ({"seed": None, "crop": "all"}, "seed=None: .*; crop='all': "),
    ]
    for options, words in wrong:
        with pytest.raises(UsageError, match=words):
            Sampling(**options)
    with pytest.raises(ValidationError):  # the command line tells them by its own options
        CompleteOptions(folder=".", mode="Mean")


def test_a_mode_that_the_checkpoint_cannot_do_is_refused():
    with pytest.raises(UsageError, match="official has no mode mean: it does sample"):
        mode_of(CHAIN, Sampling(mode="mean"), "official", "cwdm")
    with pytest.raises(UsageError, match="mode='median'"):
        Sampling(mode="median")


def test_cycle_spinning_is_of_the_mean_and_of_wavelets():
    spun = Sampling(cycle_spinning=True)
    assert mode_of(BOTH, spun, "x", "cwdm") == "mean"
    with pytest.raises(UsageError, match=r"--cycle-spinning is for networks on wavelet .* x is of dfbk"):
        mode_of(BOTH, spun, "x", "dfbk")
    with pytest.raises(UsageError, match="--cycle-spinning is an option of mode mean"):
        mode_of(BOTH, Sampling(cycle_spinning=True, mode="sample"), "x", "cwdm")
    words = Estimator(sampler="one call", steps=1, mode="mean", cycle_spinning=True).words
    assert "on two grids a voxel apart, averaged" in words


@pytest.mark.parametrize(
    ("predicts", "share", "steps", "modes"),
    [
        ("eps", 0.0, 1, ("sample",)),
        ("x0", 0.0, None, ("sample", "mean")),
        ("x0", 0.7, 50, ("mean", "sample")),
        ("v", 0.0, 1, ("mean", "sample")),
        ("x0", 1.0, None, ("mean",)),
    ],
)
def test_modes_follow_from_what_the_network_was_trained_for(predicts, share, steps, modes):
    assert modes_of(predicts, share, steps) == modes


def test_the_words_tell_the_kinds_of_image_apart():
    assert "conditional mean" in Estimator("one call", 1, mode="mean").words
    several = Estimator("ddpm", 50, samples=3, mode="sample").words
    assert "One sample, by 50 steps of ddpm" in several and "spread of 3 samples" in several
    assert "The mean of 4 draws by 1 step of ddim" in in_words("draws", "ddim", 1, 4)
    assert default_in_words(BOTH).endswith("--mode sample is the other way.")
    assert "--mode" not in default_in_words(CHAIN) and "10 steps of ddpm" in default_in_words(CHAIN)
    assert "4 draws" in default_in_words(OLD)


def test_a_request_of_a_command_carries_a_plain_one():
    class Options(Sampling):
        folder: str

    asked = Options(folder="x", mode="sample", seed=3)

    assert type(asked.sampling) is Sampling and asked.sampling == Sampling(mode="sample", seed=3)


def test_what_draws_is_named_with_its_version_and_nothing_draws_a_mean():
    assert Estimator(sampler="ddim", steps=4, mode="sample", noise="v2").generator.startswith("v2: Philox-4x32-10")
    assert Estimator(sampler="one call", steps=1, mode="mean").generator is None
