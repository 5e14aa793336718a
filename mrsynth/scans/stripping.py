"""Whether a scan shows the whole head, and the brain in it.

The brain is found by deepbet (Fisch et al. 2024, doi:10.1016/j.compbiomed.2024.108845), two small networks trained on
T1-weighted scans of adults, which come with the extra `strip`; or by a program that the user names.
"""

import shutil
import subprocess
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mrsynth.errors import InputError, UsageError
from mrsynth.plain import Mask
from mrsynth.scans.alignment import head_of
from mrsynth.scans.grid import Orientation
from mrsynth.scans.hounsfield import without_holes
from mrsynth.scans.volume import Volume
from mrsynth.texts import meant

# With the fluid around it: brains of adults reach 1.7, phantoms 2.2. Whole heads begin at 2.5, with their neck at 4.9.
LARGEST_BRAIN_LITRES = 2.3
COARSE_MM = 2.0

# Program -> its arguments for reading one scan and writing one mask.
PROGRAMS: dict[str, Callable[[str, str], list[str]]] = {
    "hd-bet": lambda scan, out: ["-i", scan, "-o", out, "-device", "cpu", "--disable_tta", "--save_bet_mask"],
    "mri_synthstrip": lambda scan, out: ["-i", scan, "-m", out],
}


def head_volume(volume: Volume) -> float:
    """Millilitres of the largest connected thing that is brighter than air, its holes filled: a brain, or a head."""
    import SimpleITK

    sitk: Any = SimpleITK
    steps = [max(1, round(COARSE_MM / s)) for s in volume.spacing]
    thin = np.asfortranarray(volume.voxels[:: steps[0], :: steps[1], :: steps[2]])
    seen = head_of(Volume(thin, volume.affine))
    if not seen.any():
        return 0.0
    bright = sitk.GetImageFromArray(seen.astype(np.uint8))
    largest = sitk.GetArrayFromImage(sitk.RelabelComponent(sitk.ConnectedComponent(bright))) == 1
    return int(without_holes(largest).sum()) * float(np.prod(steps)) * volume.voxel_volume / 1000


def shows_the_head(volume: Volume) -> bool:
    """Whether skull and skin are there: what is brighter than air is more than any brain."""
    return head_volume(volume) > 1000 * LARGEST_BRAIN_LITRES


def brain_by_deepbet(volume: Volume) -> Mask:
    """(I, J, K) bool on the volume's own grid. Raises InputError without the extra `strip`, and for no head."""
    if find_spec("deepbet") is None:
        raise InputError(
            "The scans show the whole head. Finding the brain needs deepbet: pip install 'mrsynth[strip]'. Or give "
            f"--mask FILE, or name a program that is installed by --strip: {', '.join(PROGRAMS)}."
        )
    from deepbet.bet import BrainExtraction

    turn = Orientation.between(volume.affine, "RAS")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.jit, which its networks are written for
        network = BrainExtraction(no_gpu=True)
    try:
        found = network.run_model(np.ascontiguousarray(turn.apply(volume.voxels), dtype=np.float32)) > 0.5
        brain = network.postprocess(found) > 0
    except (AssertionError, ValueError, IndexError) as error:
        raise InputError(f"No brain was found in a scan of {volume.shape} voxels: give --mask FILE.") from error
    mask: Mask = np.ascontiguousarray(turn.undo(brain))
    if not mask.any():
        raise InputError(f"No brain was found in a scan of {volume.shape} voxels: give --mask FILE.")
    return mask


def brain_by_program(
    name: str, volume: Volume, write: Callable[[Path, Volume], None], read: Callable[[Path], Volume]
) -> Mask:
    """The same by a program on PATH; it reads and writes NIfTI, for which it is handed the two functions.

    Raises UsageError for a program that is not known or not there, InputError when it fails.
    """
    program = known_program(name)
    with TemporaryDirectory() as folder:
        scan, out = Path(folder) / "scan.nii.gz", Path(folder) / "brain.nii.gz"
        write(scan, volume)
        done = subprocess.run(
            [program, *PROGRAMS[name](str(scan), str(out))], capture_output=True, text=True, check=False
        )
        masks = [
            path
            for path in (Path(folder) / "brain_bet.nii.gz", Path(folder) / "brain_mask.nii.gz", out)
            if path.exists()
        ]
        if done.returncode or not masks:
            said = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise InputError(f"{name} ended with status {done.returncode} and no mask: {' '.join(said)[:200]}")
        return read(masks[0]).voxels > 0


def known_program(name: str) -> str:
    """The path of a program that finds brains. Raises UsageError for one that is not known or not there."""
    if name not in PROGRAMS:
        hint = meant(name, ("auto", "off", *PROGRAMS))
        raise UsageError(f"--strip {name}: give auto, off, or one of {', '.join(PROGRAMS)}.{hint}")
    program = shutil.which(name)
    if program is None:
        raise UsageError(f"--strip {name}: there is no program of that name on PATH. Install it, or use --strip auto.")
    return program
