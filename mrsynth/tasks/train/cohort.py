"""The subjects of a training run: found, prepared, divided into those who train and those who judge, and refused."""

import json
import logging
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

from mrsynth.errors import InputError, Interrupted, UsageError
from mrsynth.io.cache import CachedSubject, cached
from mrsynth.io.discovery import check_names
from mrsynth.io.splits import person_of, refuse_shared_people
from mrsynth.io.subjects import SubjectFiles, everything_below
from mrsynth.io.yaml_files import read_yaml
from mrsynth.methods.base import Trainable
from mrsynth.plain import Progress
from mrsynth.tasks.train.config import DataConfig, RunConfig, value_of

log = logging.getLogger(__name__)

SHOWN = 10  # reasons on the screen; subjects.yaml has them all
PARTS = ("training", "validation")


@dataclass(frozen=True)
class Cohort:
    """Prepared subjects: those that train and those that judge; and for each left out, why."""

    training: list[CachedSubject]
    validation: list[CachedSubject]
    left_out: list[str]

    def listing(self) -> dict[str, Any]:
        """As plain data: {training: [{name: slices}, ...], validation: ..., contents: {name: hash}, left out: ...}.

        With `labelled: [name, ...]` where segmentations are learned from.
        """
        named = {part: [{s.name: len(s.slices)} for s in getattr(self, part)] for part in PARTS}
        labelled = list(dict.fromkeys(s.name for s in self.training if s.labels is not None))
        contents = {s.name: s.fingerprint for s in (*self.training, *self.validation)}
        more = {"labelled": labelled} if labelled else {}
        return {**named, **more, "contents": contents, "left out": self.left_out}


def gather(
    roots: Sequence[Path],
    config: RunConfig,
    method: Trainable,
    cache: Path,
    report: Progress,
    stopped: Callable[[], bool] = lambda: False,
    least: int | None = None,
) -> Cohort:
    """Find and prepare every subject below the roots.

    least   how many must be usable; None: half of what was found

    Raises InputError, naming everything that is wrong with the data at once, and Interrupted when stopped.
    """
    found, unclear, notes = find(roots, config.data)
    wanted: list[SubjectFiles] = []
    excluded: list[str] = []
    unusable: dict[str, str] = {}
    for files in found:
        if files.name in config.data.exclude:
            excluded.append(f"{files.name}: excluded by the configuration")
        elif why := useless(files, method):
            unusable[files.name] = why
        else:
            wanted.append(files)
    if judges := [f"\n  {name}: {unusable[name]}" for name in config.data.validation if name in unusable]:
        raise InputError(f"data.validation names subjects that cannot be used:{''.join(judges)}\nLeave them out of it.")
    total = len(wanted) + len(unusable) + len(unclear)
    left_out = unclear + excluded + [f"{name}: {why}" for name, why in unusable.items()] + notes
    say_who_is_left_out(left_out)
    asked = (total + 1) // 2 if least is None else least
    learners = any(files.name not in config.data.validation for files in wanted)
    if len(wanted) < asked and (learners or least is not None):
        reasons = "".join(f"\n  {reason}" for reason in left_out[:SHOWN])
        raise InputError(
            f"Only {len(wanted)} of {total} subjects can be used; expected at least {asked}. Left out:{reasons}\n"
            f"Mend these, name in data.exclude what is not meant to train, or give --min-subjects {len(wanted)}."
        )
    prepared = prepare_all(wanted, config, method, cache, report, stopped)
    training = [
        s for s in prepared if s.name not in config.data.validation for _ in range(config.data.repeat.get(s.name, 1))
    ]
    validation = [s for s in prepared if s.name in config.data.validation]
    refuse_useless_cohort(training, method, found, roots, config.data, left_out)
    refuse_known_judges(training, validation)
    return Cohort(training, validation, left_out)


