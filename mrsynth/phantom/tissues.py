"""How tissues appear in a scan: relaxation times, signal equations and noise. Used by the phantom.

Times in milliseconds at 3 T, proton density PD relative to water. Sources:
  grey, white    T1, T2: mean of Stanisz et al. 2005 (Magn Reson Med 54:507) and Wansapura et al. 1999 (J Magn Reson
                 Imaging 9:531); T2*: Wansapura et al.; PD: water content, Neeb et al. 2008 (NeuroImage 42:1094)
  fluid          T1: Rooney et al. 2007 (Magn Reson Med 57:308); T2: about 2 s, Spijkerman et al. 2018 (MAGMA 31:415)
  oedema, tumour within what relaxometry of gliomas reports (Blystad et al. 2020, Sci Rep 10:10597; Noeth et al. 2020,
                 NMR Biomed 33:e4242); the range is wide and no single value is right
  contrast agent relaxivity 4 /s/mM (Rohrer et al. 2005, Invest Radiol 40:715); concentrations from the T1 that tissue
                 loses after injection: 838 +- 210 ms in enhancing tumour, 123 in oedema, 32 elsewhere (Noeth et al.)
"""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.plain import Array

Real = NDArray[np.float64]

RELAXIVITY = 4e-3  # /ms/mM


class Tissue(NamedTuple):
    """What the equations need to know of a tissue; `agent` is the contrast agent after injection in mM."""

    t1: float
    t2: float
    t2_star: float
    pd: float
    agent: float


GM = Tissue(t1=1576, t2=104.5, t2_star=45, pd=0.82, agent=0.004)
WM = Tissue(t1=958, t2=74, t2_star=45, pd=0.70, agent=0.009)
CSF = Tissue(t1=4300, t2=1900, t2_star=500, pd=1.00, agent=0.0)
OEDEMA = Tissue(t1=1600, t2=170, t2_star=80, pd=0.86, agent=0.013)
CORE = Tissue(t1=2800, t2=350, t2_star=100, pd=0.95, agent=0.01)
RIM = Tissue(t1=1500, t2=115, t2_star=55, pd=0.84, agent=0.21)
TISSUES = (GM, WM, CSF, OEDEMA, CORE, RIM)  # the order of every array over tissues


def spin_echo(pd: Real, t1: Real, t2: Real, tr: float, te: float) -> Real:
    """S = PD (1 - exp(-TR/T1)) exp(-TE/T2)."""
    recovered: Real = 1 - np.exp(-tr / t1)
    decay: Real = np.exp(-te / t2)
    return pd * recovered * decay


def spoiled_gradient_echo(pd: Real, t1: Real, t2_star: Real, tr: float, te: float, flip: float) -> Real:
    """S = PD sin a (1 - E1) / (1 - cos a E1) exp(-TE/T2*) with E1 = exp(-TR/T1) and the flip angle a in radians."""
    e1: Real = np.exp(-tr / t1)
    decay: Real = np.exp(-te / t2_star)
    return pd * float(np.sin(flip)) * (1 - e1) / (1 - float(np.cos(flip)) * e1) * decay


def inversion_recovery(pd: Real, t1: Real, t2: Real, tr: float, te: float, ti: float) -> Real:
    """S = PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2): a spin echo, magnitude, TE much shorter than TR."""
    recovered: Real = np.abs(1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1))
    decay: Real = np.exp(-te / t2)
    return pd * recovered * decay


def tissue_signals(rng: Generator) -> dict[Contrast, Real]:
    """Signal of each of TISSUES in each standard contrast, (6,). Tissues and protocol vary by 5 % and less.

    TI stays within 2 % of fluid's zero crossing, as an operator sets it; the dose varies as enhancement does.
    """

    def near(value: float, spread: float = 0.05) -> float:
        return value * rng.uniform(1 - spread, 1 + spread)

    table = np.array(TISSUES)
    t1, t2, t2_star = (table[:, :3] * rng.uniform(0.95, 1.05, (len(TISSUES), 3))).T
    pd = table[:, 3] * rng.uniform(0.98, 1.02, len(TISSUES))
    t1_enhanced = 1 / (1 / t1 + RELAXIVITY * near(1, 0.3) * table[:, 4])
    tr_flair = near(9000)
    null = CSF.t1 * float(np.log(2 / (1 + np.exp(-tr_flair / CSF.t1))))
    signals = (
        spoiled_gradient_echo(pd, t1, t2_star, tr=near(18), te=near(4), flip=near(np.deg2rad(20))),
        spoiled_gradient_echo(pd, t1_enhanced, t2_star, tr=near(18), te=near(4), flip=near(np.deg2rad(20))),
        spin_echo(pd, t1, t2, tr=near(5000), te=near(100)),
        inversion_recovery(pd, t1, t2, tr=tr_flair, te=near(105), ti=near(null, 0.02)),
    )
    return dict(zip(STANDARD, signals, strict=True))


def rician(signal: Array, sigma: float, rng: Generator) -> Array:
    """Magnitude of the signal with normal noise of standard deviation sigma in its real and imaginary channel."""
    real, imaginary = (np.float32(sigma) * rng.standard_normal(signal.shape, dtype=np.float32) for _ in range(2))
    return np.asarray(np.hypot(signal + real, imaginary), np.float32)
