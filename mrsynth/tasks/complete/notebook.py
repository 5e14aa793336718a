"""A completion in a notebook: looked at in its cell, handed on as an image of nibabel, kept in a folder."""

import time
from pathlib import Path
from typing import Any

from mrsynth import __version__
from mrsynth.contrasts import Contrast, contrast_of
from mrsynth.errors import UsageError
from mrsynth.io.files import path_of
from mrsynth.io.images import check_name
from mrsynth.io.nifti import as_nibabel
from mrsynth.io.subjects import SubjectFiles
from mrsynth.reports.record import MAPS, Content
from mrsynth.reports.subject_page import notebook_html
from mrsynth.reports.viewer import viewer_data
from mrsynth.scans.raw import Raw
from mrsynth.tasks.complete.completion import Completed, made
from mrsynth.tasks.complete.output import DESCRIPTION, Saved, result_names, results_folder, write_results
from mrsynth.tasks.complete.pictures import panels
from mrsynth.tasks.complete.plan import Plan


class Completion(Completed):
    """What `complete_subject` gives. As the last line of a cell it shows its viewer, without any network.

    volumes  contrast -> Volume on the subject's own grid: float32 (I, J, K), 0 to 1000, of a CT Hounsfield units
    means, spreads, errors  likewise, where there are any; scores and warnings are what the report says (`Completed`)
    """

    def to_nibabel(self, contrast: Contrast | str, content: Content = "image") -> Any:
        """A synthetic volume as an image of nibabel, whose header says that it is synthetic.

        content   the image; of several samples their mean or spread; or the error to expect
        float32 (I, J, K), 0 to 1000, of a CT int16 in Hounsfield units; a copy. Raises UsageError for what was not
        made.
        """
        kinds = {"image": self.volumes, "mean": self.means, "spread": self.spreads, "error": self.errors}
        held = kinds.get(content) if isinstance(content, str) else None
        if held is None:
            raise UsageError(f"There is no content {content!r} of a completion; there are {', '.join(kinds)}.")
        target = contrast_of(contrast)
        volume = made(held, target, content)
        what = target.label if content == "image" else f"{target.label} {content}"
        whole = target is Contrast.CT and content not in MAPS
        return as_nibabel(volume, DESCRIPTION.format(what, __version__, self.card.name), whole=whole)

    def save(self, folder: Path | str, *, viewer: bool = True, overwrite: bool = False) -> Saved:
        """Write what `mrsynth complete` writes: images with their sidecars, and the report.

        folder     made if it is not there
        viewer     put the volumes into report.html, to scroll through
        overwrite  replace results of an earlier run, never anything else
        The images lie where their affine says; codes of a file that they came from are not known here. Raises
        OutputError, and UsageError when something is in the way or the name of the subject cannot name files; then
        nothing is left behind.
        """
        check_name(self.subject.name)
        out = path_of("The folder for the results", folder)
        files = SubjectFiles(self.subject.name, out, "in memory", {})
        todo = Plan(files, tuple(self.volumes), None, out)
        with results_folder(out, result_names(todo), overwrite=overwrite) as place:
            report = write_results(
                place,
                todo=todo,
                raw=self._raw,
                completion=self,
                truths={},
                options={},
                command="",
                viewer=viewer,
                began=time.perf_counter() - sum(self.seconds.values()),
            )
        images = {output.contrast: out / output.file for output in report.outputs}
        return Saved(out, images, report, out / "report.html")

    def _repr_html_(self) -> str:
        """A page of its own inside the cell, so that neither styles the other."""
        used = [c for c in self.subject.available if c in self.card.learnt]
        viewers = {}
        for target in self.volumes:
            shown, view = panels(self._raw, used, self, target)
            viewers[target] = viewer_data(shown, view.mask, view.spacing)
        return notebook_html(self.subject.name, viewers)

    @property
    def _raw(self) -> Raw:
        return Raw(self.subject, self.subject.available[0])
