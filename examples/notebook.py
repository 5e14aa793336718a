"""The scans of a subject as images of nibabel, what they lack as images of nibabel, and a page to look at.

usage: python examples/notebook.py FOLDER OUT

FOLDER   holds some of t1.nii.gz, t1ce.nii.gz, t2.nii.gz, flair.nii.gz, all on one grid and brain-extracted
OUT      a folder to make: the images with their sidecars, report.html, and viewer.html, which is what a cell of a
         notebook shows whose last line is `completion`
"""

import sys
from pathlib import Path

import nibabel as nib

import mrsynth

folder, out = Path(sys.argv[1]), Path(sys.argv[2])

# Images by contrast: of nibabel, or arrays with affine=.
names = ("t1", "t1ce", "t2", "flair")
images = {name: nib.load(folder / f"{name}.nii.gz") for name in names if (folder / f"{name}.nii.gz").exists()}

method = mrsynth.load_method("fgc2f-ship")
completion = mrsynth.complete_subject(images, method, name=folder.name, self_check=True)

for contrast in completion.volumes:
    image = completion.to_nibabel(contrast)  # float32, 0 to 1000, on the grid of the inputs
    print(f"{contrast.label}: {image.shape}, mean {image.get_fdata().mean():.1f}")
for score in completion.scores:
    if (score.region, score.metric) == ("brain", "PSNR"):
        print(f"self-check: {score.target} from {score.pattern}, {score.value:.1f} dB in the brain")
for warning in completion.warnings:
    print(f"note: {warning}")

saved = completion.save(out)
(out / "viewer.html").write_text(completion._repr_html_(), encoding="utf-8")
print(f"report: {saved.html}")
