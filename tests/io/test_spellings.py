"""Names in the many spellings of vendors, converters and languages: what a scan is taken for by its name alone."""

import pytest

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.io.vocabulary import judge_name

T1, T1CE, T2, FLAIR = STANDARD

ENHANCED = """
    T1_MPRAGE_SAG_GD|BRAVO +C|BRAVO_C|T1W_3D_TFE_KM|t1_tse_tra_KM|FSPGR post gado|AX T1 POST|T1.post.gd|T1(+C)
    T1 (post contrast)|T1WI+C|T1_CONTRAST|T1c+|T1PostContrast|PostContrastT1|T1withContrast|T1postcon|T1_postcon
    ceT1w|CET1|T1_Gd-DOTA|MPRAGEGD|MPRAGE+C|SPGR_C|T1VIBE_KM|T1_DIXON_W_GD|T1_SPIR_GD|T1_STEALTH_POST|STEALTH_T1_POST
    BRAINLAB_T1_KM|T1_navigation_KM|T1_BLADE_POST|T1_PROPELLER_POST|T1_BB_KM|t1_se_tra_320_km|AX_T1_BRAIN_POST
    t1_vibe_fs_tra_p2_post|3D_FSPGR_POST|WIP_sT1W_3D_TFE_KM|T1FE_CE|KM_T1|KM_T1_mprage|Contrast_T1|inj_T1|MDC_T1
    T1 nach KM|T1 mit KM|T1_mit_Kontrastmittel|T1_Kontrastmittel|T1 avec injection|T1 inj gado|T1 après gado|T1 EG inj
    T1 con contraste|T1 con gadolinio|post gadolinio T1|T1_contrastado|T1 pós contraste|T1 com contraste|T1 dopo mdc
    T1 postmdc|T1 po kontraście|T1 z kontrastem|T1 po kontrastu|T1 po KL|T1 na gado|T1 met contrast|T1 efter kontrast
    T1 med kontrast|T1 etter kontrast|T1 kontrastlı|T1_postkontrast|T1 с контрастом|Т1 с КУ|T1增强|T1_增强|T1造影
    T1造影後|T1 조영증강|T1 조영 후|T1+K|T1 +KM|T1 MPR +GD|T1_gd_native_space|3D_AX_T1_postcontrast
    T1_CONTR|T1_KONTR|CONTR_T1|T1_contrastada
    T1_contrastata|T1_kontrastowe|T1_GADOTERIDOL|T1_gadopiclenol|gadobenate_T1|T1_GDTPA|T1_Gd_DTPA|T1_DOTA|T1_gddota
    T1_injecte|T1_injectée|T1_injektion|T1_CIV|T1_post1|T1_post2|T1_POSTC|T1_plus_gd|T1_+_KM
    T1_Cplus|T1_ProHance|T1_MultiHance|T1_Primovist|T1_gdbopta|T1_Artirem|T1_ce2|T1_gd2|T1_KM1|T1_inyectado|T1_cmdc
    T1_tehostettu|T1_με_σκιαγραφικό|T1_עם_חומר_ניגוד|T1_بعد_الصبغة|T1＋Ｃ|T1_КУ|BRAIN_W_WO_AX_T1_POST|T1_vibe_gd_fs
    SAG_T1_IV+|T1_INJ+|T1_KM+|T1_IVKM|t1cw|T1CEWI|Т1_с_КУ|T1_с_контрастом"""