def find(roots: Sequence[Path], data: DataConfig) -> tuple[list[SubjectFiles], list[str], list[str]]:
    """Every subject below the roots once; for each left out, why; and which files are not used.

    Raises InputError when names are not unique, or when the configuration names somebody who is not there.
    """
    found: dict[tuple[Path, ...], SubjectFiles] = {}  # by files: roots may overlap
    left_out: dict[str, None] = {}
    notes: dict[str, None] = {}
    for root in roots:
        there = everything_below(root)
        found |= {tuple(sorted(p.resolve() for p in s.files.values())): s for s in there.subjects}
        left_out |= dict.fromkeys(there.problems + there.empty)
        notes |= dict.fromkeys(there.notes)
    check_names(sorted(found.values(), key=lambda files: files.name))
    names = {subject.name for subject in found.values()}
    for part in ("validation", "exclude", "repeat"):
        if unknown := set(getattr(data, part)) - names:
            raise InputError(
                f"data.{part} names subjects that are not there: {', '.join(sorted(unknown))}. "
                f"Below {', '.join(map(str, roots))} there are {len(names)} others."
            )
    if both := sorted(set(data.validation) & set(data.exclude)):
        raise InputError(
            f"{', '.join(both)}: in data.validation and in data.exclude. Leave them out of one of the two."
        )
    return list(found.values()), list(left_out), list(notes)


def useless(files: SubjectFiles, method: Trainable) -> str:
    """Why a subject cannot train a method, in words; empty when it can."""
    if not method.learns_from(files.files):
        seen = ", ".join(c for c in method.contrasts if c in files.files) or "none"
        return f"{seen} of {', '.join(method.contrasts)} is not enough to learn from"
    if method.only_labelled and files.segmentation is None:
        return "has no segmentation, and nothing else can be learnt from here"
    return ""


def say_who_is_left_out(left_out: Sequence[str]) -> None:
    """On the screen, before anything is prepared."""
    if left_out:
        some = "".join(f"\n  {reason}" for reason in left_out[:SHOWN])
        more = f"\n  and {len(left_out) - SHOWN} more; subjects.yaml names all." if len(left_out) > SHOWN else ""
        log.warning("%d of what was found do not train:%s%s", len(left_out), some, more)


def prepare_all(
    wanted: Sequence[SubjectFiles],
    config: RunConfig,
    method: Trainable,
    cache: Path,
    report: Progress,
    stopped: Callable[[], bool],
) -> list[CachedSubject]:
    """Prepare them one by one. Raises one InputError for all that cannot be read, and Interrupted when stopped."""
    prepared: list[CachedSubject] = []
    wrong: dict[str, str] = {}
    for done, files in enumerate(wanted):
        if stopped():
            raise Interrupted(f"Stopped after preparing {done} of {len(wanted)} subjects; they need not be done again.")
        report(f"preparing {files.name}", done, len(wanted))
        try:
            subject = cached(files, method.contrasts, config.preparation, cache, method.wants_labels)
            if subject.labels is not None:
                method.check_labels(subject.values, str(files.segmentation))
        except InputError as error:
            wrong[files.name] = str(error).removeprefix(f"{files.name}: ")
        else:
            prepared.append(subject)
    if wrong:
        each = "".join(f"\n  {name}: {why}" for name, why in wrong.items())
        remedy = setting("exclude", [*config.data.exclude, *wrong])
        if any(name in wrong for name in config.data.validation):
            remedy += " " + setting("validation", [name for name in config.data.validation if name not in wrong])
        raise InputError(
            f"{len(wrong)} of {len(wanted)} subjects cannot be read:{each}\n"
            f"Mend their files, or train without them: {remedy}"
        )
    return prepared


def setting(part: str, names: Sequence[str]) -> str:
    """How a list of subjects is said on the command line: `--set 'data.exclude=[sub-01, "007"]'`."""
    listed = ", ".join(name if stands_for_itself(name) else json.dumps(name) for name in names)
    return f"--set {shlex.quote(f'data.{part}=[{listed}]')}"


def stands_for_itself(name: str) -> bool:
    """Whether a name without quotes is read as that name, where a list is given on the command line."""
    try:
        return bool(value_of(f"[{name}]") == [name])
    except ValueError:
        return False


