"""The model card of a checkpoint: for whom it is, what it learnt from, how well it does, where it fails.

Made from what the manifest says, what is known of the data sets, and from the scores; nothing is written by hand for
one checkpoint, so that a card cannot outlive its weights.
"""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, Protocol

from mrsynth.card import MEDIAN, Card, ManifestEntry
from mrsynth.contrasts import Contrast
from mrsynth.sampling import default_in_words
from mrsynth.scores.rows import Score

ENOUGH = 100  # subjects, fewer than which a card calls few
PHANTOMS = "mrsynth phantoms"  # how the names of training data that nobody scanned begin

INTENDED = (
    "Research on adult brains with glioma or multiple sclerosis whose study lacks a contrast: to run a method that "
    "asks for all four, to study missing-data methods, to teach.",
)
NOT_INTENDED = (
    "Diagnosis, treatment or any decision about a patient.",
    "Evidence of contrast enhancement: a synthetic T1ce paints what is usual. A lesion that would enhance may not "
    "here, and the reverse.",
    "Children, other parts of the body, implants, brains after large resections: never seen.",
)
SEEN_IN_ALL = (
    "Small lesions, thin vessels and fine sulci are blurred or lost; what is painted in their place is what is usual.",
    "Overall brightness is guessed: a contrast that was never acquired has no scale.",
    "Scans with thick slices, strong bias fields or another protocol than those it learnt from: worse by an unknown "
    "amount. `complete` warns where the intensities look unlike.",
)


class DataKnown(Protocol):
    """What `io.data_sources` knows of a data set."""

    @property
    def population(self) -> str:
        """Who was examined."""
        ...

    @property
    def scanners(self) -> str:
        """On what."""
        ...

    @property
    def preparation(self) -> str:
        """How the images came."""
        ...


def card_facts(card: Card, known: Mapping[str, DataKnown]) -> dict[str, Any]:
    """What a card says beyond the checkpoint's own fields, as plain data: population, scanners, use, failures.

    known   data set, as the card calls it -> what is known of it
    """
    seen = {source.name: known[source.name] for source in card.training_data if source.name in known}
    return {
        "population": [f"{name}: {facts.population}" for name, facts in seen.items()],
        "scanners": [f"{name}: {facts.scanners}" for name, facts in seen.items()],
        "intended_use": list(INTENDED),
        "not_intended_for": list(NOT_INTENDED),
        "known_failures": failures(card),
    }


def failures(card: Card) -> list[str]:
    """Where it fails, in sentences: what all do, and what the scores of this one show."""
    told = list(SEEN_IN_ALL)
    plain, fitted = ({s.target: s for s in one_missing(card) if s.metric == m} for m in ("PSNR", "PSNR_FIT"))
    several = len(fitted) > 1
    if fitted:
        worst = min(fitted.values(), key=lambda s: s.value)
        which = f"Of its targets {worst.made.label} is made worst: " if several else f"Its {worst.made.label} has "
        told.append(f"{which}{worst.value:.1f} dB brain PSNR after a straight-line fit.")
    lost = {t: fitted[t].value - plain[t].value for t in fitted if t in plain}
    if lost:
        most = max(lost, key=lambda t: lost[t])
        each = f" on average, most in {Contrast(most).label} ({lost[most]:.1f} dB)" if several else ""
        told.append(f"Scale and offset cost {mean(lost.values()):.1f} dB{each}: judge brightness least.")
    if 0 < card.learnt_from < ENOUGH:
        made_up = sum(s.subjects for s in card.training_data if s.name.startswith(PHANTOMS))
        counts = {"subjects": card.learnt_from - made_up, "phantoms": made_up}
        seen = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
        told.append(f"It learnt from {seen}, which are few: expect less on any other scanner.")
    if not card.scores:
        told.append("Nobody measured it here, so nothing is known of how well it does.")
    return told


def one_missing(card: Card) -> list[Score]:
    """Its brain scores with one contrast missing of those it knows."""
    return [s for s in card.scores if s.region == "brain" and len(s.given) == len(card.contrasts) - 1]


def card_page(card: Card, known: Mapping[str, DataKnown]) -> str:
    """The card as a page of Markdown."""
    facts = card_facts(card, known)
    lines = [
        f"# {card.name}",
        "",
        f"Method {card.method}, licence {card.licence}. Makes {card.ability}.",
        "",
        default_in_words(card.sampling),
    ]
    if card.note:
        lines += ["", card.note]
    entry = card if isinstance(card, ManifestEntry) else None
    if entry is not None and entry.committee is not None:
        rule = entry.committee
        brightness = "the median brightness" if rule.brightness == MEDIAN else f"the brightness of {rule.brightness}"
        rows = [[member.name, f"{member.weight:g}"] for member in rule.members]
        lines += ["", f"All get {brightness}.", "", *table(["member", "weight"], rows)]
    lines += section("For", facts["intended_use"])
    lines += section("Not for", facts["not_intended_for"])
    lines += section("Known failures", facts["known_failures"])
    lines += ["", "## Trained on", ""]
    data = [
        [
            source.name,
            str(source.subjects),
            *((k.population, k.scanners, k.preparation) if (k := known.get(source.name)) else ("not known",) * 3),
            source.licence,
            source.citation,
        ]
        for source in card.training_data
    ]
    head = ["data set", "subjects", "population", "scanners", "as they came", "licence", "citation"]
    lines += table(head, data) if data else ["Not recorded."]
    if card.run_file:
        lines += ["", f"Trained with {card.run_file}, {card.iterations:,} iterations."]
    lines += ["", "## Scores", ""]
    lines += scores_table(card) or ["None of ours."]
    if entry is not None and entry.published:
        theirs = [[f.target.label, f.metric, f"{f.value:g}", f.protocol, f.source] for f in entry.published]
        lines += ["", "What its authors state, which is no measurement of ours and cannot be compared with one:", ""]
        lines += table(["target", "metric", "value", "on what and how", "source"], theirs)
    return "\n".join(lines) + "\n"


def scores_table(card: Card) -> list[str]:
    """One line for each pattern and target; nothing where there are no scores."""
    metrics = list(dict.fromkeys(f"{s.metric}, {s.region}" for s in card.scores))
    cases: dict[tuple[str, str], dict[str, Score]] = {}
    for score in card.scores:
        cases.setdefault((score.pattern, score.target), {})[f"{score.metric}, {score.region}"] = score
    rows = [
        [pattern, target, *(f"{found[m].value:.2f}" if m in found else "" for m in metrics), str(subjects(found))]
        for (pattern, target), found in cases.items()
    ]
    return table(["from", "made", *metrics, "subjects"], rows) if rows else []


def subjects(found: Mapping[str, Score]) -> int:
    """The fewest subjects behind any of some means."""
    return min(score.subjects for score in found.values())


def section(title: str, sentences: Sequence[str]) -> list[str]:
    """A heading and a list."""
    return ["", f"## {title}", "", *(f"- {sentence}" for sentence in sentences)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of Markdown; a bar within a cell is written as such."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
