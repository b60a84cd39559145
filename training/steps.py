"""Follow the steps of an optimizer: which is the latest, and which rows are open."""

from collections.abc import Callable

from torch import Tensor

from training.cadence import Cadence
from training.host import HostCopy
from training.open_row import OpenRow


class Steps:
    """Counts steps, and opens and closes their rows.

    Between a step's begin and its end, and as long as it is not known whether a gradient scaler had
    it skipped, there are up to two rows: that of the latest step, and that of the step under way.
    Most steps get no row and find none open: those are only counted (`resting`, `pass_by`).

    Parameters
    ----------
    cadence
        Which steps get a row.
    step
        The latest step.
    finish
        Given every row that is closed.

    Attributes
    ----------
    latest
        The latest step that is known to have been made.
    row
        Its row, if it is open.
    under_way
        The row of the step that is being made, or may have been skipped.
    resting
        Whether no row is open, and the next step gets none.
    """

    def __init__(self, cadence: Cadence, step: int, finish: Callable[[OpenRow], None]) -> None:
        self.latest = step
        self.row: OpenRow | None = None
        self.under_way: OpenRow | None = None
        self.resting = False
        self._skipped = 0
        self._next_due = cadence.after(step)
        self._cadence = cadence
        self._finish = finish

    def begin(self, found_inf: Tensor | None, *, last: bool) -> OpenRow:
        """Return the row of the step that an optimizer begins, or goes on with.

        Parameters
        ----------
        found_inf
            Whether a gradient scaler has the optimizer skip its step; None without a scaler.
        last
            Whether this optimizer is the one whose steps are counted.
        """
        self.resting = False
        if self.under_way is None or self.under_way.stepped:
            self.settle()
            if found_inf is None:
                self.finish()
            step = self.latest + 1
            self.under_way = OpenRow(step, self._cadence.due(step))
        if found_inf is not None and last:
            self.under_way.found_inf = HostCopy([found_inf])
        return self.under_way

    def end(self) -> None:
        """Note that the step under way has been made, or skipped."""
        if self.under_way is None:  # what began it failed
            self.latest += 1
        else:
            self.under_way.stepped = True
            if self.under_way.found_inf is None:
                self.settle()
        if self.latest >= self._next_due:
            self._next_due = self._cadence.after(self.latest)
        none_open = self.row is None and self.under_way is None
        self.resting = none_open and self.latest + 1 < self._next_due

    def pass_by(self) -> None:
        """Count a step that was made while resting."""
        self.latest += 1
        self.resting = self.latest + 1 < self._next_due

    def settle(self) -> None:
        """Count the step that has ended, unless it was skipped: the answer may be waited for."""
        ended = self.under_way
        if ended is None or not ended.stepped:
            return
        self.under_way = None
        if ended.is_skipped():
            self._skipped += 1
            if self.row is not None:
                self.row.values |= ended.values
        else:
            self.finish()
            self.latest = ended.step
            if ended.due:
                self.row = ended
                ended.skipped, self._skipped = self._skipped, 0

    def receiving(self, *, force: bool) -> OpenRow | None:
        """Return the row that takes what is logged now, if there is one.

        Parameters
        ----------
        force
            Whether to make one of a step that is not due.
        """
        if force and self.under_way is not None and self.under_way.stepped:
            self.settle()
        if self.under_way is None:
            if self.row is None and force:
                self.row, self.resting = OpenRow(self.latest, stepped=True), False
            return self.row
        self.under_way.due |= force
        # a step that turns out to be skipped leaves its values to the row before
        keeps = self.under_way.due or (self.under_way.stepped and self.row is not None)
        return self.under_way if keeps else None

    def finish(self) -> None:
        """Close the row of the latest step."""
        row, self.row = self.row, None
        if row is not None:
            self._finish(row)

    def go_back(self, step: int) -> None:
        """Go on from an earlier step, without the rows that are open.

        Parameters
        ----------
        step
            The step.
        """
        self.latest, self.row, self.under_way = step, None, None
        self.resting, self._next_due = False, self._cadence.after(step)