def refuse_useless_cohort(
    training: Sequence[CachedSubject],
    method: Trainable,
    found: Sequence[SubjectFiles],
    roots: Sequence[Path],
    data: DataConfig,
    left_out: Sequence[str],
) -> None:
    """Raise InputError when nothing is left to learn from."""
    where = ", ".join(map(str, roots))
    if not any(s.slices for s in training):
        why = "".join(f"\n  {reason}" for reason in left_out[:SHOWN])
        labelled = " and a segmentation" if method.only_labelled else ""
        raise InputError(
            f"Nothing to train on below {where}. Expected subjects with {enough_for(method)}{labelled}; "
            f"found {len(found)} subjects, {len(data.validation)} of them for validation."
            f"{' Left out:' if why else ''}{why}"
        )
    if method.needs_labels and all(s.labels is None for s in training):
        raise InputError(
            f"None of the {len(training)} training subjects below {where} has a segmentation, and "
            "the method is configured to need one. Expected a file such as NAME_seg.nii.gz beside the scans of at "
            "least one subject; or configure the method to do without."
        )


def enough_for(method: Trainable) -> str:
    """The fewest contrasts that a subject needs to train a method: `at least 2 of t1, t2, flair`, `t2 and flair`."""
    every = method.contrasts
    each = ([some for some in combinations(every, n) if method.learns_from(some)] for n in range(1, len(every) + 1))
    fewest = next(filter(None, each))
    number = len(fewest[0])
    if len(fewest) == comb(len(every), number):
        return f"{'all' if number == len(every) else f'at least {number}'} of {', '.join(every)}"
    return " or ".join(" and ".join(some) for some in fewest)


def refuse_known_judges(training: Sequence[CachedSubject], validation: Sequence[CachedSubject]) -> None:
    """Raise InputError when somebody is on both sides: by name, or by an image that is the same.

    Figures on someone a model has seen say nothing. The rule is that of the benchmark's splits.
    """
    parts = {"training": training, "validation": validation}
    names = {part: [subject.name for subject in subjects] for part, subjects in parts.items()}
    where = "The names of the subjects"
    refuse_shared_people(names, person_of, where)
    channels = len(training[0].hashes)
    for channel in range(channels):
        having = {s.name: s.hashes[channel] for s in (*training, *validation) if s.hashes[channel]}
        listed = {part: [name for name in of if name in having] for part, of in names.items()}
        refuse_shared_people(listed, having.__getitem__, "The same image under two names")


def refuse_other_subjects(cohort: Cohort, listing: Path, accepted: bool = False) -> list[str]:
    """Raise UsageError when a resumed run would see other slices, in another order, or other content.

    accepted   go on with other content all the same; the names of those who changed are returned
    """
    if not listing.exists():
        return []
    try:
        before, now = dict(read_yaml(listing)), cohort.listing()
        before.update({part: list(before[part]) for part in PARTS})
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise UsageError(f"{listing} is damaged ({error}), so the run cannot be resumed. Begin a new run.") from error
    if (had := before.get("labelled", [])) != (have := now.get("labelled", [])):
        raise UsageError(
            f"Not the same training subjects have a segmentation as when the run was begun. Then: "
            f"{', '.join(had) or 'none'}. Now: {', '.join(have) or 'none'}. Put the files back, or begin a new run."
        )
    known = before.get("contents", {})
    changed = sorted(name for name, content in now["contents"].items() if known.get(name, content) != content)
    for part in PARTS:
        old, new = ([str(subject) for subject in data[part]] for data in (before, now))
        if accepted:  # their slices may be others, but not they
            old, new = ([next(iter(subject)) for subject in data[part]] for data in (before, now))
        if old != new:
            gone, come = (", ".join(s.strip("{}") for s in a if s not in b) for a, b in ((old, new), (new, old)))
            raise UsageError(
                f"The {part} subjects (and their numbers of slices) are not those the run was begun with. Missing: "
                f"{gone or 'none'}. New: {come or 'none'}. Give the same --data in the same order, or begin a new run."
            )
    if changed and not accepted:
        raise UsageError(
            f"The images or segmentations of {', '.join(changed)} are not those the run was begun with. Put the files "
            "back, begin a new run, or give --accept-changed-data to go on; subjects.yaml then records it."
        )
    return changed
