"""How a command is stopped from outside."""

import signal


class Stop:
    """Hears Ctrl-C, a scheduler that stops us (SIGTERM) and a terminal that is closed (SIGHUP) alike.

    A signal that is ignored, as SIGHUP is under nohup, stays so.
    """

    def __init__(self) -> None:
        self.asked = False
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.hear)

    def hear(self, number: int, frame: object) -> None:
        """Stop whatever is being done."""
        self.asked = True
        raise KeyboardInterrupt
