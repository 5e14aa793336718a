"""How a synthesis is asked for, and what that comes to with one checkpoint. Loads no torch.

Every method has two ends of one trade (Blau & Michaeli 2018, the perception-distortion trade-off):

    mean    one call of the network that draws no noise: the conditional mean, whose squared error
            is the least; smooth, because what the inputs do not decide is averaged. Nothing is drawn
    sample  the paper's chain from noise: one image among those that fit the inputs, with texture as it occurs, and with
            more error. Samples differ from one another; where they do, the inputs do not decide

Checkpoints of version 0.1.0 do not name a mode. Unless one is asked for, they do as they did then ("draws"): the mean
of so many short chains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from mrsynth.errors import UsageError
from mrsynth.plain import Plain

Mode = Literal["mean", "sample"]
Crop = Literal["brain", "full"]
Plane = Literal["axial", "coronal", "sagittal"]
AXIAL: tuple[Plane, ...] = ("axial",)


def _each_once(planes: tuple[Plane, ...]) -> tuple[Plane, ...]:
    if not planes or len(set(planes)) < len(planes):
        raise ValueError("should name at least one plane, and each once")
    return planes


Planes = Annotated[tuple[Plane, ...], AfterValidator(_each_once)]
MODES: tuple[Mode, ...] = ("mean", "sample")
Draws = Literal["v1", "v2"]
Variance = Literal["posterior", "beta"]
DRAWS: Mapping[Draws, str] = {
    "v1": "Mersenne Twister of torch, on the CPU",  # mrsynth 0.1.0
    "v2": "Philox-4x32-10, by key and counter, with Box-Muller, on the device",
}
ONE_CALL = "one call"  # in place of a sampler's name, in mode mean
DIRECT = "direct"  # as a sampler of msg-ldm: its decoders' images, without diffusion and without a draw
EACH_ONE_CALL = "one call of each member"  # the same, of a committee
OF_A_CHAIN = ("steps", "sampler", "samples", "eta", "variance", "noise")  # what mode mean has no use for
OF_WAVELETS = ("cwdm",)  # methods whose images depend on where the grid begins that they halve
FAST_STEPS = 10  # of mode sample with --fast, at most


class Sampling(Plain):
    """The request of a user; None leaves it to the checkpoint.

    Raises UsageError for an option that there is not, and for a value that it cannot have; whether options go together,
    and with the checkpoint, is told where they are used. There messages name them as the command line does.
    """

    mode: Mode | None = Field(None, description="mean: the conditional mean, in one call; sample: the paper's chain")
    sampler: str | None = Field(None, description="of mode sample")
    steps: int | None = Field(None, gt=0, description="of mode sample: network calls of one chain")
    eta: float | None = Field(None, ge=0, le=1, description="of ddim: noise added at each step, as a share of ddpm's")
    variance: Variance | None = Field(None, description="of ddpm's noise; beta belongs to a chain of all levels")
    samples: int | None = Field(
        None, gt=0, description="of mode sample: the first is the image, and several have a mean"
    )
    fast: bool = Field(False, description="the mode's cheapest form")
    seed: int = Field(0, description="of the noise: the same seed draws the same sample; mode mean draws nothing")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    precision: str = Field("auto", description="auto, fp32 or bf16")
    noise: Draws | None = Field(None, description="of mode sample: the generator; None is the checkpoint's")
    planes: Planes | None = Field(
        None,
        description="of mode mean: the volume is made from slices of each, and the mean taken; None: from axial ones",
    )
    cycle_spinning: bool = Field(
        False,
        description="of mode mean, by wavelets: the volume is made on two grids, a voxel apart, and the mean taken",
    )
    crop: Crop | None = Field(None, description="the part of the volume the network sees")

    @model_validator(mode="wrap")
    @classmethod
    def _told(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            if cls is not Sampling:  # a command tells them by its own options
                raise
            raise UsageError(f"Sampling: {'; '.join(map(_complaint, error.errors()))}.") from error

    @property
    def sampling(self) -> "Sampling":
        """The same without what a request of a command adds to it."""
        return Sampling(**{name: getattr(self, name) for name in Sampling.model_fields})


def _complaint(wrong: Mapping[str, Any]) -> str:
    """One thing that pydantic did not accept: `mode='Mean': input should be 'mean' or 'sample'`."""
    name = str(wrong["loc"][0]) if wrong["loc"] else ""
    if name not in Sampling.model_fields:
        return f"there is no option {name!r}; there are {', '.join(Sampling.model_fields)}"
    return f"{name}={wrong['input']!r}: {wrong['msg'][:1].lower()}{wrong['msg'][1:]}"


@dataclass(frozen=True)
class Estimator:
    """A request once nothing is left open.

    mode        mean, sample; or draws, of a checkpoint that names no mode: the image is the mean of the samples
    samples     syntheses; with mode sample the image is the first of them
    precision   bf16 runs the network under autocast; everything else stays float32
    batch_size  slices in one pass of the network
    noise       the generator, by its version (`DRAWS`)
    eta         of ddim, variance of ddpm; None leaves them to the configuration
    planes      of slices: mode mean makes the volume from those of each, and takes the mean. Of a committee () leaves
                them to the members
    cycle_spinning  mode mean makes the volume twice, on grids a voxel apart, and takes the mean: halving a grid, as a
                wavelet transform does, depends on where it begins (Coifman & Donoho 1995)
    """

    sampler: str
    steps: int
    samples: int = 1
    seed: int = 0
    device: str = "cpu"
    precision: str = "fp32"
    batch_size: int = 8
    mode: Literal["mean", "sample", "draws"] = "draws"
    noise: Draws = "v1"
    eta: float | None = None
    variance: Variance | None = None
    planes: tuple[Plane, ...] = AXIAL
    cycle_spinning: bool = False

    @property
    def generator(self) -> str | None:
        """Name and version of what draws the noise; None where none is drawn, as in mode mean."""
        return None if self.mode == "mean" or self.sampler == DIRECT else f"{self.noise}: {DRAWS[self.noise]}"

    @property
    def words(self) -> str:
        """What the image is, in a sentence."""
        return in_words(self.mode, self.sampler, self.steps, self.samples, self.planes, self.cycle_spinning)


def mode_of(
    said: Mapping[str, Any], asked: Sampling, name: str, method: str, planes: Sequence[Plane] = AXIAL
) -> Mode | None:
    """The mode of a request to the checkpoint `name`; None: it names no mode, and none is asked for.

    said     `Card.sampling`
    method   `Card.method`
    planes   `Card.planes`
    Raises UsageError for a mode that the checkpoint cannot do or planes it did not learn, and for options that have no
    meaning in the mode, with the method or with the sampler.
    """
    modes = said.get("modes", MODES)
    mode: Mode | None = asked.mode or said.get("mode")
    if mode is not None and mode not in modes:
        why = " A mean of what several networks draw is no sample." if said.get("sampler") == EACH_ONE_CALL else ""
        raise UsageError(
            f"{name} has no mode {mode}: it does {' and '.join(modes)}.{why} Leave --mode out, or name another."
        )
    given = [f"--{option}" for option in OF_A_CHAIN if getattr(asked, option) is not None]
    if mode == "mean" and given:
        instead = " Give --mode sample to draw samples." if "sample" in modes else ""
        raise UsageError(
            f"{' and '.join(given)} with mode mean of {name}: it is one call of the network that draws nothing, so "
            f"there are no steps, sampler or samples to choose.{instead}"
        )
    if mode != "mean" and (sampler := asked.sampler or said.get("sampler")):
        check_chain(sampler, asked)
    averaged = {"--planes": asked.planes, "--cycle-spinning": asked.cycle_spinning}
    if mode != "mean" and (options := [option for option, value in averaged.items() if value]):
        raise UsageError(
            f"{options[0]} is an option of mode mean: a mean of samples is no sample. Leave it out of {name}."
        )
    if asked.cycle_spinning and method not in OF_WAVELETS:
        raise UsageError(
            f"--cycle-spinning is for networks on wavelet coefficients ({', '.join(OF_WAVELETS)}), and {name} is of "
            f"{method}. Leave it out."
        )
    if unknown := [plane for plane in asked.planes or () if plane not in planes]:
        why = f"{name} learnt from {listed(planes)} slices. Leave it out, or train one with training.planes"
        if said.get("sampler") == EACH_ONE_CALL:
            why = f"the members of {name} have planes of their own, and only axial can be asked of all. Leave it out"
        raise UsageError(f"--planes {','.join(unknown)}: {why}.")
    return mode


def usual_mode(said: Mapping[str, Any]) -> str:
    """The mode of a checkpoint unless one is asked for, which its scores are of; `said` is `Card.sampling`."""
    return str(said.get("mode") or "draws")


def of_another_mode(scored: str, mode: str) -> bool:
    """Whether scores of images of one mode say nothing of those of another: a sample has more error than a mean.

    The mean of short chains (draws) is close to the mean. scored may be empty, where nobody knows it.
    """
    return bool(scored) and scored != mode and "sample" in (scored, mode)


def check_chain(sampler: str, asked: Sampling) -> None:
    """Raise UsageError for an option that the sampler of a request does not read."""
    for option, needs in {"eta": "ddim", "variance": "ddpm"}.items():
        if getattr(asked, option) is not None and sampler != needs:
            raise UsageError(
                f"--{option} is an option of the sampler {needs}, and the chain would be one of {sampler}. "
                f"Give --sampler {needs} with it, or leave it out."
            )


def in_words(
    mode: str,
    sampler: str,
    steps: int,
    samples: int,
    planes: Sequence[Plane] = AXIAL,
    cycle_spinning: bool = False,
) -> str:
    """What an image of a mode is, in a sentence; `weights show`, report and sidecar say the same."""
    chain = f"{steps} step{'s' * (steps > 1)} of {sampler}"
    if sampler == EACH_ONE_CALL:
        return (
            "The mean of what several networks make by one call each, all brought to one brightness: closest to the "
            "truth on average, and smoother than a scan."
        )
    if sampler == DIRECT:
        return "What decoders make in one call, without diffusion: nothing is drawn, and it is smoother than a scan."
    if mode == "mean":
        apart = " apart, averaged" if len(planes) > 1 else ""
        cut = f", for {listed(planes)} slices{apart}" if planes != AXIAL else ""
        cut += ", on two grids a voxel apart, averaged" if cycle_spinning else ""
        return (
            f"The conditional mean, by one call of the network without noise{cut}: closest to the truth on average, "
            "and smoother than a scan."
        )
    if mode == "sample":
        more = f" The mean and the spread of {samples} samples lie beside it." if samples > 1 else ""
        return f"One sample, by {chain}: texture as it occurs, and more error than the mean has.{more}"
    if steps == 1:
        return f"The mean of {samples} draw{'s' * (samples > 1)} by {chain}: close to the conditional mean, and smooth."
    return f"The mean of {samples} draws by {chain}: smoother than a scan." if samples > 1 else f"One draw by {chain}."


def listed(names: Sequence[str]) -> str:
    """`axial, coronal and sagittal`."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def default_in_words(said: Mapping[str, Any]) -> str:
    """What a checkpoint makes unless told otherwise, and what else it can; `said` is `Card.sampling`."""
    mode = usual_mode(said)
    steps, samples = int(said.get("steps") or 0), int(said.get("samples") or 1)
    chain = str(said.get("sampler") or "its sampler"), steps or 1
    text = in_words(mode, *chain, samples if mode == "draws" else 1)
    others = [m for m in said.get("modes", ()) if m != mode]
    return f"{text} --mode {' or '.join(others)} is the other way." if others else text


def fast_steps(usual: int) -> int:
    """Half the usual steps, but two where there are two: a coarse-to-fine method needs one for each stage."""
    return min(usual, max(2, usual // 2))
