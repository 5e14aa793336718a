"""Made-up subjects on disk, from the MNI152 tissue maps that come with nilearn. Needs no network."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from pydantic import Field

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import UsageError
from mrsynth.io.files import ensure_folder
from mrsynth.io.nifti import read_volume, write_volume
from mrsynth.io.provenance import description, refuse_others
from mrsynth.phantom.brain import PhantomConfig, Tissues, phantom
from mrsynth.plain import Progress

MAPS = "datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"  # inside nilearn; 1 mm, 0..255
DESCRIPTION = "synthetic: mrsynth phantom, not a patient"


class PhantomOptions(PhantomConfig):
    """What `mrsynth phantom` makes: subject i has the seed `seed` + i and the name phantom-00i."""

    out: Path
    subjects: int = Field(default=1, ge=1, le=10_000)
    without: tuple[Contrast, ...] = Field(default=(), description="contrasts to leave out")

    def of_subject(self, index: int) -> PhantomConfig:
        """The configuration of one subject of the cohort."""
        shared = self.model_dump(include=set(PhantomConfig.model_fields))
        return PhantomConfig(**{**shared, "seed": self.seed + index})


def make_phantoms(options: PhantomOptions, progress: Progress | None = None) -> list[Path]:
    """Write `<out>/<name>/<name>_{t1,t1ce,t2,flair,seg}.nii.gz` and return the subject folders.

    Phantoms of the same names are replaced, and nothing else. There is no segmentation where there is no lesion.
    Raises UsageError when nilearn is missing, when nothing would be left, or when a contrast to be left out is already
    there: the folder would not be what was asked for. Also for one that no phantom has, and when something else has the
    name of a phantom.
    """
    if strangers := [c for c in options.without if c not in STANDARD]:
        raise UsageError(
            f"--without {','.join(strangers)}: no phantom has that; there are {', '.join(STANDARD)} to leave out."
        )
    kept = [c for c in STANDARD if c not in options.without]
    if not kept:
        raise UsageError("every contrast is left out; keep at least one of T1, T1ce, T2, FLAIR.")
    names = [f"phantom-{i:03d}" for i in range(options.subjects)]
    for path in [options.out / name / f"{name}_{c}.nii.gz" for name in names for c in options.without]:
        if path.exists():
            raise UsageError(f"{path} is already there, but is to be left out. Delete it or choose another folder.")

    for name in names:
        written = [f"{name}_{kind}.nii.gz" for kind in (*kept, "seg")]
        refuse_others(options.out / name, written, lambda path: description(path) == DESCRIPTION)
    tissues = mni152()
    folders = []
    for i, name in enumerate(names):
        if progress:
            progress("phantoms", i, len(names))
        subject = phantom(tissues, options.of_subject(i), name)
        folder = ensure_folder(options.out / name)
        volumes = {str(c): subject.volumes[c] for c in kept}
        if subject.segmentation is not None:
            volumes["seg"] = subject.segmentation
        for suffix, volume in volumes.items():
            write_volume(folder / f"{name}_{suffix}.nii.gz", volume, description=DESCRIPTION)
        folders.append(folder)
    if progress:
        progress("phantoms", len(names), len(names))
    return folders


@lru_cache(maxsize=1)
def mni152() -> Tissues:
    """Grey matter, white matter and fluid of the MNI152 template (ICBM 2009a, symmetric, 1 mm).

    Fluid is what the brain holds beside grey and white matter. nilearn itself is not imported: that takes seconds.
    """
    spec = find_spec("nilearn")
    folders = list(spec.submodule_search_locations or []) if spec else []
    paths = [Path(folder, MAPS.format(kind)) for folder in folders[:1] for kind in ("t1", "gm", "wm")]
    if not paths or not all(path.exists() for path in paths):
        raise UsageError("phantoms are made from nilearn's MNI152 maps: pip install 'mrsynth[demo]'")
    t1, gm, wm = (read_volume(path) for path in paths)
    brain = (t1.voxels > 0).astype(np.float32)
    grey, white = (brain * volume.voxels / np.float32(255) for volume in (gm, wm))
    return Tissues(grey, white, np.clip(brain - grey - white, 0, 1), t1.affine)
