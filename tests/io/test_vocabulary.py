"""The vocabulary of file names."""

import pytest

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.io.vocabulary import contrast_in_name, is_label_map, name_words

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
