"""The vocabulary of file names."""

import pytest

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.io.naming import read_names
from mrsynth.io.sidecars import series_of, weigh
from mrsynth.io.vocabulary import Verdict, contrast_in_name, is_label_map, judge_name, name_words

NAMES = {
    Contrast.T1: """
        t1 T1 t1n t1w T1W t1_pre T1_native mprage MPRAGE T1_MPRAGE_SAG spgr bravo 3DT1 axT1 t1_cor t1cor T1-weighted
        T1_brain T1_brain_n4 T1_masked PatT1 rT1 sub-01_T1w sub-T2a_T1w sub-01_ses-post_T1w sub-01_ce-none_T1w
        sub-01_space-T2w_T1w sub-01_desc-preproc_T1w x_T1_tse T1_PD_001 CT_001_T1 T1_pre_contrast T1_no_gd no_gd_T1
        T1_post_op T1_postop T1_to_MNI T1_regtoMNI IXI002-Guys-0828-T1 BraTS2021_00000_t1 patient_2_T1
        BraTS-GLI-00000-000-t1n TCGA-FG-6692_t1_raw T1_lesionfilled""",
    Contrast.T1CE: """
        t1c T1C t1ce T1ce T1CE t1gd T1Gd T1GD t1_gd t1post T1Post t1_post t1km t1wce T1wCE T1WKS t1-c T1+C cet1
        T1c_bias mprage_post T1_MPRAGE_post_1mm MRHR_T1_AX_POST_GAD_SE_13 post_contrast_T1 T1postcontrast gd_T1 ce
        T1_with_contrast T1_post_brain T1c_MPRAGE T1_post_mprage T1ce_to_T1 sub-01_ce-gadolinium_T1w
        sub-01_ses-2_acq-mprage_ce-GBCA_run-1_T1w VSD.Brain.XX.O.MR_T1c.54512 BraTS-GLI-00000-000-t1c
        UPENN-GBM-00001_11_T1GD""",
    Contrast.T2: """
        t2 T2 t2w T2W tse t2_tse t2fse T2_FSE_ax AX_T2 t2_space t2spc PatT2 sub-CT01_T2w sub-T1_T2w T1study_01_T2
        T2_to_T1 T2_in_T1_space T2toT1 sub-01_space-T1w_T2w IXI002-Guys-0828-T2 BraTS-GLI-00000-000-t2w t1_t2""",
    Contrast.FLAIR: """
        flair FLAIR Flair fla FLA t2f T2F t2_flair t2-flair T2FLAIR T2-FLAIR t2flair T2Flair T2w_FLAIR FLAIR_T2 3D_FLAIR
        FLAIR3D t2_tse_flair t2_space_dark-fluid t2_space_flair PatT2_flair T1_study_01_flair sub-T1_FLAIR flair_in_T1
        FLAIR_to_T1 flair2t1 FLAIRtoT1 sub-01_space-T1w_FLAIR BraTS-GLI-00027-000-t2f TCGA-FG-6692_flair_raw""",
    Contrast.PD: "pd PD PDw IXI002-Guys-0828-PD pd_tse sub-01_PDw",
    Contrast.DWI: "dwi DWI_b1000 sub-01_dwi",
    Contrast.CT: "ct CT CT_001",
    Contrast.MR: "mr 1BA001_MR",
    None: """
        seg BraTS2021_00000_seg autoseg UPENN_autoseg mask t1_brain_mask T1_mask t1_brainmask T1BrainMask t1_seg T1Seg
        sub-01_dseg sub-01_T1w_dseg sub-01_label-GM_probseg sub-01_desc-brain_mask T1_synthseg aparc+aseg T1_labels
        lesion lesion_mask T1_label1 flair_lesion FLAIR_roi tumor_segmentation T1_brain_pve_0 mask_T1
        T1map T1_map T2map T2starw T2_star T2* T2Star T1rho sub-01_inplaneT2 sub-01_UNIT1 subtraction_T1_subtraction
        AX_T1_FLAIR T1FLAIR post_T1 warp_to_T1 regtoT1
        patient01 post direct struct product CT01 sub-T1 sub-CT_bold PDGM McDonaldPD MR_SWI adc swi perf CASE_0000 brain
        scan x 001""",
}


