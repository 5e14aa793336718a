"""Each method's worst, median and best synthesis, made once more to be looked at."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mrsynth.contrasts import Contrast
from mrsynth.io.subjects import SubjectFiles, load_subject
from mrsynth.plain import Progress
from mrsynth.reports.viewer import SubjectPicture
from mrsynth.scores.rows import Score
from mrsynth.tasks.benchmark.measuring import Job, Measurer

LARGEST = 24 * 2**20  # letters of all viewers of a page together: a browser opens it at once


class Chosen(NamedTuple):
    """A case to be shown: `place` is 0 for the worst, 1 the median, 2 the best."""

    place: int
    row: Score

    @property
    def caption(self) -> str:
        """`fgc2f, worst: s01, t1ce from t1+t2+flair, 17.03 dB`."""
        row, word = self.row, ("worst", "median", "best")[self.place]
        return f"{row.method}, {word}: {row.subject}, {row.target} from {row.pattern}, {row.value:.2f} dB"


def chosen_cases(rows: Sequence[Score], methods: Sequence[str], protocols: Sequence[str]) -> list[Chosen]:
    """By PSNR, of each method, among the cases with the fewest contrasts missing; those of one method together."""
    protocol = "brain3d" if "brain3d" in protocols else protocols[0]
    chosen = []
    for method in methods:
        found = [r for r in rows if (r.method, r.protocol, r.metric) == (method, protocol, "PSNR")]
        most = max((len(r.given) for r in found), default=0)
        alike = [r for r in found if r.region == found[0].region and len(r.given) == most]
        ranked = sorted(alike, key=lambda r: r.value)
        places = {0: 0, len(ranked) // 2: 1, len(ranked) - 1: 2} if ranked else {}
        chosen += [Chosen(place, ranked[index]) for index, place in places.items()]
    return chosen


def pictured(
    measurer: Measurer,
    chosen: Sequence[Chosen],
    files: Mapping[str, SubjectFiles],
    plans: Mapping[str, Sequence[Job]],
    say: Progress,
    *,
    viewer: bool,
) -> dict[str, SubjectPicture]:
    """Caption -> montage, and viewer while there is room for it: the worst of every method first."""
    made: dict[str, SubjectPicture] = {}
    room = LARGEST if viewer else 0
    for number, case in enumerate(sorted(chosen, key=lambda c: c.place)):
        row, target = case.row, Contrast(case.row.target)
        say(f"picture of {row.subject}, {row.method}", number, len(chosen))
        same = (j for j in plans[row.subject] if (j.piece.method, j.gap.pattern) == (row.method, row.pattern))
        job = next(j for j in same if target in j.gap.targets)
        subject = load_subject(files[row.subject], segmentation=True)
        seen = measurer.picture(subject, job, target, viewer=room > 0)
        size = sum(len(layer["sheet"]) for layer in seen.viewer["layers"]) if seen.viewer else 0
        room -= size
        made[case.caption] = seen if room >= 0 else seen._replace(viewer=None)
    return {case.caption: made[case.caption] for case in chosen}
