"""What the values of predictions mean: found over all of them, or said by the user.

A file does not tell whether 1 is a class index or nearly black, so `detect` looks at all files
together and decides only where a single meaning is possible. Everything else is an error that says
what was seen and how to say what is meant: a wrong guess would be a wrong score.

The meanings, as text (``--values`` on the command line):

- ``map:LOW-HIGH``: P(polyp), 0 at LOW and 1 at HIGH: ``map:0-255``, ``map:0-1``; ``map:255-0`` if
  polyp is black.
- ``above:N``: a mask, polyp where the value is above N.
- ``indices:N,N``: class indices, polyp those listed. Of a file with a palette, its indices,
  if they have the same colours in all files.
- ``colours:RRGGBB,RRGGBB``: polyp where the pixel has one of these colours.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from polyp_utils.common.exceptions import DataError, few
from polyp_utils.data.labels import SCHEMES, THRESHOLD
from polyp_utils.data.masks import MAX_UNDECIDED, label_levels
from polyp_utils.runs.content import (
    COLOURED,
    DEEPER,
    EIGHT_BIT,
    MAX_COLOURS,
    REAL,
    Colour,
    Content,
    Look,
)

_BLACK, _RED, _GREEN = (0, 0, 0), (255, 0, 0), (0, 255, 0)
_ROUNDING = 1e-6  # of probabilities in single precision
_FEW_LABELS = 32  # class indices are below that
_FORMS = "map:LOW-HIGH, above:N, indices:N,N or colours:RRGGBB,RRGGBB"
_NUMBER = r"\d+(?:\.\d+)?"


@dataclass(frozen=True)
class Values:
    """What the values mean.

    Attributes:
        form: ``map``, ``above``, ``indices`` or ``colours``.
        numbers: those after it; colours as 0xRRGGBB.
        note: what was seen and what it is taken for, in words.
    """

    form: str
    numbers: tuple[float, ...]
    note: str = ""

    def __str__(self) -> str:
        if self.form == "colours":
            return "colours:" + ",".join(f"{int(number):06x}" for number in self.numbers)
        between = "-" if self.form == "map" else ","
        return f"{self.form}:" + between.join(f"{number:g}" for number in self.numbers)

    def polyp(self, content: Content) -> np.ndarray:
        """P(polyp), float32 (H, W) in [0, 1].

        Raises:
            DataError: values that this meaning does not allow; the message names the file.
        """
        values = content.values
        if self.form == "colours" and (content.coloured or values.dtype == np.uint8):
            return np.isin(content.packed, self.numbers).astype(np.float32)
        if self.form == "indices" and content.indices is not None:
            values = content.indices
        elif content.coloured or self.form == "colours":
            kind = "coloured" if content.coloured else f"of {values.dtype}"
            raise DataError(f"{content.where} is {kind}, which values={self} does not allow")
        if self.form == "indices":
            if content.lossy:
                raise DataError(
                    f"{content.where} is JPEG or WebP, which change indices: save it as PNG"
                )
            return np.isin(values, self.numbers).astype(np.float32)
        if self.form == "above":
            return (values > self.numbers[0]).astype(np.float32)
        low, high = self.numbers
        found = (values.astype(np.float32) - np.float32(low)) / np.float32(high - low)
        if found.min() < -_ROUNDING or found.max() > 1 + _ROUNDING:
            raise DataError(
                f"{content.where} holds {values.min():g} to {values.max():g}, outside of {self}: "
                "give the range that the values have"
            )
        return found.clip(0, 1)


def parse_values(text: str) -> Values:
    """A meaning from its text.

    Raises:
        ValueError: text of another form.
    """
    form, _, rest = text.strip().partition(":")
    note = f"taken for {text.strip()}, as asked"
    if form == "map" and (ends := re.fullmatch(f"({_NUMBER})-({_NUMBER})", rest)):
        low, high = float(ends[1]), float(ends[2])
        if low != high:
            return Values(form, (low, high), note)
    elif form == "above" and re.fullmatch(_NUMBER, rest):
        return Values(form, (float(rest),), note)
    elif form == "indices" and re.fullmatch(r"\d+(,\d+)*", rest):
        return Values(form, tuple(float(number) for number in rest.split(",")), note)
    elif form == "colours" and re.fullmatch("[0-9a-fA-F]{6}(,[0-9a-fA-F]{6})*", rest):
        return Values(form, tuple(float(int(number, 16)) for number in rest.split(",")), note)
    raise ValueError(f"values is {text!r}; give {_FORMS}, for example map:0-255 or indices:1,2")


def check_values(values: Values, looks: Sequence[Look]) -> None:
    """Refuses indices and colours of which none occurs: all predictions would be empty.

    Raises:
        DataError: none occurs (the message says what does), or an index means another colour in
            another file, as in GIFs, whose palettes hold only what the file needs.
    """
    if values.form not in ("indices", "colours"):
        return
    if values.form == "colours":
        there = {r << 16 | g << 8 | b for look in looks for r, g, b in look.colours}
        there |= {int(level) * 0x010101 for level in np.flatnonzero(_total(looks))}
        shown = [f"{colour:06x}" for colour in sorted(there)]
    else:
        shades: dict[int, tuple[Colour, Look]] = {}
        for look in looks:
            for index, colour in look.indices.items():
                before, first = shades.setdefault(index, (colour, look))
                if before != colour:
                    raise DataError(
                        f"palette index {index} is {_hex(before)} in {first.where} but "
                        f"{_hex(colour)} in {look.where}, so {values} is not certain: give the "
                        "colours of polyp, --values colours:RRGGBB, or write PNGs of one palette"
                    )
        there = set(shades)
        there |= {int(level) for level in np.flatnonzero(_total(x for x in looks if not x.indices))}
        shown = [str(index) for index in sorted(there)]
    if there and not there & set(values.numbers) and there != {0}:
        listed = few(shown, MAX_COLOURS)
        raise DataError(f"{values} occurs in none of {len(looks)} predictions: they hold {listed}")


def detect(looks: Sequence[Look]) -> Values:
    """The meaning of predictions, if only one is possible.

    Args:
        looks: at all predictions that are scored.

    Raises:
        DataError: what the values mean is not certain, or they are of different kinds.
    """
    lit = [look for look in looks if (look.low, look.high) != (0, 0)]  # black is allowed anywhere
    if not lit:
        return Values("map", (0, 255), f"all {len(looks)} are black")
    low, high = min(look.low for look in lit), max(look.high for look in lit)
    kinds = {look.kind for look in lit}
    if len(kinds) > 1 and not (kinds == {EIGHT_BIT, DEEPER} and high <= 255):
        raise _mixed({kind: [look for look in lit if look.kind == kind] for kind in sorted(kinds)})
    if COLOURED in kinds:
        return _of_colours(lit)
    first, lossy = f"first {lit[0].where}", any(look.lossy for look in lit)
    if low < -_ROUNDING:
        kind = "logits, take their sigmoid" if REAL in kinds else "labels, number them from 0"
        raise DataError(
            f"{len(lit)} predictions hold values from {low:g} to {high:g} ({first}); below 0 there "
            f"is no probability: if they are {kind} first"
        )
    if REAL in kinds and high <= 1 + _ROUNDING:
        return Values("map", (0, 1), f"real numbers from {low:g} to {high:g} are P(polyp)")
    if all(look.counts is not None for look in lit):
        return _of_jpeg(lit) if lossy else _of_levels(lit)
    if REAL not in kinds and THRESHOLD * 257 < high < 1 << 16:
        return Values("map", (0, 65535), f"16-bit values up to {high:g} are P(polyp), 65535 is 1")
    raise _uncertain(
        f"values from {low:g} to {high:g} ({first})", f"map:0-{high:g} if {high:g} is 1"
    )


def _of_levels(lit: list[Look]) -> Values:
    """Whole numbers up to 255."""
    total = _total(lit)
    levels, seen = np.flatnonzero(total), _listed(total, lit)
    bright, dim = ([x for x in lit if (x.high > THRESHOLD) == side] for side in (True, False))
    if set(levels) <= {0, 1}:
        return Values("map", (0, 1), "class indices 0 and 1: 1 is polyp")
    if not bright:
        below = [int(level) for level in levels if level]
        if len(below) > _FEW_LABELS or (below[-1] > _FEW_LABELS and len(below) > 2):
            top = (
                "map:0-100 for per cent" if below[-1] <= 100 else f"map:0-{below[-1]} if that is 1"
            )
            how = f"map:0-255 for P(polyp) that never passes 0.5, {top}"
            raise _uncertain(seen, how)
        raise _uncertain(seen, _which(below))
    of_bright = np.flatnonzero(_total(bright))
    if len(of_bright) == 1 or (len(of_bright) == 2 and of_bright[0] == 0):
        if dim:
            raise _mixed({f"masks of {of_bright[-1]}": bright, f"at most {dim[0].high:g}": dim})
        return Values("map", (0, 255), f"masks, polyp {of_bright[-1]}")
    between = levels[(levels > 0) & (levels < 255)]
    few = len(of_bright) == 2 or label_levels(total)
    gap = between[-1] <= _FEW_LABELS and total[between].sum() > MAX_UNDECIDED * total[255]
    if few or gap:
        raise _uncertain(seen, f"{_which(levels[levels > 0].tolist())}; map:0-255 for P(polyp)")
    note = f"levels {levels[0]} to {levels[-1]} are P(polyp), 255 is 1"
    if nearly := [look for look in dim if look.high == 1]:
        note += f"; {len(nearly)} files hold 0 and 1 alone and count as black ({nearly[0].where})"
    return Values("map", (0, 255), note)


def _of_jpeg(lit: list[Look]) -> Values:
    """Levels of JPEGs: masks alone are certain."""
    total = _total(lit)
    soft = total[86:170].sum() / total.sum()
    if np.flatnonzero(total)[-1] <= THRESHOLD:
        raise DataError(
            f"{len(lit)} JPEG files hold no level above {np.flatnonzero(total)[-1]} (first "
            f"{lit[0].where}); JPEG changes class indices: save them as PNG"
        )
    if soft > MAX_UNDECIDED:
        raise DataError(
            f"{len(lit)} JPEG files hold soft levels, {soft:.1%} of the pixels between 85 and 170 "
            f"(first {lit[0].where}); JPEG changes them: save them as PNG, or score them as they "
            "are with --values map:0-255 (in Python values=)"
        )
    note = f"lossy masks, polyp above {THRESHOLD}; JPEG moves outlines a little: PNG is exact"
    return Values("above", (THRESHOLD,), note)


def _of_colours(lit: list[Look]) -> Values:
    colours: Counter[Colour] = sum((look.colours for look in lit), Counter())
    indices = {pair for look in lit for pair in look.indices.items()}
    if (said := {look.classes for look in lit}) != {""} and len(said) == 1:
        return _of_named(said.pop(), lit)
    others = sorted(colours.keys() - {_BLACK})
    if len(others) == 1 and _BLACK in colours:
        return _of_listed(others, "the only colour beside black")
    if colours.keys() <= {_BLACK, _RED, _GREEN}:
        return _of_listed(others, "red and green on black are both polyp, as in NeoPolyp")
    first = f"first {lit[0].where}"
    if len(colours) > MAX_COLOURS:
        raise DataError(
            f"{len(lit)} predictions hold more than {MAX_COLOURS} colours ({first}), like pictures "
            "or heat maps: write P(polyp) as grey, or masks with polyp 255"
        )
    if indices and len({index for index, _ in indices}) == len(indices):
        listed = ", ".join(f"{index} ({_hex(colour)})" for index, colour in sorted(indices))
        seen = f"palette indices {listed} ({first})"
        raise _uncertain(seen, _which([index for index, _ in sorted(indices) if index]))
    listed = ", ".join(f"{_hex(c)} ({n} px)" for c, n in colours.most_common())
    raise _uncertain(
        f"the colours {listed} ({first})", f"colours:{_hex(others[0])} if that is polyp"
    )


def _of_named(classes: str, lit: list[Look]) -> Values:
    """Palette indices whose classes the files name, as those of `predict` do."""
    try:
        names = tuple(json.loads(classes).values())
    except (ValueError, AttributeError, RecursionError):
        names = ()
    for scheme in SCHEMES.values():
        if scheme.classes == names:
            polyp = [scheme.classes[index] for index in scheme.polyp]
            note = f"class maps whose files name the classes: {' and '.join(polyp)} are polyp"
            return Values("indices", tuple(map(float, scheme.polyp)), note)
    below = sorted({index for look in lit for index in look.indices if index})
    raise _uncertain(f"class maps of {classes[:80]} (first {lit[0].where})", _which(below))


def _of_listed(colours: Iterable[Colour], why: str) -> Values:
    listed = [_hex(colour) for colour in colours]
    return Values(
        "colours", tuple(float(int(c, 16)) for c in listed), f"{', '.join(listed)}: {why}"
    )


def _uncertain(seen: str, how: str) -> DataError:
    return DataError(
        f"the predictions hold {seen}: what is polyp is not certain. Say it with --values (in "
        f"Python values=): {how}"
    )


def _which(indices: list[int]) -> str:
    if len(indices) == 1:
        return f"indices:{indices[0]} if that is polyp"
    listed = ",".join(map(str, indices[:MAX_COLOURS]))
    if listed == "1,2":
        return (
            f"indices:{listed} if both are polyp (so in class maps of load_model), or one of them"
        )
    return f"indices:{listed} if all of these are polyp, or those of them that are"


def _mixed(kinds: dict[str, list[Look]]) -> DataError:
    listed = "; ".join(f"{len(x)} {kind} (first {x[0].where})" for kind, x in kinds.items())
    return DataError(f"predictions of one system differ in kind: {listed}. Write all in one way")


def _total(looks: Iterable[Look]) -> np.ndarray:
    """Pixels per level over all, (256,)."""
    return sum((x.counts for x in looks if x.counts is not None), np.zeros(256, np.int64))


def _listed(total: np.ndarray, lit: list[Look]) -> str:
    levels = np.flatnonzero(total)
    shown = ", ".join(f"{level} ({total[level]} px)" for level in levels[:6])
    more = f" and {len(levels) - 6} more up to {levels[-1]}" if len(levels) > 6 else ""
    return f"the levels {shown}{more} in {len(lit)} files (first {lit[0].where})"


def _hex(colour: Colour) -> str:
    return "".join(f"{channel:02x}" for channel in colour)