NATIVE = """
    T1 ohne KM|T1 o KM|T1 o.KM|T1 nativ|T1 sans injection|T1 sin contraste|T1 sem contraste|T1 senza mdc
    T1 bez kontrastu|T1 zonder contrast|T1 utan kontrast|T1 uten kontrast|T1 prekontrast|T1precon|T1 s c|T1NoContrast
    T1WithoutContrast|T1_NONCONTRAST|T1_unenhanced|T1平扫|T1造影前|T1 조영 전|T1 без контраста|T1_PRE_GD|T1_w_o_contrast
    T1_preop|T1_post_op2|T1_followup|T1_brain_reg_MNI|T1_N4_SS|T1_to_MNI|T1_reg2MNI|T1_std|T1_on_FLAIR|T1_in_T2_space
    MPRAGE_SENSE2|isoMPRAGE|csT1W_3D_TFE|T1w_MPR1|reg_T1|T1prereg|T1reg|T1brain|sub-01_acq-mp2rage_T1w|t1_mp2rage_sag
    患者1_T1|Müller_T1|3D_AX_T1_precontrast|T1_injury|T1_low_field
    C-_AX_T1_FSE|T1_FSPGR_3D_C-|SAG_T1_IV-|T1_GD-|Т1_без_КУ|Т1_до_контраста|IR-SPGR|T1_IR|T1_kontrastsız|T1_kontrastlos
    T1_contrast-
    T1_NO_IV_CONTRAST|T1_without_iv_contrast|T1_W_OUT_GAD|T1_wout_gd|T1_not_enhanced|T1_prior_to_contrast|T1_CE-|T1 -C
    T1_(-C)|-C_T1|T1_minusC|T1 minus contrast|T1_kein_KM|T1_avant_injection|T1_antes_contraste|T1_prima_mdc|T1_s_mdc
    T1_przed_kontrastem|T1_pred_kontrastom|T1_innan_kontrast|T1_gd_negative|T1_KM_nein|T1_χωρίς_σκιαγραφικό|T1_ללא_חומר
    T1_بدون_صبغة|BRAIN_W_WO_AX_T1_PRE|Ｔ１|T¹w|Τ1|T1\u200b|T1_in_atlas|T1_dixon_W|T1_dixon_fat_sat|T1_dixon_in|T1_in_phase
    T1_control|T1_contralateral|T1_without_gadoteridol|T1_ohne_KONTR|T1nativ|T1native|T1resampled|T1registered|T1aligned
    T1volume|T1image|T1v2|T1corrected|t1crop|IRFSPGR|MEMPR|CUBET1|T1BLADE|T1inFLAIR|T1onT2|T1intoFLAIR|T1_sub_01
    T1_sub-control01|sub_01_T1|GAN_T1"""
OF_T2 = """
    t2_spc_ns_sag_p2_iso|T2W_DRIVE|crossMoDA_105_hrT2|COR_T2_FRFSE_FS|t2_haste|T2_BLADE_post|T2_KM|T2w_SPC1|T2_SPIR
    T2_dixon_W|T₂|Ｔ２_tse|T2_to_atlas
    T2PROPELLER|T2BLADE|T2CUBE|cubet2|T2SPC|T2v2|T2resampled|T2inT1|T2ontoFLAIR|t2_tse_mr
    3D_BrainVIEW_T2|T2_mDIXON_W|T2post|T2raw|T2n4|T2ss|T2bc|T2.prenorm|T2_regToT1_Warped|T2reg|GE_T2|T1_T2|T1study_sub3_T2"""
OF_FLAIR = """
    T2_TIRM_DARK-FLUID|t2_spc_da-fl_irprep_sag_p2|VISTA_3D_FLAIR|3D_Brain_VIEW_FLAIR|sT2W_FLAIR|Sag_CUBE_T2_FLAIR
    T2_fluid_attenuated_IR|fluid-attenuated inversion recovery|ФЛАИР|フレア|T2压水|t2_spc_ir_flair
    FLAIRBLADE|FLAIRSPACE|FLAIRCUBE|T2FLAIRCUBE|CUBET2FLAIR|spcflair|vistaflair|FLAIRcrop|FLAIRv2|FLAIRinT1|FLAIRonT2
    flairintot1|FLAIRreg|FLAIR_in_T1_space|sub-01_acq-FLAIR_T2w|flair_time01_on_middle_space|AX_T2_FLAIR_FS_+C|1_FLAIR_isovox"""
NONE_AT_ALL = """
    T1wDividedByT2w|T1wDividedByT2w_ribbon|T1_T2_ratio|T1_over_T2|dT1|mp2rage_INV1|t1_mp2rage_sag_p3_iso_INV2
    t1_mp2rage_sag_p3_iso_T1_Images|sub-01_IRT1|T1_brain_mixeltype|T1_brain_overlay|T1_1Warp|T1_1InverseWarp
    T1_InverseWarped|T1_to_MNI_warp|T1_to_MNI_nonlin_field|T1_jac|ples_lpa_mFLAIR|T1_thickness|T1_difference|T1_diff
    T1post_minus_T1pre|T1_DCE|DCE_T1|T1_perfusion|t1_twist_dyn|T1_loc|t1_loc_3pl|T1_calibration|T2_EPI|ep2d_t2|T2_MPGR
    GRE_T2|T2_flash|t2_fl3d_tra|T2_ax_GRE|SWAN_T2|FILT_PHA_AX_SWAN_T2|T1_angio|T1_MRV|T1_uncertainty|T1_zscore
    phase_T2|sub-01_acq-phase_T2w|pha_T2|T2_angle|T2_unwrapped|T1_maske|T2_masque
    t1_vibe_dixon_opp|t2_tse_dixon_out|T2_SAG_C-SPINE|T1 C-SPINE|sub-01_bp-cspine_T2w|SAG_LOC_T1
    T1_dixon_F|FAT_Ax_T1_IDEAL|t2_tse_dixon_F|T1_noisemap|T1_MyelinMap|T1_brain_map|T1_fast_bias|T1_bet_skull|T1_vfa_fa10
    T2_relaxometry|T1_msk|FLAIR_msk|T1_GTVp|T1_rtdose|T1_lbl|FLAIR_les|FLAIR_thr
    T1_checkerboard|T1_wmparc|T1_ribbon|T1_GMprob|T1_5tt|T1_gtv|BraTS-MEN-RT-0001-1_gtv|T1_contour|FLAIR_lesionprob
    T2_phasemap|T1_b1map|T1_MOLLI|T1_POST_SUB|T1_SUB|T1_SUB_AX|SUB_T1_POST|sub-20_rec-SUB_T1w|T1post-T1pre|T1c-T1n
    P1-T1ce-T1|T1_POST-T1_PRE|T1_+C-T1|sub-14_from-T1w_to-MNI_mode-image_xfm|T1_to_FLAIR_xfm"""
