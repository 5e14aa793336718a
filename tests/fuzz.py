"""Thousands of files that are not what they claim: `python -m tests.fuzz --count 2000`.

Each case mutates a sound file (its header, its stream, or its text), has mrsynth read it, and notes how that ended. The
only ends that are allowed are a result and an error of `mrsynth.errors`. Cases run in processes that are replaced now
and then, so that one which is killed, or hangs, is counted and the others go on. Prints how often each end came, the
cases that ended otherwise, and the most memory that a process held; ends with status 1 unless all of that is as
promised. A case is made of the seed and its number alone: `--first N --count 1`.
"""

import argparse
import bz2
import gzip
import io
import json
import logging
import os
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mrsynth.card import Card
from mrsynth.contrasts import STANDARD
from mrsynth.errors import InputError, MrsynthError

BATCH = 50  # cases in one process
SECONDS = 30  # that one case may take
MOST_MEMORY = 2e9  # bytes
SHAPE = (12, 14, 10)
ZEROS = gzip.compress(bytes(2**24), 9)  # sixteen megabytes in sixteen kilobytes; parts of gzip may follow one another
NUMBERS = (0, 1, -1, 2, 3, 7, 8, 127, 255, 1200, 4096, 32767, -32768, 2**31 - 1, -(2**31), 2**40, 2**62)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, 3.4e38, float("nan"), float("inf"), float("-inf"), 352.0, 1e9)
STRANGE = (
    *(
        b"-1",
        b"0",
        b"nan",
        b"1e999",
        b"99999",
        b"645",
        b"4294967296",
        b"9" * 400,
        b"",
        b"%s%n",
        b"gzip",
        b"raw",
        b"hex",
    ),
    *(b"True", b"double", b"MET_DOUBLE", b"block", b"../x", b"/dev/zero", b"LIST", b"(1,0,0)", b"(0,0,0)", b"3", b"17"),
)
DAMAGES = ("flip", "cut", "append", "repeat", "zero", "swap")

Case = tuple[Path, Callable[[Path], Any]]


