"""What tests of scans share."""

import pytest


@pytest.fixture
def volumes(brain_volumes):
    """The four standard contrasts of one small brain."""
    return brain_volumes(shape=(40, 44, 32))
