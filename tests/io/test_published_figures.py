"""The published figures that come with the package: readable, explained, chosen by data set and contrasts."""

import re

import pytest
import yaml

from mrsynth.contrasts import Contrast, pattern_name
from mrsynth.errors import InputError
from mrsynth.io.published_figures import read_published
from mrsynth.scores.published_figures import MEANS, UNVERIFIED, PublishedFigures

THREE = "t1+t2+flair"


@pytest.fixture(scope="module")
def published() -> PublishedFigures:
    return read_published()


def test_every_row_is_in_our_words_and_has_its_source(published):
    names = {c.value for c in Contrast}

    assert len(published.rows) > 100
    for row in published.rows:
        assert row.target in names | set(MEANS)
        if row.inputs not in ("any three", "unknown"):
            inputs = [Contrast(name) for name in row.inputs.split("+")]
            assert pattern_name(inputs) == row.inputs
            assert row.target not in row.inputs.split("+")
        assert row.metric in {"PSNR", "SSIM", "MSE", "MAE", "NMSE", "DICE", "SECONDS"}
        assert re.fullmatch(r"(brats(1[89]|2[01345])?|ixi|wmh|isles15|synthrad23)", row.dataset)
        assert published.sources[row.paper].title
        assert (row.upper or row.value) >= row.value


@pytest.mark.parametrize(
    ("metric", "low", "high"),
    [("PSNR", 15, 40), ("SSIM", 0.5, 1), ("DICE", 0.4, 1), ("MSE", 0, 0.1), ("MAE", 0, 0.1), ("NMSE", 0, 1)],
)
def test_values_have_the_unit_of_their_metric(published, metric, low, high):
    values = [row.value for row in published.rows if row.metric == metric]

    assert values and all(low < value < high for value in values)


def test_a_figure_known_by_heart(published):
    (row,) = [r for r in published.rows if (r.method, r.metric, r.inputs) == ("FgC2F-UDiff", "PSNR", THREE)]

    assert (row.dataset, row.inputs, row.target, row.value) == ("brats21", THREE, "t1ce", 28.52)
    assert row.deviation == 1.38
    assert row.how_seen == UNVERIFIED


def test_only_what_was_read_in_the_paper_is_verified(published):
    for row in published.rows:
        assert (row.how_seen == UNVERIFIED) == (row.seen not in ("abstract", "paper_text"))
    assert {row.seen for row in published.rows} >= {"abstract", "paper_text", "secondary"}


def test_rows_are_chosen_by_family_and_contrasts(published):
    rows = published.concerning("brats21", [(THREE, "t1ce")])

    assert all(row.dataset.startswith("brats") for row in rows)
    exact = [row for row in rows if row.target not in MEANS]
    assert exact and all((row.inputs, row.target) == (THREE, "t1ce") for row in exact)
    assert {row.target for row in rows} > {"t1ce"}  # figures over all contrasts, from three
    assert rows[0].dataset == "brats21"
    assert [row.dataset == "brats21" for row in rows] == sorted(
        (row.dataset == "brats21" for row in rows), reverse=True
    )


def test_figures_over_all_contrasts_do_not_concern_who_made_one_from_one(published):
    rows = published.concerning("brats23", [("t1", "t1ce")])

    assert {row.method for row in rows} == {"CFM", "cWDM, run by others"}


@pytest.mark.parametrize("dataset", ["phantom", "folder"])
def test_other_data_sets_have_no_published_figures(published, dataset):
    assert published.family(dataset) == ()
    assert published.concerning(dataset, [("t1", "t2")]) == ()


def test_the_figures_of_dfbk_concern_its_three_data_sets(published):
    rows = [row for row in published.rows if row.paper == "dfbk"]

    assert len(rows) == 128
    assert {row.dataset for row in rows} == {"brats23", "isles15", "synthrad23"}
    assert {row.method for row in published.concerning("synthrad23", [("mr", "ct")])} > {"DFBK", "ResViT"}
    assert published.concerning("isles15", [("flair", "dwi")])


def test_cwdms_table_was_scored_on_complete_volumes(published):
    rows = [row for row in published.rows if row.method == "cWDM"]

    assert {row.protocol: published.protocols[row.protocol].nearest for row in rows} == {
        "cwdm_volumes": "full3d",
        "cwdm_cropped": "cwdm",
    }


def test_nothing_made_concerns_nothing(published):
    assert published.concerning("brats21", []) == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": [{"method": "x"}]}, "rows.0"),
        ({"colour": "red"}, "colour"),
        ({"schema_version": 2}, "schema_version"),
        ({"sources": {}}, "is explained nowhere"),
        ("[unfinished", "while parsing"),
    ],
)
def test_a_damaged_file_is_named_with_the_place(tmp_path, change, said):
    row = {"method": "m", "paper": "p", "dataset": "ixi", "release": "IXI", "inputs": "t1", "target": "t2"}
    row |= {"metric": "PSNR", "value": 30.0, "seen": "abstract"}
    content = {"schema_version": 1, "collected": "2026-11-20", "protocols": {}, "remarks": [], "rows": [row]}
    content |= {"sources": {"p": {"title": "A paper"}}}
    file = tmp_path / "published.yaml"
    file.write_text(yaml.safe_dump(content))
    assert read_published(file).rows[0].value == 30
    file.write_text(change if isinstance(change, str) else yaml.safe_dump(content | change))

    with pytest.raises(InputError, match=said) as caught:
        read_published(file)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml"):
        read_published(tmp_path / "nowhere.yaml")