def damaged(data: bytes, rng: random.Random, first: int = 0) -> bytes:
    """Some bytes changed, from `first` on."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        how, at = rng.choice(DAMAGES), rng.randrange(first, max(first + 1, len(content)))
        if how == "flip" and at < len(content):
            content[at] ^= 1 << rng.randrange(8)
        elif how == "cut":
            del content[at:]
        elif how == "append":
            content += rng.randbytes(rng.choice((1, 100, 10_000)))
        elif how == "repeat":
            content[at:at] = content[at : at + 64] * rng.choice((1, 50))
        elif how == "zero":
            content[at : at + 16] = bytes(len(content[at : at + 16]))
        elif how == "swap":
            content[at : at + 8] = content[at : at + 8][::-1]
    return bytes(content)


# Scans ---------------------------------------------------------------------------------------------------------------


def image(rng: random.Random, folder: Path) -> Case:
    """A NIfTI file with fields that nobody writes, whole or damaged, packed or not, with more behind it or less."""
    from mrsynth.io.nifti import read_geometry, read_volume

    kind = rng.choice((nib.Nifti1Header, nib.Nifti1Header, nib.Nifti2Header))
    header = kind(endianness=rng.choice("<<>"))
    dtype = np.dtype(rng.choice(("u1", "i2", "f4", "f8"))).newbyteorder(header.endianness)
    voxels = np.random.default_rng(rng.randrange(2**32)).integers(0, 200, SHAPE).astype(dtype)
    header.set_data_dtype(dtype)
    header.set_data_shape(SHAPE)
    header.set_sform(np.diag([-1.0, -1, 1, 1]), 1)
    header["vox_offset"] = header.single_vox_offset
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        name = rng.choice(kind.template_dtype.names)
        field = header[name]
        if field.dtype.kind in "iuf":
            flat = np.atleast_1d(field.copy())
            at = rng.randrange(flat.size)
            value = rng.choice(FLOATS if field.dtype.kind == "f" else NUMBERS)
            with np.errstate(all="ignore"):
                flat[at] = np.array(value).astype(field.dtype)
            header[name] = flat.reshape(field.shape)
    if rng.random() < 0.2:  # a whole volume that is not there
        side = rng.choice((100, 400, 599, 640, 645, 1200, 32767))
        header["dim"][:4] = (3, side, side, rng.choice((side, 1)))
    raw = header.binaryblock + bytes(4) + voxels.tobytes(order="F")
    if rng.random() < 0.3:
        raw = damaged(raw, rng)
    if rng.random() < 0.6:
        packed = gzip.compress(raw, 1)
        if rng.random() < 0.15:
            packed += ZEROS * rng.choice((1, 20, 320))
        if rng.random() < 0.2:
            packed = damaged(packed, rng, 2)
        path, content = folder / "a.nii.gz", packed
    else:
        path, content = folder / "a.nii", raw
    path.write_bytes(content)
    return path, rng.choice((read_volume, read_volume, read_volume, read_geometry))


def foreign(rng: random.Random, folder: Path) -> Case:
    """An image of another format, its header or its voxels damaged, with more behind it or less, or with a claim."""
    import SimpleITK

    from mrsynth.io.nifti import read_geometry, read_volume

    ending = rng.choice(
        (".mgz", ".mgh", ".nrrd", ".nrrd", ".nhdr", ".mha", ".mha", ".mhd", ".img", ".img.gz", ".nii.bz2")
    )
    path = folder / f"a{ending}"
    voxels = np.random.default_rng(rng.randrange(2**32)).integers(0, 200, SHAPE).astype(rng.choice(("u1", "i2", "f4")))
    if ending in (".nrrd", ".nhdr", ".mha", ".mhd"):
        sitk: Any = SimpleITK
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path), rng.random() < 0.6)
    elif ending == ".nii.bz2":
        path.write_bytes(bz2.compress(nib.Nifti1Image(voxels, np.eye(4)).to_bytes()))
    elif ending in (".img", ".img.gz"):
        nib.save(nib.Nifti1Pair(voxels, np.eye(4)), path)
    else:
        nib.save(nib.MGHImage(voxels, np.eye(4)), path)
    victim = rng.choice(sorted(folder.iterdir()))
    content = victim.read_bytes()
    if victim.suffix in (".nrrd", ".nhdr", ".mha", ".mhd") and rng.random() < 0.7:
        words = re.split(rb"(?<=[ \n(,=:])(?=[\w/.-]+)", content, maxsplit=80)
        for _ in range(rng.choice((1, 1, 2))):
            words[rng.randrange(len(words))] = rng.choice(STRANGE) + rng.choice((b" ", b"\n", b""))
        content = b"".join(words)
    elif victim.suffix in (".gz", ".mgz", ".bz2") and rng.random() < 0.6:
        packed: Any = bz2 if victim.suffix == ".bz2" else gzip
        inside = damaged(packed.decompress(content), rng) + bytes(rng.choice((0, 0, 1, 2**26)))
        content = packed.compress(inside)
    else:
        content = damaged(content, rng)
    victim.write_bytes(content)
    return path, rng.choice((read_volume, read_volume, read_geometry))


def dicom(rng: random.Random, folder: Path) -> Case:
    """A series whose slices are damaged, each or one of them."""
    from mrsynth.io.dicom import guess, read_series, series_below
    from tests.conftest import dicom_series

    dicom_series(folder, 1, "t1_se_tra")
    for path in rng.sample(sorted(folder.iterdir()), rng.choice((1, 2, 12))):
        content = bytearray(path.read_bytes())
        for _ in range(rng.choice((0, 1, 2))):  # the value of an element of group 0028: sizes, spacing, kind of pixels
            if (at := content.find(b"\x28\x00" + bytes([rng.choice((2, 4, 8, 16, 17, 48, 0)), 0]))) > 0:
                content[at + 8 : at + 10] = rng.randbytes(2)
        path.write_bytes(damaged(bytes(content), rng, 132) if rng.random() < 0.7 else content)

    def read(place: Path) -> None:
        for series in series_below(place):
            guess(series)
            read_series(series)

    return folder, read


def prepared(rng: random.Random, folder: Path) -> Case:
    """A prepared subject, or what is said of it, damaged: it is made again."""
    from mrsynth.io.cache import cached
    from mrsynth.io.subjects import find_subject
    from mrsynth.scans.preparation import PreparationConfig
    from tests.conftest import _write_subject_folder

    scans = _write_subject_folder(folder, "p", shape=SHAPE)

    def read(place: Path) -> Any:
        return cached(find_subject(scans), STANDARD, PreparationConfig(), place).slab(0, 1)

    read(folder / "cache")
    victim = rng.choice(sorted((folder / "cache").iterdir()))
    said = victim.read_bytes()
    text = victim.suffix == ".json" and rng.random() < 0.7
    victim.write_bytes(strange_text(said.decode(), rng, "{") if text else damaged(said, rng))
    return folder / "cache", read


def subject(rng: random.Random, folder: Path) -> Case:
    """A folder with a scan, a sidecar and a table of channels, one of them strange."""
    from mrsynth.io.subjects import find_subject

    for contrast in ("t1", "t2"):
        nib.save(nib.Nifti1Image(np.ones(SHAPE, "u1"), np.eye(4)), folder / f"p1_{contrast}.nii.gz")
    text = {"synthetic": rng.choice((True, False, "yes")), "channel_names": {"0": "T1"}, "x": [1, {"y": None}]}
    for name in ("p1_t1.json", "dataset.json"):
        (folder / name).write_bytes(strange_text(json.dumps(text), rng, "{"))
    if rng.random() < 0.1:
        (folder / "p1_t2.json").unlink(missing_ok=True)
        os.mkfifo(folder / "p1_t2.json")
    return folder, find_subject


# Texts ---------------------------------------------------------------------------------------------------------------


def strange_text(text: str, rng: random.Random, bracket: str) -> bytes:
    """Text that was damaged, or is too deep, too long, or in another encoding."""
    how = rng.randrange(7)
    if how == 0:
        return ('{"a":' if bracket == "{" else "[").encode() * rng.choice((40, 60, 1000, 100_000))
    if how == 1:
        return text.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7")))
    if how == 2:
        return b" " * rng.choice((100, 2**21, 2**25)) + text.encode()
    if how == 3:
        return text.replace("1", rng.choice(("1e999", "NaN", "9" * 5000, "-1", '"\\ud800"'))).encode()
    return damaged(text.encode(), rng)


def table(rng: random.Random, folder: Path) -> Case:
    """The results of a benchmark, the journal or the request of a batch, damaged."""
    from mrsynth.io.reading import LONGEST_TABLE, read_bounded
    from mrsynth.scores.rows import COLUMNS, read_results
    from mrsynth.tasks.batch.journal import records_of

    if rng.random() < 0.5:
        row = {**dict.fromkeys(COLUMNS, "1"), "target": "t1ce", "method": "a", "kind": "volume"}
        text = ",".join(COLUMNS) + "\n" + ",".join(row[name] for name in COLUMNS) + "\n"
        path = folder / "results.csv"
        path.write_bytes(strange_text(text * rng.choice((1, 2)), rng, "["))
        return path, lambda p: read_results(decoded_or_refused(read_bounded(p, LONGEST_TABLE)), str(p))
    lines = '{"subject": "a", "status": "done", "seconds": 1.0}\n' * 3
    (folder / "journal.jsonl").write_bytes(strange_text(lines, rng, "{"))
    return folder, records_of


def decoded_or_refused(content: bytes) -> str:
    """As `compare` decodes a table."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError("another encoding") from error


