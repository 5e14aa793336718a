"""A tiny training run, made once."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mrsynth.contrasts import STANDARD
from mrsynth.tasks.train.run import train
from tests.tasks.train.runs import MakeOptions, request_maker

RUN_FILE = """
name: small
licence: CC0
method:
  method: fgc2f
  preset: tiny
  network: {multipliers: [1, 2], attention: [1]}
  param: x0
  neighbours: 1
  T: 8
  sampler: ddim
  steps: 2
training:
  iterations: 6
  batch_size: 2
  accumulation: 2
  learning_rate: 1e-3
  decay: cosine
  log_every: 1
  validate_every: 3
  save_every: 2
  augmentation: {affine: 0.5, gamma: 0.2}
data:
  validation: [judge]
  exclude: [secret]
  sources: [{name: made up, licence: CC0, citation: none, subjects: 2}]
"""


BOX_RUN_FILE = """
name: boxes
licence: CC0
method:
  method: cwdm
  preset: tiny
  target: any
  network: {width: 8, groups: 4}
  sampler: ddim
  steps: 2
preparation: {multiple: 8, depth_multiple: 8}
training:
  iterations: 6
  batch_size: 2
  crop: [16, 16, 8]
  learning_rate: 1e-3
  log_every: 1
  validate_every: 3
  save_every: 2
  precision: fp32
  augmentation: {affine: 0.5, gamma: 0.2}
data:
  validation: [judge]
  exclude: [secret]
"""


@pytest.fixture(scope="session")
def training_data(tmp_path_factory: pytest.TempPathFactory, write_subject_folder: Callable[..., Path]) -> Path:
    """Two subjects that train, one without T1ce; one that judges, one to leave out, one of no use."""
    root = tmp_path_factory.mktemp("data")
    lacking = {"lacking": STANDARD[1:2], "useless": STANDARD[1:]}
    for seed, name in enumerate(("whole", "lacking", "judge", "secret", "useless")):
        write_subject_folder(root, name, shape=(18, 24, 8), seed=seed, without=lacking.get(name, ()))
    return root


@pytest.fixture(scope="session")
def train_options(training_data: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeOptions:
    """options(out, **changes): the request."""
    return request_maker("fgc2f", training_data, tmp_path_factory.mktemp("config") / "run.yaml", RUN_FILE)


@pytest.fixture(scope="session")
def train_steps() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture(scope="session")
def finished_run(
    train_options: MakeOptions, tmp_path_factory: pytest.TempPathFactory, train_steps: list[tuple[str, int, int]]
) -> Path:
    """The folder of a run that was never stopped."""
    torch.set_num_threads(1)  # so small that threads only wait for each other
    out = tmp_path_factory.mktemp("runs") / "deep" / "whole"
    assert train(train_options(out), lambda *step: train_steps.append(step)) == out / "checkpoint.safetensors"
    return out


@pytest.fixture(scope="session")
def box_options(training_data: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeOptions:
    """options(out, **changes): the request of a run that learns from boxes, for any target unless it is changed."""
    return request_maker("cwdm", training_data, tmp_path_factory.mktemp("config") / "boxes.yaml", BOX_RUN_FILE)


@pytest.fixture(scope="session")
def finished_boxes(box_options: MakeOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that learned from boxes and was never stopped."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "boxes"
    train(box_options(out))
    return out
