"""Times of day and dates: 3:30 PM is 15:30, and 2020-01-05 is January 5, 2020."""

from __future__ import annotations

import re
from typing import NamedTuple

from rgopd.verifier.symbolic.text import flat

_TIME = re.compile(r"(\d{1,2})(?:\s?:\s?(\d{2}))?(?:\s?:\s?(\d{2}))?\s?(am|pm|a\.m\.?|p\.m\.?|noon|midnight|o'clock)?")
_NAMED = {"noon": 720, "midday": 720, "midnight": 0}


class Time(NamedTuple):
    """Seconds after midnight, and how the half of the day is told: named (PM), day (15:30, 03:30), open (3:30)."""

    seconds: int
    half: str


def time_of_day(text: str) -> Time | None:
    """None for anything else; a bare "3" is none."""
    said = flat(text).lower()
    if said in _NAMED:
        return Time(_NAMED[said] * 60, "named")
    found = _TIME.fullmatch(said)
    if found is None or not (found[2] or found[4]):
        return None
    hour, minute, second = int(found[1]), int(found[2] or 0), int(found[3] or 0)
    half = (found[4] or "").replace(".", "")
    if hour > 23 or minute > 59 or second > 59:
        return None
    if half in ("", "o'clock"):
        style = "day" if hour > 12 or found[1].startswith("0") else "open"
        return Time((hour * 60 + minute) * 60 + second, style)
    if not 1 <= hour <= 12 or (half in _NAMED and (hour, minute, second) != (12, 0, 0)):
        return None
    return Time(((hour % 12 + 12 * (half in ("pm", "noon"))) * 60 + minute) * 60 + second, "named")


def same_time(gold: Time, answer: Time) -> bool:
    """Where one names the half of the day and the other leaves it open, the face of the clock decides."""
    if {gold.half, answer.half} == {"named", "open"}:
        return gold.seconds % 43200 == answer.seconds % 43200
    return gold.seconds == answer.seconds


_MONTHS = {
    name: number
    for number, names in enumerate(
        ("january jan", "february feb", "march mar", "april apr", "may", "june jun", "july jul", "august aug",
         "september sep sept", "october oct", "november nov", "december dec"), 1
    ) for name in names.split()
}  # fmt: skip
_DAYS = {d[:3]: d for d in ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")}
_MONTH = rf"(?P<month>{'|'.join(sorted(_MONTHS, key=len, reverse=True))})\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?:\s?,?\s?(?P<year>\d{4}))?"
_WEEKDAY = r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day\s?,?\s)?"
_DATES = (
    re.compile(rf"{_WEEKDAY}{_MONTH}\s?(?:the\s)?{_DAY}{_YEAR}"),
    re.compile(rf"{_WEEKDAY}(?:the\s)?{_DAY}\s?(?:of\s)?{_MONTH}{_YEAR}"),
    re.compile(r"(?P<year>\d{4})[-/](?P<month>\d{1,2})[-/](?P<day>\d{1,2})"),
    re.compile(r"(?P<year>\d{4})\s?年\s?(?P<month>\d{1,2})\s?月\s?(?P<day>\d{1,2})\s?日"),
    re.compile(r"(?P<month>\d{1,2})(?P<sep>[/.-])(?P<day>\d{1,2})(?P=sep)(?P<year>\d{4})"),
)


class Date(NamedTuple):
    """Year (0 where none is told), month, day."""

    year: int
    month: int
    day: int


def date(text: str) -> Date | None:
    """None for anything else. 3/4/2020 is March 4, and 25/12/2020 can only be the 25th of December."""
    if len(text) > 80:
        return None
    said = flat(text).lower()
    for pattern in _DATES:
        if found := pattern.fullmatch(said):
            named = _MONTHS.get(found["month"])
            month, day = named or int(found["month"]), int(found["day"])
            if month > 12 and day <= 12 and pattern is _DATES[-1]:
                month, day = day, month
            return Date(int(found["year"] or 0), month, day) if 1 <= month <= 12 and 1 <= day <= 31 else None
    return None


def same_date(gold: Date, answer: Date) -> bool:
    """The answer may tell the year where the reference does not; not the other way round."""
    return gold[1:] == answer[1:] and (gold.year == answer.year or not gold.year)


def weekday(text: str) -> str | None:
    """ "Mon", "monday." -> "monday"; None for anything else."""
    said = flat(text).lower().rstrip(".")
    name = _DAYS.get(said[:3])
    return name if name is not None and said in (name[:3], name[:4], name[:5], name) else None
