"""CT: the fixed window, its inverse, what is no air, and the files that are not in Hounsfield units."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from mrsynth.card import Card
from mrsynth.contrasts import CT_WARNING, STANDARD, Contrast
from mrsynth.errors import InputError
from mrsynth.plain import Array
from mrsynth.reports.record import intensity_mapping, notices_for
from mrsynth.scans.familiarity import unfamiliar
from mrsynth.scans.hounsfield import HOUNSFIELD, check_hounsfield, to_window, window_of, without_holes
from mrsynth.scans.preparation import PreparationConfig, prepare
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume
from mrsynth.scores.baselines import as_input
from mrsynth.scores.metrics import to_unit
from mrsynth.scores.protocols import scored_case
from mrsynth.tasks.complete.completion import in_file_units, in_u, spread
from mrsynth.training.augmentation import AugmentationConfig
from mrsynth.training.batches import Examples, Slab, TrainingConfig

CT, MR, T1 = Contrast.CT, Contrast.MR, Contrast.T1
PAIR = (CT, MR)

AIR, SKULL, BRAIN, VENTRICLE, SINUS = -1000, 1200, 35, 8, -980
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def radius(shape: tuple[int, int, int]) -> NDArray[np.float64]:
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.sqrt(sum(x**2 for x in axes))


def ct_of(shape: tuple[int, int, int] = (20, 24, 16), fill: float = AIR) -> Array:
    """A head in Hounsfield units: fill outside, a skull around a brain, and air in the middle of it."""
    r = radius(shape)
    voxels = np.select([r < 0.2, r < 0.4, r < 0.7, r < 0.85], [SINUS, VENTRICLE, BRAIN, SKULL], fill)
    return voxels.astype(np.float32)


def mr_of(shape: tuple[int, int, int] = (20, 24, 16)) -> Array:
    """The same head in MR, with its skin: 0 outside, in the air inside, and in much of the skull."""
    r = radius(shape)
    return np.select([r < 0.2, r < 0.4, r < 0.7, r < 0.77, r < 0.95], [0, 150, 500, 0, 700], 0).astype(np.float32)


def head(**volumes: Array) -> Subject:
    return Subject("head", {Contrast(name): Volume(voxels, LPS) for name, voxels in volumes.items()})


# The window ----------------------------------------------------------------------------------------------------------


def test_the_window_has_known_values_and_an_inverse() -> None:
    voxels = np.array([-3024, -1024, -1000, 0, 35, 488, 2000, 3071], np.float32).reshape(2, 2, 2)
    u = to_window(voxels, HOUNSFIELD)
    expected = np.array([0, 0, 24 / 3024, 1024 / 3024, 1059 / 3024, 0.5, 1, 1]).reshape(2, 2, 2)
    np.testing.assert_allclose(u, expected, atol=1e-7)
    back = in_file_units(CT, Volume(u, LPS)).voxels
    np.testing.assert_array_equal(back, np.clip(voxels, *HOUNSFIELD))
    np.testing.assert_allclose(in_u(CT, back), u, atol=1e-7)
    assert spread(CT) == 3024 and spread(T1) == 1000


def test_every_whole_hounsfield_unit_of_a_window_survives() -> None:
    for window in (HOUNSFIELD, (-1000.0, 400.0), (0.0, 80.0)):
        whole = np.arange(window[0], window[1] + 1, dtype=np.float32)[:, None, None]
        u = to_window(whole, window)
        np.testing.assert_array_equal(in_file_units(CT, Volume(u, LPS), window).voxels, whole)


def test_only_ct_has_a_window() -> None:
    assert [c for c in Contrast if window_of(c)] == [CT]
    voxels = np.full((2, 2, 2), 0.25, np.float32)
    np.testing.assert_array_equal(in_file_units(T1, Volume(voxels, LPS), (0, 80)).voxels, 250)
    np.testing.assert_array_equal(in_file_units(CT, Volume(voxels, LPS), (0, 80)).voxels, 20)


@pytest.mark.parametrize("window", [(100, 100), (2000, -1024), (-40000, 0), (0, 40000), (0,), "brain"])
def test_a_window_that_is_none_is_refused(window: object) -> None:
    with pytest.raises(ValidationError, match="hounsfield"):
        PreparationConfig.model_validate({"hounsfield": window})


# Preparation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["brain_quantile", "volume_quantiles"])
def test_ct_is_scaled_by_the_window_whatever_else_is_in_it(rule: str) -> None:
    """Metal in one head must not change what soft tissue is, as a quantile would let it."""
    config = PreparationConfig.model_validate({"multiple": 4, "intensity": rule, "hounsfield": (-1000, 1000)})
    plain, metal = ct_of(), ct_of()
    metal[10, 12, 5] = 3071
    for voxels in (plain, metal):
        prepared = prepare(head(ct=voxels, mr=mr_of()), PAIR, config)
        u = prepared.images[0]
        assert sorted(set(np.round(u[prepared.mask], 6))) == [0, 0.01, 0.504, 0.5175, 1]
        assert not u[~prepared.mask].any()
        assert (prepared.scales[CT], prepared.record["offsets"]["ct"]) == (2000, -1000)
        assert prepared.record["hounsfield"] == [-1000, 1000] and "Hounsfield" in prepared.record["rule"]
        np.testing.assert_array_equal(
            in_file_units(CT, prepared.restore(u), prepared.hounsfield).voxels, np.clip(voxels, -1000, 1000)
        )


def test_the_rule_of_the_others_is_untouched_by_ct() -> None:
    config = PreparationConfig(multiple=4)
    alone = prepare(head(mr=mr_of(), t1=mr_of() ** 2), (MR, T1), config)
    assert "hounsfield" not in alone.record and "Hounsfield" not in alone.record["rule"]
    both = prepare(head(ct=ct_of(), mr=mr_of()), PAIR, config)
    assert both.scales[MR] == pytest.approx(700)  # its 99.5th percentile: the skin
    assert both.images[1].max() == 1 and both.record["rule"].startswith(alone.record["rule"])


@pytest.mark.parametrize("fill", [AIR, -1024, -2000, -3024, -32768])
def test_air_and_the_fill_of_a_scanner_are_background(fill: float) -> None:
    voxels = ct_of(fill=fill)
    subject = head(ct=voxels)
    np.testing.assert_array_equal(subject.foreground(), (radius(voxels.shape) < 0.85) & (voxels != SINUS))
    prepared = prepare(subject, PAIR, PreparationConfig(multiple=4))
    own = prepared.restore(np.ones_like(prepared.images[0])).voxels
    np.testing.assert_array_equal(own != 0, radius(voxels.shape) < 0.85)  # the air inside belongs to the head


def test_the_skull_that_is_black_in_mr_belongs_to_the_head_where_ct_is_known() -> None:
    """Otherwise a CT made from an MR would have air in place of the skull."""
    shape, subject, config = (20, 24, 16), head(mr=mr_of()), PreparationConfig(multiple=4)
    ones = [prepare(subject, contrasts, config) for contrasts in (PAIR, (MR, T1))]
    filled, plain = (p.restore(np.ones_like(p.images[0])).voxels != 0 for p in ones)
    np.testing.assert_array_equal(filled, radius(shape) < 0.95)
    np.testing.assert_array_equal(plain, subject.volumes[MR].voxels != 0)


def test_a_hole_open_to_the_edge_is_none() -> None:
    mask = np.zeros((7, 7, 7), bool)
    mask[1:6, 1:6, 1:6] = True
    mask[3, 3, 3] = False
    mask[0:3, 2, 2] = False
    mask[2:6, 5, 5] = False
    filled = without_holes(mask)
    assert filled[3, 3, 3] and not filled[1, 2, 2] and not filled[0, 0, 0]
    assert filled.sum() == mask.sum() + 1


def test_a_mask_of_the_head_bounds_it() -> None:
    subject = head(ct=ct_of(), mr=mr_of() + 3)  # an MR with noise outside
    inside = radius((20, 24, 16)) < 0.87
    masked = Subject("head", subject.volumes, mask=Volume(inside.astype(np.float32), LPS))
    prepared = prepare(masked, PAIR, PreparationConfig(multiple=4))
    np.testing.assert_array_equal(prepared.restore(np.ones_like(prepared.images[0])).voxels != 0, inside)


def test_between_spacings_tissue_keeps_its_units_up_to_the_edge() -> None:
    """A head of water alone: interpolation with the air around it would darken its rim."""
    affine = np.diag([-1.5, -1.5, 2.0, 1.0])
    water = np.where(radius((20, 24, 16)) < 0.85, 0, AIR).astype(np.float32)
    water[10, 12, 8] = 40
    prepared = prepare(Subject("s", {CT: Volume(water, affine)}), PAIR, PreparationConfig(multiple=4))
    back = in_file_units(CT, prepared.restore(prepared.images[0]), prepared.hounsfield).voxels
    inside = water > -500
    assert prepared.record["resampled"] and back[inside].min() >= -1 and back[inside].max() <= 40
    assert set(back[~inside]) == {-1024}


# Files that are not in Hounsfield units ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ct: ct + 1024, "as if 1024 had been added"),
        (lambda ct: np.maximum(ct + 1024, 0), "subtract 1024"),
        (lambda ct: np.where(ct == AIR, -2000, ct + 1024), "no voxel of air"),
        (lambda ct: (ct + 1000) / 2200, "scaled to a range of about 1"),
        (lambda ct: (ct + 1000) / 1100 - 1, "scaled to a range of about 1"),
        (lambda ct: np.clip(ct, 0, 80) / 80 * 255, "scaled or windowed"),
        (lambda ct: np.where((ct == BRAIN) | (ct == VENTRICLE), ct, 0), "If the background was set to 0"),
        (lambda ct: np.where(ct == AIR, 0, ct), "Set the background to -1024"),
        (lambda ct: np.where(ct > -500, 4000, ct), "nothing but what is outside it"),
        (lambda ct: np.full_like(ct, -1000) + radius(ct.shape), "nothing but what is outside it"),
        (lambda ct: np.where(ct > 0, ct * 20, ct), "rescale slope and intercept"),
    ],
)
def test_a_ct_in_other_units_is_refused_and_says_why(change: Callable[[Array], Array], words: str) -> None:
    subject = head(ct=change(ct_of()).astype(np.float32), mr=mr_of())
    with pytest.raises(InputError, match=words) as error:
        prepare(subject, PAIR, PreparationConfig(multiple=4))
    assert str(error.value).startswith("head: CT from ") and "Hounsfield units" in str(error.value)
    prepare(subject, (MR, T1), PreparationConfig(multiple=4))  # where CT is not used, nobody looks at it


def test_single_voxels_outside_the_window_are_clipped_and_only_a_share_is_told() -> None:
    voxels = ct_of()
    voxels[10, 12, 5:7] = 3071
    check_hounsfield("head", voxels, HOUNSFIELD)
    card = Card(name="pair", method="dfbk", contrasts=PAIR, licence="CC0")

    def told(window: tuple[float, float]) -> list[str]:
        subject = head(ct=voxels, mr=mr_of())
        prepared = prepare(subject, PAIR, PreparationConfig(multiple=4, hounsfield=window))
        return [w for w in unfamiliar(subject, prepared, card) if "clipped" in w]

    assert not told(HOUNSFIELD)
    (warning,) = told((-1000, 1000))  # the skull, nearly half of this head
    assert "above 1000 Hounsfield units" in warning


def test_a_whole_head_is_usual_where_ct_is_known() -> None:
    affine = np.diag([-12.0, -12.0, 12.0, 1.0])  # more than 4 litres
    subject = Subject("head", {CT: Volume(ct_of(), affine), MR: Volume(mr_of(), affine)})
    config = PreparationConfig(multiple=4, spacing=12)
    for contrasts, warned in ((PAIR, False), ((MR, T1), True)):
        card = Card(name="n", method="dfbk", contrasts=contrasts, licence="CC0")
        prepared = prepare(subject, contrasts, config)
        assert any("skull" in w for w in unfamiliar(subject, prepared, card)) == warned


# Scores, training, words ---------------------------------------------------------------------------------------------


def test_protocols_and_baselines_see_a_ct_by_the_window() -> None:
    subject = head(ct=ct_of(), mr=mr_of())
    u = to_window(ct_of(), HOUNSFIELD)
    case = scored_case(subject, CT, u)
    np.testing.assert_allclose(case.y, case.p, atol=1e-7)
    np.testing.assert_array_equal(case.mask, subject.foreground())
    np.testing.assert_allclose(as_input(subject, CT), u[subject.foreground()])
    assert scored_case(subject, MR, u).window is None
    np.testing.assert_allclose(to_unit(ct_of(), HOUNSFIELD), u, atol=1e-7)


def test_training_changes_no_intensity_of_a_ct() -> None:
    class Pair:
        contrasts = PAIR

        def draw_available(self, present: NDArray[np.bool_], *_: object) -> NDArray[np.bool_]:
            return present

    rng = np.random.default_rng(0)
    images = rng.uniform(0.2, 0.8, (2, 1, 8, 8)).astype(np.float32)

    class Source:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Slab:
            return Slab(images, np.array([True, True]))

    changes = AugmentationConfig(flip=0, affine=0, gamma=0.5, gain=0.2, bias_field=0.2)
    config = TrainingConfig(iterations=1, batch_size=1, augmentation=changes)
    example = Examples(Source(), Pair(), config)[0, 0]  # type: ignore[arg-type]
    assert torch.equal(example["images"][0], torch.from_numpy(images[0, 0]) * 2 - 1)
    assert (example["images"][1] - (torch.from_numpy(images[1, 0]) * 2 - 1)).abs().max() > 0.05


def test_what_must_be_said_of_a_synthetic_ct() -> None:
    assert CT_WARNING in notices_for([CT]) and CT_WARNING not in notices_for(STANDARD)
    text = intensity_mapping("the rule", CT, (-1000, 1500))
    assert text.startswith("Hounsfield units") and "-1000 to 1500" in text and "the rule" in text
    assert "1000 u" in intensity_mapping("the rule", MR)
