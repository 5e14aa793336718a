"""N4 takes out a planted field."""

import numpy as np

from mrsynth.scans.bias import corrected
from mrsynth.scans.volume import Volume


def test_a_planted_field_is_taken_out():
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 44, 36)), indexing="ij"))
    tissue = np.where((places**2).sum(0) < 0.8, np.where(np.sin(places * 14).sum(0) > 0, 300.0, 500.0), 0.0)
    field = np.exp(0.35 * places[0] - 0.2 * places[1] + 0.3 * places[2] ** 2)  # whose mean is not 1
    done = corrected(Volume((tissue * field).astype(np.float32), np.diag([4.0, 4.0, 4.0, 1.0])), tissue > 0)
    inside = tissue > 0

    def unevenness(voxels):
        return float(np.std(np.log(voxels[inside] / tissue[inside])))

    assert unevenness(done.voxels) < 0.25 * unevenness(tissue * field)
    assert not done.voxels[~inside].any() and done.voxels.dtype == np.float32
    assert abs(np.log(done.voxels[inside]).mean() - np.log((tissue * field)[inside]).mean()) < 1e-3
