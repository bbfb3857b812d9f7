"""Names that others gave to files, frames and folders: which are used, how they are printed."""

import unicodedata

_BREAKING = {"Cc", "Cs", "Zl", "Zp"}  # control characters, undecodable bytes, ends of lines


def unfit(name: str) -> str:
    """Why a frame of that name is not used; empty: it is.

    Names become cells of tables and lines in terminals, where they must mean nothing else.
    """
    for letter in name:
        if unicodedata.category(letter) in _BREAKING:
            return f"has a name with {letter!a}, which breaks tables and terminals"
    if name.startswith(("=", "+", "-", "@")) and (calls := set(name) & set("(|!")):
        return (
            f"has a name that begins with {name[0]!r} and holds {min(calls)!r}, which spreadsheets "
            "take for a formula"
        )
    return ""


def unfit_title(name: str) -> str:
    """Why a data set or run of that name is not used; empty: it is.

    Such names also stand in the text of notebooks, whose Markdown takes HTML in it for its own.
    """
    if letter := next((letter for letter in name if letter in "<>"), ""):
        return f"has a name with {letter!r}, which notebooks take for HTML"
    return unfit(name)


def as_code(name: object) -> str:
    """A name as code in Markdown, where nothing in it is a link or HTML."""
    return "`" + printable(name).replace("`", "'") + "`"


def printable(text: object) -> str:
    """Text whose control characters are escaped, but for the ends of lines."""
    return "".join(
        f"{letter!a}"[1:-1]
        if letter != "\n" and unicodedata.category(letter) in _BREAKING
        else letter
        for letter in str(text)
    )
