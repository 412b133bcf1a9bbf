"""Numbers as the shortest text that SVG and CSS read."""


def shortest(units: int, decimals: int) -> str:
    """So many units of the last of so many decimals.

    >>> shortest(-2500, 4), shortest(70000, 4), shortest(0, 4)
    ('-.25', '7', '0')
    """
    whole, part = divmod(abs(units), 10**decimals)
    fraction = f".{part:0{decimals}d}".rstrip("0") if part else ""
    return f"{'-' if units < 0 else ''}{whole or ('' if fraction else 0)}{fraction}"
