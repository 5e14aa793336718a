"""What can go wrong, as one tree. Each class knows the exit status it ends the program with.

    MrsynthError            1    anything below; raised bare only for what nobody foresaw
    +-- UsageError          2    the command or configuration asks for something that does not exist
    +-- InputError          4    a file or folder the user gave cannot be used
    +-- WeightsError        5    a checkpoint is missing, damaged or of another kind
    +-- MemoryExhausted     6    the machine or the device has no memory left
    +-- OutputError         1    a result cannot be written (disk full, a folder in the way)
    |   +-- NotWritable     6    nothing can be written there at all (read-only, no permission)
    +-- Interrupted       130    the user, or the scheduler, asked us to stop

Messages say what was found, what was expected and what to do.
"""


class MrsynthError(Exception):
    """Base of every error mrsynth raises on purpose."""

    exit_code = 1


class UsageError(MrsynthError):
    """The request itself makes no sense: an unknown method, a target that is already present."""

    exit_code = 2


class InputError(MrsynthError):
    """A subject, file or folder cannot be used as it is."""

    exit_code = 4


class WeightsError(MrsynthError):
    """A checkpoint is missing, fails its checksum, or holds what it should not."""

    exit_code = 5


class MemoryExhausted(MrsynthError):
    """Memory ran out; the message says what would need less."""

    exit_code = 6


class OutputError(MrsynthError):
    """A result could not be written. Nothing half-written is left behind."""

    exit_code = 1


class NotWritable(OutputError):
    """The machine gives no place for results where they were to be; the message says how to name another."""

    exit_code = 6


class Interrupted(MrsynthError):
    """Stopped by SIGINT, SIGTERM or SIGHUP, after what could be saved was saved."""

    exit_code = 130
