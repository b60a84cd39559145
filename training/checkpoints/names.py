"""What the name of a checkpoint says: its step, and of which of several runs it is."""

import re

_SEPARATOR = r"[-_=. ]*"
_KEYED = (
    re.compile(rf"(?:step|iter(?:ation)?|update)s?{_SEPARATOR}(\d+)([km]?)(?![a-z\d])"),
    # fairseq's checkpoint_<epoch>_<update> has no number that could be told from another
    re.compile(rf"(?:checkpoint|ckpt){_SEPARATOR}(\d+)([km]?)(?![a-z\d]|[-_.]\d)"),
)
_ALONE = re.compile(r"(?<![a-z\d])(\d+)(k?)(?![a-z\d])")
_ANYWHERE = re.compile(r"(?<!\d)(\d+)(k?)(?![a-z\d])")
_THOUSANDS = {"": 1, "k": 10**3, "m": 10**6}
_MEMBER = re.compile(rf"(?<![a-z])(?:seed|run|trial|fold){_SEPARATOR}\d+", re.IGNORECASE)
_SEED = re.compile(rf"seed{_SEPARATOR}(\d+)", re.IGNORECASE)
_EPOCH = re.compile(rf"(?<![a-z])ep(?:och)?s?{_SEPARATOR}\d+", re.IGNORECASE)
_DECIMAL = re.compile(r"\d+\.\d+")
_COPY = re.compile(r"(?<![a-z])(?:last|latest|best|final)(?![a-z])|^model$", re.IGNORECASE)
_NO_WEIGHTS = re.compile(
    r"optim|sched|scaler|sampler|rng_state|random_state|training_args|.*optim_states$",
    re.IGNORECASE,
)


def step_of(name: str) -> int:
    """Return the step that the name of a checkpoint says.

    It is the number after "step", "iter" or "update" (or their plural), else that after
    "checkpoint" or "ckpt", else the only number that is not part of a word, else the only number.
    "20k" is 20000, and "1m" after one of those words a million. Numbers of epochs, seeds, runs,
    trials and folds, and decimal fractions, are not looked at; nor are those of what is called the
    last or best, unless one of those words is before it.

    Parameters
    ----------
    name
        The name, without suffix.

    Raises
    ------
    ValueError
        If it says none, or several that may be meant.
    """
    text = _without_others(name)
    for pattern in _KEYED if is_copy(name) else (*_KEYED, _ALONE, _ANYWHERE):
        numbers = _numbers(pattern, text)
        if len(numbers) > 1:
            raise ValueError(f"its step may be any of {', '.join(map(str, sorted(numbers)))}")
        if numbers:
            return numbers.pop()
    raise ValueError(f"its name says {'an epoch, and ' if _EPOCH.search(name) else ''}no step")


def says_step(folder: str) -> bool:
    """Return whether the name of a folder is a step's, not a run's with some number in it.

    Parameters
    ----------
    folder
        The name.
    """
    text = _without_others(folder)
    return any(pattern.search(text) for pattern in _KEYED) or bool(_ALONE.fullmatch(text.strip()))


def is_copy(name: str) -> bool:
    """Return whether a name, as "last" or "best", is that of a copy of another checkpoint.

    Parameters
    ----------
    name
        The name.
    """
    return _COPY.search(name) is not None


def has_weights(name: str) -> bool:
    """Return whether a file or an entry may hold weights: not if it is called an optimizer.

    Parameters
    ----------
    name
        The name.
    """
    return _NO_WEIGHTS.match(name) is None


def member_of(name: str) -> str | None:
    """Return the part of a checkpoint's name that tells its run from others: "seed_3".

    Parameters
    ----------
    name
        The name.
    """
    member = _MEMBER.search(name)
    return member[0] if member else None


def seed_of(run: str) -> int | None:
    """Return the one seed that the name of a run says.

    Parameters
    ----------
    run
        The name.
    """
    seeds = {int(number) for number in _SEED.findall(run)}
    return seeds.pop() if len(seeds) == 1 else None


def _without_others(name: str) -> str:
    """Return a name in lower case, without the numbers that are no steps."""
    for pattern in (_MEMBER, _EPOCH, _DECIMAL):
        name = pattern.sub(" ", name)
    return name.lower()


def _numbers(pattern: re.Pattern[str], text: str) -> set[int]:
    return {int(number) * _THOUSANDS[unit] for number, unit in pattern.findall(text)}
