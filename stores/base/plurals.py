"""Numbers of things, as a sentence says them."""


def counted(number: int, noun: str) -> str:
    """Return `number` and the singular `noun`, in the plural where it is not one.

    >>> counted(1, "video"), counted(0, "video"), counted(2, "video of the data set")
    ('1 video', '0 videos', '2 videos of the data set')
    """
    first, space, rest = noun.partition(" ")
    return f"{number} {first}{'' if number == 1 else 's'}{space}{rest}"