def yaml_text(rng: random.Random, folder: Path) -> Case:
    """A run file, a split, or the list of what was fetched."""
    from mrsynth.io.fetched import records
    from mrsynth.io.splits import read_split
    from mrsynth.tasks.train.config import run_text

    width, levels = rng.choice((2, 9)), rng.choice((3, 30))
    bomb = "\n".join(
        ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels))]
    )
    sound = "method: {method: fgc2f, width: 1}\ntrain: [a, b]\ntraining:\n  iterations: 1\n"
    content = bomb.encode() if rng.random() < 0.2 else strange_text(sound, rng, "[")
    path = folder / "fetched.yaml"
    path.write_bytes(content)
    return path, rng.choice((lambda p: run_text(p, {}), read_split, lambda p: records(p.parent)))


# Checkpoints ---------------------------------------------------------------------------------------------------------


def checkpoint(rng: random.Random, folder: Path) -> Case:
    """A checkpoint with another header, or damaged."""
    import torch
    from safetensors.torch import save

    from mrsynth.io.checkpoint import read_checkpoint
    from mrsynth.io.pickles import read_state_dict

    card = Card(name="a", method="fgc2f", contrasts=STANDARD, licence="x", intensity={STANDARD[0]: (0.5, 0.5)})
    text = {"format": rng.choice((1, 2)), "card": card.model_dump(mode="json"), "config": {}, "preparation": {}}
    said = json.dumps(text)
    if rng.random() < 0.5:
        said = strange_text(said, rng, "{").decode("utf-8", "replace")[: 2**20]
    data = save({"a": torch.zeros(30)}, metadata={"mrsynth": said} if rng.random() < 0.9 else {})
    if rng.random() < 0.2:
        data = struct.pack("<Q", rng.choice((2, 10**6, 9 * 10**7, 2**40, 2**63))) + data[8:]
    elif rng.random() < 0.5:
        data = damaged(data, rng)
    path = folder / "a.safetensors"
    path.write_bytes(data)
    return path, rng.choice((read_checkpoint, read_checkpoint, read_state_dict))