@pytest.mark.parametrize(("name", "contrast"), [(n, c) for c, names in NAMES.items() for n in names.split()])
def test_contrast_in_name(name: str, contrast: Contrast | None) -> None:
    assert contrast_in_name(f"{name}.nii.gz") is contrast
    assert contrast_in_name(f"{name}.nii") is contrast
    assert contrast_in_name(name) is contrast
    assert contrast_in_name(f"/data/T1/t2_flair/{name}.nii.gz") is contrast, "folders do not count"


@pytest.mark.parametrize("contrast", STANDARD)
def test_case_and_separators_do_not_matter(contrast: Contrast) -> None:
    for word in (contrast.value, contrast.label, contrast.value.upper()):
        for pattern in ("{}", "p01_{}", "p01-{}", "p01.{}", "p01 {}", "{}_brain", "{}.p01", "Pat_{}_1mm"):
            assert contrast_in_name(pattern.format(word) + ".NII.GZ") is contrast


def test_empty_names_state_nothing() -> None:
    assert [contrast_in_name(name) for name in ("", ".nii.gz", "_", "---.nii")] == [None] * 4


def test_name_words() -> None:
    assert name_words("PatT2_BrainMask.nii.gz") == ["pat", "t2", "brainmask"]
    assert name_words("sub-CT01_ses-T1_T2w.nii.gz") == ["t2w"]


def test_a_skull_stripped_scan_is_no_label_map() -> None:
    assert not is_label_map("T1_brain.nii.gz")
    assert is_label_map("T1_brain_mask.nii.gz")


def judged(text: str) -> dict[str, Verdict]:
    return {
        name: judge_name(f"{name}.nii.gz") for line in text.strip().splitlines() for name in line.strip().split("|")
    }


