"""The segmenter as the training loop sees it: no Method, since it makes no image, but trained like one."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsynth.contrasts import Contrast, patterns
from mrsynth.methods.base import Batch, Objective, Trainable
from mrsynth.segmenter.network import SegmenterConfig, build_network, network_input, refuse_other_labels

PREFIX = "network."  # of its tensors while it trains; a checkpoint has the bare network's names


class SegmenterLearner(Trainable):
    """The net of a configuration, with its loss. It learns from whole labelled volumes that have every contrast.

    With probability `complete` an example shows all contrasts, else one of the 14 patterns in which some are missing,
    each as likely: a net that never saw a contrast missing would be no fair judge of one that is left out.
    """

    Config = SegmenterConfig
    dimensions = 3
    wants_labels = needs_labels = only_labelled = True
    # 72x88x72 in bf16 on one core with avx512_bf16: 0.88 s a step, with channels last 1.12 s
    channels_last = False

    def __init__(self, config: SegmenterConfig):
        super().__init__(config.contrasts)
        self.config = config
        self.multiple = config.multiple
        self.network = build_network(config)

    def objectives(self, stage: str) -> list[Objective]:
        """One: the regions of the segmentation."""
        return [Objective("regions", list(self.network.parameters()), self.loss, weight_decay=self.config.weight_decay)]

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Soft Dice (with squares in the denominator) plus focal loss (gamma 2), the mean over the regions."""
        from monai.losses import DiceFocalLoss

        if batch.labels is None:
            raise ValueError("a segmenter learns from labels, but the batch has none")
        logits = self.logits(batch)
        with torch.autocast(logits.device.type, enabled=False):
            loss: Tensor = DiceFocalLoss(sigmoid=True, squared_pred=True)(logits.float(), self.regions(batch.labels))
        return {"loss": loss}

    def logits(self, batch: Batch) -> Tensor:
        """(B, R, I, J, K): above 0 where a region is found in the available contrasts."""
        found: Tensor = self.network(network_input((batch.images + 1) / 2, batch.available, maps=True))
        return found

    def regions(self, labels: Tensor) -> Tensor:
        """(B, I, J, K) values of a segmentation -> (B, R, I, J, K) float32, 0 or 1."""
        kinds = [torch.tensor(region.labels, device=labels.device) for region in self.config.regions]
        return torch.stack([torch.isin(labels, kind) for kind in kinds], dim=1).float()

    def saved_state(self) -> dict[str, Tensor]:
        """The tensors of the bare network."""
        return {name.removeprefix(PREFIX): tensor for name, tensor in self.state_dict().items()}

    def learns_from(self, present: Iterable[Contrast]) -> bool:
        """Only from subjects with every contrast: it hides some itself."""
        return set(self.contrasts) <= set(present)

    def check_labels(self, values: Sequence[int], where: str) -> None:
        """Raise InputError for labels of no region: they would silently count as healthy."""
        refuse_other_labels(values, self.config.regions, where)

    def draw_available(
        self, present: NDArray[np.bool_], progress: float, random: np.random.Generator
    ) -> NDArray[np.bool_]:
        """All with probability `complete`, else one of the patterns in which some are missing."""
        if len(self.contrasts) == 1 or random.random() < self.config.complete:
            return np.ones(len(self.contrasts), dtype=bool)
        some = patterns(self.contrasts)
        kept = some[int(random.integers(len(some)))]
        return np.array([c in kept for c in self.contrasts])
