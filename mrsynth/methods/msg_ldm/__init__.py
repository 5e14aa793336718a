"""MSG-LDM: latent diffusion guided by a multiscale structure map (arXiv 2603.12581)."""

from mrsynth.methods.msg_ldm.config import PRESETS, LossConfig, MsgLdmConfig
from mrsynth.methods.msg_ldm.method import MsgLdm

__all__ = ["PRESETS", "LossConfig", "MsgLdm", "MsgLdmConfig"]