DOUBTFUL = {  # what it could be -> names
    (Contrast.T1, Contrast.FLAIR): """
        t1_tirm_tra_dark-fluid|3_t1_qtirm_tra_dark-fluid|T1_dark_blood_flair|AX T1 FLAIR
        AX_T1_ARC_FLAIR|T1_PROP_FLAIR|T1_AIR_FLAIR|T1_ORBIT_FLAIR|T1_smith_FLAIR|FLAIR_rigid_T1|T1_FLR
        T1_longflair""",
    (Contrast.T1CE, Contrast.FLAIR): "T1ce_ARC_FLAIR|FLAIR_MNI_T1ce",
    (Contrast.T2, Contrast.FLAIR): "T2_FLR|T2_FLAIRlong",
    (Contrast.T2,): """
        DTI_T2|p_T2_dwi|p_T2_b0|b0_T2|T2_trace|TRACEW_AX_T2|T2_FA|T2_b1000|T2_Images|T2_R2|T2_orbits|T2_spc_iac""",
    (Contrast.T1,): """
        T1_STIR|COR_STIR_T1|T1_UNI|T1_R1|T1_delta|T1_times|T1_grad|T1_var|T1_sigma|T1_dist|T1_sdf|T1_uncert|T1_softmax
        T1_saliency|T1_noise|T1_frangi|T1_wavelet-LLH|T1_log-sigma-3|T1_template|T1_MNI_template|T1_epi|T1_proj|T1_ED
        T1_NCR|T1_WT|T1_necro|T1_ventricles|T1_thalamus|T1_BrainStem|T1_veins|T1_infarct|T1_meningioma|T1_skull
        T1_neck
        T1_brain_orbit|ORBITS_AX_T1|T1_pituitary|T1_IAC|T1_abdomen|T1_bw|T1_gold|T1_unet""",
    (Contrast.T1CE,): "T1_gd_tumor|T1_gd_orbits|T1c_vessels|T1ce_reg_tumor|T1_KM_STIR",
    (Contrast.T1, Contrast.T1CE): "T1_enhancing|T1_enhancement",
    (Contrast.FLAIR,): "FLAIR_syn|FLAIR_infarct|FLAIR_nnUNetv2",
}
NO_SCANS = {  # a word of the reason -> names
    "map": "T1_MinIP|T1_mIP|T1_zScore|T1_MaxIP|T1_ProbMap|t2_mapit|t2_mapit_Images_T2|FLAIR_heatmap",
    "difference": "T1_subtract|T1_Subtracted|T1_substraction|T1_soustraction",
    "inversion": "T1_inv1|T1_INV2",
    "skull": "T1_brain_outskin_mesh|T1_inskull_mesh|T1_brain_skull",
    "synthetic": "FLAIR_inpaint|FLAIR_inpainted",
    "drawn": """
        FLAIR_rater1|FLAIR_expert2|FLAIR_reader3|FLAIR_thr0.5|FLAIR_hyperintensities|FLAIR_lst|FLAIR_VOI|FLAIR_lesione
        FLAIR_Laesion|FLAIR_Läsion|FLAIR_classes|T1_3class|FLAIR_dilated|FLAIR_GradCAM|FLAIR_nnUNet|T1_DKTatlas
        T1_AAL3|T1_icv""",
    "mask": "T1_маска|T1_分割|T1_mascara|T1_Maschera",
}
PLAIN = {
    Contrast.T1: """
        Gold_T1|Neck_012_T1|Delta_T1|STIR_01_T1|T1_Bonn|T1_to_template|T1_in_template_space|T1_template_space
        T1_dist_corr
        T1_noise_removed|T1_with_skull|T1_no_skull|T1_flirt|T1_SyN|T1_epi_space|T1_fa15|T1_R2|T1_fs_neckline
        HEAD_NECK_T1
        ADNI_002_MR_MPR__GradWarp__B1_Correction__N3|OAS1_0001_MR1_mpr_n4_anon_111_t88|OAS1_0001_MR1_mpr-1_anon
        ADNI_1_MT1__GradWarp__N3m""",
    Contrast.T1CE: "T1_contrast_enhancement|T1_gd_to_template",
    Contrast.T2: "dwi_012_T2|T2_to_b0|T2_in_dwi_space|T2_dwi_space|T2_flirt|Stroke_01_T2|T2_R1",
    Contrast.FLAIR: """
        T1_study_01_FLAIR|FLAIR_in_T1_space|T1_smith_T2_FLAIR|T2_FLAIR_to_T1|Glioma_FLAIR|FLAIR_flirt|AX_T2_FLAIR_STROKE""",
}


@pytest.mark.parametrize("could_be", DOUBTFUL)
def test_what_may_be_another_image_leaves_the_choice(could_be: tuple[Contrast, ...]) -> None:
    assert not {name: v for name, v in judged(DOUBTFUL[could_be]).items() if v.could_be != could_be}


@pytest.mark.parametrize("reason", NO_SCANS)
def test_what_is_made_of_a_scan_is_none(reason: str) -> None:
    wrong = {n: v for n, v in judged(NO_SCANS[reason]).items() if v.contrast or v.could_be or reason not in v.why}
    assert not wrong
    assert all(v.label == (reason in ("drawn", "mask")) for v in judged(NO_SCANS[reason]).values())


@pytest.mark.parametrize("contrast", PLAIN)
def test_names_of_people_places_and_spaces_are_in_no_doubt(contrast: Contrast) -> None:
    assert not {name: v for name, v in judged(PLAIN[contrast]).items() if v.contrast is not contrast}


# JSON files beside a scan --------------------------------------------------------------------------------------------

