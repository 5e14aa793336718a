"""Names as public archives, converters and users write them: which file of a folder is which contrast."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError
from mrsynth.io.naming import ScanName, read_names
from mrsynth.io.sidecars import names_an_agent, series_of
from mrsynth.io.subjects import SubjectFiles, find_subject, find_subjects
from mrsynth.io.vocabulary import judge_name
from tests.helpers import touch

T1, T1CE, T2, FLAIR = STANDARD
SHORT = {"t1": T1, "t1ce": T1CE, "t2": T2, "flair": FLAIR}


def found(subject: SubjectFiles) -> dict[str, str]:
    names = {c.value: path.relative_to(subject.folder).as_posix() for c, path in subject.files.items() if c in STANDARD}
    return {contrast: name.removesuffix(".nii.gz") for contrast, name in names.items()}


def expected(text: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in text.split())


# Archives ------------------------------------------------------------------------------------------------------------

PDGM = "UCSF-PDGM-0004_"
ARCHIVES = {  # archive -> the files of a subject ({} stands for the prefix they share), and which is which
    "UCSF-PDGM": (
        PDGM,
        "{}T1 {}T1_bias {}T1c {}T1c_bias {}T2 {}T2_bias {}FLAIR {}FLAIR_bias {}ADC {}ASL {}SWI {}SWI_bias "
        "{}DTI_eddy_FA {}brain_segmentation {}tumor_segmentation",
        "t1={}T1 t1ce={}T1c t2={}T2 flair={}FLAIR",
    ),
    "UPENN-GBM": (
        "UPENN-GBM-00001_11_",
        "{}T1_unstripped {}T1GD_unstripped {}T2_unstripped {}FLAIR_unstripped",
        "t1={}T1_unstripped t1ce={}T1GD_unstripped t2={}T2_unstripped flair={}FLAIR_unstripped",
    ),
    "LUMIERE": (
        "",
        "ct1_skull_strip flair_skull_strip t1_skull_strip t2_skull_strip brain_mask",
        "t1=t1_skull_strip t1ce=ct1_skull_strip t2=t2_skull_strip flair=flair_skull_strip",
    ),
    "LUMIERE raw": ("", "CT1 FLAIR T1 T2", "t1=T1 t1ce=CT1 t2=T2 flair=FLAIR"),
    "EGD": ("", "T1 T1GD T2 FLAIR MASK", "t1=T1 t1ce=T1GD t2=T2 flair=FLAIR"),
    "RHUH-GBM": (
        "RHUH-0001_0_",
        "{}t1 {}t1ce {}t2 {}flair {}adc {}segmentations",
        "t1={}t1 t1ce={}t1ce t2={}t2 flair={}flair",
    ),
    "MSSEG 2016": ("", "3DFLAIR 3DT1 3DT1GADO DP T2", "t1=3DT1 t1ce=3DT1GADO t2=T2 flair=3DFLAIR"),
    "MSLesSeg": ("P14_T1_", "{}FLAIR {}T1 {}T2 {}MASK", "t1={}T1 t2={}T2 flair={}FLAIR"),
    "IXI": ("IXI012-HH-1211-", "{}T1 {}T2 {}PD {}MRA", "t1={}T1 t2={}T2"),
    "HCP": (
        "_acpc_dc_restore_brain",
        "T1w{} T2w{} brainmask_fs",
        "t1=T1w{} t2=T2w{}",
    ),
    "dcm2niix": (
        "",
        "4_AX_T1_SE 5_AX_T2_FSE_FatSat 6_AX_T2_FLAIR 9_AX_T1_SE_POST_GAD 1_LOCALIZER 7_AX_DWI_ADC",
        "t1=4_AX_T1_SE t1ce=9_AX_T1_SE_POST_GAD t2=5_AX_T2_FSE_FatSat flair=6_AX_T2_FLAIR",
    ),
    "dcm2niix, Philips": (
        "",
        "301_sT1W_3D_TFE 401_T2W_TSE 501_FLAIR_longTR 801_sT1W_3D_TFE_Gd",
        "t1=301_sT1W_3D_TFE t1ce=801_sT1W_3D_TFE_Gd t2=401_T2W_TSE flair=501_FLAIR_longTR",
    ),
    "dcm2niix, +C": (
        "",
        "3_Sag_T1_CUBE 4_Ax_T2_FSE 6_Ax_T2_FLAIR 9_+C_Sag_T1_CUBE",
        "t1=3_Sag_T1_CUBE t1ce=9_+C_Sag_T1_CUBE t2=4_Ax_T2_FSE flair=6_Ax_T2_FLAIR",
    ),
    "dcm2niix, plusC": (
        "",
        "4_Ax_T2_FSE 6_Ax_T2_FLAIR 9_plusC_Sag_T1_CUBE",
        "t1ce=9_plusC_Sag_T1_CUBE t2=4_Ax_T2_FSE flair=6_Ax_T2_FLAIR",
    ),
    "BraTS-PED": (
        "BraTS-PED-00002-000-",
        "{}t1c {}t1n {}t2f {}t2w",
        "t1={}t1n t1ce={}t1c t2={}t2w flair={}t2f",
    ),
    "SPM": ("", "mT1 rT2 rFLAIR c1T1 y_T1", "t1=mT1 t2=rT2 flair=rFLAIR"),
    "SPM in lower case": ("", "mt1 rt2 rflair c1t1 c2t1 wc1t1 iy_t1", "t1=mt1 t2=rt2 flair=rflair"),
    "SPM beside the scan": ("", "T1 mT1 c1T1 mwc1T1 y_T1 rFLAIR", "t1=T1 flair=rFLAIR"),
    "ANTs": (
        "",
        "T1_N4_brain T1Gd_N4_regToT1_brain T2_regToT1_Warped FLAIR_regToT1_Warped",
        "t1=T1_N4_brain t1ce=T1Gd_N4_regToT1_brain t2=T2_regToT1_Warped flair=FLAIR_regToT1_Warped",
    ),
    "BraTS toolkit": (
        "hdbet_brats_",
        "{}fla {}t1 {}t1c {}t2",
        "t1={}t1 t1ce={}t1c t2={}t2 flair={}fla",
    ),
    "a study called Seg": ("VesSegTrial_012_", "{}t1 {}t2 {}flair", "t1={}t1 t2={}t2 flair={}flair"),
    "a study called MASK": ("MASK_012_", "{}t1 {}t2 {}flair {}brain_mask", "t1={}t1 t2={}t2 flair={}flair"),
    "a time point after the contrast": ("_T1", "P1_T1{} P1_T2{} P1_FLAIR{}", "t1=P1_T1{} t2=P1_T2{} flair=P1_FLAIR{}"),
    "a time point within": (
        "_brain",
        "P1_T1_T1{} P1_T1_T2{} P1_T1_FLAIR{}",
        "t1=P1_T1_T1{} t2=P1_T1_T2{} flair=P1_T1_FLAIR{}",
    ),
    "MSSEG 2016, prepared": (
        "_preprocessed",
        "FLAIR{} T1{} GADO{} T2{} DP{}",
        "t1=T1{} t1ce=GADO{} t2=T2{} flair=FLAIR{}",
    ),
    "LUMIERE, HD-GLIO": (
        "",
        "T1_r2s_bet_reg CT1_r2s_bet FLAIR_r2s_bet_reg T2_r2s_bet_reg segmentation",
        "t1=T1_r2s_bet_reg t1ce=CT1_r2s_bet t2=T2_r2s_bet_reg flair=FLAIR_r2s_bet_reg",
    ),
    "Siemens": (
        "",
        "2_t1_mpr_tra 5_t1_mpr_tra_KM 3_t2_tirm_tra_dark-fluid 4_t2_tse_tra 7_ep2d_trace_ADC 8_t2_fl2d_tra_hemo",
        "t1=2_t1_mpr_tra t1ce=5_t1_mpr_tra_KM t2=4_t2_tse_tra flair=3_t2_tirm_tra_dark-fluid",
    ),
    "UCSF-BMSR": (
        "100101A_",
        "{}T1pre {}T1post {}FLAIR {}subtraction {}seg",
        "t1={}T1pre t1ce={}T1post flair={}FLAIR",
    ),
    "MU-Glioma-Post": (
        "PatientID_0003_Timepoint_1_",
        "{}brain_t1c {}brain_t1n {}brain_t2f {}brain_t2w {}tumorMask",
        "t1={}brain_t1n t1ce={}brain_t1c t2={}brain_t2w flair={}brain_t2f",
    ),
    "ADNI": ("ADNI_002_S_0295_MR_", "{}MP-RAGE_raw {}FLAIR_raw", "t1={}MP-RAGE_raw flair={}FLAIR_raw"),
    "BraTS-MEN-RT": ("BraTS-MEN-RT-0001-1_", "{}t1c {}gtv", "t1ce={}t1c"),
    "BraTS 2018": ("Brats18_2013_2_1_", "{}t1 {}t1ce {}flair {}seg", "t1={}t1 t1ce={}t1ce flair={}flair"),
    "TCGA": (
        "TCGA-02-0006_1996-08-23_",
        "{}flair {}t1 {}t1Gd {}t2 {}GlistrBoost {}GlistrBoost_ManuallyCorrected",
        "t1={}t1 t1ce={}t1Gd t2={}t2 flair={}flair",
    ),
    "Brain-Tumor-Progression": (
        "",
        "T1post T1prereg FLAIRreg ADCreg sRCBVreg nRCBVreg nCBFreg dT1 MaskTumor",
        "t1=T1prereg t1ce=T1post flair=FLAIRreg",
    ),
    "crossMoDA": ("crossMoDA_1_", "{}ceT1 {}hrT2 {}Label", "t1ce={}ceT1 t2={}hrT2"),
    "ReMIND": (
        "ReMIND-001-preop-",
        "{}3D_AX_T1_precontrast {}3D_AX_T1_postcontrast {}AX_T2_BLADE {}SEG-tumor",
        "t1={}3D_AX_T1_precontrast t1ce={}3D_AX_T1_postcontrast t2={}AX_T2_BLADE",
    ),
    "ISBI 2015": (
        "training01_01_",
        "{}flair_pp {}mprage_pp {}pd_pp {}t2_pp {}mask1 {}mask2",
        "t1={}mprage_pp t2={}t2_pp flair={}flair_pp",
    ),
    "Shifts": (
        "_isovox",
        "1_FLAIR{} 1_T1{} 1_T1ce{} 1_T2{} 1_PD{} 1_gt{} 1_fg_mask{}",
        "t1=1_T1{} t1ce=1_T1ce{} t2=1_T2{} flair=1_FLAIR{}",
    ),
    "ADNI 3": (
        "ADNI_002_S_0295_MR_",
        "{}Accelerated_Sagittal_MPRAGE_br_1 {}Sagittal_3D_FLAIR_br_2 {}Axial_T2_STAR_br_3 {}HighResHippocampus_br_4",
        "t1={}Accelerated_Sagittal_MPRAGE_br_1 flair={}Sagittal_3D_FLAIR_br_2",
    ),
    "HCP, all of it": (
        "_acpc_dc_restore_brain",
        "T1w{} T2w{} T1wDividedByT2w T1wDividedByT2w_ribbon aparc+aseg BiasField_acpc_dc ribbon wmparc brainmask_fs",
        "t1=T1w{} t2=T2w{}",
    ),
    "UK Biobank": ("_brain", "T1{} T2_FLAIR{} T1{}_mask bianca_mask", "t1=T1{} flair=T2_FLAIR{}"),
    "CaPTk": (
        "_to_SRI_brain",
        "T1{} T1GD{} T2{} FL{} brainTumorMask_SRI",
        "t1=T1{} t1ce=T1GD{} t2=T2{} flair=FL{}",
    ),
    "Chinese": ("", "T1平扫 T1增强 T2 FLAIR", "t1=T1平扫 t1ce=T1增强 t2=T2 flair=FLAIR"),
    "a study called Perf": ("PERF_012_", "{}T1 {}T2 {}FLAIR", "t1={}T1 t2={}T2 flair={}FLAIR"),
    "SyMRI": ("", "T1 synT2 FLAIR", "t1=T1 flair=FLAIR"),
    "one visit": ("_tp1", "T1{} T2{} FLAIR{}", "t1=T1{} t2=T2{} flair=FLAIR{}"),
    "one day": ("", "T1_20200101101010 T2_20200101103010", "t1=T1_20200101101010 t2=T2_20200101103010"),
    "Yale-Brain-Mets": (
        "YG_0QDFHO_2012-03-23_",
        "{}FLAIR {}PRE {}POST {}T2",
        "t1={}PRE t1ce={}POST t2={}T2 flair={}FLAIR",
    ),
    "BIDS, pre and post": (
        "sub-01_",
        "{}acq-pre_T1w {}acq-post_T1w {}T2w",
        "t1={}acq-pre_T1w t1ce={}acq-post_T1w t2={}T2w",
    ),
    "post before it": ("", "pre_T1 post_T1 T2", "t1=pre_T1 t1ce=post_T1 t2=T2"),
    "BrainLes": ("atlas_bet_", "{}t1 {}t1c {}t2 {}fla", "t1={}t1 t1ce={}t1c t2={}t2 flair={}fla"),
    "BraTS inpainting": ("BraTS-GLI-00000-000-", "{}t1n-voided {}mask {}mask-healthy {}t1n", "t1={}t1n"),
    "ADNI, inversion recovery": (
        "ADNI_011_S_0021_MR_",
        "{}IR-SPGR {}Sagittal_3D_FLAIR",
        "t1={}IR-SPGR flair={}Sagittal_3D_FLAIR",
    ),
    "plus and minus": (
        "",
        "C-_AX_T1_FSE C+_AX_T1_FSE AX_T2_FRFSE AX_FLAIR",
        "t1=C-_AX_T1_FSE t1ce=C+_AX_T1_FSE t2=AX_T2_FRFSE flair=AX_FLAIR",
    ),
    "pre and post": ("", "PRE_T1 T1_POST T2", "t1=PRE_T1 t1ce=T1_POST t2=T2"),
}


@pytest.mark.parametrize("archive", ARCHIVES)
def test_archives(tmp_path: Path, archive: str) -> None:
    """Every file is taken for what it is, and every other image is named with a reason."""
    prefix, files, which = (text.replace("{}", ARCHIVES[archive][0]) for text in ARCHIVES[archive])
    subject = find_subject(touch(tmp_path / "p", files))

    assert found(subject) == expected(which)
    named = {*subject.files.values(), *subject.left_out, *subject.masks, subject.mask, subject.segmentation}
    assert set((tmp_path / "p").iterdir()) <= named
    assert all(subject.left_out.values()) and prefix == prefix.strip()


def test_one_folder_a_contrast(tmp_path: Path) -> None:
    """BraTS 2015: a folder for each .mha. A cohort of folders with one scan each is none of that."""
    kinds = {
        "flair": "MR_Flair.54512",
        "t1": "MR_T1.54513",
        "t1ce": "MR_T1c.54514",
        "t2": "MR_T2.54515",
        "": "OT.54517",
    }
    for kind in kinds.values():
        touch(tmp_path / "brats_2013_pat0001_1", f"VSD.Brain.XX.O.{kind}/VSD.Brain.XX.O.{kind}.mha")
    touch(tmp_path / "cohort", "P1/T1 P2/FLAIR")

    subject = find_subject(tmp_path / "brats_2013_pat0001_1")
    assert {c.value: path.stem.split(".O.")[1] for c, path in subject.files.items()} == {
        name: kind for name, kind in kinds.items() if name
    }
    assert [s.name for s in find_subjects(tmp_path)[0]] == ["P1", "P2", "brats_2013_pat0001_1"]
    with pytest.raises(InputError, match="Found P1/, P2/"):
        find_subject(tmp_path / "cohort")


def test_a_folder_of_its_own_names_the_contrast_of_a_file_that_does_not(tmp_path: Path) -> None:
    touch(tmp_path / "p", "T1/scan T1_gd/scan FLAIR/image0001 notes/readme.txt")
    assert found(find_subject(tmp_path / "p")) == {"t1": "T1/scan", "t1ce": "T1_gd/scan", "flair": "FLAIR/image0001"}
    touch(tmp_path / "q", "T1/a T1/b T2/a T2/b")  # a folder a contrast, and several people
    with pytest.raises(InputError, match="holds no scan"):
        find_subject(tmp_path / "q")
    assert not find_subject(tmp_path / "p").left_out  # the folders whose images are taken are none that lie beside them


def test_time_points_called_like_contrasts_are_not_mixed(tmp_path: Path) -> None:
    touch(tmp_path / "two", "P1_T1_T1 P1_T1_T2 P1_T2_T1 P1_T2_FLAIR")
    with pytest.raises(InputError, match="2 subjects: P1_T1, P1_T2"):
        find_subject(tmp_path / "two")
    touch(tmp_path / "counted", "t0_T1 t0_T2 t1_T1 t1_FLAIR")  # t1_FLAIR alone leaves the choice
    assert [sorted(s.files) for s in find_subjects(tmp_path / "counted")[0]] == [[T1, T2], [FLAIR, T1]]
    assert found(find_subject(touch(tmp_path / "none", "T1_MPRAGE T2_FLAIR"))) == {
        "t1": "T1_MPRAGE",
        "flair": "T2_FLAIR",
    }
    assert find_subject(touch(tmp_path / "one", "T2_FLAIR T2_TSE T1_SE T1_GD")).available == STANDARD


@pytest.mark.parametrize(
    "names",
    [
        "P1_tp1_T1 P1_tp2_T2",
        "P1_baseline_T1 P1_followup_FLAIR",
        "preop_T1 postop_FLAIR",
        "V1_T1 V2_T2 V1_FLAIR",
        "p1_t1 p2_flair",
        "T1_visit1 T2_visit2",
        "T1_baseline FLAIR_follow-up",
        "T1_20200101 T2_20210101",
        "T1_2010-03-02 T2_20110302101010",
        "P1_time01_T1 P1_time02_T2",
        "ses-pre_T1 ses-post_T2",
        "T1_before_surgery T2_after_surgery",
        "visit_a_T1 visit_b_T2",
        "t0_T1 t1_T2",
        "P1_t0_T1 P1_t2_FLAIR",
    ],
)
def test_occasions_are_not_mixed_though_no_contrast_is_there_twice(tmp_path: Path, names: str) -> None:
    home = touch(tmp_path / "p", names)
    with pytest.raises(InputError, match="holds the scans of 2 subjects"):
        find_subject(home)
    apart, _ = find_subjects(home)
    assert sorted(len(subject.files) for subject in apart) in ([1, 1], [1, 2])


def test_time_points_are_not_mixed(tmp_path: Path) -> None:
    names = [f"BraTSReg_001_{time}_{c}" for time in ("00_0000", "01_0106") for c in SHORT]
    with pytest.raises(InputError, match="2 subjects: BraTSReg_001_00_0000, BraTSReg_001_01_0106"):
        find_subject(touch(tmp_path, " ".join(names)))


def test_numbers_without_a_table_are_not_guessed(tmp_path: Path) -> None:
    touch(tmp_path, "BRATS_001_0000 BRATS_001_0001 BRATS_001_0002 BRATS_001_0003")
    with pytest.raises(InputError, match=r"BRATS_001_0000\.nii\.gz, BRATS_001_0001"):
        find_subject(tmp_path)


UNDERSTOOD = {  # kind -> files, and which is which
    "what all scans have": [
        ("t1_tse_tra t2_tirm_tra_dark-fluid", "t1=t1_tse_tra flair=t2_tirm_tra_dark-fluid"),
        ("t1_tse_tra t2_flair_tra", "t1=t1_tse_tra flair=t2_flair_tra"),
        ("t1_tse_tra t1_mprage_km", "t1=t1_tse_tra t1ce=t1_mprage_km"),
        ("T1_TSE T2_TSE T2_TSE_FLAIR", "t1=T1_TSE t2=T2_TSE flair=T2_TSE_FLAIR"),
        ("P1_T1_TSE P1_T1_TSE_GD P1_T2_FLAIR", "t1=P1_T1_TSE t1ce=P1_T1_TSE_GD flair=P1_T2_FLAIR"),
        ("3_t1_tse 4_t2_tirm_dark-fluid 5_t1_tse_km", "t1=3_t1_tse t1ce=5_t1_tse_km flair=4_t2_tirm_dark-fluid"),
        ("T1_CE T2_MR", "t1ce=T1_CE t2=T2_MR"),
        ("T1_ce T1_mr T2_mr FLAIR_mr", "t1=T1_mr t1ce=T1_ce t2=T2_mr flair=FLAIR_mr"),
        ("T1_MR T2_FLAIR_MR", "t1=T1_MR flair=T2_FLAIR_MR"),
        (
            "t1_tse t1_tse_KM t2_tse t2_tirm_dark-fluid",
            "t1=t1_tse t1ce=t1_tse_KM t2=t2_tse flair=t2_tirm_dark-fluid",
        ),
        ("P14_T2_FLAIR P14_T2_GADO P14_T2_T1", "t1=P14_T2_T1 t1ce=P14_T2_GADO flair=P14_T2_FLAIR"),
    ],
    "numbers of series": [
        ("3_T1 4_T2 5_FLAIR brain_mask", "t1=3_T1 t2=4_T2 flair=5_FLAIR"),
        ("3_T1 4_T2 5_FLAIR T1_seg", "t1=3_T1 t2=4_T2 flair=5_FLAIR"),
        ("003-T1 004-T2 005-FLAIR 005-FLAIR_seg", "t1=003-T1 t2=004-T2 flair=005-FLAIR"),
        ("3_Ax_T1_SE 3_Ax_T1_SE_ph 4_Ax_T2 5_FLAIR", "t1=3_Ax_T1_SE t2=4_Ax_T2 flair=5_FLAIR"),
        ("3_T1 3_T1_ROI1 3_T1_real 4_T2 5_FLAIR", "t1=3_T1 t2=4_T2 flair=5_FLAIR"),
        ("s3_T1 s4_T2 s4_T2_ADC s5_FLAIR", "t1=s3_T1 t2=s4_T2 flair=s5_FLAIR"),
        ("3_T1 4_T2 5_FLAIR 6_DWI 6_DWI_ADC", "t1=3_T1 t2=4_T2 flair=5_FLAIR"),
        ("3_T1 4_T2 6_DWI 6_DWIa 7_SWI 7_SWI_ph", "t1=3_T1 t2=4_T2"),
        ("3_T1 4_T2 7_SWI_e1 7_SWI_e2", "t1=3_T1 t2=4_T2"),
        ("3_T1_W_OUT_GAD 9_T1_W_GAD 4_T2", "t1=3_T1_W_OUT_GAD t1ce=9_T1_W_GAD t2=4_T2"),
        ("W_WO_T1 W_WO_T1_POST W_WO_T2 W_WO_FLAIR", "t1=W_WO_T1 t1ce=W_WO_T1_POST t2=W_WO_T2 flair=W_WO_FLAIR"),
        ("T1_-C T1_+C T2_-C", "t1=T1_-C t1ce=T1_+C t2=T2_-C"),
        ("T1_to_atlas T2_to_atlas FLAIR_to_atlas mask", "t1=T1_to_atlas t2=T2_to_atlas flair=FLAIR_to_atlas"),
        ("1_Localizer 1_Localizera 2_Localizer 3_T1 4_T2", "t1=3_T1 t2=4_T2"),
        ("3_CT_Head 3_CT_Head_Tilt_1 4_T1", "t1=4_T1"),
        ("PAT1_3_T1 PAT1_4_T2 PAT1_5_FLAIR", "t1=PAT1_3_T1 t2=PAT1_4_T2 flair=PAT1_5_FLAIR"),
        ("PAT1_3_T1 PAT1_4_T2 PAT1_6_DWI PAT1_6_DWI_ADC brain_mask", "t1=PAT1_3_T1 t2=PAT1_4_T2"),
    ],
    "what is made of scans": [
        ("T1 T1ce T1ce-T1 T2", "t1=T1 t1ce=T1ce t2=T2"),
        ("T1n T1c-T1n T2", "t1=T1n t2=T2"),
        ("X_T1 X_ce-T1 X_T2", "t1=X_T1 t1ce=X_ce-T1 t2=X_T2"),
        ("T1 T1_POST T1_POST_SUB T2", "t1=T1 t1ce=T1_POST t2=T2"),
        ("T1_sub_01 T2_sub_01", "t1=T1_sub_01 t2=T2_sub_01"),
        ("sub-14_T1w sub-14_T2w sub-14_from-T1w_to-MNI_mode-image_xfm", "t1=sub-14_T1w t2=sub-14_T2w"),
    ],
    "what is shared": [
        ("T1ce T2 FLAIRinT1", "t1ce=T1ce t2=T2 flair=FLAIRinT1"),
        ("FLAIR T1inFLAIR T2inFLAIR", "t1=T1inFLAIR t2=T2inFLAIR flair=FLAIR"),
        ("T1_FLAIR T2_FLAIR FLAIR_FLAIR", "t1=T1_FLAIR t2=T2_FLAIR flair=FLAIR_FLAIR"),
        ("T1_to_FLAIR T2_to_FLAIR", "t1=T1_to_FLAIR t2=T2_to_FLAIR"),
        ("MAGiC_T1 MAGiC_T2 MAGiC_T2_FLAIR", "t1=MAGiC_T1 t2=MAGiC_T2 flair=MAGiC_T2_FLAIR"),
    ],
}


REASONS = {
    *("its name states no contrast", "a phase image", "a map computed from scans", "of no contrast that mrsynth knows"),
    *("the real or imaginary part of an image", "the difference of two scans", "a scout", "a field, not an image"),
    "a mask or segmentation, and not that of the brain by its name; --mask FILE takes it as that",
    "one of several files that could be the CT",
}


@pytest.mark.parametrize(("names", "which"), [row for rows in UNDERSTOOD.values() for row in rows])
def test_kinds_of_names_that_are_understood(tmp_path: Path, names: str, which: str) -> None:
    subject = find_subject(touch(tmp_path / "p", names))
    assert found(subject) == expected(which)
    assert set(subject.left_out.values()) <= REASONS


@pytest.mark.parametrize(
    "names",
    [
        "01_t1 01_t2 02_flair",
        "01_t1 01_t1_gd 02_flair",
        "01_t1 01_seg 02_flair",
        "01_t1 01_adc 02_flair 02_adc",
        "03_PERF_T1 04_PERF_T2 03_PERF_FLAIR",
        "RHUH-0001_1_t1 RHUH-0001_2_flair",
        "BraTS2021_00001_t1 BraTS2021_00002_t2 BraTS2021_00003_flair",
    ],
)
def test_numbers_of_subjects_are_none_of_series(tmp_path: Path, names: str) -> None:
    with pytest.raises(InputError, match=r"holds the scans of [23] subjects"):
        find_subject(touch(tmp_path, names))


def test_the_subject_is_what_stands_before_the_number_of_a_series(tmp_path: Path) -> None:
    touch(tmp_path, "PAT1_3_T1 PAT1_4_T2 PAT1_5_FLAIR")
    read = read_names(sorted(path.name for path in tmp_path.iterdir()), {})
    assert {name.subject for name in read.values() if isinstance(name, ScanName)} == {"PAT1"}


# Contrast agent, parts, maps -----------------------------------------------------------------------------------------

ENHANCED = """
    CT1 ct1 cT1 T1c T1C+ T1+C +C_T1 T1_+C T1+ T1+Gd 8_plusC_Ax_T1_FSPGR T1_KM T1KM nach_KM_T1 mit_KM_T1
    T1_GADO GADO_T1 3DT1GADO T1-GADO T1_avec_gado T1_con_contraste post_contrast_T1 T1_POST T1_post_Gd T1_PC T1_mdc
    T1_inj T1_enhanced enhanced_T1 T1_Gadovist T1_dotarem T1GdMPRAGE t1gdfs gd-DTPA_T1 T1wPost AX_T1_POST_FS
    contrast-enhanced_T1
    T1_w_contrast T1_iv_contrast"""
NOT_ENHANCED = """
    T1C- T1_pre T1_PRE_GAD pre_gad_T1 T1_without_contrast T1_wo_contrast T1_no_gad T1_ohne_KM ohne_KM_T1 T1_sans_gado
    T1_sin_contraste T1_nativ T1_native T1_postop T1_post_op T1_post_surgery PRE_T1 vor_KM_T1 T1_cor t1cor T1_CUBE"""


@pytest.mark.parametrize("name", ENHANCED.split())
def test_what_marks_an_enhanced_t1(name: str) -> None:
    name = f"{name}.nii.gz"
    assert read_names([name], {})[name].contrast is T1CE
    assert read_names([name, "p_t2.nii.gz"], {})[name].contrast is T1CE


@pytest.mark.parametrize("name", NOT_ENHANCED.split())
def test_what_does_not(name: str) -> None:
    assert read_names([f"{name}.nii.gz"], {})[f"{name}.nii.gz"].contrast is T1


NO_SCANS = """
    sub-01_part-phase_T2w sub-01_part-real_T2w sub-01_part-imag_T2w T2_ph T2_phase T2_imaginary T2_real 5_T2_TSE_ph
    T2star T2_star sub-01_T2starw T2_FFE T2_GRE T2_fl2d_hemo sub-01_MEGRE T2_swi T1_localizer LOCALIZER_T1 T1_scout
    AAHead_Scout_T1 T1_map T1map T2_mapping T2_ADC ADC_T1 T1_prob c1T1 mwc1T1 y_T1 T1_MIP T1_csf T1_deformation
    T1ce_synthetic SynthSR_T1 fake_T2 T1_probability T1_pve_0 T2_qsm TOF_T1"""


@pytest.mark.parametrize("name", NO_SCANS.split())
def test_parts_of_a_name_that_change_its_meaning(name: str) -> None:
    found = read_names([f"{name}.nii.gz"], {})[f"{name}.nii.gz"]
    assert not isinstance(found, ScanName) and found.why


def test_the_magnitude_is_the_scan(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01_T1w sub-01_part-mag_T2w sub-01_part-phase_T2w")
    subject = find_subject(tmp_path)
    assert found(subject) == {"t1": "sub-01_T1w", "t2": "sub-01_part-mag_T2w"}
    assert list(subject.left_out.values()) == ["a phase image"]


@pytest.mark.parametrize(
    ("names", "doubt"),
    [
        ("post_T1 T2", "could be the T1 or the T1ce"),
        ("AX_T1_FLAIR T1 T2", "could be the T1 or the FLAIR"),
        ("gd_012_T1 gd_012_T2 gd_012_FLAIR", "could be the T1 or the T1ce"),
        ("post_T1 post_T2 post_FLAIR", "could be the T1 or the T1ce"),
        ("GBM_post_T1 GBM_post_T2", "could be the T1 or the T1ce"),
        ("T1_post T2_post FLAIR_post", "could be the T1 or the T1ce"),
        ("T1_CE FLAIR_CE", "could be the T1 or the T1ce"),
        ("AX_T1_FLAIR AX_T2_FLAIR", "could be the T1 or the FLAIR"),
        ("T1_FLAIR T2_FLAIR", "could be the T1 or the FLAIR"),
        ("4_AX_T1_FLAIR 5_AX_T2_FLAIR", "could be the T1 or the FLAIR"),
        ("rT1_FLAIR rT2_FLAIR", "could be the T1 or the FLAIR"),
        ("FLAIRalignedT1 T1c T2", "could be the T1 or the FLAIR"),
        ("FLAIRlong T1 T2", "could be the FLAIR, or another image"),
        ("T2long T1 FLAIR", "could be the T2 or the FLAIR"),
    ],
)
def test_nobody_guesses(tmp_path: Path, names: str, doubt: str) -> None:
    with pytest.raises(InputError, match=doubt) as caught:
        find_subject(touch(tmp_path, names))
    assert names.split()[0] in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        "post_T1 T2",
        "pre_T1 post_T1 pre_FLAIR post_FLAIR",
        "pre_T1 post_T1 T1 T2",
        "PRE POST T1 T2",
        "a_PRE b_POST T2",
        "PRE POST T1_KM",
        "X_POST X-POST T2",
    ],
)
def test_post_is_after_contrast_agent_only_where_pre_alone_lies_beside_it(tmp_path: Path, names: str) -> None:
    """Not where it could be after an operation, and not where another T1 or T1ce is there."""
    with pytest.raises(InputError):
        find_subject(touch(tmp_path, names))


def test_why_post_is_the_t1ce_is_told(tmp_path: Path) -> None:
    notes = find_subject(touch(tmp_path, "X_PRE X_POST X_T2")).notes
    assert "X_POST.nii.gz: taken for the T1ce, since X_PRE.nii.gz lies beside it" in notes


def test_what_a_doubtful_file_could_be_may_be_there_already(tmp_path: Path) -> None:
    subject = find_subject(touch(tmp_path, "T1 T1_GD post_T1 T2 FLAIR AX_T1_FLAIR"))
    assert subject.available == STANDARD and len(subject.left_out) == 2
    subject = find_subject(touch(tmp_path / "x", "post_T1 T2"), {T1CE: tmp_path / "x/post_T1.nii.gz"})
    assert subject.available == (T1CE, T2) and not subject.left_out


def test_series_numbers_and_numbers_of_subjects(tmp_path: Path) -> None:
    assert find_subject(touch(tmp_path / "series", "4_T1 7_T2 12_FLAIR")).available == (T1, T2, FLAIR)
    touch(tmp_path / "people", "01_t1 01_t2 02_t1 02_t2")
    assert [s.name for s in find_subjects(tmp_path / "people")[0]] == ["01", "02"]
    assert find_subject(touch(tmp_path / "one", "012_t1 012_t2")).name == "012"


def test_the_name_of_a_result_follows_names_with_a_time_point(tmp_path: Path) -> None:
    subject = find_subject(touch(tmp_path, "P14_T1_T1 P14_T1_T2 P14_T1_FLAIR"))
    assert subject.output_name(T1CE) == "P14_T1_T1ce.nii.gz"


# What dcm2niix says --------------------------------------------------------------------------------------------------

LONG = {"EchoTime": 0.1, "RepetitionTime": 9, "InversionTime": 2.5}
SERIES: list[tuple[str, Mapping[str, object], Contrast | None, str]] = [
    ("scan7", {"SeriesDescription": "AX T1 POST GAD"}, T1CE, "taken for the T1ce"),
    (
        "scan7",
        {"SeriesDescription": "SAG FIESTA", "EchoTime": 0.002, "RepetitionTime": 0.005},
        None,
        "of no contrast that mrsynth knows",
    ),
    ("scan7", {"ProtocolName": "t2_tse_dark-fluid_tra"}, FLAIR, "taken for the FLAIR"),
    ("T1", {"SeriesDescription": "T1 MPRAGE", "ContrastBolusAgent": "Gadovist"}, T1CE, "the name says T1"),
    ("T1", {"SeriesDescription": "T1 MPRAGE", "ContrastBolusAgent": "NONE"}, T1, ""),
    ("T1", {"SeriesDescription": "T1 MPRAGE"}, T1, ""),
    ("T1", {"ContrastBolusAgent": "Dotarem 10 ml"}, T1CE, "ContrastBolusAgent"),
    ("T1_gd", {"SeriesDescription": "T1 MPRAGE"}, T1CE, ""),
    ("T1_gd", {"SeriesDescription": "T1 MPRAGE pre"}, T1, "the name says T1ce"),
    ("T2", {"SeriesDescription": "AX FLAIR"}, FLAIR, "the name says T2"),
    ("T2", {"SeriesDescription": "AX T2", "ContrastBolusAgent": "Gadovist"}, T2, ""),
    ("AX_T1_FLAIR", {"EchoTime": 0.01, "RepetitionTime": 2.0, "InversionTime": 0.86}, T1, "echo and repetition"),
    ("post_T1", {"SeriesDescription": "T1", "ContrastBolusAgent": "Gd"}, T1CE, "taken for the T1ce"),
    ("T2", {"SeriesDescription": "T2", "ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, None, "a phase image"),
    ("T1", {"SeriesDescription": "3-plane localizer"}, None, "a scout"),
    ("T2", {"SeriesDescription": "ADC", "ImageType": ["DERIVED", "ADC"]}, None, "a map computed"),
    ("T2", {"Modality": "MR"}, T2, ""),
    ("T1_FLAIR", {"SeriesDescription": "T1 FLAIR", **LONG}, FLAIR, "taken for the FLAIR"),
    ("scan7", LONG, FLAIR, "echo and repetition"),
    ("scan7", {"EchoTime": 100, "RepetitionTime": 9000, "InversionTime": 2500}, FLAIR, "echo and repetition"),
    ("T1", {"EchoTime": 2.98, "RepetitionTime": 2300, "InversionTime": 900}, T1, ""),
    ("T1", {"EchoTime": 8, "RepetitionTime": 500}, T1, ""),
    ("T1", {"EchoTime": 0.07, "RepetitionTime": 300}, T1, ""),
    ("T1", LONG, T1, "those of the FLAIR, its name says T1"),
    ("T2", {"EchoTime": 0.01, "RepetitionTime": 0.5}, T2, "those of the T1, its name says T2"),
    ("FLAIR", {"EchoTime": 0.388, "RepetitionTime": 5.0}, FLAIR, ""),
    ("p_dwi", {"EchoTime": 0.09, "RepetitionTime": 5.0}, None, ""),
    ("T1", {"EchoTime": 0.01, "RepetitionTime": 0.5, "ContrastBolusAgent": "Gd"}, T1CE, "the name says T1"),
    ("post_T1", {"ContrastBolusAgent": "Yes"}, T1CE, "taken for the T1ce"),
    ("post_T1", {"ContrastBolusAgent": "NO"}, T1, "taken for the T1"),
    ("T1", {"ContrastBolusAgent": ["Gadovist"]}, T1CE, "the name says T1"),
    ("T1", {"ImageType": ["DERIVED", "PRIMARY", "M", "SUB"]}, None, "a map computed"),
    ("T1", {"SeriesDescription": "T1_SUB"}, None, "the difference of two scans"),
    ("T1", {"SeriesDescription": "t1_vibe", "ImageType": ["DERIVED", "PRIMARY", "DIXON", "FAT"]}, None, "the fat"),
    ("T2", {"SeriesDescription": "C-spine T2"}, None, "of the spine"),
]


@pytest.mark.parametrize(("name", "content", "contrast", "said"), SERIES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_json_file_outranks_the_name(
    tmp_path: Path, name: str, content: Mapping[str, object], contrast: Contrast | None, said: str, encoding: str
) -> None:
    touch(tmp_path, f"{name} p_pd")
    (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding=encoding)

    subject = find_subject(tmp_path)

    assert [c for c in subject.available if c in STANDARD] == ([contrast] if contrast else [])
    told = "\n".join([*subject.notes, *subject.left_out.values()])
    assert said in told and (bool(told) == bool(said) or contrast is not None)


DENIED = """No contrast|none given|0 ml|0.0|w/o|kein KM|sans|0ml|N|False|null|PRE|pre contrast|Native|aucun|ninguno
    nessuno|brak|no_contrast|contrast not given|Contrast: None|declined"""
UNSAID = "N/A|n.a.|unknown|UNKNOWN|undefined|not specified|?|-|--|[]|Not applicable"


@pytest.mark.parametrize("agent", [word.strip() for word in f"{DENIED}|{UNSAID}".replace("\n", "|").split("|")])
def test_words_that_deny_an_agent(agent: str) -> None:
    assert not names_an_agent(agent)
    series = series_of({"SeriesDescription": "T1", "ContrastBolusAgent": agent})
    assert series is not None and series.verdict.contrast is T1


@pytest.mark.parametrize("agent", UNSAID.split("|"))
def test_a_field_that_says_nothing_outranks_no_name(tmp_path: Path, agent: str) -> None:
    touch(tmp_path, "T1_gd T2").joinpath("T1_gd.json").write_text(json.dumps({"ContrastBolusAgent": agent}))
    assert find_subject(tmp_path).available == (T1CE, T2)


@pytest.mark.parametrize("agent", ["Gadovist", "0.1 mmol/kg", "0,1 ml Dotarem", "Yes", "NA-gadoxetate", "Novel agent"])
def test_words_that_name_one(agent: str) -> None:
    assert names_an_agent(agent)


@pytest.mark.parametrize(
    ("name", "timing"),
    [("tirm_tra", {"EchoTime": 0.1, "RepetitionTime": 9}), ("t2_tirm", {"EchoTime": 0.1, "RepetitionTime": 9})],
)
def test_no_inversion_time_is_no_proof_of_a_t2(tmp_path: Path, name: str, timing: Mapping[str, float]) -> None:
    touch(tmp_path, f"{name} T1").joinpath(f"{name}.json").write_text(json.dumps(timing))
    with pytest.raises(InputError, match=r"could be the .*FLAIR"):
        find_subject(tmp_path)


def test_a_scan_whose_agent_the_json_file_tells_keeps_its_subject(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01_T1w sub-01_acq-post_T1w")
    for name, agent in (("T1w", "NO"), ("acq-post_T1w", "Yes")):
        (tmp_path / f"sub-01_{name}.json").write_text(json.dumps({"ContrastBolusAgent": agent}))
    subject = find_subject(tmp_path)
    assert found(subject) == {"t1": "sub-01_T1w", "t1ce": "sub-01_acq-post_T1w"}
    assert subject.output_name(T2) == "sub-01_desc-synth_T2w.nii.gz"


@pytest.mark.parametrize(
    ("names", "enhanced"),
    [
        ("4_t1_mprage_sag_p2_iso 12_t1_mprage_sag_p2_iso_KM 5_t2_tse_tra 6_t2_tirm_tra_dark-fluid", "12_t1_mprage"),
        ("s003-t1_vibe_tra s010-t1_vibe_tra_nach_KM s004-t2_tse s005-flair", "s010"),
        ("501_T1W_TSE_SENSE 601_T1W_TSE_CLEAR_Gd 701_T2W_TSE_SENSE 801_FLAIR_SENSE", "601"),
        ("SAG_T1_BRAVO SAG_T1_BRAVO_+C AX_T2_PROPELLER AX_T2_FLAIR_PROPELLER", "SAG_T1_BRAVO_+C"),
        ("t1_fl3d_tra t1_fl3d_tra_km t2_blade t2_flair_blade", "t1_fl3d_tra_km"),
        ("T1_MPR_p2_ND T1_MPR_p2_ND_cm T2_TSE FLAIR", "T1_MPR_p2_ND_cm"),
        ("T1_to_SRI T1CE_to_SRI T2_to_SRI FL_to_SRI", "T1CE"),
        ("pat_t1_mni152 pat_t1gd_mni152 pat_t2_mni152 pat_fl_mni152", "pat_t1gd"),
        ("t1_synthstrip t1c_synthstrip t2_synthstrip flair_synthstrip", "t1c"),
        ("T1_LPS_rSRI T1CE_LPS_rSRI T2_LPS_rSRI FLAIR_LPS_rSRI", "T1CE"),
        ("10_AX_T1_PRE 14_AX_T1_POST_FS 11_AX_T2 12_AX_FLAIR_POST", "14_AX"),
        ("T1_SE_ohneKM T1_SE_mitKM T2_SE FLAIR_lang", "T1_SE_mitKM"),
        ("T1_axial T1_axial_contraste T2_axial FLAIR_axial", "T1_axial_contraste"),
        ("Anatomical_T1 Anatomical_T1_Gadolinium Anatomical_T2 Anatomical_FLAIR", "Anatomical_T1_G"),
        ("p_2010-03-02_T1 p_2010-03-02_T1Gd p_2010-03-02_T2 p_2010-03-02_FLAIR", "p_2010-03-02_T1Gd"),
        ("rT1 rT1ce rT2 rFLAIR c1rT1 c2rT1 wmc3rT1", "rT1ce"),
    ],
)
def test_names_of_scanners_and_tools(names, enhanced):
    """Numbers of series, acceleration, words for agents, moves and brain extraction: each contrast has one file."""
    read = read_names([f"{name}.nii.gz" for name in names.split()], {})
    scans = {scan.contrast: name for name, scan in read.items() if isinstance(scan, ScanName)}

    assert len(scans) == sum(isinstance(scan, ScanName) for scan in read.values())
    assert set(scans) == set(STANDARD) and scans[Contrast.T1CE].startswith(enhanced)


MADE = """
    a_T2Synth a_T2wSynth pseudoT1 synthT1ce a_T1ceFake a_flairSynthetic T1ce_generated generated_FLAIR T1ceGenerated
    T1ce_imputed FLAIR_GAN FLAIR_cycleGAN FLAIR_pix2pix FLAIR_simulated T1_artificial FLAIR_translated virtual_T1ce
    virtualT1ce T2_synthesized FLAIR_from_T1 T1_from_T2 deepT1ce genFLAIR FLAIR_gen p1_t2_remade t1n-inpainted
    FLAIR_hallucinated"""


@pytest.mark.parametrize("name", MADE.split())
def test_what_says_that_it_is_synthetic_within_a_word_is_no_scan(name):
    assert judge_name(f"{name}.nii.gz").why == "its name says that it is synthetic"
