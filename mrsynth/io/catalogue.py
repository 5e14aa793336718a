"""The catalogue of the benchmark's data sets: what is known of each without looking at a copy of it.

Licences and label values are as their providers state them; where nothing certain is known, "see the provider".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from textwrap import dedent, fill, indent
from typing import Any

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import UsageError
from mrsynth.texts import meant

T1, _, T2, FLAIR = STANDARD


@dataclass(frozen=True)
class DatasetSpec:
    """What is known of a data set.

    contrasts    what every subject has; for `folder`, what is looked for
    layout       what the root is expected to hold, in words
    tree         the same as an example
    preparation  what has to be done to the files as downloaded before they can be used; empty where nothing
    split_rule   who trains, who validates, who tests, when no file says so; in words
    licence      as far as known
    regions      region -> the values of the segmentation in it; empty where there are no labels, or of unknown meaning
    needs_root   whether the user gives the root; the phantom is made on the spot
    has_tests    whether the organisers' test subjects, told by their folder, are the test part
    """

    name: str
    title: str
    contrasts: tuple[Contrast, ...]
    layout: str
    tree: str
    citation: str
    licence: str = "see the provider"
    preparation: str = ""
    split_rule: str = ""
    regions: Mapping[str, frozenset[int]] = field(default_factory=dict)
    needs_root: bool = True
    has_tests: bool = False


def list_datasets() -> str:
    """One line per data set: its name, title and contrasts."""
    width = max(map(len, DATASETS))
    lines = [f"{spec.name:<{width}}  {spec.title}: {', '.join(c.label for c in spec.contrasts)}" for spec in _CATALOGUE]
    return "\n".join(lines)


def dataset_facts() -> list[dict[str, Any]]:
    """The same for programs, with what `describe_dataset` says of each."""
    return [
        {
            "name": name,
            "title": spec.title,
            "contrasts": [c.value for c in spec.contrasts],
            "layout": spec.layout,
            "split": spec.split_rule,
            "licence": spec.licence,
            "citation": spec.citation,
        }
        for name, spec in DATASETS.items()
    ]


def describe_dataset(name: str) -> str:
    """All that is known of a data set, as plain text. Raises UsageError for an unknown name."""
    spec = spec_of(name)
    regions = [f"{region} = {{{', '.join(map(str, sorted(values)))}}}" for region, values in spec.regions.items()]
    facts = {
        "contrasts": ", ".join(c.label for c in spec.contrasts),
        "layout": spec.layout,
        "first": spec.preparation,
        "split": spec.split_rule,
        "regions": "; ".join(regions) or "none",
        "licence": spec.licence,
        "citation": spec.citation,
    }
    paragraphs = [
        fill(f"{key}: {text}", 100, subsequent_indent="  ", break_on_hyphens=False)
        for key, text in facts.items()
        if text
    ]
    paragraphs.insert(2, indent(spec.tree, "    "))
    return "\n".join([f"{spec.name}: {spec.title}", *paragraphs])


def spec_of(name: str) -> DatasetSpec:
    """The entry of a data set. Raises UsageError for an unknown name."""
    if name not in DATASETS:
        hint = meant(name, DATASETS.keys())
        raise UsageError(f"{name} is no data set of the benchmark; known are {', '.join(DATASETS)}.{hint}")
    return DATASETS[name]


def _tree(text: str) -> str:
    return dedent(text).strip()


_RULE = (
    "By patient: SHA-256 of data set and patient as a number in [0, 1); below 0.8 train, below 0.9 validation, else "
    "test. It depends on nothing else, so that more subjects on disk move nobody."
)
_RULE_BESIDE_A_TEST_SET = (
    "The organisers' test subjects, told by a folder `test` or `..._Testing` around them, are the test part. The "
    "others by patient: SHA-256 of data set and patient as a number in [0, 1); below 0.9 train, else validation."
)
_ENHANCING_3_OR_4 = {"WT": frozenset({1, 2, 3, 4}), "TC": frozenset({1, 3, 4}), "ET": frozenset({3, 4})}
_MENZE = (
    "Menze B. H. et al. The Multimodal Brain Tumor Image Segmentation Benchmark (BRATS). IEEE TMI, 2015, "
    "doi:10.1109/TMI.2014.2377694. Bakas S. et al. Advancing The Cancer Genome Atlas glioma MRI collections with "
    "expert segmentation labels and radiomic features. Scientific Data, 2017, doi:10.1038/sdata.2017.117."
)
_BAID = (
    "Baid U. et al. The RSNA-ASNR-MICCAI BraTS 2021 Benchmark on Brain Tumor Segmentation and Radiogenomic "
    "Classification. arXiv:2107.02314, 2021."
)
_BRATS_FOLDERS = (
    "one folder per examination, at any depth below the root, with T1, T1ce, T2, FLAIR and the segmentation"
)

_CATALOGUE = (
    DatasetSpec(
        name="brats20",
        title="BraTS 2020",
        contrasts=STANDARD,
        layout=f"{_BRATS_FOLDERS}: 1 necrotic core, 2 oedema, 4 enhancing. Tables of names and survival are ignored.",
        tree=_tree("""
            MICCAI_BraTS2020_TrainingData/
              BraTS20_Training_001/
                BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii"""),
        split_rule=f"{_RULE} The organisers' validation subjects have no labels and are divided like all others.",
        citation=f"{_MENZE} Bakas S. et al. arXiv:1811.02629, 2018.",
        regions=_ENHANCING_3_OR_4,
    ),
    DatasetSpec(
        name="brats21",
        title="BraTS 2021",
        contrasts=STANDARD,
        layout=f"{_BRATS_FOLDERS}: 1 necrotic core, 2 oedema, 4 (in files of 2023: 3) enhancing; files named as in "
        "BraTS 2023 and unknown names in BraTS naming may lie among them.",
        tree=_tree("""
            BraTS2021_Training_Data/
              BraTS2021_00000/
                BraTS2021_00000_{t1,t1ce,t2,flair,seg}.nii.gz"""),
        split_rule=f"{_RULE} The patient is the five-digit number, which BraTS 2023 is taken to have kept: brats21 and "
        "brats23 put a patient into the same part.",
        citation=f"Baid U. et al. RSNA-ASNR-MICCAI-BraTS-2021. TCIA, 2023, doi:10.7937/jc8x-9874. {_BAID} {_MENZE}",
        licence="CC BY 4.0 as released by The Cancer Imaging Archive; elsewhere see the provider",
        regions=_ENHANCING_3_OR_4,
    ),
    DatasetSpec(
        name="brats23",
        title="BraTS 2023 adult glioma (GLI) and BraSyn 2023",
        contrasts=STANDARD,
        layout=f"{_BRATS_FOLDERS}: 1 necrotic core, 2 oedema, 3 (in files of 2021: 4) enhancing; files named as in "
        "BraTS 2021 and unknown names in BraTS naming may lie among them.",
        tree=_tree("""
            ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/
              BraTS-GLI-00000-000/
                BraTS-GLI-00000-000-{t1n,t1c,t2w,t2f,seg}.nii.gz"""),
        split_rule=f"{_RULE} The patient is the five-digit number, the last three digits are the time point; brats21 "
        "and brats23 put a patient into the same part.",
        citation=f"{_BAID} Li H. B. et al. The Brain Tumor Segmentation (BraTS) Challenge 2023: Brain MR Image "
        f"Synthesis for Tumor Segmentation (BraSyn). arXiv:2305.09011, 2023. {_MENZE}",
        regions=_ENHANCING_3_OR_4,
    ),
    DatasetSpec(
        name="brats24",
        title="BraTS 2024 glioma after treatment (GLI)",
        contrasts=STANDARD,
        layout=f"{_BRATS_FOLDERS}: 1 non-enhancing core, 2 FLAIR hyperintensity, 3 enhancing, 4 resection cavity, "
        "which is in no region. Other names are left out, because label 4 means something else there.",
        tree=_tree("""
            training_data1_v2/
              BraTS-GLI-00005-100/
                BraTS-GLI-00005-100-{t1n,t1c,t2w,t2f,seg}.nii.gz
              BraTS-GLI-00005-101/ ..."""),
        split_rule=f"{_RULE} All time points of a patient (the last three digits) are in one part.",
        citation="de Verdier M. C. et al. The 2024 Brain Tumor Segmentation (BraTS) Challenge: Glioma Segmentation on "
        "Post-treatment MRI. arXiv:2405.18368, 2024.",
        regions={"WT": frozenset({1, 2, 3}), "TC": frozenset({1, 3}), "ET": frozenset({3})},
    ),
    DatasetSpec(
        name="ixi",
        title="IXI",
        contrasts=(T1, T2, Contrast.PD),
        layout="T1, T2 and PD of healthy people, in the folders IXI-T1, IXI-T2, IXI-PD or in one folder per subject.",
        tree=_tree("""
            IXI-T1/IXI002-Guys-0828-T1.nii.gz
            IXI-T2/IXI002-Guys-0828-T2.nii.gz
            IXI-PD/IXI002-Guys-0828-PD.nii.gz"""),
        preparation="The images come with their skull and on different grids: register and resample T1 (and PD) to T2 "
        "or all to a template, remove the skull, set the background to 0, and keep the names.",
        split_rule=_RULE,
        citation="IXI, Information eXtraction from Images (EPSRC GR/S21533/02), brain-development.org/ixi-dataset.",
        licence="CC BY-SA 3.0, as stated by the provider",
    ),
    DatasetSpec(
        name="isles15",
        title="ISLES 2015 SISS",
        contrasts=(T1, T2, FLAIR, Contrast.DWI),
        layout="one numbered folder per subject with a folder for each of T1, T2, FLAIR, DWI and the lesion (OT); "
        "skull-stripped, 1 mm, on the grid of the FLAIR.",
        tree=_tree("""
            SISS2015_Training/
              1/
                VSD.Brain.XX.O.MR_Flair.70614/VSD.Brain.XX.O.MR_Flair.70614.nii
                VSD.Brain.XX.O.{MR_DWI,MR_T1,MR_T2}.NNNNN/...
                VSD.Brain_3more.XX.O.OT.NNNNN/VSD.Brain_3more.XX.O.OT.NNNNN.nii"""),
        split_rule=_RULE_BESIDE_A_TEST_SET,
        citation="Maier O. et al. ISLES 2015 - A public evaluation benchmark for ischemic stroke lesion segmentation "
        "from multispectral MRI. Medical Image Analysis 35:250-269, 2017, doi:10.1016/j.media.2016.07.009.",
        regions={"lesion": frozenset({1})},
        has_tests=True,
    ),
    DatasetSpec(
        name="wmh",
        title="WMH Segmentation Challenge 2017",
        contrasts=(T1, FLAIR),
        layout="site/number/pre/ with T1 and FLAIR, and wmh.nii.gz beside pre: 1 white matter hyperintensity, 2 other "
        "pathology. The folder orig is not used.",
        tree=_tree("""
            training/
              Utrecht/0/{pre/T1.nii.gz,pre/FLAIR.nii.gz,wmh.nii.gz}
              Amsterdam/GE3T/100/...
            test/..."""),
        preparation="The images in pre have one grid but still their skull: remove it and set the background to 0.",
        split_rule=_RULE_BESIDE_A_TEST_SET,
        citation="Kuijf H. J. et al. Standardized Assessment of Automatic Segmentation of White Matter "
        "Hyperintensities and Results of the WMH Segmentation Challenge. IEEE TMI, 2019. Data: doi:10.34894/AECRSD.",
        regions={"WMH": frozenset({1}), "other": frozenset({2})},
        has_tests=True,
    ),
    DatasetSpec(
        name="synthrad23",
        title="SynthRAD2023 task 1, brain",
        contrasts=(Contrast.CT, Contrast.MR),
        layout="one folder per subject with CT in Hounsfield units, MR, and the mask of the head, outside which "
        "nothing counts; the pelvis is not used.",
        tree=_tree("""
            Task1/brain/
              1BA001/{ct,mr,mask}.nii.gz"""),
        split_rule=_RULE,
        citation="Thummerer A. et al. SynthRAD2023 Grand Challenge dataset: generating synthetic CT for radiotherapy. "
        "Medical Physics, 2023; arXiv:2303.16320. Data: doi:10.5281/zenodo.7260705.",
    ),
    DatasetSpec(
        name="phantom",
        title="phantoms made on the spot",
        contrasts=STANDARD,
        layout="made from nilearn's MNI152 tissue maps; no root is given. 1 necrotic core, 2 oedema, 4 enhancing.",
        tree=_tree("""
            phantom-000/phantom-000_{t1,t1ce,t2,flair,seg}.nii.gz"""),
        split_rule=_RULE,
        citation="mrsynth; tissue maps: MNI ICBM152 2009a, as installed with nilearn.",
        licence="made by the user; for the tissue maps see nilearn",
        regions=_ENHANCING_3_OR_4,
        needs_root=False,
    ),
    DatasetSpec(
        name="folder",
        title="a folder of subjects in any layout",
        contrasts=STANDARD,
        layout="whatever `mrsynth inspect` understands; a subject needs at least two of T1, T1ce, T2, FLAIR. The "
        "meaning of labels is unknown, so that there are no regions.",
        tree=_tree("""
            case-1/{t1,t1ce,t2,flair}.nii.gz
            sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz ..."""),
        split_rule=f"{_RULE} A patient is a subject; `sub-X` is the patient of `sub-X_ses-Y`.",
        citation="the user's own data",
        licence="the user's own data",
    ),
)

DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in _CATALOGUE}
