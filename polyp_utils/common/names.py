"""Names that others gave to files, frames and folders: which are used, how they are printed."""

import unicodedata

_BREAKING = {"Cc", "Cs", "Zl", "Zp"}  # control characters, undecodable bytes, ends of lines


def unfit(name: str) -> str:
    """Why a name is not used; empty: it is.

    Names become cells of tables, lines in terminals, and text in notebooks, whose Markdown runs
    what stands in it as HTML. There they must mean nothing but themselves, wherever they come from.
    """
    for letter in name:
        if unicodedata.category(letter) in _BREAKING:
            return f"has a name with {letter!a}, which breaks tables and terminals"
        if letter in "<>":
            return f"has a name with {letter!r}, which notebooks take for HTML"
    if name.startswith(("=", "+", "-", "@")) and (calls := set(name) & set("(|!")):
        return (
            f"has a name that begins with {name[0]!r} and holds {min(calls)!r}, which spreadsheets "
            "take for a formula"
        )
    return ""


def printable(text: object) -> str:
    """Text whose control characters are escaped, but for the ends of lines."""
    return "".join(
        f"{letter!a}"[1:-1]
        if letter != "\n" and unicodedata.category(letter) in _BREAKING
        else letter
        for letter in str(text)
    )