def pickled(rng: random.Random, folder: Path) -> Case:
    """What torch.save wrote, in its new form or its old, damaged, or packed as it never is."""
    import torch

    from mrsynth.io.pickles import read_state_dict

    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(30)}, buffer, _use_new_zipfile_serialization=(new := rng.random() < 0.6))
    data = buffer.getvalue()
    if new and rng.random() < 0.3:
        packed = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for part in old.infolist():
                content = old.read(part)
                archive.writestr(
                    part.filename, content + bytes(rng.choice((0, 10**7)) if "data.pkl" in part.filename else 0)
                )
        data = packed.getvalue()
    path = folder / "a.pt"
    path.write_bytes(damaged(data, rng) if rng.random() < 0.8 else data)
    return path, read_state_dict


def tokens(rng: random.Random, folder: Path) -> Case:
    """A file of tokens, damaged."""
    from mrsynth.io.tokens import read_tokens, write_tokens
    from mrsynth.text_tokens import TokenTable, prompt_key

    path = folder / "a.npz"
    table = TokenTable("e", 4, {prompt_key("e", "one", 4): np.ones((3, 5), np.float16)}, "ab" * 32)
    write_tokens(path, table, ["one"])
    data = path.read_bytes()
    if rng.random() < 0.3:
        data = data.replace(b"(3, 5)", rng.choice((b"(9, 9)", b"(9**9,)", b"(-1, 5)", b"(3, 5000000000)")))
    path.write_bytes(damaged(data, rng))
    return path, read_tokens


KINDS = {
    "image": image,
    "foreign": foreign,
    "dicom": dicom,
    "prepared": prepared,
    "table": table,
    "subject": subject,
    "yaml": yaml_text,
    "checkpoint": checkpoint,
    "pickle": pickled,
    "tokens": tokens,
}
SHARE = {"image": 6, "foreign": 4, "dicom": 1, "prepared": 1, "table": 1}  # of twenty cases
SHARE |= {"subject": 1, "yaml": 2, "checkpoint": 2, "pickle": 1, "tokens": 1}


# Running them --------------------------------------------------------------------------------------------------------


def kind_of(number: int) -> str:
    """The kind of a case."""
    return [kind for kind, share in SHARE.items() for _ in range(share)][number % sum(SHARE.values())]


def end_of(number: int, seed: int) -> str:
    """How a case ends: `read`, the name of a documented error, or of another one with where it came from."""
    rng = random.Random(f"{seed} {number}")
    with tempfile.TemporaryDirectory() as folder:
        path, read = KINDS[kind_of(number)](rng, Path(folder))
        signal.alarm(SECONDS)
        try:
            read(path)
        except MrsynthError as error:
            return type(error).__name__
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            return f"! {type(error).__name__}: {str(error)[:80]!r} at {Path(place.filename).name}:{place.lineno}"
        finally:
            signal.alarm(0)
    return "read"


def batch(numbers: range, seed: int) -> tuple[dict[int, str], int]:
    """The ends of some cases, run in a process of their own, and the most memory that it held, in bytes."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        with os.fdopen(writer, "w") as out:
            for number in numbers:
                print(json.dumps([number, end_of(number, seed)]), file=out, flush=True)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        ends = dict(json.loads(line) for line in said)
    _, status, used = os.wait4(child, 0)
    if len(ends) < len(numbers):
        killed = numbers[len(ends)]
        ends[killed] = f"! the process ended with {os.waitstatus_to_exitcode(status)}"
    return ends, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run(first: int, count: int, seed: int) -> tuple[Counter[tuple[str, str]], dict[int, str], int]:
    """How often each kind of case ended how; the cases that ended as none should; the most memory, in bytes."""
    import torch

    torch.set_num_threads(1)
    counts: Counter[tuple[str, str]] = Counter()
    wrong: dict[int, str] = {}
    most, number = 0, first
    while number < first + count:
        ends, memory = batch(range(number, min(number + BATCH, first + count)), seed)
        for n, end in ends.items():
            counts[kind_of(n), end if not end.startswith("!") else "OTHER"] += 1
            if end.startswith("!"):
                wrong[n] = end
        most, number = max(most, memory), max(ends) + 1
    return counts, wrong, most


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    logging.disable()  # nibabel tells of each field
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    counts, wrong, most = run(chosen.first, chosen.count, chosen.seed)
    for (kind, end), n in sorted(counts.items()):
        print(f"{kind:12}{end:16}{n:6}")
    for number, end in sorted(wrong.items()):
        print(f"case {number} ({kind_of(number)}): {end[2:]}")
    print(
        f"{sum(counts.values())} cases of seed {chosen.seed}, {len(wrong)} undocumented ends, "
        f"most memory {most / 1e9:.2f} GB (limit {MOST_MEMORY / 1e9:g})"
    )
    return int(bool(wrong) or most > MOST_MEMORY)


if __name__ == "__main__":
    sys.exit(main())
