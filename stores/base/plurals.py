"""Numbers with a noun, for sentences."""


def counted(number: int, noun: str) -> str:
    """Return `number` and `noun`, given in the singular, in the plural if needed.

    >>> counted(1, "video"), counted(0, "video"), counted(2, "video of the data set")
    ('1 video', '0 videos', '2 videos of the data set')
    """
    first, space, rest = noun.partition(" ")
    return f"{number} {first}{'' if number == 1 else 's'}{space}{rest}"