SHORT = {"EchoTime": 0.0095, "RepetitionTime": 2.0, "InversionTime": 0.8}  # of a T1-weighted dark fluid
GIVEN = {"ContrastBolusAgent": "Gadovist"}
BESIDE: list[tuple[str, dict[str, object], Contrast | tuple[Contrast, ...] | str]] = [
    ("p_FLAIR", SHORT, (Contrast.T1, Contrast.FLAIR)),
    ("p_FLAIR", {"SeriesDescription": "FLAIR", **SHORT}, (Contrast.T1, Contrast.FLAIR)),
    ("scan7", {"SeriesDescription": "FLAIR", **SHORT}, (Contrast.T1, Contrast.FLAIR)),
    ("p_FLAIR", {"SeriesDescription": "t1_tirm_tra_dark-fluid", **SHORT}, Contrast.T1),
    ("p_FLAIR", {"EchoTime": 0, "RepetitionTime": 0}, Contrast.FLAIR),
    ("T1_orbits", {"SeriesDescription": "T1 SE", **SHORT}, (Contrast.T1,)),
    ("scan7", {"SeriesDescription": "AX T1 ORBITS", **SHORT}, (Contrast.T1,)),
    ("p_T2", {"SeriesDescription": "gre_hemo"}, "T2*-weighted"),
    ("p_T2", {"ProtocolName": "fl2d_tra"}, "T2*-weighted"),
    ("p_T1", {"SeriesDescription": "fl3d_tra"}, Contrast.T1),
    ("p_T1", {"SeriesDescription": "3D gradient echo"}, Contrast.T1),
    ("p_T2", {"SeriesDescription": "3D gradient echo"}, "T2*-weighted"),
    ("p_ct", {"Modality": "CT", "ImageType": ["ORIGINAL", "LOCALIZER"]}, "a scout"),
    ("p_T1", {"SeriesDescription": "Routine brain protocol"}, Contrast.T1),
    ("p_T1", {"SeriesDescription": "T1 SE", **GIVEN, "ContrastBolusVolume": 8}, Contrast.T1CE),
    ("p_T1", {"SeriesDescription": "T1 SE", **GIVEN, "ContrastBolusVolume": 0}, (Contrast.T1, Contrast.T1CE)),
    ("scan7", {"SeriesDescription": "T1 SE", **GIVEN, "ContrastBolusVolume": "0.0"}, (Contrast.T1, Contrast.T1CE)),
    ("p_T1_pre", {**GIVEN, "ContrastBolusVolume": 0}, Contrast.T1),
    ("p_T1_gd", {**GIVEN, "ContrastBolusVolume": 0}, Contrast.T1CE),
    ("p_T1", {"Modality": "PT"}, "a PET image"),
    ("p_T1", {"Modality": "CT"}, Contrast.CT),
    ("p_T1", {"Modality": "MR", "BodyPartExamined": "HEADNECK"}, Contrast.T1),
    ("p_T1", {"BodyPartExamined": "ABDOMEN"}, (Contrast.T1,)),
    ("scan7", {"SeriesDescription": "AX T2", "BodyPartExamined": "LSPINE"}, (Contrast.T2,)),
    ("p_ct", {"BodyPartExamined": "PELVIS"}, Contrast.CT),
]


@pytest.mark.parametrize(("name", "content", "expected"), BESIDE)
def test_what_a_json_file_says_of_a_scan(
    name: str, content: dict[str, object], expected: Contrast | tuple[Contrast, ...] | str
) -> None:
    filename = f"{name}.nii.gz"
    found, _ = weigh(filename, read_names([filename], {})[filename], series_of(content))

    could_be = found.could_be if isinstance(found, Verdict) else ()
    if isinstance(expected, Contrast | tuple):
        assert (found.contrast or could_be) == expected
    else:
        assert expected in found.why and not found.contrast and not could_be
