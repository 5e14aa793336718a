"""The sentences that tell what is made of what. Without torch."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Literal

from mrsynth.contrasts import Contrast

Order = Literal["output_first", "input_first"]

# What radiology says of each contrast, and nothing about any subject.
DESCRIPTIONS: Mapping[Contrast, str] = {
    Contrast.T1: "T1-weighted, white matter brighter than grey matter, fluid dark",
    Contrast.T1CE: "T1-weighted after gadolinium, enhancing lesion and vessels bright",
    Contrast.T2: "T2-weighted, fluid and oedema bright",
    Contrast.FLAIR: "FLAIR, T2-weighted with fluid suppressed, oedema bright",
    Contrast.PD: "proton density-weighted, grey matter brighter than white matter",
    Contrast.DWI: "diffusion-weighted, acute infarct bright, fluid dark",
    Contrast.CT: "computed tomography, bone bright, soft tissue grey, air dark",
    Contrast.MR: "magnetic resonance image, bone dark, soft tissue bright",
}


def prompt(sources: Iterable[Contrast], target: Contrast, order: Order = "output_first") -> str:
    """The sentence for a pair, sources in canonical order: "Axial brain MRI. Output: .... Input: ....".

    order   the output first, so that what matters most is never cut off; input_first is that of 0.1.0
    """
    given = set(sources)
    kind = "CT and MRI" if Contrast.CT in given | {target} else "MRI"
    inputs = "; ".join(DESCRIPTIONS[c] for c in Contrast if c in given)
    parts = [f"Output: {DESCRIPTIONS[target]}.", f"Input: {inputs}."]
    return " ".join([f"Axial brain {kind}.", *(parts if order == "output_first" else reversed(parts))])


def all_prompts(contrasts: Sequence[Contrast]) -> list[str]:
    """Every sentence that a network of these contrasts may read: each of them, made of any others, in either order.

    56 for four contrasts. They serve every configuration: single or all sources, one target or all, and the controls.
    """
    orders: tuple[Order, ...] = ("output_first", "input_first")
    return [
        prompt(sources, target, order)
        for order in orders
        for target in contrasts
        for number in range(1, len(contrasts))
        for sources in combinations([c for c in contrasts if c is not target], number)
    ]