OPEN = [
    ("POST_AX_STEALTH_T1|POST_STEALTH_T1|C_T1|T1_resampled_post|PRE|YG_2012-03-23_POST|AX_SE_POST", (T1, T1CE)),
    (
        "T1_plus|T1_+|AX_T1_plus_FS|post2_T1|AX_T1_W_WO|MRI_BRAIN_W_WO_CONTRAST_T1|T1_with_and_without|T1_wwo",
        (T1, T1CE),
    ),
    ("T1_gd_0|sub-01_ce-0_T1w|T1_gd_free|T1 -GD|T1_delayed|T1_late|T1_double_dose|T1_CON|T1nachKM|T1woGd", (T1, T1CE)),
    ("T-1|T 1|p_T_1_brain", (T1,)),
    ("T-2|T 2", (T2,)),
    ("t2_spc_ir_sag|T2_TIR|T2_irprep|X_t2_f|BraTS-GLI-1-000-t2-f", (T2, FLAIR)),
    ("CT2|ct2w", (T2,)),
    ("T2_T1reg|T2_space-T1w", (T1, T2)),
    ("MPR_tra_KM", (T1CE,)),
    ("AX_T1_FLAIR|Sag_T1_FLAIR|T1FLAIR|FLAIR_reg_T1|FLAIRalignedT1|flairregt1|flairwarpedt1|T1FLAIRlong", (T1, FLAIR)),
    ("T2_T1space|T2_coreg_T1", (T1, T2)),
    ("MP2RAGE_UNI|sub-01_UNIT1|mp2rage_UNI-DEN|t1_mp2rage_sag_UNI_Images|T1_tumor|T1_hippocampus_L", (T1,)),
    ("VIBE_KM|T1c_tumor|T1ce_ET", (T1CE,)),
    ("T1E|T1K|p1_T1cx|T1px|T1enhancement|T1smoothgado|T1postinjection|t1nachkm", (T1, T1CE)),
    ("T1X|T1lin|BraTS-GLI-00000-000-t1n-voided|T1smoothed|T1short_tse|T1lisse_mr", (T1,)),
    ("T2FL|T2x|T2dark|T2smoothed|T2long_tse|T2long_gado", (T2, FLAIR)),
    ("FLR|FLAIRE|Flar|TIRM|tirm_tra|FLAIRsmoothed|longflair|FLAIRstar_tse|FLAIRlong_gado", (FLAIR,)),
    ("STIR|T2_STIR|cor_STIR|PD_T2|PD+T2|PDT2|AX_PD_T2_FSE|T2_GE|Double_TSE|dual_echo_tse", (T2,)),
    ("t2_tirm_cor_fs", (T2, FLAIR)),
]

DENIED = """
    T1_before_contrast_injection|T1_without_intravenous_contrast|T1_non_contrast_enhanced|T1_sans_produit_de_contraste
    T1_prior_to_administration_of_gadolinium|T1_sans_injection_de_gadolinium|T1_pas_de_gado|T1_senza_mezzo_di_contrasto
    T1_prima_del_contrasto|T1_sin_medio_de_contraste|T1_antes_de_contraste|T1_sem_meio_de_contraste|T1_antes_do_contraste
    T1_ohne_i.v._KM|T1_bez_podania_kontrastu|T1_przed_podaniem_kontrastu|Т1_до_введения_контраста|T1_uden_kontrast
    T1_voor_contrast|T1_geen_contrast|T1_fara_contrast|T1_previo_contraste|T1_prije_kontrasta|T1_brez_kontrasta
    T1_pirms_kontrasta|T1_prieš_kontrastą|T1_enne_kontrasti|T1_ennen_kontrastia|Т1_преди_контраст|Т1_пре_контраста
    T1_zero_gad|T1_absence_of_contrast|T1_nil_contrast|T1_never_gad|T1_unCE|T1_kontrasztanyag_nélkül|T1_kontraszt_elott
    T1_KONTRAST_ONCESI|T1_IVKM_yok|T1_KM-frei|T1_Gd(-)|T1_Gd_0ml|T1_0ml_Gd|T1_gad_refused|T1_gadofrei|T1_kontrasztmentes
    T1_before_bolus_of_gd|T1_ohne_Gabe_von_Kontrastmittel|T1_vor_der_KM-Gabe|T1_antes_da_injeção_de_contraste
    T1_sin_administración_de_contraste|T1_avant_l_injection|T1_zonder_toediening_van_contrast|T1_contrast_agent_none
    Т1_без_внутривенного_контрастирования|Т1_без_введения_КВ|T1增强前|T1未增强|T1造影なし|T1_조영제 없이
    T1_לפני_חומר_ניגוד|T1_πριν_την_έγχυση_σκιαγραφικού|T1_قبل_حقن_الصبغة|sub-01_ce-no_T1w"""
