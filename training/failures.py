"""Keep what fails while logging from ending the training, and count what logging costs."""

import contextlib
import time
import warnings
from collections.abc import Callable


class Failures:
    """Counts failures, and warns of the first of each kind.

    Parameters
    ----------
    place
        Says where the run is logged, and at which step, for the warning.

    Attributes
    ----------
    count
        How many there have been.
    harmless
        Whether they are kept from the caller: not before the run has begun, when they are raised.
    """

    def __init__(self, place: Callable[[], str]) -> None:
        self.count = 0
        self.harmless = False
        self._place = place
        self._told: set[str] = set()

    def add(self, what: str, error: Exception) -> None:
        """Count a failure, and warn of it if it is the first of its kind.

        Parameters
        ----------
        what
            What failed: its kind.
        error
            Why.
        """
        if not self.harmless:
            raise error
        self.count += 1
        if what not in self._told:
            self._told.add(what)
            warn(
                f"{self._place()}: {what} failed: {error!r}. Training goes on; it is said once, "
                "and counted in end.json"
            )

    def guard(self, what: str) -> "Guard":
        """Return a context that adds an exception within it to the failures.

        Parameters
        ----------
        what
            What is done in it.
        """
        return Guard(self, what)


class Guard:
    """A context that lets no exception out; see `Failures.guard`."""

    # a class, since a context made from a generator takes several times as long at every step
    __slots__ = ("_failures", "_what")

    def __init__(self, failures: Failures, what: str) -> None:
        self._failures = failures
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self._failures.add(self._what, error)
        return True


class Stopwatch:
    """A context that adds up the time spent in it.

    Attributes
    ----------
    seconds
        The time so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._made = time.perf_counter()
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started

    def share(self) -> float:
        """Return the share of the time since the stopwatch was made."""
        return self.seconds / (time.perf_counter() - self._made)


def warn(message: str) -> None:
    """Warn the user; where warnings are turned into errors, let none out.

    Parameters
    ----------
    message
        What to say.
    """
    with contextlib.suppress(UserWarning):
        warnings.warn(message, stacklevel=4)
