"""What the defaults of this version make: one golden for each that 0.1.0 did not have.

The networks are those of tests/golden/old-*.safetensors, read as files of this version, so the noise is that of today
(v2). After a change that means to move voxels, write them anew with MRSYNTH_WRITE_GOLDEN=1, and say so in the commit.
"""

import os
from dataclasses import replace

import numpy as np
import pytest

from mrsynth.contrasts import STANDARD
from mrsynth.io.checkpoint import read_checkpoint, write_checkpoint
from mrsynth.sampling import Sampling
from mrsynth.scans.preparation import prepare
from mrsynth.scans.subject import Subject
from mrsynth.tasks.models import config_of, load_network
from tests.test_old_checkpoints import FLAIR, GOLDEN, OLD, T1, T2, phantom

FILE = GOLDEN / "present_samples.npz"
WRITE = bool(os.environ.get("MRSYNTH_WRITE_GOLDEN"))

# Case -> network, keys of its configuration that are left to the default, what is asked for
CASES = {
    "few-ancestral-steps": ("cwdm", ("variance",), {"mode": "sample", "sampler": "ddpm", "steps": 4}),
    "ddim-with-noise": ("cwdm", (), {"mode": "sample", "sampler": "ddim", "steps": 4, "eta": 0.5}),
    "solver-levels": ("fgc2f-solver", ("solver_levels",), {"mode": "sample", "sampler": "dpm_solver_pp", "steps": 6}),
    "fgc2f-mean": ("fgc2f-solver", (), {"mode": "mean"}),
    "fgc2f-sample": ("fgc2f", (), {"mode": "sample", "steps": 4}),
    "cwdm-mean": ("cwdm", (), {"mode": "mean"}),
    "msg-ldm-sample": ("msg-ldm", (), {"mode": "sample", "steps": 4}),
    "dfbk-mean": ("dfbk", (), {"mode": "mean"}),
    "dfbk-sample": ("dfbk", (), {"mode": "sample"}),
}


def made(case, folder):
    name, unsaid, asked = CASES[case]
    old = read_checkpoint(OLD[name])
    config = {key: value for key, value in config_of(old).items() if key not in unsaid}
    write_checkpoint(
        folder / "now.safetensors", replace(old, config=config, card=old.card.model_copy(update={"sampling": {}}))
    )
    trained = load_network(folder / "now.safetensors")
    given = (T1, T2, FLAIR) if name == "cwdm" else (T1, T2)
    volumes = phantom()
    subject = Subject("now", {c: volumes[c] for c in given})
    prepared = prepare(subject, STANDARD, trained.preparation)
    how = trained.estimator(Sampling(seed=7, precision="fp32", device="cpu", **asked))
    assert how.noise == "v2"
    return trained.synthesise(subject, prepared, how).image[~prepared.available][..., 1::4]


@pytest.mark.parametrize("case", CASES)
def test_defaults_of_this_version_give_the_voxels_they_gave(case, tmp_path):
    image = made(case, tmp_path)
    with np.load(FILE) as stored:
        golden = dict(stored)
    if WRITE:
        np.savez_compressed(FILE, **{**golden, case: image.astype(np.float16)})
        return

    assert image.std() > 0.1
    np.testing.assert_allclose(image, golden[case].astype(np.float32), atol=2e-3)  # halves, and processors differ


def test_no_two_of_them_are_alike():
    with np.load(FILE) as golden:
        images = [golden[case].astype(np.float32) for case in CASES]
    for n, one in enumerate(images):
        assert all(one.shape != other.shape or np.abs(one - other).max() > 0.05 for other in images[:n])