DOUBTFUL = """
    T1_for_kontrast|T1_be_kontrasto|T1_do_kontrasta|T1_Gd_not_given|T1_PRE_POST|T1_pre_and_post_gad|T1_contrast_nao
    T1_ohne_jegliches_KM|T1_sans_aucune_injection|T1_ingen_kontrast|T1_KM_nicht_gegeben|T1_GD_no_3|T1_gd_failed_qc|T1_refused_gad
    Т1_контраста_нет|T1_sa_neznamo_kontrastom|T1_Gd_no_fatsat|T1_high_contrast|T1_contrast_adjusted|T1_contrast-matched
    multi_contrast_T1|T1_multi-contrast|T1_grey_white_contrast|T1_image_enhanced|T1_ai_enhanced|T1_enhanced_CLAHE
    T1_enhanced_SR|T1_contrast_enhanced_CLAHE|T1_after_contrast_adjustment|T1_contrast_harmonized|T1_motion_enhanced
    enhanced_quality_T1|T1_pt_refused_contrast
    T1_post_processed|T1_PostProcessed|T1_post_N4|T1_post_reg|T1_post_stroke|T1post_stroke|T1_post_2weeks|T1_post_2_weeks
    T1_post_mortem|T1_post_resection|T1_post-ECT|T1_post_ictal|T1_post_d3|T1_post_GKRS|T1_post_baseline|T1_postQC
    T1_IV|T1_i.v.|T1_delay|T1_after|T1_p.i.|T1_cc|T1_K|T1_pst|T1_sau_tiem|T1_enhancing_scan|T1_E|T1_late_enhancement"""
GIVEN = """
    T1_kontrasztanyaggal|Т1_с_усилением|Т1_усиление|Т1_с_гадолинием|Т1_с_гадовистом|T1_Gdpos|T1_nach_KMG|T1_k+
    T1_dengan_kontras|T1_Optimark|T1_Cyclolux|Т1_после_введения_контраста|T1_depois_do_contraste|T1_nach_i.v._KM
    T1_apres_injection_de_gadolinium|T1_con_medio_de_contraste|T1_gd_pre_op|T1_gad_pre-RT|T1_Gd_vor_Therapie|T1_KM_ohne_FS
    T1_增强后|T1造影あり|MRI_BRAIN_WO_W_T1_POST|T1_post|T1post_sag|T1_POST_s003|T1_post_dixon_W|T1_POST_SPACE|T1_PostCon
    AX_T1_POST_20200101101010_3_Tilt_1|T1_contrast_to_MNI|T1_with_contrast_smith|T1_contrast_agent|T1_smith_gd"""


def names(text: str) -> list[str]:
    return [name.strip() for line in text.strip().splitlines() for name in line.split("|")]


@pytest.mark.parametrize(
    ("text", "contrast"),
    [
        *((ENHANCED, T1CE), (GIVEN, T1CE), (NATIVE, T1), (DENIED, T1)),
        *((OF_T2, T2), (OF_FLAIR, FLAIR), (NONE_AT_ALL, None)),
    ],
)
def test_one_contrast_or_none(text: str, contrast: Contrast | None) -> None:
    wrong = {name: judge_name(f"{name}.nii.gz") for name in names(text)}
    assert not {name: v for name, v in wrong.items() if v.contrast is not contrast or v.could_be}
    assert all(verdict.why for verdict in wrong.values()) == (contrast is None)


@pytest.mark.parametrize(("text", "could_be"), [*OPEN, (DOUBTFUL, (T1, T1CE))])
def test_what_leaves_the_choice_is_not_guessed(text: str, could_be: tuple[Contrast, ...]) -> None:
    assert not {name: v for name in names(text) if (v := judge_name(f"{name}.nii.gz")).could_be != could_be}
