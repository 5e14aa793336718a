"""The text that knowledge guidance reads: learnt tokens, or those of an encoder, which a checkpoint carries along."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mrsynth.contrasts import Contrast
from mrsynth.errors import UsageError
from mrsynth.methods.dfbk.config import GuidanceConfig, Pair
from mrsynth.methods.dfbk.prompts import prompt
from mrsynth.text_tokens import TokenTable, identity


class GuidanceText(nn.Module):
    """forward(pair (B,) int64, dropped (B,) bool or None) -> tokens (B, L, width) float32, valid (B, L) bool.

    pair     number of what is read and made, in the order of `DfbkConfig.pairs`
    dropped  examples that read the learnt tokens in place of the stored ones
    Stored tokens are buffers (float16) of the checkpoint, so that it needs no other file; beside them stands whose they
    are: `identity` of the encoder, the prompts and the length, all zeros while there are none.
    Raises UsageError when there are no stored tokens and the configuration does not allow for it.
    """

    common: nn.Parameter | None
    learned: nn.Parameter | None
    tokens: Tensor
    valid: Tensor
    identity: Tensor
    exchanged: Tensor

    def __init__(self, config: GuidanceConfig, pairs: Sequence[Pair], contrasts: Sequence[Contrast]):
        super().__init__()
        self.config = config
        # the controls: of a pair whose every contrast, the target too, is the next in the list
        following = {c: contrasts[(i + 1) % len(contrasts)] for i, c in enumerate(contrasts)}
        others = [Pair(tuple(following[c] for c in sources), following[target]) for sources, target in pairs]
        told = {"shuffled": others, "same": [pairs[0]] * len(pairs)}.get(config.text, pairs)
        self.prompts = [prompt(sources, target, config.order) for sources, target in told]
        if config.swap:
            numbers = {(frozenset(sources), target): number for number, (sources, target) in enumerate(pairs)}
            exchanged = torch.tensor([numbers[frozenset(sources), target] for sources, target in others])
            self.register_buffer("exchanged", exchanged, persistent=False)
        shape = (config.count, config.width)
        common = config.text == "none" or (config.stored and config.drop > 0)
        self.common = nn.Parameter(torch.randn(shape)) if common else None
        self.learned = nn.Parameter(torch.randn(len(pairs), *shape)) if config.text == "learned" else None
        if config.stored:
            self.register_buffer("tokens", torch.zeros(len(pairs), config.length, config.width, dtype=torch.float16))
            self.register_buffer("valid", torch.zeros(len(pairs), config.length, dtype=torch.bool))
            self.register_buffer("identity", torch.zeros(32, dtype=torch.uint8))

    @property
    def complete(self) -> bool:
        """Whether it has the tokens it is to read."""
        return not self.config.stored or bool(self.identity.any())

    def lacking(self) -> str:
        """What is wrong with the stored tokens it has, before training begins, and what to do; empty when nothing."""
        config = self.config
        if not config.stored or (config.fallback and not self.complete):
            return ""
        if not self.complete:
            return (
                f"kg.text={config.text} reads tokens of {config.encoder}, and there are none. Make them with `mrsynth "
                "weights embed-text -o FILE.npz` and train with --tokens FILE.npz (in Python: `give_tokens`); or set "
                "kg.text=learned, which needs none, or kg.fallback=true to read learnt tokens instead."
            )
        if bytes(self.identity.tolist()) != identity(config.encoder, self.prompts, config.length):
            return (
                "The tokens of the checkpoint to begin with are not those of this configuration's kg.text, kg.encoder "
                "and sentences. Give the run that checkpoint's configuration (`mrsynth weights show`), or begin with "
                "an untrained network."
            )
        return ""

    def give(self, table: TokenTable) -> None:
        """Take the tokens to read. Raises UsageError for those of another encoder, of other prompts or length, and
        when it has others already.
        """
        config = self.config
        if not config.stored:
            raise UsageError(
                f"kg.text={config.text} reads no stored tokens; leave them out, or give kg.text=biomedclip."
            )
        found = table.lookup(config.encoder, self.prompts, config.length, config.width)
        name = torch.tensor(list(identity(config.encoder, self.prompts, config.length)), dtype=torch.uint8)
        tokens, valid = (
            torch.zeros(self.tokens.shape, dtype=torch.float16),
            torch.zeros(self.valid.shape, dtype=torch.bool),
        )
        for row, part in enumerate(found):
            tokens[row, : len(part)] = torch.from_numpy(part)
            valid[row, : len(part)] = True
        others = self.complete and not (
            torch.equal(self.identity.cpu(), name)
            and torch.equal(self.valid.cpu(), valid)
            and torch.equal(self.tokens.cpu(), tokens)
        )
        if others:
            raise UsageError(
                "This network was trained with other tokens than these, which it carries along. Leave the tokens file "
                "out to go on with its own, or begin with an untrained network."
            )
        self.tokens.copy_(tokens)
        self.valid.copy_(valid)
        self.identity.copy_(name)

    def forward(self, pair: Tensor, dropped: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See the class."""
        if self.config.swap and not self.training:
            pair = self.exchanged[pair]
        if self.learned is not None:
            return whole(self.learned[pair])
        if not self.config.stored:
            assert self.common is not None
            return whole(self.common.expand(len(pair), -1, -1))
        if not self.complete and not self.config.fallback:
            raise UsageError(self.lacking())
        tokens, valid = self.tokens[pair].float(), self.valid[pair]
        if self.common is None:
            return tokens, valid
        replaced = torch.full_like(pair, not self.complete, dtype=torch.bool)
        if dropped is not None:
            replaced = replaced | dropped
        # both lie side by side, and each example is let see one of them
        learnt = self.common.expand(len(pair), -1, -1)
        seen = torch.cat([valid & ~replaced[:, None], replaced[:, None].expand(-1, learnt.shape[1])], 1)
        return torch.cat([tokens, learnt], 1), seen


def whole(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens all of which count."""
    return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
